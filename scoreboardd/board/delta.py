"""The difference between two states of the leaderboards, so that a client need not fetch 40 MB after every solve.

- `apply(diff(a, b), a) == b`. A delta says facts only: scores and order follow from them.
- A delta is applied in the order drop, put, points, solves. To drop a challenge or an owner is to drop its solves too;
  one that is both dropped and put was away in between, and comes back with nothing.
- So a delta composed with the next is a delta, `compose` is associative, and for every `a`
  `apply(compose(d, e), a) == apply(e, apply(d, a))`.
- Nothing is relative: a client that has passed `d` but not `e` may apply the two of them as one all the same.

On the wire (`VersionedDelta`) it is JSON, empty parts left out:

    {"from": 41, "version": 42,
     "challenges": {"put": [{"id", "title", "category", "points"}…], "drop": [id…], "points": [[id, points]…]},
     "users": {"put": [[id, name]…], "drop": [id…],
               "solves": [[id, challenge id, "solved at", 0 | 1 for first blood]…], "unsolves": [[id, challenge id]…],
               "adjustments": [[id, [["at", points]…]]…]},
     "teams": {…the same…}}

A solve and an adjustment have their sequence number at their end, where the platform has such numbers.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Self

import orjson

from scoreboardd.board.leaderboards import (
    Adjustment,
    Adjustments,
    Challenge,
    Entry,
    Leaderboards,
    Solve,
    integer,
    parse_challenges,
    string,
)

_NUMBERS = re.compile(rb'\{"from":([0-9]+),"version":([0-9]+)[,}]')


@dataclass(frozen=True, slots=True)
class Challenges:
    put: Mapping[int, Challenge] = field(default_factory=dict)
    "New ones, and those with another title or category."
    drop: Set[int] = frozenset()
    points: Mapping[int, int] = field(default_factory=dict)
    "Of those that are not put."


@dataclass(frozen=True, slots=True)
class Owners:
    put: Mapping[int, str] = field(default_factory=dict)
    "New and renamed ones."
    drop: Set[int] = frozenset()
    solves: Mapping[tuple[int, int], Solve | None] = field(default_factory=dict)
    "By owner and challenge; None for one that is no more."
    adjustments: Mapping[int, Adjustments] = field(default_factory=dict)
    "All adjustments of each owner that has others than before."


@dataclass(frozen=True, slots=True)
class Delta:
    challenges: Challenges = Challenges()
    users: Owners = Owners()
    teams: Owners = Owners()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it. Equal deltas are equal to the byte."""
        challenges = {
            "put": [{"id": id, **listed._asdict()} for id, listed in sorted(self.challenges.put.items())],
            "drop": sorted(self.challenges.drop),
            "points": [list(item) for item in sorted(self.challenges.points.items())],
        }
        return _filled(
            {"challenges": _filled(challenges), "users": _owners_dict(self.users), "teams": _owners_dict(self.teams)}
        )

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`. Raises AttributeError, KeyError, TypeError or ValueError for anything else."""
        challenges = said.get("challenges", {})
        return cls(
            Challenges(
                parse_challenges(challenges.get("put", [])),
                frozenset(map(integer, challenges.get("drop", []))),
                {integer(id): integer(points) for id, points in challenges.get("points", [])},
            ),
            _owners(said.get("users", {})),
            _owners(said.get("teams", {})),
        )


@dataclass(frozen=True, slots=True)
class VersionedDelta:
    """A delta that leads from version number `since` to `number`, both of one epoch."""

    since: int
    number: int
    delta: Delta

    def then(self, later: "VersionedDelta") -> "VersionedDelta":
        """Both deltas as one. `later` begins where this one ends."""
        assert later.since == self.number
        return VersionedDelta(self.since, later.number, compose(self.delta, later.delta))

    def data(self) -> bytes:
        """The data of a `delta` event."""
        return orjson.dumps({"from": self.since, "version": self.number, **self.delta.as_dict()})

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """The inverse of `data`. Raises `AttributeError`, `KeyError`, `TypeError` or `ValueError` for other text."""
        said = orjson.loads(data)
        return cls(integer(said["from"]), integer(said["version"]), Delta.from_dict(said))

    @staticmethod
    def numbers(data: bytes) -> tuple[int, int]:
        """`since` and `number` of what `data` returned, without parsing all of it. Raises `ValueError`."""
        match = _NUMBERS.match(data)
        if match is None:
            raise ValueError("not a delta")
        return int(match[1]), int(match[2])


def diff(a: Leaderboards, b: Leaderboards) -> Delta:
    """The smallest delta that leads from `a` to `b`."""
    put = {id: c for id, c in b.challenges.items() if id not in a.challenges or a.challenges[id][:2] != c[:2]}
    worth = {id: c.points for id, c in b.challenges.items() if id not in put and a.challenges[id].points != c.points}
    gone = a.challenges.keys() - b.challenges.keys()
    return Delta(
        Challenges(put, gone, worth), _diff_owners(a.users, b.users, gone), _diff_owners(a.teams, b.teams, gone)
    )


def _diff_owners(a: dict[int, Entry], b: dict[int, Entry], gone: Set[int]) -> Owners:
    put: dict[int, str] = {}
    solves: dict[tuple[int, int], Solve | None] = {}
    adjustments: dict[int, Adjustments] = {}
    for id, new in b.items():
        old = a.get(id)
        if old is None or old.name != new.name:
            put[id] = new.name
        if new.adjustments != (old.adjustments if old is not None else ()):
            adjustments[id] = new.adjustments
        had = old.solves if old is not None else {}
        if had != new.solves:
            solves |= {(id, c): solve for c, solve in new.solves.items() if had.get(c) != solve}
            solves |= {(id, c): None for c in had if c not in new.solves and c not in gone}
    return Owners(put, a.keys() - b.keys(), solves, adjustments)


def apply(delta: Delta, view: Leaderboards) -> Leaderboards:
    """The view that `delta` leads to from `view`, which stays as it is."""
    its = delta.challenges
    challenges = {id: listed for id, listed in view.challenges.items() if id not in its.drop} | dict(its.put)
    challenges |= {id: challenges[id]._replace(points=points) for id, points in its.points.items()}
    return replace(
        view,
        challenges=challenges,
        users=_apply_owners(delta.users, view.users, its.drop),
        teams=_apply_owners(delta.teams, view.teams, its.drop),
    )


def _apply_owners(delta: Owners, owners: dict[int, Entry], gone: Set[int]) -> dict[int, Entry]:
    now = {id: entry for id, entry in owners.items() if id not in delta.drop}
    if gone:
        now = {
            id: replace(entry, solves={c: solve for c, solve in entry.solves.items() if c not in gone})
            for id, entry in now.items()
        }
    now |= {id: replace(now[id], name=name) if id in now else Entry(name, {}) for id, name in delta.put.items()}
    now |= {id: replace(now[id], adjustments=adjustments) for id, adjustments in delta.adjustments.items()}
    touched: dict[int, dict[int, Solve]] = {}
    for (id, challenge_id), solve in delta.solves.items():
        if id not in touched:
            touched[id] = dict(now[id].solves)
        if solve is None:
            touched[id].pop(challenge_id, None)
        else:
            touched[id][challenge_id] = solve
    return now | {id: replace(now[id], solves=solves) for id, solves in touched.items()}


def compose(first: Delta, second: Delta) -> Delta:
    """`first`, then `second`, as one."""
    a, b = first.challenges, second.challenges
    put = {id: listed for id, listed in a.put.items() if id not in b.drop} | dict(b.put)
    put |= {id: put[id]._replace(points=points) for id, points in b.points.items() if id in put}
    worth = {id: points for id, points in a.points.items() if id not in b.drop} | dict(b.points)
    return Delta(
        Challenges(put, a.drop | b.drop, {id: points for id, points in worth.items() if id not in put}),
        _compose_owners(first.users, second.users, b.drop),
        _compose_owners(first.teams, second.teams, b.drop),
    )


def _compose_owners(a: Owners, b: Owners, gone: Set[int]) -> Owners:
    solves = {
        (id, challenge_id): solve
        for (id, challenge_id), solve in a.solves.items()
        if id not in b.drop and challenge_id not in gone
    }
    solves.update(b.solves)
    put = {id: name for id, name in a.put.items() if id not in b.drop}
    put.update(b.put)
    adjustments = {id: its for id, its in a.adjustments.items() if id not in b.drop} | dict(b.adjustments)
    return Owners(put, a.drop | b.drop, solves, adjustments)


def _owners_dict(owners: Owners) -> dict[str, Any]:
    solves = sorted(owners.solves.items())
    return _filled(
        {
            "put": [list(item) for item in sorted(owners.put.items())],
            "drop": sorted(owners.drop),
            "solves": [[*cell, solve.at, int(solve.first_blood), *_sequence(solve)] for cell, solve in solves if solve],
            "unsolves": [list(cell) for cell, solve in solves if solve is None],
            "adjustments": [
                [id, [[each.at, each.points, *_sequence(each)] for each in its]]
                for id, its in sorted(owners.adjustments.items())
            ],
        }
    )


def _sequence(row: Solve | Adjustment) -> tuple[int, ...]:
    return () if row.sequence is None else (row.sequence,)


def _owners(said: Mapping[str, Any]) -> Owners:
    solves: dict[tuple[int, int], Solve | None] = {
        (integer(id), integer(challenge_id)): Solve(
            string(at), _FIRST_BLOOD[integer(first_blood)], *map(integer, sequence)
        )
        for id, challenge_id, at, first_blood, *sequence in said.get("solves", [])
    }
    solves.update({(integer(id), integer(challenge_id)): None for id, challenge_id in said.get("unsolves", [])})
    put = {integer(id): string(name) for id, name in said.get("put", [])}
    adjustments = {
        integer(id): tuple(
            Adjustment(string(at), integer(points), *map(integer, sequence)) for at, points, *sequence in its
        )
        for id, its in said.get("adjustments", [])
    }
    return Owners(put, frozenset(map(integer, said.get("drop", []))), solves, adjustments)


_FIRST_BLOOD = {0: False, 1: True}


def _filled(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part}
