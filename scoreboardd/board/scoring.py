"""Dynamic points: a challenge is worth less the more teams have it.

The formula is the smctf platform's (protocol §5), a parabola from `initial` at no solve down to `minimum` when every
competing team has it, as popularised by CTFd's dynamic challenges.
"""

from math import ceil


def challenge_points(initial: int, minimum: int, *, decay: int, solves: int) -> int:
    """What a challenge is worth now.

    `decay` is the number of teams that compete (with at least one visible user), `solves` the number of teams that
    have the challenge; both in the division the board is for.
    """
    floor = min(minimum, initial)
    if decay <= 0:
        return initial
    # 1e-9 keeps a value that is whole but for rounding (say 500.0000000001) from being lifted to the next point.
    return max(floor, ceil((floor - initial) / decay**2 * solves**2 + initial - 1e-9))
