"""The time of day. The whole daemon reads it from `Clock`, so that a test can set it.

The database reports when its rows were read. So the age of a document, and the start of a window, are measured with the
database's clock. A node counts seconds with its own monotonic clock, and periodically measures the offset between the
two clocks. The node uses its own time of day, which may be hours off, only until the first measurement.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

MAX_ERROR_SECONDS = 1.0
"The largest error of a measurement that replaces an earlier measurement."
END_OF_TIME = 253_402_300_799.0
"Unix time in seconds of the last second of the year 9999, the latest time that a document can express."


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One measurement of the database's clock. Both fields are in seconds."""

    offset: float
    "The database's Unix time minus this machine's monotonic clock, which all processes of the machine share."
    error: float
    "The maximum error of `offset`: half of the round trip."


class Clock:
    """The database's time of day, as far as it has been measured, else this machine's."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset: float | None = None

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return self._wall() if self._offset is None else self._monotonic() + self._offset

    @property
    def known(self) -> bool:
        """True once the database's clock has been measured. Before that `now` returns this machine's time of day."""
        return self._offset is not None

    @property
    def ahead(self) -> float:
        """Seconds by which this machine's time of day is ahead of the database's; 0 before the first measurement."""
        return self._wall() - self.now() if self.known else 0.0

    def learn(self, reading: ClockReading) -> None:
        """Use the offset of `reading`, unless its error exceeds `MAX_ERROR_SECONDS` and an offset is already set."""
        if self._offset is None or reading.error <= MAX_ERROR_SECONDS:
            self._offset = reading.offset


def bounded(unix_time: float) -> float:
    """Return `unix_time`, in seconds, if it is within the years 1970 to 9999, else 0.0.

    For times from messages and stores, which may be anything.
    """
    return unix_time if 0.0 <= unix_time <= END_OF_TIME else 0.0  # NaN fails both comparisons
