"""Small boards, of any shape."""

import random
from functools import reduce
from itertools import pairwise

from scoreboardd.board.delta import VersionedDelta, compose, diff
from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, Solve


def view(chance: random.Random) -> Leaderboards:
    challenges = {
        id: Challenge(chance.choice("ab"), "misc", chance.randint(100, 103)) for id in _some(chance, range(4))
    }

    def owners() -> dict[int, Entry]:
        return {id: Entry(chance.choice(["a", "b", "é", "\U0001f4a9"]), solves()) for id in _some(chance, range(4))}

    def solves() -> dict[int, Solve]:
        return {id: Solve(f"2026-02-27T18:00:0{chance.randint(0, 2)}Z", False) for id in _some(chance, challenges)}

    return Leaderboards(challenges, owners(), owners())


def _some(chance: random.Random, ids: "range | dict[int, Challenge]") -> list[int]:
    return [id for id in ids if chance.random() < 0.7]


def step(history: list[Leaderboards], since: int, number: int) -> VersionedDelta:
    """What leads from one version of a history to another, as a server composes it; views by number."""
    return VersionedDelta(
        since, number, reduce(compose, [diff(a, b) for a, b in pairwise(history[since : number + 1])])
    )
