"""The reference's own rebuild, done in Python as well as Python does it: the peer of `bench.rebuild`.

Nine queries, each of its own snapshot, rows as asyncpg records, dicts of each, and the whole of each document through
orjson. What is summed and deduplicated in Go in the reference is done here in Python.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import orjson

_BUCKET = timedelta(minutes=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = "coalesce(u.role, '') NOT IN ('blocked', 'admin')"

_POINTS = f"""
SELECT c.id, c.title, c.category, c.points, c.minimum_points,
       (SELECT count(DISTINCT u.team_id) FROM users u WHERE {_SHOWN}) AS decay, coalesce(s.solves, 0) AS solves
FROM challenges c LEFT JOIN (
  SELECT s.challenge_id, count(DISTINCT u.team_id) AS solves FROM submissions s JOIN users u ON u.id = s.user_id
  WHERE s.correct AND {_SHOWN} GROUP BY s.challenge_id) s ON s.challenge_id = c.id
ORDER BY c.id"""
_USERS = f"SELECT u.id, u.username AS name FROM users u WHERE {_SHOWN} ORDER BY u.id"
_TEAMS = "SELECT t.id, t.name FROM teams t ORDER BY t.name, t.id"
_USER_SOLVES = f"""
SELECT s.user_id AS owner, u.username AS name, s.challenge_id, min(s.submitted_at) AS at,
       bool_or(s.is_first_blood) AS first_blood
FROM submissions s JOIN users u ON u.id = s.user_id WHERE s.correct AND {_SHOWN}
GROUP BY s.user_id, u.username, s.challenge_id"""
_TEAM_SOLVES = f"""
SELECT t.id AS owner, t.name, s.challenge_id, min(s.submitted_at) AS at, bool_or(s.is_first_blood) AS first_blood
FROM submissions s JOIN users u ON u.id = s.user_id JOIN teams t ON t.id = u.team_id WHERE s.correct AND {_SHOWN}
GROUP BY t.id, t.name, s.challenge_id"""


async def rebuild(connection: Any) -> list[bytes]:
    """The four documents of everyone."""
    documents = []
    for owners, solves, id_field, name_field in (
        (_USERS, _USER_SOLVES, "user_id", "username"),
        (_TEAMS, _TEAM_SOLVES, "team_id", "team_name"),
    ):
        challenges = await connection.fetch(_POINTS)
        documents.append(
            _leaderboard(
                challenges, await connection.fetch(owners), await connection.fetch(solves), id_field, name_field
            )
        )
    challenges = await connection.fetch(_POINTS)
    for solves, id_field, name_field in (
        (_USER_SOLVES, "user_id", "username"),
        (_TEAM_SOLVES, "team_id", "team_name"),
    ):
        documents.append(_timeline(challenges, await connection.fetch(solves), id_field, name_field))
    return documents


def worth(points: int, minimum_points: int, decay: int, solves: int) -> int:
    """What a challenge is worth that `solves` of `decay` teams have."""
    floor = min(minimum_points, points)
    return max(floor, ceil((floor - points) / max(decay, 1) ** 2 * solves**2 + points - 1e-9))


def _worth(challenges: Iterable[Any]) -> dict[int, int]:
    return {c["id"]: worth(c["points"], c["minimum_points"], c["decay"], c["solves"]) for c in challenges}


def _text(at: datetime) -> str:
    text = at.isoformat()[:-6]
    return (text.rstrip("0") if "." in text else text) + "Z"


def _leaderboard(challenges: Any, owners: Any, solves: Any, id_field: str, name_field: str) -> bytes:
    points_of = _worth(challenges)
    having: defaultdict[int, list[Any]] = defaultdict(list)
    for solve in solves:
        having[solve["owner"]].append(solve)
    entries = []
    for owner in owners:
        mine = sorted(having[owner["id"]], key=lambda solve: solve["challenge_id"])
        entries.append(
            {
                id_field: owner["id"],
                name_field: owner["name"],
                "score": sum(points_of[solve["challenge_id"]] for solve in mine),
                "solves": [
                    {
                        "challenge_id": solve["challenge_id"],
                        "solved_at": _text(solve["at"]),
                        "is_first_blood": solve["first_blood"],
                    }
                    for solve in mine
                ],
            }
        )
    entries.sort(key=lambda entry: -entry["score"])
    listed = [
        {"id": c["id"], "title": c["title"], "category": c["category"], "points": points_of[c["id"]]}
        for c in challenges
    ]
    return orjson.dumps({"challenges": listed, "entries": entries})


def _timeline(challenges: Any, solves: Any, id_field: str, name_field: str) -> bytes:
    points_of = _worth(challenges)
    groups: dict[tuple[datetime, int], list[Any]] = {}
    for solve in solves:
        bucket = solve["at"] - (solve["at"] - _EPOCH) % _BUCKET
        group = groups.setdefault((bucket, solve["owner"]), [solve["name"], 0, 0])
        group[1] += points_of[solve["challenge_id"]]
        group[2] += 1

    def order(item: tuple[tuple[datetime, int], list[Any]]) -> tuple[Any, ...]:
        (bucket, owner), (name, _, _) = item
        return (bucket, name if id_field == "team_id" else "", owner)

    return orjson.dumps(
        {
            "submissions": [
                {
                    "timestamp": _text(bucket),
                    id_field: owner,
                    name_field: name,
                    "points": points,
                    "challenge_count": count,
                }
                for (bucket, owner), (name, points, count) in sorted(groups.items(), key=order)
            ]
        }
    )
