"""Exponential back-off with jitter: the one place that says how long to wait before the next attempt."""

from typing import NamedTuple


class Backoff(NamedTuple):
    """Pauses between `shortest` and `longest` seconds."""

    shortest: float
    longest: float

    def bound(self, failures: int) -> float:
        """The longest pause, in seconds, after so many failures in a row (1 or more)."""
        return min(self.longest, self.shortest * 2.0 ** min(failures - 1, 30))

    def delay(self, failures: int, random: float = 0.0) -> float:
        """The pause in seconds. `random`, in [0, 1), takes up to half of it away, so that nodes that fail together do
        not try again together."""
        return self.bound(failures) * (1 - random / 2)
