"""Small, nasty contests for the property tests, and two ways to feed one in: as `Rows`, as a real database.

What is drawn obeys the database (foreign keys, text without NUL) and otherwise leans on the edges of the
rules: ties, repeats, empty teams, bucket edges, names that sort differently bytewise than by a locale.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from hypothesis import strategies as st

from scoreboardd.board import source_rows
from tests.oracle import Challenge, Division, Submission, Tables, Team, User

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 2, 27, 18, 0, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

#: Up to here a 64-bit float evaluates the formula for points to what exact arithmetic says. Beyond a few
#: millions the contract's 1e-9 drowns in rounding, and then it does not say which of the two it means.
MOST_POINTS = 1_000_000

EDGE_TIMES = [
    START,
    START + timedelta(minutes=10) - MICROSECOND,
    START + timedelta(minutes=10),
    START + timedelta(minutes=10) + MICROSECOND,
    START + timedelta(minutes=12, microseconds=100_000),
    START + timedelta(minutes=12, microseconds=120_300),
    START + timedelta(minutes=19, seconds=59, microseconds=999_990),
    START + timedelta(minutes=59, seconds=59, microseconds=999_999),
    START + timedelta(hours=6) - MICROSECOND,  # the last of the day
    START + timedelta(hours=6),
    datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 29, 0, 0, 0, 1, tzinfo=UTC),
    EPOCH - MICROSECOND,  # where rounding towards zero finds the wrong bucket
    EPOCH,
]

NASTY_TEXT = [
    "",
    " ",
    *("a", "B", "b", "A", "ab", "a b", "a-b", "é", "z", "Z", "10", "9"),  # a locale orders these differently
    "e\u0301",  # é once more, in two code points
    "\U0001f600",  # bytewise after the next, by UTF-16 units before it
    "\uff5e",
    "<script>alert(1)</script>",
    "</script><!--",
    "' OR 1=1; --",
    '"quoted"',
    "back\\slash\\",
    "\\u0000",  # six characters, no NUL
    "%s {0} ${x}",
    "tab\tnewline\ncr\r\x1f\x7f",
    "\u2028\u2029\ufeff",
    "\u202eright-to-left \u05e9\u05dc\u05d5\u05dd",
    "Z\u0351\u036b\u0343a\u0363\u0321lgo",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # one glyph, five code points
    "x" * 200,
    "\U0001f6a9" * 200,
]


#: Whatever a PostgreSQL `text` may hold; few enough values that names collide.
TEXTS = st.sampled_from(NASTY_TEXT) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12
)
#: One or two digits, so that 10 meets 9; or all of a bigint.
IDS = st.integers(1, 30) | st.integers(1, 2**63 - 1)
TIMES = (
    st.sampled_from(EDGE_TIMES)
    | st.integers(0, 2 * 3600).map(lambda seconds: START + timedelta(seconds=seconds))
    | st.integers(0, 2 * 3600 * 10**6).map(lambda micros: START + timedelta(microseconds=micros))
)


@st.composite
def challenges(draw: st.DrawFn, id: int) -> Challenge:
    """A challenge worth 0 to `MOST_POINTS`, whose minimum may be above that or below zero."""
    initial = draw(st.sampled_from([0, 1, 100, 500]) | st.integers(0, 1000) | st.integers(0, MOST_POINTS))
    minimum = draw(
        st.sampled_from([initial, initial - 1, initial + 1, 0, -1, -500])
        | st.integers(-1000, initial)
        | st.integers(0, MOST_POINTS)
    )
    return Challenge(id, draw(TEXTS), draw(TEXTS), initial, minimum)


@st.composite
def contests(draw: st.DrawFn, *, divisions: bool | None = None, active: bool = False) -> Tables:
    """`divisions`: whether the database has them; None draws that too. `active`: whether it has `is_active`."""

    def unique_ids(at_least: int, at_most: int) -> list[int]:
        # The size is drawn on its own: left to itself `lists` keeps to half a dozen.
        size = draw(st.integers(at_least, at_most))
        return draw(st.lists(IDS, min_size=size, max_size=size, unique=True))

    with_divisions = draw(st.booleans()) if divisions is None else divisions
    its_divisions = [Division(key, draw(TEXTS)) for key in unique_ids(1, 3)] if with_divisions else None
    division_ids = st.sampled_from([None, *(division.id for division in its_divisions or [])])
    teams = [Team(key, draw(TEXTS), draw(division_ids)) for key in unique_ids(0, 8)]

    roles = st.sampled_from(["user", "user", "user", None, "", "Admin", "blocked", "admin"])
    # The first team twice: teammates who solve the same thing.
    team_ids = st.sampled_from([None, *(team.id for team in teams[:1] + teams)])
    users = [User(key, draw(TEXTS), draw(roles), draw(team_ids)) for key in unique_ids(0, 20)]

    its_challenges = [draw(challenges(key)) for key in unique_ids(0, 8)]
    if active:
        its_challenges = [
            replace(each, is_active=draw(st.sampled_from([False, True, None]))) for each in its_challenges
        ]
    submissions = []
    if users and its_challenges:
        submissions = [
            Submission(
                id=key,
                user_id=draw(st.sampled_from(users)).id,
                challenge_id=draw(st.sampled_from(its_challenges)).id,
                correct=draw(st.sampled_from([True, True, True, False])),
                # A wrong row may claim first blood too: it must not count.
                is_first_blood=draw(st.booleans()),
                submitted_at=draw(TIMES),
            )
            for key in unique_ids(0, 60)
        ]
    return Tables(submissions, users, teams, its_challenges, its_divisions)


@st.composite
def questions(draw: st.DrawFn, tables: Tables) -> dict[str, Any]:
    """What may be asked of these tables, as keywords of `oracle.documents`.

    A window often ends exactly on, or a microsecond beside, one of the submissions.
    """
    division_ids = [division.id for division in tables.divisions or []]
    minutes = draw(st.none() | st.integers(1, 180) | st.integers(1, 10**6))
    if minutes is None:
        now = None
    else:
        moments = [row.submitted_at for row in tables.submissions] or [START]
        beside = draw(st.sampled_from([timedelta(0), MICROSECOND, -MICROSECOND]))
        now = draw(st.sampled_from(moments)) + timedelta(minutes=minutes) + beside
    return {"division_id": draw(st.sampled_from([None, *division_ids])), "window": minutes, "now": now}


def to_rows(tables: Tables) -> source_rows.SourceRows:
    """What a source makes of these tables, in the tables' own (arbitrary) order."""
    users = [user for user in tables.users if user.role not in ("blocked", "admin")]
    seen = {user.id for user in users}
    roster = source_rows.Roster(
        challenges=[
            source_rows.ChallengeRow(
                row.id, row.title, row.category, row.points, row.minimum_points, row.is_active is not False
            )
            for row in tables.challenges
        ],
        teams=[source_rows.TeamRow(row.id, row.name, row.division_id) for row in tables.teams],
        users=[source_rows.UserRow(user.id, user.username, user.team_id) for user in users],
        divisions=sorted(source_rows.DivisionRow(row.id, row.name) for row in tables.divisions or []),
    )
    solves = source_rows.solves_of(
        (row.user_id, row.challenge_id, (row.submitted_at - EPOCH) // MICROSECOND, row.is_first_blood)
        for row in tables.submissions
        if row.correct and row.user_id in seen
    )
    return source_rows.SourceRows(source_rows.released(roster, solves), solves)


def SCHEMA_SQL(divisions: bool, active: bool = False) -> str:  # noqa: N802
    """Creates the platform's tables, empty, in the first schema of the search path."""
    return f"""
        {"create table divisions (id bigint primary key, name text not null);" if divisions else ""}
        create table teams (
            id bigint primary key,
            name text not null
            {", division_id bigint references divisions" if divisions else ""}
        );
        create table users (
            id bigint primary key,
            username text not null,
            role text,
            team_id bigint references teams
        );
        create table challenges (
            id bigint primary key,
            title text not null,
            category text not null,
            points integer not null,
            minimum_points integer not null
            {", is_active boolean default true" if active else ""}
        );
        create table submissions (
            id bigint primary key,
            user_id bigint not null references users,
            challenge_id bigint not null references challenges,
            correct boolean not null,
            is_first_blood boolean not null,
            submitted_at timestamptz not null
        );
    """


async def insert(connection: asyncpg.Connection, tables: Tables) -> None:
    """Fills empty tables, made by `SCHEMA_SQL(tables.divisions is not None, …)`, in one transaction."""
    team_columns = ["id", "name"]
    if tables.divisions is not None:
        team_columns.append("division_id")

    async def copy(table: str, records: Any, columns: list[str]) -> None:
        values = [[getattr(record, column) for column in columns] for record in records]
        await connection.copy_records_to_table(table, records=values, columns=columns, timeout=30)

    async with connection.transaction():
        # Referenced before referring.
        if tables.divisions is not None:
            await copy("divisions", tables.divisions, ["id", "name"])
        await copy("teams", tables.teams, team_columns)
        await copy("users", tables.users, ["id", "username", "role", "team_id"])
        challenge_columns = ["id", "title", "category", "points", "minimum_points"]
        if any(challenge.is_active is not None for challenge in tables.challenges):
            challenge_columns.append("is_active")
        await copy("challenges", tables.challenges, challenge_columns)
        await copy(
            "submissions",
            tables.submissions,
            ["id", "user_id", "challenge_id", "correct", "is_first_blood", "submitted_at"],
        )
