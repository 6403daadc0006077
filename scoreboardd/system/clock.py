"""The time of day: the one place that the daemon takes it from, so that a test can set it.

The database says when its rows were read. So the age of a document, and the moment at which a window begins, are
measured with the database's clock. A node counts the seconds with its own monotonic clock, and asks the database from
time to time how far the two are apart. Its own time of day, which may be hours off, serves only until the first answer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

MAX_ERROR_SECONDS = 1.0
"A reading that took longer than twice this says little about the time, and does not replace a better one."
END_OF_TIME = 253_402_300_799.0
"Unix time of the last second of the year 9999, the last one that a document can show."


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What a database answered when it was asked for the time; both are in seconds."""

    offset: float
    "The database's Unix time, less this machine's monotonic clock (which all its processes share)."
    error: float
    "How much that may be wrong: half of the round trip."


class Clock:
    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset: float | None = None

    def now(self) -> float:
        """Unix time in seconds."""
        return self._wall() if self._offset is None else self._monotonic() + self._offset

    @property
    def known(self) -> bool:
        """Whether the database has been asked, and `now` is not just what this machine believes."""
        return self._offset is not None

    @property
    def ahead(self) -> float:
        """Seconds by which this machine's time of day is ahead of the database's; 0 while that is not known."""
        return self._wall() - self.now() if self.known else 0.0

    def learn(self, reading: ClockReading) -> None:
        if self._offset is None or reading.error <= MAX_ERROR_SECONDS:
            self._offset = reading.offset


def bounded(unix_time: float) -> float:
    """`unix_time`, from a message or a store, as a moment that a document can show: within the years 1970 to 9999."""
    return unix_time if 0.0 <= unix_time <= END_OF_TIME else 0.0  # NaN is in no range
