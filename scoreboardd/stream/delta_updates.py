"""What a feed of deltas says: the steps that a client has missed, or that it has to fetch the board again.

- The steps are in the ring of the edition served (see `board.delta_log`), the same on every node: a `delta` event each.
- Whoever has missed more of them than may wait for a client gets them as one, merged. Nothing in a delta is relative
  (see `board.delta`), so that one may begin before the version that the client has: the number of steps that are merged
  is a power of two, or all there are. So a version has a handful of merged deltas at most, whatever strangers say they
  have; to make all of them takes twice as long as the largest, and that takes 4 ms for a ring of 50 KB (256 plain
  solves), and two to six times as long for one as full as it gets.
- `reset` is for those to whose version the ring does not reach back, or that name one from another epoch or one that
  this node has not reached. Its `spread` is the number of seconds over which they are to spread the fetches: what it
  takes to send the leaderboards to all who follow deltas here, at `REFETCH_BYTES_PER_SECOND`, but no more than
  `MAX_SPREAD_SECONDS`.
"""

from collections.abc import Callable
from functools import cached_property
from itertools import zip_longest

import orjson
import structlog
from zstandard import ZstdError

from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.delta_log import DeltaLog, DeltaLogEntry
from scoreboardd.board.document_names import ParticipantKind, delta_log_key, leaderboard_key
from scoreboardd.model import Snapshot, Version
from scoreboardd.stream.topic import Frame
from scoreboardd.system.compression import plain

REFETCH_BYTES_PER_SECOND = 100_000_000
"Bytes a second, of boards that are fetched: most of what a link of 1 Gbit/s carries."
MAX_SPREAD_SECONDS = 60.0
"Seconds."

log = structlog.stdlib.get_logger("scoreboardd.web")


class DeltaUpdates:
    """What an edition is news of to the feeds of deltas. `most` is how many steps a client gets one by one, `clients()`
    counts those who follow deltas."""

    def __init__(self, snapshot: Snapshot, *, most: int, clients: Callable[[], int]) -> None:
        self.snapshot = snapshot
        self._most = most
        self._clients = clients
        self._waiting_update: dict[int | None, DeltaUpdate] = {}

    def update_for(self, division_id: int | None) -> "DeltaUpdate":
        """To those who follow a division, or everyone if that is None."""
        update_for = self._waiting_update.get(division_id)
        if update_for is None:
            update_for = self._waiting_update[division_id] = DeltaUpdate(
                self.snapshot, division_id, most=self._most, clients=self._clients
            )
        return update_for


class DeltaUpdate:
    """What gets those who hold the boards of one division, or of everyone, to the version of an edition."""

    lossless = True

    def __init__(self, snapshot: Snapshot, division_id: int | None, *, most: int, clients: Callable[[], int]) -> None:
        self.version = snapshot.version
        self._snapshot = snapshot
        self._division_id = division_id
        self._most = most
        self._clients = clients
        self._made: dict[int, Frame] = {}
        "By the number of the version that it leads from."

    def since(self, last_sent: Version | None) -> Frame:
        """From the version a client was last told of; None if it was told of none. It may be one that is not known."""
        entries = (
            self._delta_log.after(last_sent.number)
            if last_sent is not None and last_sent.epoch == self.version.epoch
            else None
        )
        if not entries:
            return self._reset()
        if len(entries) > self._most:
            entries = self._delta_log.entries[-(1 << (len(entries) - 1).bit_length()) :]
        since = entries[0].since
        if since not in self._made:
            try:
                self._made[since] = self._frame(entries)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.warning("deltas cannot be merged, a client is reset", error=str(error))
                return self._reset()
        return self._made[since]

    @cached_property
    def _delta_log(self) -> DeltaLog:
        name = delta_log_key(self._division_id)
        frames = self._snapshot.documents.get(name)
        if frames is None:
            return DeltaLog()
        try:
            parsed = DeltaLog.parse(plain(frames))
        except (ZstdError, ValueError) as error:
            log.warning("a delta log cannot be read, its clients are reset", document=name, error=str(error))
            return DeltaLog()
        # What leads elsewhere would lead clients astray.
        return parsed if parsed.entries and parsed.entries[-1].number == self.version.number else DeltaLog()

    def _frame(self, entries: tuple[DeltaLogEntry, ...]) -> Frame:
        if len(entries) > self._most:
            entries = (merged(entries),)
        epoch = self.version.epoch.encode()
        events = [b"id: %s-%d\nevent: delta\ndata: %s\n\n" % (epoch, entry.number, entry.data) for entry in entries]
        return Frame(self.version, b"".join(events), len(events))

    def _reset(self) -> Frame:
        # Not kept: the first of a herd that comes back would be alone, and its spread everyone's.
        data = orjson.dumps({"version": self.version.number, "spread": spread(self._clients(), self._size)})
        return Frame(self.version, b"id: %s\nevent: reset\ndata: %s\n\n" % (str(self.version).encode(), data))

    @cached_property
    def _size(self) -> int:
        """Bytes of the leaderboards, compressed, that whoever starts over fetches."""
        names = (leaderboard_key(owner, self._division_id) for owner in ParticipantKind)
        return sum(len(frames) for name in names for frames in self._snapshot.documents.get(name, ()))


def spread(clients: int, size: int) -> float:
    """Seconds over which so many clients should fetch `size` bytes each."""
    return round(min(MAX_SPREAD_SECONDS, clients * size / REFETCH_BYTES_PER_SECOND), 1)


def merged(entries: tuple[DeltaLogEntry, ...]) -> DeltaLogEntry:
    """All of them, of which there is one at least, as one."""
    deltas = [VersionedDelta.parse(entry.data) for entry in entries]
    while len(deltas) > 1:
        # In pairs, and pairs of pairs: one by one, all there is so far would be copied for each.
        deltas = [a if b is None else a.then(b) for a, b in zip_longest(deltas[::2], deltas[1::2])]
    return DeltaLogEntry(deltas[0].since, deltas[0].number, deltas[0].data())
