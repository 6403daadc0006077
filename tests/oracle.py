"""The four documents once more, written from the contract alone and meant to be obviously right, never quick.

Every rule of the contract (§5) stands, quoted, beside the lines that implement it. Nothing here may import
`scoreboardd`: what the two agree on they agree on independently. Where the contract is silent, it says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any


@dataclass(frozen=True)
class Submission:
    id: int
    user_id: int
    challenge_id: int
    correct: bool
    is_first_blood: bool
    submitted_at: datetime


@dataclass(frozen=True)
class User:
    id: int
    username: str
    role: str | None
    team_id: int | None


@dataclass(frozen=True)
class Team:
    id: int
    name: str
    division_id: int | None = None


@dataclass(frozen=True)
class Challenge:
    id: int
    title: str
    category: str
    points: int
    minimum_points: int
    #: None: this database has no `challenges.is_active` column, or the row has NULL there.
    is_active: bool | None = None


@dataclass(frozen=True)
class Division:
    id: int
    name: str


@dataclass(frozen=True)
class Tables:
    """The platform's tables, row for row, in any order."""

    submissions: Sequence[Submission]
    users: Sequence[User]
    teams: Sequence[Team]
    challenges: Sequence[Challenge]
    #: None: this database has neither a `divisions` table nor a `teams.division_id` column.
    divisions: Sequence[Division] | None = None


@dataclass(frozen=True)
class Owner:
    """Whoever a line of a board belongs to: a user, or a team with the users it has left."""

    id: int
    name: str
    user_ids: list[int]


@dataclass(frozen=True)
class Solve:
    challenge_id: int
    solved_at: datetime
    is_first_blood: bool


def documents(
    tables: Tables, *, division_id: int | None = None, window: int | None = None, now: datetime | None = None
) -> dict[str, dict[str, Any]]:
    """The documents as JSON would decode them, by the keys they have in Redis.

    `window` is in minutes, needs `now`, and cuts only the timelines. All times are aware.
    """
    if window is not None and now is None:
        raise ValueError("a window is measured back from `now`: give both")

    # "a database without divisions is served as one"
    if tables.divisions is None:
        division_id = None

    # "Users whose `role` is `blocked` or `admin` are left out everywhere, counts for scoring included."
    users = [user for user in tables.users if user.role not in ("blocked", "admin")]
    teams = list(tables.teams)

    # "A challenge with `is_active = false` (where that column exists) that nobody has solved is not listed." Those
    # who are left out everywhere are nobody; somebody of another division is somebody.
    visible = [user.id for user in users]
    solved = [row.challenge_id for row in tables.submissions if row.correct and row.user_id in visible]
    listed = [row for row in tables.challenges if row.is_active is not False or row.id in solved]

    # "`?division_id=<positive int>` (absent: everyone)". A division has the teams that name it and their
    # users; a user without a team, and the users of a team without a division, are only among everyone.
    if division_id is not None:
        teams = [team for team in teams if team.division_id == division_id]
        inside = [team.id for team in teams]
        users = [user for user in users if user.team_id in inside]

    # "Challenges by `id`"
    challenges = sorted(listed, key=lambda challenge: challenge.id)

    user_owners = [Owner(user.id, user.username, [user.id]) for user in users]
    # "Every team row is listed, at 0 if it has nobody left."
    team_owners = [Owner(team.id, team.name, [user.id for user in users if user.team_id == team.id]) for team in teams]
    user_solves = {owner.id: _solves(tables, challenges, owner) for owner in user_owners}
    team_solves = {owner.id: _solves(tables, challenges, owner) for owner in team_owners}

    # "`decay` = number of teams (in the division) with at least one user who is left"
    decay = len([owner for owner in team_owners if owner.user_ids])
    points = {}
    for challenge in challenges:
        # "`n` = number of teams that have it (in the division)"
        n = 0
        for solves in team_solves.values():
            if challenge.id in [solve.challenge_id for solve in solves]:
                n += 1
        points[challenge.id] = current_points(challenge.points, challenge.minimum_points, decay, n)

    # "timelines take `?window=<minutes, positive int>` (absent: all time), meaning solves with
    # `submitted_at >= now − window`, cut before bucketing." What is cut are *solves*: a repeat within the
    # window of something its owner has had for longer is no solve. Points stay the current ones, of all time.
    def recent(solves: list[Solve]) -> list[Solve]:
        if window is None or now is None:
            return solves
        return [solve for solve in solves if now - solve.solved_at <= timedelta(minutes=window)]

    recent_user_solves = {owner_id: recent(solves) for owner_id, solves in user_solves.items()}
    recent_team_solves = {owner_id: recent(solves) for owner_id, solves in team_solves.items()}

    # "users by score desc, then `user_id`; teams by score desc, then name, bytewise." Teams of one name and
    # one score: the contract is silent; by `team_id`, as in the timeline.
    # Timeline: "ordered by timestamp, then `user_id` (teams: name, then `team_id`)".
    user_owners.sort(key=lambda owner: owner.id)
    team_owners.sort(key=lambda owner: (owner.name.encode("utf-8"), owner.id))

    return {
        "leaderboard:users": _leaderboard(challenges, points, user_owners, user_solves, "user_id", "username"),
        "leaderboard:teams": _leaderboard(challenges, points, team_owners, team_solves, "team_id", "team_name"),
        "timeline:users": _timeline(points, user_owners, recent_user_solves, "user_id", "username"),
        "timeline:teams": _timeline(points, team_owners, recent_team_solves, "team_id", "team_name"),
    }


def current_points(initial: int, minimum: int, decay: int, n: int) -> int:
    # "Points of a challenge: `m = min(minimum, initial)`"
    m = min(minimum, initial)
    # "`decay ≤ 0` → `initial`"
    if decay <= 0:
        return initial
    # "else `max(m, ceil((m − initial)/decay² · n² + initial − 1e-9))`", in exact arithmetic
    return max(m, ceil(Fraction(m - initial, decay**2) * n**2 + initial - Fraction(1, 10**9)))


def bucket_of(at: datetime) -> datetime:
    # "each solve falls into its UTC 10-minute bucket"
    at = at.astimezone(UTC)
    return at.replace(minute=at.minute - at.minute % 10, second=0, microsecond=0)


def rfc3339(at: datetime) -> str:
    # "Times are RFC 3339 in UTC with `Z`, at most 6 fraction digits, trailing zeros trimmed, no fraction when
    # it is zero."
    at = at.astimezone(UTC).replace(tzinfo=None)
    seconds, fraction = at.isoformat(timespec="microseconds").split(".")
    fraction = fraction.rstrip("0")
    return f"{seconds}.{fraction}Z" if fraction else f"{seconds}Z"


def _solves(tables: Tables, challenges: list[Challenge], owner: Owner) -> list[Solve]:
    solves = []
    # "solves by `challenge_id`": the challenges come sorted by id. Submissions of users left out, and for
    # challenges that are gone, are never looked at.
    for challenge in challenges:
        rows = [
            row
            for row in tables.submissions
            if row.correct and row.challenge_id == challenge.id and row.user_id in owner.user_ids
        ]
        # "A team, or a user, has a challenge once: its first correct submission."
        if rows:
            # "`solved_at` is the earliest correct submission"
            solved_at = min(row.submitted_at for row in rows)
            # "`is_first_blood` is true if any of that owner's correct rows for it says so."
            is_first_blood = any(row.is_first_blood for row in rows)
            solves.append(Solve(challenge.id, solved_at, is_first_blood))
    return solves


def _leaderboard(
    challenges: list[Challenge],
    points: Mapping[int, int],
    owners: list[Owner],
    solves_of: Mapping[int, list[Solve]],
    id_key: str,
    name_key: str,
) -> dict[str, Any]:
    # `{"challenges":[{"id","title","category","points"}],
    #   "entries":[{"user_id","username","score","solves":[{"challenge_id","solved_at","is_first_blood"}]}]}`,
    # teams: "the same with `team_id`, `team_name`"
    entries: list[dict[str, Any]] = []
    for owner in owners:
        solves = solves_of[owner.id]
        entries.append(
            {
                id_key: owner.id,
                name_key: owner.name,
                # "Score = sum of the current points of what it has."
                "score": sum(points[solve.challenge_id] for solve in solves),
                "solves": [
                    {
                        "challenge_id": solve.challenge_id,
                        "solved_at": rfc3339(solve.solved_at),
                        "is_first_blood": solve.is_first_blood,
                    }
                    for solve in solves
                ],
            }
        )
    # "by score desc, then …": the owners come in the order of the "then", which a stable sort keeps.
    entries.sort(key=lambda entry: -entry["score"])
    return {
        "challenges": [
            {
                "id": challenge.id,
                "title": challenge.title,
                "category": challenge.category,
                "points": points[challenge.id],
            }
            for challenge in challenges
        ],
        "entries": entries,
    }


def _timeline(
    points: Mapping[int, int],
    owners: list[Owner],
    solves_of: Mapping[int, list[Solve]],
    id_key: str,
    name_key: str,
) -> dict[str, Any]:
    # `{"submissions":[{"timestamp","user_id","username","points","challenge_count"}]}`, teams: "the same with
    # `team_id`, `team_name`"
    buckets = {bucket_of(solve.solved_at) for solves in solves_of.values() for solve in solves}
    submissions = []
    # "ordered by timestamp, then …": the owners come in the order of the "then".
    for bucket in sorted(buckets):
        for owner in owners:
            # "grouped by (owner, bucket)"
            group = [solve for solve in solves_of[owner.id] if bucket_of(solve.solved_at) == bucket]
            if group:
                submissions.append(
                    {
                        "timestamp": rfc3339(bucket),
                        id_key: owner.id,
                        name_key: owner.name,
                        # "`points` = sum of the challenges' *current* points, not cumulative"
                        "points": sum(points[solve.challenge_id] for solve in group),
                        "challenge_count": len(group),
                    }
                )
    return {"submissions": submissions}
