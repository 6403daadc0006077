"""Pins the oracle to examples worked out by hand, and shows that the drawn contests reach the corners."""

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests.contests import MOST_POINTS, contests, questions, to_rows
from tests.oracle import (
    Challenge,
    Division,
    Submission,
    Tables,
    Team,
    User,
    bucket_of,
    current_points,
    documents,
    rfc3339,
)

EIGHTEEN = datetime(2026, 2, 27, 18, 0, tzinfo=UTC)
_next_id = count(1)


def solve(
    user_id: int, challenge_id: int, minute: float = 0, *, correct: bool = True, first: bool = False
) -> Submission:
    """A submission `minute` minutes after 18:00."""
    at = EIGHTEEN + timedelta(minutes=minute)
    return Submission(next(_next_id), user_id, challenge_id, correct, first, at)


def user(id: int, team_id: int | None = None, role: str | None = "user") -> User:
    return User(id, f"u{id}", role, team_id)


def challenge(id: int, points: int = 500, minimum: int = 100) -> Challenge:
    return Challenge(id, f"c{id}", "web", points, minimum)


def points(document: dict[str, Any]) -> dict[int, int]:
    return {row["id"]: row["points"] for row in document["challenges"]}


def scores(document: dict[str, Any]) -> list[tuple[int, int]]:
    """(owner id, score), in the order of the board."""
    return [(row.get("team_id", row.get("user_id")), row["score"]) for row in document["entries"]]


def test_a_whole_contest() -> None:
    """Two teams and a loner; decay = 2, as team 3 is empty and team 4's only user is blocked.

    Challenge 1 (500, 100): both teams have it, so n = 2: (100 − 500)/4 · 4 + 500 = 100.
    Challenge 2 (300, 50): team 1 alone: (50 − 300)/4 + 300 = 237.5, so 238. The loner's solve is no team's.
    """
    tables = Tables(
        submissions=[
            solve(11, 1, 25, first=True),
            solve(10, 1, 5),  # a teammate, earlier
            solve(10, 1, 2, correct=False, first=True),
            solve(20, 1, 9.5),
            solve(11, 2, 9),
            solve(30, 2, 10),
            solve(40, 2, 1, first=True),
        ],
        users=[
            user(30),
            user(20, 2),
            user(11, 1, role=None),
            user(10, 1),
            user(40, 4, "blocked"),
            user(50, 1, "admin"),
        ],
        teams=[Team(4, "gone"), Team(2, "two"), Team(3, "empty"), Team(1, "one")],
        challenges=[challenge(2, 300, 50), challenge(1)],
    )
    listed = [
        {"id": 1, "title": "c1", "category": "web", "points": 100},
        {"id": 2, "title": "c2", "category": "web", "points": 238},
    ]

    def solved(challenge_id: int, solved_at: str, is_first_blood: bool = False) -> dict[str, Any]:
        return {"challenge_id": challenge_id, "solved_at": solved_at, "is_first_blood": is_first_blood}

    def user_entry(id_: int, score: int, *solves: dict[str, Any]) -> dict[str, Any]:
        return {"user_id": id_, "username": f"u{id_}", "score": score, "solves": list(solves)}

    def team_entry(id_: int, name: str, score: int, *solves: dict[str, Any]) -> dict[str, Any]:
        return {"team_id": id_, "team_name": name, "score": score, "solves": list(solves)}

    def user_bucket(timestamp: str, id_: int, gained: int, challenge_count: int) -> dict[str, Any]:
        return {
            "timestamp": timestamp,
            "user_id": id_,
            "username": f"u{id_}",
            "points": gained,
            "challenge_count": challenge_count,
        }

    def team_bucket(timestamp: str, id_: int, name: str, gained: int, challenge_count: int) -> dict[str, Any]:
        return {
            "timestamp": timestamp,
            "team_id": id_,
            "team_name": name,
            "points": gained,
            "challenge_count": challenge_count,
        }

    assert documents(tables) == {
        "leaderboard:users": {
            "challenges": listed,
            "entries": [
                user_entry(11, 338, solved(1, "2026-02-27T18:25:00Z", True), solved(2, "2026-02-27T18:09:00Z")),
                user_entry(30, 238, solved(2, "2026-02-27T18:10:00Z")),
                user_entry(10, 100, solved(1, "2026-02-27T18:05:00Z")),
                user_entry(20, 100, solved(1, "2026-02-27T18:09:30Z")),
            ],
        },
        "leaderboard:teams": {
            "challenges": listed,
            "entries": [
                # First blood came with a later row of the same team; the time is the earlier one's.
                team_entry(1, "one", 338, solved(1, "2026-02-27T18:05:00Z", True), solved(2, "2026-02-27T18:09:00Z")),
                team_entry(2, "two", 100, solved(1, "2026-02-27T18:09:30Z")),
                team_entry(3, "empty", 0),
                team_entry(4, "gone", 0),
            ],
        },
        "timeline:users": {
            "submissions": [
                user_bucket("2026-02-27T18:00:00Z", 10, 100, 1),
                user_bucket("2026-02-27T18:00:00Z", 11, 238, 1),
                user_bucket("2026-02-27T18:00:00Z", 20, 100, 1),
                user_bucket("2026-02-27T18:10:00Z", 30, 238, 1),
                user_bucket("2026-02-27T18:20:00Z", 11, 100, 1),
            ]
        },
        "timeline:teams": {
            "submissions": [
                team_bucket("2026-02-27T18:00:00Z", 1, "one", 338, 2),
                team_bucket("2026-02-27T18:00:00Z", 2, "two", 100, 1),
            ]
        },
    }


@pytest.mark.parametrize(
    ("initial", "minimum", "decay", "n", "expected"),
    [
        (500, 100, 5, 0, 500),
        (500, 100, 5, 1, 484),  # 500 − 400/25
        (500, 100, 5, 2, 436),  # 500 − 1600/25
        (500, 100, 5, 5, 100),
        (500, 100, 3, 1, 456),  # 455.56 rounded up
        (500, 100, 3, 2, 323),  # 322.22 rounded up
        (500, 100, 0, 0, 500),  # nobody is left
        (100, 300, 4, 4, 100),  # a minimum above the initial is the initial
        (100, 100, 4, 2, 100),
        (0, 0, 1, 1, 0),
        (55, 0, 7, 7, 0),  # in floats 7e-15 above 0: what the contract's 1e-9 is for
        (10, -10, 2, 1, 5),
    ],
)
def test_points_of_a_challenge(initial: int, minimum: int, decay: int, n: int, expected: int) -> None:
    assert current_points(initial, minimum, decay, n) == expected


@settings(deadline=None)
@given(data=st.data())
def test_floats_agree_with_exact_points(data: st.DataObject) -> None:
    """As far as the drawn contests go, either way of reading the formula is right."""
    initial = data.draw(st.integers(0, MOST_POINTS))
    m = data.draw(st.integers(-1000, initial))
    decay = data.draw(st.integers(1, 100))
    n = data.draw(st.integers(0, decay))
    floats = max(m, math.ceil((m - initial) / decay**2 * n**2 + initial - 1e-9))
    assert current_points(initial, m, decay, n) == floats


def test_ties() -> None:
    """All at 0, so by the second key: ids as numbers, names as UTF-8 bytes, not as a locale has them."""
    names = ["é", "b", "\U0001f600", "B", "a", "\uff5e", "b"]
    tables = Tables(
        submissions=[],
        users=[user(10), user(9), user(100)],
        teams=[Team(team_id, name) for team_id, name in zip([7, 6, 5, 4, 3, 2, 1], names, strict=True)],
        challenges=[],
    )
    answer = documents(tables)
    assert scores(answer["leaderboard:users"]) == [(9, 0), (10, 0), (100, 0)]
    listed = [(row["team_name"], row["team_id"]) for row in answer["leaderboard:teams"]["entries"]]
    assert listed == [("B", 4), ("a", 3), ("b", 1), ("b", 6), ("é", 7), ("\uff5e", 2), ("\U0001f600", 5)]


def test_timeline_ties_go_by_name_then_id_whatever_the_score() -> None:
    tables = Tables(
        submissions=[solve(1, 1, 1), solve(2, 1, 2), solve(3, 1, 3), solve(3, 2, 4)],
        users=[user(1, 7), user(2, 6), user(3, 5)],
        teams=[Team(7, "same"), Team(6, "same"), Team(5, "z")],
        challenges=[challenge(1), challenge(2)],
    )
    answer = documents(tables)
    assert [row["team_id"] for row in answer["timeline:teams"]["submissions"]] == [6, 7, 5]
    assert [row["user_id"] for row in answer["timeline:users"]["submissions"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("at", "bucket"),
    [
        (EIGHTEEN, "2026-02-27T18:00:00Z"),
        (EIGHTEEN.replace(minute=9, second=59, microsecond=999_999), "2026-02-27T18:00:00Z"),
        (EIGHTEEN.replace(minute=10), "2026-02-27T18:10:00Z"),
        (
            datetime(2026, 2, 28, 0, 3, tzinfo=timezone(timedelta(hours=5, minutes=45))),
            "2026-02-27T18:10:00Z",
        ),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "1969-12-31T23:50:00Z"),
    ],
)
def test_buckets(at: datetime, bucket: str) -> None:
    assert rfc3339(bucket_of(at)) == bucket


@pytest.mark.parametrize(
    ("microsecond", "expected"),
    [
        (0, "2026-02-27T18:00:00Z"),
        (1, "2026-02-27T18:00:00.000001Z"),
        (500_000, "2026-02-27T18:00:00.5Z"),
        (120_300, "2026-02-27T18:00:00.1203Z"),
        (10, "2026-02-27T18:00:00.00001Z"),
        (999_999, "2026-02-27T18:00:00.999999Z"),
    ],
)
def test_times(microsecond: int, expected: str) -> None:
    assert rfc3339(EIGHTEEN.replace(microsecond=microsecond)) == expected


def test_times_of_other_zones_become_utc() -> None:
    there = datetime(2026, 2, 28, 3, 0, tzinfo=timezone(timedelta(hours=9)))
    assert rfc3339(there) == "2026-02-27T18:00:00Z"


def divided(divisions: list[Division] | None) -> Tables:
    return Tables(
        submissions=[solve(1, 1, 1), solve(2, 1, 2), solve(3, 1, 3), solve(5, 1, 4)],
        users=[user(1, 10), user(2, 20), user(3, 30), user(4, 11), user(5), user(6, 12, "blocked")],
        teams=[Team(10, "a", 1), Team(11, "b", 1), Team(12, "c", 1), Team(20, "d", 2), Team(30, "e", None)],
        challenges=[challenge(1)],
        divisions=divisions,
    )


def test_divisions_have_points_of_their_own() -> None:
    """Everyone: 3 of 4 teams, 500 − 400 · 9/16 = 275. Division 1: 1 of 2, 400. Division 2: 1 of 1, 100."""
    tables = divided([Division(1, "one"), Division(2, "two")])

    everyone = documents(tables)
    assert points(everyone["leaderboard:teams"]) == points(everyone["leaderboard:users"]) == {1: 275}
    assert scores(everyone["leaderboard:teams"]) == [(10, 275), (20, 275), (30, 275), (11, 0), (12, 0)]
    assert scores(everyone["leaderboard:users"]) == [(1, 275), (2, 275), (3, 275), (5, 275), (4, 0)]

    one = documents(tables, division_id=1)
    assert points(one["leaderboard:teams"]) == points(one["leaderboard:users"]) == {1: 400}
    assert scores(one["leaderboard:teams"]) == [(10, 400), (11, 0), (12, 0)]
    assert scores(one["leaderboard:users"]) == [(1, 400), (4, 0)]
    assert [row["points"] for row in one["timeline:users"]["submissions"]] == [400]

    two = documents(tables, division_id=2)
    assert scores(two["leaderboard:teams"]) == [(20, 100)]
    assert [row["team_id"] for row in two["timeline:teams"]["submissions"]] == [20]


def test_a_database_without_divisions_is_served_as_one() -> None:
    tables = divided(None)
    assert documents(tables, division_id=1) == documents(tables)


def test_a_window_cuts_solves_and_nothing_else() -> None:
    tables = Tables(
        submissions=[
            solve(1, 1, 14),  # on the edge: within
            solve(1, 2, 13.999),  # just outside
            solve(2, 2, 16),  # the user's own first, and a repeat of what the team has
        ],
        users=[user(1, 10), user(2, 10)],
        teams=[Team(10, "a")],
        challenges=[challenge(1), challenge(2, 50, 50)],
    )
    now = EIGHTEEN + timedelta(minutes=19)
    answer = documents(tables, window=5, now=now)
    users = [(row["user_id"], row["points"], row["challenge_count"]) for row in answer["timeline:users"]["submissions"]]
    assert users == [(1, 100, 1), (2, 50, 1)]
    [team] = answer["timeline:teams"]["submissions"]
    assert (team["timestamp"], team["points"], team["challenge_count"]) == ("2026-02-27T18:10:00Z", 100, 1)

    uncut = documents(tables)
    assert answer["leaderboard:users"] == uncut["leaderboard:users"]
    assert answer["leaderboard:teams"] == uncut["leaderboard:teams"]
    [team] = uncut["timeline:teams"]["submissions"]
    assert (team["points"], team["challenge_count"]) == (150, 2)


def test_what_no_longer_exists_is_ignored() -> None:
    tables = Tables([solve(1, 99), solve(99, 1)], [user(1, 10)], [Team(10, "a")], [challenge(1)])
    answer = documents(tables)
    assert points(answer["leaderboard:users"]) == {1: 500}
    assert scores(answer["leaderboard:users"]) == [(1, 0)]
    assert answer["timeline:users"] == {"submissions": []}


def test_nothing_at_all() -> None:
    board: dict[str, Any] = {"challenges": [], "entries": []}
    line: dict[str, Any] = {"submissions": []}
    assert documents(Tables([], [], [], [])) == {
        "leaderboard:users": board,
        "leaderboard:teams": board,
        "timeline:users": line,
        "timeline:teams": line,
    }


@settings(deadline=None)
@given(data=st.data(), tables=contests())
def test_any_contest_has_documents(data: st.DataObject, tables: Tables) -> None:
    answer = documents(tables, **data.draw(questions(tables)))
    assert json.loads(json.dumps(answer)) == answer
    assert len(to_rows(tables).solves) <= len(tables.submissions)


def _it_is_crowded(tables: Tables) -> bool:
    return len(tables.submissions) >= 40 and len(tables.users) >= 10


def _teammates_repeat_each_other(tables: Tables) -> bool:
    team_of = {row.id: row.team_id for row in tables.users if row.role == "user"}
    pairs = {(row.user_id, row.challenge_id) for row in tables.submissions if row.correct}
    had = Counter((team_of.get(user_id), challenge_id) for user_id, challenge_id in pairs)
    return any(times > 1 for (team_id, _), times in had.items() if team_id is not None)


def _a_user_repeats_itself_and_only_the_later_is_first_blood(tables: Tables) -> bool:
    rows = [row for row in tables.submissions if row.correct]
    return any(
        (a.user_id, a.challenge_id) == (b.user_id, b.challenge_id)
        and a.submitted_at < b.submitted_at
        and b.is_first_blood > a.is_first_blood
        for a in rows
        for b in rows
    )


def _teams_tie_above_zero(tables: Tables) -> bool:
    times = Counter(row["score"] for row in documents(tables)["leaderboard:teams"]["entries"])
    return any(score > 0 and n > 1 for score, n in times.items())


def _teams_share_a_name(tables: Tables) -> bool:
    return len({team.name for team in tables.teams}) < len(tables.teams)


def _points_are_on_the_slope(tables: Tables) -> bool:
    now_worth = points(documents(tables)["leaderboard:teams"])
    return any(row.minimum_points < now_worth[row.id] < row.points for row in tables.challenges)


def _a_division_has_points_of_its_own(tables: Tables) -> bool:
    everyone = documents(tables)["leaderboard:teams"]["challenges"]
    return any(
        documents(tables, division_id=division.id)["leaderboard:teams"]["challenges"] != everyone
        for division in tables.divisions or []
    )


def _a_blocked_user_changes_the_points(tables: Tables) -> bool:
    pardoned = [User(row.id, row.username, "user", row.team_id) for row in tables.users]
    free = Tables(tables.submissions, pardoned, tables.teams, tables.challenges, tables.divisions)
    return points(documents(free)["leaderboard:teams"]) != points(documents(tables)["leaderboard:teams"])


@pytest.mark.parametrize(
    "corner",
    [
        _it_is_crowded,
        _teammates_repeat_each_other,
        _a_user_repeats_itself_and_only_the_later_is_first_blood,
        _teams_tie_above_zero,
        _teams_share_a_name,
        _points_are_on_the_slope,
        _a_division_has_points_of_its_own,
        _a_blocked_user_changes_the_points,
    ],
)
def test_drawn_contests_reach(corner: Callable[[Tables], bool]) -> None:
    """`find` raises if so many contests show no such corner."""
    once = settings(max_examples=100, database=None, phases=[Phase.generate], deadline=None)
    find(contests(), corner, settings=once, random=Random(0))
