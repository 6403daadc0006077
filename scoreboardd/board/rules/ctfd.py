"""The points of CTFd's dynamic challenges, for boards that have to be computed without the stored values.

Source: `CTFd/plugins/dynamic_challenges/decay.py` of CTFd 3.8.
"""


def dynamic_points(function: str, *, initial: int, minimum: int, decay: int, solves: int) -> int:
    """Return what a challenge is worth after `solves` solves by owners that are neither hidden nor banned.

    `function` is "linear" or "logarithmic"; `decay` is the number of points a solve takes away, or the number of solves
    at which the minimum is reached.
    """
    steps = max(0, solves - 1)
    if function == "linear":
        return max(minimum, initial - decay * steps)
    # A fraction of integers, rounded up exactly: floating point may lift a whole number to the next one.
    square = (decay or 1) ** 2
    return max(minimum, -((initial - minimum) * steps**2 // square) + initial)
