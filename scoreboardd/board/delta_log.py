"""The latest deltas of a board: a document of each snapshot, so that a client can get the deltas it missed on any node.

Each line is the text of a delta (`delta.VersionedDelta.data`). Each delta begins at the version where the one before
ends, and the last one leads to the snapshot's own version. A client that has a version from before the first delta has
to fetch the board. The log is empty if a delta was too large, or if the version before is not known.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

from scoreboardd.board.delta import VersionedDelta

MAX_ENTRIES = 256
"Deltas in a log."
MAX_BYTES = 128 * 1024
"Of the text of a log."
MAX_DELTA_BYTES = 64 * 1024
"A larger delta costs more than the board, which is fetched compressed."


class DeltaLogEntry(NamedTuple):
    """A delta from version number `since` to `number`, as it is sent."""

    since: int
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DeltaLog:
    entries: tuple[DeltaLogEntry, ...] = ()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The inverse of `text`. Raises `ValueError`."""
        return cls(tuple(map(_entry, text.splitlines())))

    def text(self) -> bytes:
        return b"".join(entry.data + b"\n" for entry in self.entries)

    def then(self, since: int, data: bytes) -> "DeltaLog":
        """This log with the delta `data`, which begins at `since`, added at its end. The oldest deltas are dropped when
        the log is full."""
        entry = _entry(data)
        assert entry.since == since and (not self.entries or self.entries[-1].number == since)
        if len(data) > MAX_DELTA_BYTES:
            return DeltaLog()
        entries = (*self.entries, entry)[-MAX_ENTRIES:]
        size = sum(len(entry.data) for entry in entries)
        first = 0
        while size > MAX_BYTES:
            size -= len(entries[first].data)
            first += 1
        return DeltaLog(entries[first:])

    def after(self, number: int) -> tuple[DeltaLogEntry, ...] | None:
        """The deltas that a client with version `number` has missed; None if they are not here.

        No delta begins at a number that was given out and then lost by the store.
        """
        for place, entry in enumerate(self.entries):
            if entry.since == number:
                return self.entries[place:]
        return () if self.entries and number >= self.entries[-1].number else None


def _entry(data: bytes) -> DeltaLogEntry:
    return DeltaLogEntry(*VersionedDelta.numbers(data), data)
