"""Announcements of solves beside the solves that were read: is every announced one there?

Only numbers are compared, since an announcement does not say which solve it means. Both orders are normal: a solve is
read before its announcement arrives, or announced before it can be read. What is left over on either side is kept for
`MEMORY_SECONDS` and then forgotten, so that an announcement of nothing does not count for ever, and a solve that nobody
announces does not stand for another.
"""

from collections import deque

MEMORY_SECONDS = 15.0


class Ledger:
    """Times are those of any clock that does not go back, in seconds."""

    def __init__(self) -> None:
        self._owed: deque[list[float]] = deque()
        "[until when, how many] solves were announced and not read, oldest first."
        self._ahead: deque[list[float]] = deque()
        "[until when, how many] solves were read and not announced, oldest first."

    def announced(self, solves: int, now: float) -> None:
        _settle(solves, self._ahead, self._owed, now)

    def read(self, solves: int, now: float) -> None:
        _settle(solves, self._owed, self._ahead, now)

    def owed(self, now: float) -> int:
        """How many announced solves have not been read."""
        return _left(self._owed, now)

    def clear(self) -> None:
        """All that was announced was read."""
        self._owed.clear()


def _left(entries: deque[list[float]], now: float) -> int:
    while entries and entries[0][0] <= now:
        entries.popleft()
    return int(sum(number for _, number in entries))


def _settle(number: int, against: deque[list[float]], rest: deque[list[float]], now: float) -> None:
    """Cancel `number` out against those of the other side; what is left goes to its own."""
    _left(against, now)
    while number > 0 and against:
        cancelled = min(number, int(against[0][1]))
        number -= cancelled
        against[0][1] -= cancelled
        if not against[0][1]:
            against.popleft()
    if number > 0:
        rest.append([now + MEMORY_SECONDS, number])
