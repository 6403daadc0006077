"""The last steps of a board: a document of each edition, so that on any node whoever has missed some takes just those.

A step is a line of text, as `delta.Step.data` has it. Each begins where the one before ends, and the last leads to the
edition's own version. Whoever has a version from before the first has to fetch the board: so has everyone where there
is no line at all, because a step was too large, or nobody knows what was before.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, Self

MAX_ENTRIES = 256
"Steps in a ring; and the bytes of their text:"
MAX_BYTES = 128 * 1024
MAX_DELTA_BYTES = 64 * 1024
"Bytes of one step. A board that is fetched is compressed, once for all; a step is not."

_NUMBERS = re.compile(rb'\{"from":([0-9]+),"version":([0-9]+)[,}]')


class DeltaLogEntry(NamedTuple):
    """A step, as it is sent."""

    since: int
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DeltaLog:
    entries: tuple[DeltaLogEntry, ...] = ()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The inverse of `text`. ValueError if it is none."""
        return cls(tuple(map(_entry, text.splitlines())))

    def text(self) -> bytes:
        return b"".join(entry.data + b"\n" for entry in self.entries)

    def then(self, since: int, data: bytes) -> "DeltaLog":
        """With the step `data`, which begins at `since`, at its end, and without the oldest where that is too much."""
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
        """The steps that whoever has version `number` has missed; None if they are not here.

        No step leads on from a number that none begins at. Such a version was given out, and then lost by the store.
        """
        for place, entry in enumerate(self.entries):
            if entry.since == number:
                return self.entries[place:]
        return () if self.entries and number >= self.entries[-1].number else None


def _entry(data: bytes) -> DeltaLogEntry:
    numbers = _NUMBERS.match(data)
    if numbers is None:
        raise ValueError("not a step")
    return DeltaLogEntry(int(numbers[1]), int(numbers[2]), data)
