"""Compares the number of announced solves with the number of solves that were read.

An announcement does not name its solve, so only numbers can be compared. Both orders are normal: a solve may be read
before its announcement arrives, or announced before it can be read. A surplus on either side is remembered for
`MEMORY_SECONDS`. So an announcement without a solve does not count for ever, and a solve without an announcement does
not stand for another one.
"""

from collections import deque

MEMORY_SECONDS = 15.0


class Ledger:
    """All times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._owed: deque[list[float]] = deque()
        "[expiry, number] of solves announced and not read, oldest first."
        self._ahead: deque[list[float]] = deque()
        "[expiry, number] of solves read and not announced, oldest first."

    def announced(self, solves: int, now: float) -> None:
        _settle(solves, self._ahead, self._owed, now)

    def read(self, solves: int, now: float) -> None:
        _settle(solves, self._owed, self._ahead, now)

    def owed(self, now: float) -> int:
        """Number of announced solves that have not been read."""
        return _left(self._owed, now)

    def clear(self) -> None:
        """All that was announced was read."""
        self._owed.clear()


def _left(entries: deque[list[float]], now: float) -> int:
    while entries and entries[0][0] <= now:
        entries.popleft()
    return int(sum(number for _, number in entries))


def _settle(number: int, against: deque[list[float]], rest: deque[list[float]], now: float) -> None:
    """Subtract `number` from the surplus `against`; add what remains to `rest`."""
    _left(against, now)
    while number > 0 and against:
        cancelled = min(number, int(against[0][1]))
        number -= cancelled
        against[0][1] -= cancelled
        if not against[0][1]:
            against.popleft()
    if number > 0:
        rest.append([now + MEMORY_SECONDS, number])
