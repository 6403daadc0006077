"""Exponential back-off with jitter. Every component computes its pause before the next attempt here."""

from typing import NamedTuple


class Backoff(NamedTuple):
    """The limits of the pause between two attempts, in seconds."""

    shortest: float
    longest: float

    def bound(self, failures: int) -> float:
        """Return the longest pause in seconds after `failures` consecutive failures (1 or more)."""
        return min(self.longest, self.shortest * 2.0 ** min(failures - 1, 30))

    def delay(self, failures: int, random: float = 0.0) -> float:
        """Return the pause in seconds after `failures` consecutive failures (1 or more).

        `random`, in [0, 1), shortens the pause by up to half, so that nodes that fail at the same time do not retry at
        the same time.
        """
        return self.bound(failures) * (1 - random / 2)
