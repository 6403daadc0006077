"""`Board` → the four JSON documents of contract §5, and a timeline cut to a window.

A document is named as its key in the store: `leaderboard:users`, or `leaderboard:users:div:3` for a division.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from scoreboardd.board import board as boards
from scoreboardd.board.board import Board, Standing
from scoreboardd.board.rows import Micros, Rows

BUCKET: Micros = 10 * 60 * 1_000_000
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def keys(divisions: Iterable[int]) -> list[str]:
    """The names of every document of an edition with these divisions."""
    return [
        key(owner, division_id)
        for division_id in (None, *divisions)
        for key in (leaderboard_key, timeline_key)
        for owner in Owner
    ]


def boards_of(rows: Rows) -> Iterator[tuple[Board, int | None]]:
    """Everyone's board, then each division's, with the division's id."""
    yield boards.build(rows), None
    for division_id in rows.divisions:
        yield boards.build(boards.division(rows, division_id)), division_id


def _key(kind: str, owner: Owner, division_id: int | None) -> str:
    return f"{kind}:{owner}" if division_id is None else f"{kind}:{owner}:div:{division_id}"


def render(board: Board, division_id: int | None) -> Iterator[tuple[str, bytes]]:
    """The names and bodies of one board's documents."""
    challenges = [
        {"id": c.id, "title": c.title, "category": c.category, "points": board.points[c.id]} for c in board.challenges
    ]
    for owner, standings in ((Owner.USERS, board.users), (Owner.TEAMS, board.teams)):
        entries = [_entry(owner, standing) for standing in standings]
        yield (
            leaderboard_key(owner, division_id),
            orjson.dumps({"challenges": challenges, "entries": entries}),
        )
        scored = [Scored(h.at, s.id, s.name, board.points[h.challenge_id]) for s in standings for h in s.held]
        yield timeline_key(owner, division_id), timeline(owner, scored)


def _entry(owner: Owner, standing: Standing) -> dict[str, Any]:
    return {
        owner.id_field: standing.id,
        owner.name_field: standing.name,
        "score": standing.score,
        "solves": [
            {"challenge_id": h.challenge_id, "solved_at": rfc3339(h.at), "is_first_blood": h.first_blood}
            for h in standing.held
        ],
    }


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


def rfc3339(at: Micros) -> str:
    """UTC with `Z`; at most six fraction digits, trailing zeros trimmed, no fraction when it is zero."""
    text = (_UNIX_EPOCH + timedelta(microseconds=at)).isoformat()[:-6]
    return (text.rstrip("0") if "." in text else text) + "Z"


def micros(text: str) -> Micros:
    """The inverse of `rfc3339`."""
    return (datetime.fromisoformat(text) - _UNIX_EPOCH) // timedelta(microseconds=1)
