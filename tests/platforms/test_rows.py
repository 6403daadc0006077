"""Columns of other types than the platform's own, and rows that make no sense: the board is the same, but for those."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from scoreboardd.board.source_rows import ChallengeRow, DivisionRow, TeamRow, UserRow
from scoreboardd.platforms import check
from scoreboardd.platforms.findings import Finding
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.source import FullRead, SourceError
from tests.contests import EPOCH, MICROSECOND, START, insert
from tests.platforms.test_postgres import AT, CONTEST, ROSTER, SOLVES

INDEX = "CREATE INDEX ON submissions (user_id, challenge_id) WHERE correct"

Read = Callable[..., Any]


@pytest.fixture
async def contest(platform: str, admin: Any) -> str:
    """One of everything, a blocked user and an admin, and nothing that refers to anything by a constraint."""
    await insert(admin, CONTEST)
    await admin.execute("""
        INSERT INTO users VALUES (2, 'eve', 'blocked', 1), (3, 'root', 'admin', NULL);
        INSERT INTO submissions VALUES (2, 2, 1, true, false, '2026-02-27 18:00Z'), (3, 1, 1, false, false, now());
        ALTER TABLE users DROP CONSTRAINT users_team_id_fkey;
        ALTER TABLE teams DROP CONSTRAINT teams_division_id_fkey;
        ALTER TABLE submissions
            DROP CONSTRAINT submissions_user_id_fkey, DROP CONSTRAINT submissions_challenge_id_fkey;
        CREATE EXTENSION citext;
        CREATE TYPE role AS ENUM ('user', 'admin', 'blocked');
        CREATE TYPE category AS ENUM ('misc', 'web');
        CREATE DOMAIN role_name AS text NOT NULL;
        CREATE DOMAIN key AS bigint;
        CREATE DOMAIN user_key AS key CHECK (VALUE > 0);
    """)
    return platform


@pytest.fixture
async def read(contest: str) -> AsyncIterator[Read]:
    sources: list[PostgresSource] = []

    async def read(timezone: str = "UTC") -> FullRead:
        sources.append(PostgresSource(contest, "smctf", statement_timeout=10, timezone=timezone))
        return await sources[-1].read()

    yield read
    for source in sources:
        await source.aclose()


async def problems(dsn: str, **options: Any) -> list[str]:
    return [problem async for problem in check.problems(dsn, "smctf", statement_timeout=10, **options)]


def solves(reading: FullRead) -> list[Any]:
    """Those of users who are shown."""
    return [solve for solve in reading.rows.solves.tolist() if solve[0] != 2]


# --- types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        *(
            f"ALTER TABLE users ALTER role TYPE {type}"
            for type in (
                "role USING role::role",
                "role_name",
                "varchar",
                "varchar(20)",
                "char(20)",
                "citext",
                "name",
            )
        ),
        *(
            f"ALTER TABLE submissions ALTER id TYPE {type}"
            for type in (
                "uuid USING lpad(id::text, 32, '0')::uuid",
                "text",
                "citext",
                "char(12)",
                "smallint",
                "integer",
                "numeric",
                "numeric(20)",
                "double precision",
                "key",
            )
        ),
        *(
            f"ALTER TABLE {table} ALTER {column} TYPE {type}"
            for table, column in [
                ("users", "id"),
                ("users", "team_id"),
                ("teams", "id"),
                ("teams", "division_id"),
                ("challenges", "id"),
                ("divisions", "id"),
                ("submissions", "user_id"),
                ("submissions", "challenge_id"),
            ]
            for type in ("smallint", "integer", "numeric(20,0)", "real", "user_key")
        ),
        *(
            f"ALTER TABLE challenges ALTER {column} TYPE {type}"
            for column in ("points", "minimum_points")
            for type in (
                "smallint",
                "bigint",
                "numeric",
                "numeric(12,2)",
                "double precision",
                "real",
                "text",
                "char(9)",
            )
        ),
        *(
            f"ALTER TABLE submissions ALTER {column} TYPE {type}"
            for column in ("correct", "is_first_blood")
            for type in (
                f"integer USING {column}::int",
                f"smallint USING {column}::int",
                f"numeric USING {column}::int",
                f"bit USING {column}::int::bit",
                "text",
                "char(5)",
                "varchar",
                "citext",
            )
        ),
        *(
            f"ALTER TABLE {table} ALTER {column} TYPE {type}"
            for table, column in [
                ("users", "username"),
                ("teams", "name"),
                ("challenges", "title"),
                ("divisions", "name"),
            ]
            for type in ("varchar(40)", "citext", "char(40)", "name")
        ),
        "ALTER TABLE challenges ALTER category TYPE category USING category::category",
        "ALTER TABLE submissions ALTER submitted_at TYPE timestamp USING submitted_at AT TIME ZONE 'UTC'",
        "ALTER TABLE submissions ALTER submitted_at TYPE timestamptz(0)",
        "ALTER TABLE submissions ALTER is_first_blood DROP NOT NULL",
    ],
)
async def test_a_column_may_have_another_type(contest: str, read: Read, admin: Any, change: str):
    if "correct TYPE" in change and "is_first" not in change:
        await admin.execute("ALTER TABLE submissions ALTER correct DROP DEFAULT")
    await admin.execute(change)
    await admin.execute(INDEX if "correct TYPE" not in change else INDEX.partition(" WHERE")[0])
    reading = await read()
    assert reading.rows.roster == ROSTER
    assert solves(reading) == SOLVES
    assert reading.findings == []
    assert await problems(contest) == []


@pytest.mark.parametrize("id_type", ["uuid USING lpad(id::text, 32, '0')::uuid", "text", "double precision", "numeric"])
async def test_ids_without_an_order_in_time_have_everything_read(contest: str, read: Read, admin: Any, id_type: str):
    await admin.execute(f"ALTER TABLE submissions ALTER id TYPE {id_type}")
    reading = await read()
    assert reading.cursor.tail is None
    async with PostgresSource(contest, "smctf", statement_timeout=10) as source:
        reading = await source.read()
        assert await source.read_since(reading.cursor) is None


@pytest.mark.parametrize("id_type", ["smallint", "integer", "key"])
async def test_ids_of_other_types_with_an_order_have_the_new_ones_read(contest: str, admin: Any, id_type: str):
    await admin.execute(f"ALTER TABLE submissions ALTER id TYPE {id_type}")
    async with PostgresSource(contest, "smctf", statement_timeout=10) as source:
        reading = await source.read()
        news = await source.read_since(reading.cursor)
        assert news is not None
        await admin.execute("INSERT INTO submissions VALUES (1003, 1, 1, true, false, '2026-02-27 19:00Z')")
        news = await source.read_since(reading.cursor)
        assert news is not None
        assert news.added == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            (f"ALTER TABLE {table} ALTER {column} TYPE {type}", (f"{table}.{column}", shown, "expected an integer"))
            for table, column in [
                ("users", "id"),
                ("teams", "id"),
                ("challenges", "id"),
                ("submissions", "user_id"),
                ("users", "team_id"),
            ]
            for type, shown in [
                ("text", "text"),
                (f"uuid USING lpad({column}::text, 32, '0')::uuid", "uuid"),
                ("varchar(20)", "character varying(20)"),
            ]
        ),
        (
            "ALTER TABLE submissions ALTER submitted_at TYPE text",
            ("submissions.submitted_at", "text", "timestamp with time zone"),
        ),
        (
            "ALTER TABLE submissions ALTER submitted_at TYPE bigint USING 1",
            ("submissions.submitted_at", "bigint", "timestamp with time zone"),
        ),
        ("ALTER TABLE submissions ALTER correct TYPE jsonb USING 'true'", ("submissions.correct", "jsonb", "boolean")),
    ],
)
async def test_a_type_that_cannot_be_read_is_named_by_check_and_by_the_daemon(
    contest: str, read: Read, admin: Any, change: str, words: tuple[str, ...]
):
    await admin.execute(change)
    with pytest.raises(SourceError) as raised:
        await read()
    found = [problem for problem in await problems(contest) if "no index" not in problem]
    assert found == [str(raised.value)]
    assert all(word in found[0] for word in words)


@pytest.mark.parametrize("role_type", ["integer USING 1", "boolean USING true", "text[] USING ARRAY[role]"])
async def test_a_role_that_can_say_nothing_is_refused(contest: str, read: Read, admin: Any, role_type: str):
    await admin.execute(INDEX)
    await admin.execute(f"ALTER TABLE users ALTER role TYPE {role_type}")
    with pytest.raises(SourceError) as raised:
        await read()
    (problem,) = await problems(contest)
    assert problem == str(raised.value)
    assert f"users.role is of type {role_type.split(maxsplit=1)[0]}" in problem
    assert "nobody would be left out" in problem


async def test_a_role_that_ignores_case_is_compared_so(read: Read, admin: Any):
    await admin.execute("ALTER TABLE users ALTER role TYPE citext")
    await admin.execute("UPDATE users SET role = upper(role::text)")
    assert (await read()).rows.roster.users == ROSTER.users


async def test_a_type_that_is_changed_while_we_are_connected_is_noticed(contest: str, admin: Any):
    async with PostgresSource(contest, "smctf", statement_timeout=10) as source:
        await source.read()
        await admin.execute("ALTER TABLE users ALTER role TYPE role USING role::role")
        await admin.execute("ALTER TABLE challenges ALTER points TYPE double precision")
        assert (await source.read()).rows.roster == ROSTER


# --- times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "written", "zone", "at"),
    [
        ("timestamp", "2026-02-28 03:00:00", "Asia/Seoul", AT),
        ("timestamp", "2026-02-27 18:00:00", "UTC", AT),
        ("timestamp", "2026-07-01 02:00:00", "Europe/Berlin", 1782864000000000),
        ("date", "2026-02-28", "Asia/Seoul", AT - 3 * 3600 * 10**6),
        ("date", "2026-02-27", "UTC", AT - 18 * 3600 * 10**6),
    ],
)
async def test_a_time_without_a_zone_is_in_the_configured_one(
    contest: str, read: Read, admin: Any, type: str, written: str, zone: str, at: int
):
    await admin.execute(f"ALTER TABLE submissions ALTER submitted_at TYPE {type} USING '{written}'")
    for server in ("UTC", "Asia/Seoul", "America/New_York"):
        await admin.execute(f"ALTER DATABASE {contest.rpartition('/')[2]} SET timezone = '{server}'")
        assert [solve[2] for solve in solves(await read(zone))] == [at]


@pytest.mark.parametrize("type", ["timestamp", "date"])
@pytest.mark.parametrize(
    ("server", "configured", "told"),
    [
        ("Asia/Seoul", "UTC", True),
        ("Europe/Berlin", "UTC", True),
        ("Asia/Seoul", "Asia/Seoul", False),
        ("Asia/Seoul", "Etc/UTC", False),
        ("UTC", "UTC", False),
        ("GMT", "UTC", False),
    ],
)
async def test_an_unstated_zone_is_told_by_check(
    contest: str, admin: Any, type: str, server: str, configured: str, told: bool
):
    await admin.execute(INDEX)
    await admin.execute(f"ALTER TABLE submissions ALTER submitted_at TYPE {type}")
    await admin.execute(f"ALTER DATABASE {contest.rpartition('/')[2]} SET timezone = '{server}'")
    found = await problems(contest, timezone=configured)
    assert len(found) == told
    assert all("submissions.submitted_at" in problem and server in problem for problem in found)


@pytest.mark.parametrize(
    ("table", "column", "type", "value"),
    [
        ("submissions", "correct", "text", "CASE WHEN correct THEN 'correct' ELSE 'incorrect' END"),
        ("submissions", "correct", "verdict", "(CASE WHEN correct THEN 'right' ELSE 'wrong' END)::verdict"),
        ("submissions", "is_first_blood", "citext", "'first'::citext"),
        ("challenges", "is_active", "text", "'active'"),
    ],
)
async def test_flags_that_are_neither_true_nor_false_are_told_by_check(
    contest: str, admin: Any, table: str, column: str, type: str, value: str
):
    await admin.execute("CREATE EXTENSION IF NOT EXISTS citext; CREATE TYPE verdict AS ENUM ('right', 'wrong')")
    await admin.execute("ALTER TABLE challenges ADD COLUMN IF NOT EXISTS is_active boolean DEFAULT true")
    await admin.execute("DROP INDEX IF EXISTS scoreboardd_submissions_correct")
    await admin.execute(f"ALTER TABLE {table} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {type} USING {value}")
    found = [problem for problem in await problems(contest) if "count as false" in problem]
    assert len(found) == 1
    assert f"column {table}.{column} is of type {type}" in found[0]


@pytest.mark.parametrize("words", [("yes", "no"), ("T", "F"), ("1", "0")])
async def test_flags_in_words_that_are_known_are_no_problem(contest: str, admin: Any, words: tuple[str, str]):
    await admin.execute("DROP INDEX IF EXISTS scoreboardd_submissions_correct")
    value = f"CASE WHEN correct THEN '{words[0]}' ELSE '{words[1]}' END"
    await admin.execute(f"ALTER TABLE submissions ALTER correct DROP DEFAULT, ALTER correct TYPE text USING {value}")
    assert not any("count as false" in problem for problem in await problems(contest))


async def test_a_time_with_a_zone_needs_none(contest: str, admin: Any):
    await admin.execute(INDEX)
    await admin.execute(f"ALTER DATABASE {contest.rpartition('/')[2]} SET timezone = 'Asia/Seoul'")
    assert await problems(contest) == []


# --- bad rows -----------------------------------------------------------------------------------------------


def only(reading: FullRead) -> Finding:
    (finding,) = reading.findings
    assert "\n" not in str(finding)
    return finding


@pytest.mark.parametrize("column", ["points", "minimum_points"])
@pytest.mark.parametrize(
    ("type", "value"),
    [
        *(("numeric", value) for value in ("NaN", "Infinity", "-Infinity", "1e30", "-1e300", "1e100000")),
        *(("double precision", value) for value in ("NaN", "Infinity", "-Infinity", "1e300", "-1e300")),
        *(("real", value) for value in ("NaN", "Infinity")),
        ("bigint", "9223372036854775807"),
        *(("text", value) for value in ("many", "", "1e999999999", "0x10", "9" * 5000, "sNaN", "\u0661\u0662x")),
    ],
)
async def test_points_that_are_no_number_cost_one_challenge_its_points(
    contest: str, read: Read, admin: Any, column: str, type: str, value: str
):
    await admin.execute("INSERT INTO challenges VALUES (7, 'odd', 'misc', 300, 30)")
    await admin.execute(f"ALTER TABLE challenges ALTER {column} TYPE {type}")
    await admin.execute(f"UPDATE challenges SET {column} = '{value}' WHERE id = 7")
    reading = await read()
    points, minimum = (0, 30) if column == "points" else (300, 300)
    assert reading.rows.roster.challenges == [*ROSTER.challenges, ChallengeRow(7, "odd", "misc", points, minimum)]
    assert reading.rows.roster.users == ROSTER.users
    assert solves(reading) == SOLVES
    assert (only(reading).table, only(reading).ids, only(reading).is_altered) == ("challenges", ("7",), True)
    assert column in only(reading).problem
    assert str(only(reading)) in await problems(contest)


@pytest.mark.parametrize(("value", "points"), [("99.5", 100), ("-99.5", -100), ("0.4", 0), ("1e3", 1000), (" 7 ", 7)])
async def test_points_are_rounded(read: Read, admin: Any, value: str, points: int):
    await admin.execute("ALTER TABLE challenges ALTER points TYPE text")
    await admin.execute("UPDATE challenges SET points = $1", value)
    reading = await read()
    assert reading.rows.roster.challenges[0].initial == points
    assert reading.findings == []


@pytest.mark.parametrize("type", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("value", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "4713-01-01 BC", None])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul", "America/New_York"])
async def test_a_time_that_no_document_can_say_costs_one_solve(
    contest: str, read: Read, admin: Any, type: str, value: str | None, zone: str
):
    await admin.execute(f"ALTER TABLE submissions ALTER submitted_at TYPE {type}, ALTER submitted_at DROP NOT NULL")
    quoted = f"'{value}'" if value else "NULL"
    await admin.execute(f"INSERT INTO submissions VALUES (77, 1, 1, true, false, {quoted})")
    reading = await read(zone)
    assert len(solves(reading)) == 1
    assert (only(reading).table, only(reading).ids, only(reading).rows) == ("submissions", ("77",), 1)
    assert str(only(reading)) in await problems(contest, timezone=zone)


@pytest.mark.parametrize("type", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("value", ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"])
async def test_the_first_and_the_last_time_that_a_document_can_say(read: Read, admin: Any, type: str, value: str):
    await admin.execute("DELETE FROM submissions WHERE id > 1")
    await admin.execute(f"ALTER TABLE submissions ALTER submitted_at TYPE {type}")
    await admin.execute(f"UPDATE submissions SET submitted_at = '{value}Z'::timestamptz AT TIME ZONE 'UTC'")
    reading = await read()
    assert len(reading.rows.solves) == 1
    assert reading.findings == []


@pytest.mark.parametrize(("column", "value"), [("user_id", None), ("challenge_id", None), ("user_id", "1.5")])
async def test_a_solve_of_nobody_or_nothing_is_left_out(read: Read, admin: Any, column: str, value: str | None):
    await admin.execute(f"ALTER TABLE submissions ALTER {column} TYPE numeric, ALTER {column} DROP NOT NULL")
    await admin.execute("INSERT INTO submissions VALUES (77, 1, 1, true, false, '2026-01-01Z')")
    await admin.execute(f"UPDATE submissions SET {column} = {value or 'NULL'} WHERE id = 77")
    reading = await read()
    assert solves(reading) == SOLVES
    assert (only(reading).table, only(reading).ids) == ("submissions", ("77",))


@pytest.mark.parametrize("table", ["users", "teams", "challenges", "divisions"])
@pytest.mark.parametrize("value", ["NULL", "'NaN'", "1.5", "1e19", "-9223372036854775809"])
async def test_a_row_whose_id_is_none_is_left_out(read: Read, admin: Any, table: str, value: str):
    await admin.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE")
    await admin.execute(f"ALTER TABLE {table} ALTER id TYPE numeric, ALTER id DROP NOT NULL")
    await admin.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE id = 1")
    await admin.execute(f"UPDATE {table} SET id = {value} WHERE ctid = (SELECT max(ctid) FROM {table} WHERE id = 1)")
    reading = await read()
    assert reading.rows.roster == ROSTER
    assert (only(reading).table, only(reading).rows) == (table, 1)


async def test_news_of_a_bad_row_are_told_too(contest: str, admin: Any):
    async with PostgresSource(contest, "smctf", statement_timeout=10) as source:
        reading = await source.read()
        await admin.execute("INSERT INTO submissions VALUES (77, 1, 1, true, false, 'infinity')")
        news = await source.read_since(reading.cursor)
        assert news is not None
        assert [finding.ids for finding in news.findings] == [("77",)]


async def test_many_bad_rows_are_counted_and_a_few_named(read: Read, admin: Any):
    await admin.execute(
        "INSERT INTO submissions SELECT n, 1, 1, true, false, 'infinity' FROM generate_series(101, 1100) n"
    )
    finding = only(await read())
    assert finding.rows == 1000
    assert len(finding.ids) == 5
    assert len(str(finding)) < 400


# --- ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["users", "teams", "challenges", "divisions"])
@pytest.mark.parametrize(("id", "told"), [(2**53 - 1, False), (2**53, True), (2**63 - 1, True), (-(2**53), True)])
async def test_an_id_that_a_browser_cannot_hold_is_told_and_kept(
    contest: str, read: Read, admin: Any, table: str, id: int, told: bool
):
    await admin.execute(INDEX)
    await admin.execute(f"CREATE TEMP TABLE copied AS SELECT * FROM {table} WHERE id = 1")
    await admin.execute("UPDATE copied SET id = $1", id)
    await admin.execute(f"INSERT INTO {table} SELECT * FROM copied")
    reading = await read()
    assert id in [row.id for row in getattr(reading.rows.roster, table)]
    assert [(finding.table, finding.ids, finding.is_altered) for finding in reading.findings] == [
        (table, (str(id),), False)
    ] * told
    assert await problems(contest) == [str(finding) for finding in reading.findings]


@pytest.mark.parametrize("order", ["", "ORDER BY random()"])
async def test_a_user_who_is_listed_twice_is_in_the_team_with_the_lowest_id(
    contest: str, read: Read, admin: Any, order: str
):
    await admin.execute(INDEX)
    await admin.execute(f"""
        INSERT INTO teams VALUES (5, 'later', 1);
        ALTER TABLE users RENAME TO accounts;
        CREATE TABLE memberships (user_id bigint, team_id bigint);
        INSERT INTO memberships VALUES (1, NULL), (1, 5), (1, 1), (2, 1);
        CREATE VIEW users AS
            SELECT a.id, a.username, a.role, m.team_id FROM accounts a JOIN memberships m ON m.user_id = a.id {order};
    """)
    reading = await read()
    assert reading.rows.roster.users == [UserRow(1, "ada", 1)]
    finding = only(reading)
    assert (finding.table, finding.rows, finding.is_altered) == ("users", 2, True)
    assert set(finding.ids) == {"1"}
    assert await problems(contest) == [str(finding)]


@pytest.mark.parametrize(
    ("table", "again", "kept"),
    [
        ("teams", "(1, 'aaa', NULL), (1, 'zzz', 0)", [TeamRow(1, "zzz", 0)]),
        ("challenges", "(1, 'zzz', 'misc', 1, 1)", ROSTER.challenges),
        ("divisions", "(1, 'zzz')", [DivisionRow(1, "open")]),
        ("users", "(1, 'aaa', 'user', 1)", [UserRow(1, "aaa", 1)]),
        ("users", "(1, 'zzz', 'blocked', 0)", ROSTER.users),
    ],
)
async def test_an_id_that_is_there_twice_counts_once(read: Read, admin: Any, table: str, again: str, kept: list[Any]):
    await admin.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE; INSERT INTO {table} VALUES {again}")
    reading = await read()
    assert getattr(reading.rows.roster, table) == kept
    assert solves(reading) == SOLVES
    assert len(reading.findings) == ("blocked" not in again)


async def test_a_submission_that_is_listed_twice_is_told(contest: str, read: Read, admin: Any):
    await admin.execute("""
        ALTER TABLE submissions RENAME TO attempts;
        CREATE VIEW submissions AS SELECT a.* FROM attempts a, generate_series(1, 3);
    """)
    reading = await read()
    assert set(solves(reading)) == set(SOLVES)
    assert (only(reading).table, only(reading).rows) == ("submissions", 4)
    assert set(only(reading).ids) == {"1", "2"}
    assert await problems(contest) == [str(only(reading))]


def test_the_moment_of_the_contest_is_the_one_that_the_tests_say():
    assert (START - EPOCH) // MICROSECOND == AT
