"""The points of CTFd's dynamic challenges, for boards that have to be computed without the stored values.

Source: `CTFd/plugins/dynamic_challenges/decay.py` of CTFd 3.8.
"""

from typing import NamedTuple


class DynamicPoints(NamedTuple):
    """How the points of a challenge fall."""

    function: str
    '"linear" or "logarithmic".'
    initial: int
    minimum: int
    decay: int
    "The points that a solve takes away (linear), or the number of solves at which the minimum is reached."

    def after(self, solves: int) -> int:
        """Return what the challenge is worth after `solves` solves by owners that are neither hidden nor banned."""
        steps = max(0, solves - 1)
        if self.function == "linear":
            return max(self.minimum, self.initial - self.decay * steps)
        # A fraction of integers, rounded up exactly: floating point may lift a whole number to the next one.
        square = (self.decay or 1) ** 2
        return max(self.minimum, self.initial - (self.initial - self.minimum) * steps**2 // square)
