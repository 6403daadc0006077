"""What the documents of contract §5 have in common: names; and a timeline cut to a window.

A document is named as its key in the store: `leaderboard:users`, or `leaderboard:users:div:3` for a division. Two kinds
of an edition's documents are not in the contract: what leads from the versions before to this one (see `ring`), and
which divisions there are.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import orjson

from scoreboardd.board.times import Micros, micros, rfc3339

BUCKET: Micros = 10 * 60 * 1_000_000


class Owner(StrEnum):
    """Whose board: every document exists once per user and once per team."""

    USERS = "users"
    TEAMS = "teams"

    @property
    def id_field(self) -> str:
        return "user_id" if self is Owner.USERS else "team_id"

    @property
    def name_field(self) -> str:
        return "username" if self is Owner.USERS else "team_name"


def leaderboard_key(owner: Owner, division_id: int | None = None) -> str:
    return _key("leaderboard", owner, division_id)


def timeline_key(owner: Owner, division_id: int | None = None) -> str:
    return _key("timeline", owner, division_id)


def ring_key(division_id: int | None = None) -> str:
    return _key("scoreboard", "ring", division_id)


DIVISIONS = "scoreboard:divisions"
'`[{"id", "name"}…]`, by id.'


def keys(divisions: Iterable[int]) -> list[str]:
    """The names of every document of an edition with these divisions."""
    boards = (None, *divisions)
    return [
        *(key(owner, board) for board in boards for key in (leaderboard_key, timeline_key) for owner in Owner),
        *map(ring_key, boards),
        DIVISIONS,
    ]


def _key(kind: str, what: str, division_id: int | None) -> str:
    return f"{kind}:{what}" if division_id is None else f"{kind}:{what}:div:{division_id}"


@dataclass(frozen=True, slots=True)
class Scored:
    """One challenge an owner has, at the points it is worth now."""

    at: Micros
    owner_id: int
    name: str
    points: int


def timeline(owner: Owner, scored: Iterable[Scored]) -> bytes:
    """The timeline document of these solves, in UTC buckets of ten minutes."""
    sums: defaultdict[tuple[Micros, int], list[int]] = defaultdict(lambda: [0, 0])
    names: dict[int, str] = {}
    for solve in scored:
        total = sums[solve.at - solve.at % BUCKET, solve.owner_id]
        total[0] += solve.points
        total[1] += 1
        names[solve.owner_id] = solve.name

    def order(row: tuple[tuple[Micros, int], list[int]]) -> tuple[Micros, str, int]:
        (bucket, owner_id), _ = row
        return bucket, names[owner_id] if owner is Owner.TEAMS else "", owner_id

    return orjson.dumps(
        {
            "submissions": [
                {
                    "timestamp": rfc3339(bucket),
                    owner.id_field: owner_id,
                    owner.name_field: names[owner_id],
                    "points": points,
                    "challenge_count": count,
                }
                for (bucket, owner_id), (points, count) in sorted(sums.items(), key=order)
            ]
        }
    )


def solves_of(owner: Owner, leaderboard: bytes | memoryview) -> list[Scored]:
    """Every solve in a leaderboard document, earliest first: all that a windowed timeline needs.

    Any node can so answer `?window=` from the documents it holds, of the very version it serves, without a database.
    """
    document = orjson.loads(leaderboard)
    points = {challenge["id"]: challenge["points"] for challenge in document["challenges"]}
    return sorted(
        (
            Scored(
                micros(solve["solved_at"]),
                entry[owner.id_field],
                entry[owner.name_field],
                points[solve["challenge_id"]],
            )
            for entry in document["entries"]
            for solve in entry["solves"]
        ),
        key=lambda scored: scored.at,
    )


def since(solves: list[Scored], at: Micros) -> list[Scored]:
    """Those at or after `at`, of solves that are sorted by time."""
    return solves[bisect_left(solves, at, key=lambda scored: scored.at) :]
