"""What a topic of deltas sends: the deltas that a client has missed, or that it has to fetch the board again.

- The deltas are in the delta log of the snapshot served (see `board.delta_log`), the same on every node. Each is one
  `delta` event.
- A client that has missed more deltas than may wait for it gets them merged into one. Nothing in a delta is relative
  (see `board.delta`), so a merged delta may begin before the version that the client has. The number of merged deltas
  is a power of two, or all there are. So a version has only a few merged deltas, whatever versions clients claim to
  have. Making all of them takes twice as long as making the largest: 4 ms for a log of 50 KB (256 plain solves), and
  two to six times as long for a full log.
- `reset` goes to clients whose version is before the log, of another epoch, or not reached by this node. Its `spread`
  is the number of seconds over which clients spread their fetches: the time to send the leaderboards to all clients of
  deltas of this node at `REFETCH_BYTES_PER_SECOND`, at most `MAX_SPREAD_SECONDS`.
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
"Most of what a link of 1 Gbit/s carries."
MAX_SPREAD_SECONDS = 60.0

log = structlog.stdlib.get_logger("scoreboardd.web")


class DeltaUpdates:
    """The updates of one snapshot, by division. `most` is how many deltas a client gets one by one; `clients()` is the
    number of clients of deltas."""

    def __init__(self, snapshot: Snapshot, *, most: int, clients: Callable[[], int]) -> None:
        self.snapshot = snapshot
        self._most = most
        self._clients = clients
        self._waiting_update: dict[int | None, DeltaUpdate] = {}

    def update_for(self, division_id: int | None) -> "DeltaUpdate":
        """The update for the clients of a division; None stands for everyone."""
        update_for = self._waiting_update.get(division_id)
        if update_for is None:
            update_for = self._waiting_update[division_id] = DeltaUpdate(
                self.snapshot, division_id, most=self._most, clients=self._clients
            )
        return update_for


class DeltaUpdate:
    """What leads clients that hold the boards of one division, or of everyone, to the version of a snapshot."""

    lossless = True

    def __init__(self, snapshot: Snapshot, division_id: int | None, *, most: int, clients: Callable[[], int]) -> None:
        self.version = snapshot.version
        self._snapshot = snapshot
        self._division_id = division_id
        self._most = most
        self._clients = clients
        self._made: dict[int, Frame] = {}
        "By the number of the version that the update leads from."

    def since(self, last_sent: Version | None) -> Frame:
        """The update from the version that a client was last sent, which may be unknown; None if it was sent none."""
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
        """Bytes of the compressed leaderboards that a client fetches after a reset."""
        names = (leaderboard_key(owner, self._division_id) for owner in ParticipantKind)
        return sum(len(frames) for name in names for frames in self._snapshot.documents.get(name, ()))


def spread(clients: int, size: int) -> float:
    """Seconds over which that number of clients should fetch `size` bytes each."""
    return round(min(MAX_SPREAD_SECONDS, clients * size / REFETCH_BYTES_PER_SECOND), 1)


def merged(entries: tuple[DeltaLogEntry, ...]) -> DeltaLogEntry:
    """One or more deltas, as one."""
    deltas = [VersionedDelta.parse(entry.data) for entry in entries]
    while len(deltas) > 1:
        # In pairs, and pairs of pairs: one by one, all there is so far would be copied for each.
        deltas = [a if b is None else a.then(b) for a, b in zip_longest(deltas[::2], deltas[1::2])]
    return DeltaLogEntry(deltas[0].since, deltas[0].number, deltas[0].data())
