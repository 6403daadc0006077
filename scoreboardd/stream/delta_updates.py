"""Makes the updates of a topic of deltas: the deltas that a client has missed, or a `reset`.

- The deltas are in the delta log of the served snapshot (see `board.delta_log`), the same on every node. Each is one
  `delta` event.
- A client that has missed more deltas than may wait for it receives one merged delta. Nothing in a delta is relative
  (see `board.delta`), so a merged delta may begin before the version that the client has. The number of merged deltas
  is a power of two, or the length of the log. So a version has only a few merged deltas, whatever versions clients
  claim to have. Making all of them takes twice as long as making the largest: 4 ms for a log of 50 KB (256 plain
  solves), and two to six times as long for a full log.
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
"The rate at which a node may be asked for documents after a reset: most of a link of 1 Gbit/s."
MAX_SPREAD_SECONDS = 60.0
"The longest time over which clients spread their fetches."

log = structlog.stdlib.get_logger("scoreboardd.web")


class DeltaUpdates:
    """The updates of one snapshot, by division. A client that has missed more than `max_deltas` deltas receives one
    merged delta. `count_clients()` returns the number of clients of deltas."""

    def __init__(self, snapshot: Snapshot, *, max_deltas: int, count_clients: Callable[[], int]) -> None:
        self.snapshot = snapshot
        self._max_deltas = max_deltas
        self._count_clients = count_clients
        self._updates: dict[int | None, DeltaUpdate] = {}

    def update_for(self, division_id: int | None) -> "DeltaUpdate":
        """Return the update for the clients of a division; None stands for everyone."""
        update = self._updates.get(division_id)
        if update is None:
            update = self._updates[division_id] = DeltaUpdate(
                self.snapshot, division_id, max_deltas=self._max_deltas, count_clients=self._count_clients
            )
        return update


class DeltaUpdate:
    """The update that leads clients of the boards of one division, or of everyone, to the version of a snapshot."""

    lossless = True

    def __init__(
        self, snapshot: Snapshot, division_id: int | None, *, max_deltas: int, count_clients: Callable[[], int]
    ) -> None:
        self.version = snapshot.version
        self._snapshot = snapshot
        self._division_id = division_id
        self._max_deltas = max_deltas
        self._count_clients = count_clients
        self._frames: dict[int, Frame] = {}
        "The frames made so far, by the number of the version from which each leads."

    def since(self, last_sent: Version | None) -> Frame:
        """Return the frame for a client that was last sent the version `last_sent`; None stands for no version."""
        entries = (
            self._delta_log.after(last_sent.number)
            if last_sent is not None and last_sent.epoch == self.version.epoch
            else None
        )
        if not entries:
            return self._reset()
        if len(entries) > self._max_deltas:
            entries = self._delta_log.entries[-(1 << (len(entries) - 1).bit_length()) :]
        since = entries[0].since
        if since not in self._frames:
            try:
                self._frames[since] = self._frame(entries)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.warning("deltas cannot be merged, a client is reset", error=str(error))
                return self._reset()
        return self._frames[since]

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
        # A log that leads to another version would give clients a wrong board.
        return parsed if parsed.entries and parsed.entries[-1].number == self.version.number else DeltaLog()

    def _frame(self, entries: tuple[DeltaLogEntry, ...]) -> Frame:
        if len(entries) > self._max_deltas:
            entries = (merged(entries),)
        epoch = self.version.epoch.encode()
        events = [b"id: %s-%d\nevent: delta\ndata: %s\n\n" % (epoch, entry.number, entry.data) for entry in entries]
        return Frame(self.version, b"".join(events), len(events))

    def _reset(self) -> Frame:
        # Not kept: the spread depends on the number of clients, which grows while clients reconnect.
        data = orjson.dumps({"version": self.version.number, "spread": spread(self._count_clients(), self._size)})
        return Frame(self.version, b"id: %s\nevent: reset\ndata: %s\n\n" % (str(self.version).encode(), data))

    @cached_property
    def _size(self) -> int:
        """The size in bytes of the compressed leaderboards that a client fetches after a reset."""
        names = (leaderboard_key(owner, self._division_id) for owner in ParticipantKind)
        return sum(len(frames) for name in names for frames in self._snapshot.documents.get(name, ()))


def spread(clients: int, size: int) -> float:
    """Return the seconds over which `clients` clients should spread their fetches of `size` bytes each."""
    return round(min(MAX_SPREAD_SECONDS, clients * size / REFETCH_BYTES_PER_SECOND), 1)


def merged(entries: tuple[DeltaLogEntry, ...]) -> DeltaLogEntry:
    """Return one delta that has the effect of `entries`, of which there is at least one."""
    deltas = [VersionedDelta.parse(entry.data) for entry in entries]
    while len(deltas) > 1:
        # Merge pairs, and then pairs of pairs: one by one, each step would copy all that is merged so far.
        deltas = [a if b is None else a.then(b) for a, b in zip_longest(deltas[::2], deltas[1::2])]
    return DeltaLogEntry(deltas[0].since, deltas[0].number, deltas[0].data())
