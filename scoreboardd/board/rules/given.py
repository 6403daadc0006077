"""The points of challenges on platforms that store what a challenge is worth now."""

import numpy as np

from scoreboardd.board.rules import Facts, Ints


def points(facts: Facts) -> Ints:
    """Return what each challenge is worth: its `initial` points, unchanged."""
    return np.array([challenge.initial for challenge in facts.challenges], np.int64)
