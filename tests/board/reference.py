"""The documents to the byte, made the plain way: rows → `Board` → dicts → orjson, all of it anew each time.

`tests.oracle` says what the documents mean, from the contract alone; this says how exactly they are written.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from scoreboardd.board.document_names import BUCKET, ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.rules.smctf import challenge_points
from scoreboardd.board.source_rows import ChallengeRow, Roster, SourceRows, TeamRow, UserRow
from scoreboardd.board.times import Micros, rfc3339


def documents(rows: SourceRows) -> dict[str, bytes]:
    """Every document of these rows, by name."""
    found = dict(render(build(rows), None))
    for division_id in rows.roster.division_ids:
        found |= render(build(division(rows, division_id)), division_id)
    return found


@dataclass(frozen=True, slots=True)
class Held:
    """A challenge an owner has: when it was first solved, and whether any of its solves drew first blood."""

    challenge_id: int
    at: Micros
    first_blood: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the board. `held` is ordered by challenge id."""

    id: int
    name: str
    score: int
    held: list[Held]


@dataclass(frozen=True, slots=True)
class Board:
    """The standings of everyone, or of one division."""

    challenges: list[ChallengeRow]
    points: dict[int, int]
    users: list[Standing]
    teams: list[Standing]


def division(rows: SourceRows, division_id: int) -> SourceRows:
    """The contest as seen from one division: its teams, their users. Their solves are told by the users."""
    roster = rows.roster
    teams = [team for team in roster.teams if team.division_id == division_id]
    team_ids = {team.id for team in teams}
    users = [user for user in roster.users if user.team_id in team_ids]
    return SourceRows(Roster(roster.challenges, teams, users, roster.divisions), rows.solves)


def build(rows: SourceRows) -> Board:
    """The board of all `rows`. Solves by users or of challenges that `rows` does not list count for nothing."""
    roster = rows.roster
    team_of = {user.id: user.team_id for user in roster.users}
    challenge_ids = {challenge.id for challenge in roster.challenges}
    by_user: dict[int, dict[int, Held]] = {user.id: {} for user in roster.users}
    by_team: dict[int, dict[int, Held]] = {team.id: {} for team in roster.teams}
    for user_id, challenge_id, at, first_blood in rows.solves.tolist():
        if user_id not in by_user or challenge_id not in challenge_ids:
            continue
        held = Held(challenge_id, at, first_blood)
        _take(by_user[user_id], held)
        team_id = team_of[user_id]
        if team_id in by_team:
            _take(by_team[team_id], held)

    competing = len({team_id for team_id in team_of.values() if team_id in by_team})
    solves = dict.fromkeys(challenge_ids, 0)
    for mine in by_team.values():
        for challenge_id in mine:
            solves[challenge_id] += 1
    worth = {
        c.id: challenge_points(c.initial, c.minimum, decay=competing, solves=solves[c.id]) for c in roster.challenges
    }

    return Board(
        challenges=sorted(roster.challenges, key=lambda challenge: challenge.id),
        points=worth,
        users=sorted(_standings(roster.users, by_user, worth), key=lambda s: (-s.score, s.id)),
        # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
        teams=sorted(_standings(roster.teams, by_team, worth), key=lambda s: (-s.score, s.name, s.id)),
    )


def _take(mine: dict[int, Held], new: Held) -> None:
    """Merge one solve into what an owner has: earliest time, any first blood."""
    old = mine.get(new.challenge_id)
    if old is not None:
        new = Held(new.challenge_id, min(old.at, new.at), old.first_blood or new.first_blood)
    mine[new.challenge_id] = new


def _standings(
    owners: Iterable[UserRow] | Iterable[TeamRow], having: dict[int, dict[int, Held]], worth: dict[int, int]
) -> Iterable[Standing]:
    for owner in owners:
        mine = having[owner.id]
        held = [mine[challenge_id] for challenge_id in sorted(mine)]
        yield Standing(owner.id, owner.name, sum(worth[h.challenge_id] for h in held), held)


def render(board: Board, division_id: int | None) -> Iterator[tuple[str, bytes]]:
    """The names and bodies of one board's documents."""
    challenges = [
        {"id": c.id, "title": c.title, "category": c.category, "points": board.points[c.id]} for c in board.challenges
    ]
    for owner, standings in ((ParticipantKind.USERS, board.users), (ParticipantKind.TEAMS, board.teams)):
        entries = [_entry(owner, standing) for standing in standings]
        yield (
            leaderboard_key(owner, division_id),
            orjson.dumps({"challenges": challenges, "entries": entries}),
        )
        scored = [Scored(h.at, s.id, s.name, board.points[h.challenge_id]) for s in standings for h in s.held]
        yield timeline_key(owner, division_id), timeline(owner, scored)


def _entry(owner: ParticipantKind, standing: Standing) -> dict[str, Any]:
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


def timeline(owner: ParticipantKind, scored: Iterable[Scored]) -> bytes:
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
        return bucket, names[owner_id] if owner is ParticipantKind.TEAMS else "", owner_id

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
