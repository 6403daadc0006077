"""Rows → `Board`: who has what, worth how much, in which order.

Rules (contract §5): an owner, user or team, has a challenge once, from its first correct submission; its score is the
sum of the *current* points of what it has; a team's solves are those of its visible users.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scoreboardd.board.rows import Challenge, Micros, Rows, Team, User
from scoreboardd.board.scoring import points


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

    challenges: list[Challenge]
    points: dict[int, int]
    users: list[Standing]
    teams: list[Standing]


def division(rows: Rows, division_id: int) -> Rows:
    """The contest as seen from one division: its teams, their users, those users' solves."""
    teams = [team for team in rows.teams if team.division_id == division_id]
    team_ids = {team.id for team in teams}
    users = [user for user in rows.users if user.team_id in team_ids]
    user_ids = {user.id for user in users}
    return replace(rows, teams=teams, users=users, solves=[s for s in rows.solves if s.user_id in user_ids])


def build(rows: Rows) -> Board:
    """The board of all `rows`. Solves by users or of challenges that `rows` does not list count for nothing."""
    team_of = {user.id: user.team_id for user in rows.users}
    challenge_ids = {challenge.id for challenge in rows.challenges}
    by_user: dict[int, dict[int, Held]] = {user.id: {} for user in rows.users}
    by_team: dict[int, dict[int, Held]] = {team.id: {} for team in rows.teams}
    for solve in rows.solves:
        if solve.user_id not in by_user or solve.challenge_id not in challenge_ids:
            continue
        held = Held(solve.challenge_id, solve.at, solve.first_blood)
        _take(by_user[solve.user_id], held)
        team_id = team_of[solve.user_id]
        if team_id in by_team:
            _take(by_team[team_id], held)

    competing = len({team_id for team_id in team_of.values() if team_id in by_team})
    solves = dict.fromkeys(challenge_ids, 0)
    for mine in by_team.values():
        for challenge_id in mine:
            solves[challenge_id] += 1
    worth = {c.id: points(c.initial, c.minimum, decay=competing, solves=solves[c.id]) for c in rows.challenges}

    return Board(
        challenges=sorted(rows.challenges, key=lambda challenge: challenge.id),
        points=worth,
        users=sorted(_standings(rows.users, by_user, worth), key=lambda s: (-s.score, s.id)),
        # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
        teams=sorted(_standings(rows.teams, by_team, worth), key=lambda s: (-s.score, s.name, s.id)),
    )


def _take(mine: dict[int, Held], new: Held) -> None:
    """Merge one solve into what an owner has: earliest time, any first blood."""
    old = mine.get(new.challenge_id)
    if old is not None:
        new = Held(new.challenge_id, min(old.at, new.at), old.first_blood or new.first_blood)
    mine[new.challenge_id] = new


def _standings(
    owners: Iterable[User] | Iterable[Team], having: dict[int, dict[int, Held]], worth: dict[int, int]
) -> Iterable[Standing]:
    for owner in owners:
        mine = having[owner.id]
        held = [mine[challenge_id] for challenge_id in sorted(mine)]
        yield Standing(owner.id, owner.name, sum(worth[h.challenge_id] for h in held), held)
