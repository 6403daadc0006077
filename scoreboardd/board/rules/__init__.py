"""The rules of a platform: what a challenge is worth, who is listed, and how equal scores are ordered.

A platform names its rules in `platform.toml`. A rule for points is a module here with a function `points`; it is pure,
and computes all challenges at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.order import Listing, Order
from scoreboardd.board.source_rows import ChallengeRow

Ints = NDArray[np.int64]


class Facts(NamedTuple):
    """What the points of challenges may depend on."""

    challenges: list[ChallengeRow]
    solvers: Ints
    "The number of teams that have solved each challenge."
    competing: int
    "The number of teams with at least one visible user."


PointsRule = Callable[[Facts], Ints]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one board."""

    points: str = "smctf"
    "The name of the module here that computes the points of challenges."
    order: Order = Order.STATIC
    listing: Listing = Listing.ALL


def with_ties(rules: Rules, ties: str) -> Rules:
    """Return `rules` with the order that `source.ties` asks for: "platform", or "time" for whoever was first."""
    return replace(rules, order=Order.LAST_SOLVE) if ties == "time" else rules
