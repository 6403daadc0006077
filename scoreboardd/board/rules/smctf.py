"""The points of smctf's challenges: a challenge is worth less the more teams have solved it.

The formula (protocol §5) is a parabola from `initial` at no solve down to `minimum` when every competing team has
solved it, as popularised by CTFd's dynamic challenges.
"""

from math import ceil

import numpy as np

from scoreboardd.board.rules import Facts, Ints


def points(facts: Facts) -> Ints:
    """Return what each challenge is worth now."""
    counts = zip(facts.challenges, facts.solvers.tolist(), strict=True)
    return np.array(
        [challenge_points(c.initial, c.minimum, decay=facts.competing, solves=n) for c, n in counts], np.int64
    )


def challenge_points(initial: int, minimum: int, *, decay: int, solves: int) -> int:
    """Return what one challenge is worth.

    `decay` is the number of teams that compete (with at least one visible user), `solves` the number of teams that
    have solved it; both in the division the board is for.
    """
    floor = min(minimum, initial)
    if decay <= 0:
        return initial
    # 1e-9 keeps a value that is whole but for rounding (say 500.0000000001) from being lifted to the next point.
    return max(floor, ceil((floor - initial) / decay**2 * solves**2 + initial - 1e-9))
