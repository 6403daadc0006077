"""Reading a platform's database: all of it, from one snapshot, and what is said when it cannot be read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoreboardd.board.source_rows import ChallengeRow, DivisionRow, Roster, TeamRow, UserRow
from scoreboardd.demo.servers import free_port
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.source import SourceError
from scoreboardd.postgres import connection
from tests import oracle
from tests.board.expected import expected, parsed, rendered
from tests.builder.platform import stuck
from tests.contests import EPOCH, MICROSECOND, SCHEMA_SQL, START, contests, insert
from tests.effort import examples
from tests.nodes import until
from tests.platforms.conftest import Role, as_user

CONTEST = oracle.Tables(
    submissions=[oracle.Submission(1, 1, 1, True, True, START)],
    users=[oracle.User(1, "ada", "user", 1)],
    teams=[oracle.Team(1, "engines", 1)],
    challenges=[oracle.Challenge(1, "sums", "misc", 500, 100)],
    divisions=[oracle.Division(1, "open")],
)
AT = (START - EPOCH) // MICROSECOND
ROSTER = Roster(
    challenges=[ChallengeRow(1, "sums", "misc", 500, 100)],
    teams=[TeamRow(1, "engines", 1)],
    users=[UserRow(1, "ada", 1)],
    divisions=[DivisionRow(1, "open")],
)
SOLVES = [(1, 1, AT, True)]


@pytest.fixture
async def make_source() -> AsyncIterator[Callable[..., PostgresSource]]:
    made: list[PostgresSource] = []

    def make(dsn: str, statement_timeout: float = 10.0) -> PostgresSource:
        made.append(PostgresSource(dsn, "smctf", statement_timeout=statement_timeout))
        return made[-1]

    yield make
    for source in made:
        await source.aclose()


@pytest.fixture
def source(platform: str, make_source: Callable[..., PostgresSource]) -> PostgresSource:
    return make_source(platform)


async def refused(source: PostgresSource, *words: str) -> None:
    """Reading fails, and says in one line what and how to mend it."""
    with pytest.raises(SourceError) as raised:
        await source.read()
    text = str(raised.value)
    assert text.startswith("postgres: ")
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("active", [True, False], ids=["with is_active", "without is_active"])
@pytest.mark.parametrize("divisions", [True, False], ids=["with divisions", "without divisions"])
@given(data=st.data())
@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_is_read_makes_the_oracle_s_documents(admin, database, make_source, divisions, active, data):
    tables = data.draw(contests(divisions=divisions, active=active))
    await admin.execute("DROP TABLE IF EXISTS submissions, users, teams, challenges, divisions")
    await admin.execute(SCHEMA_SQL(divisions, active))
    await insert(admin, tables)
    before = time.time()
    source = make_source(database)
    read = await source.read()
    rows, as_of = read.rows, read.as_of
    assert before <= as_of <= time.time()
    assert parsed(rendered(rows)) == expected(tables)
    await source.aclose()


async def test_nulls_are_harmless(admin, database: str, make_source):
    await admin.execute("""
        CREATE TABLE teams (id int, name text);
        CREATE TABLE users (id int, username text, role text, team_id int);
        CREATE TABLE challenges (id int, title text, category text, points int, minimum_points int);
        CREATE TABLE submissions (
            id int, user_id int, challenge_id int, correct boolean, is_first_blood boolean, submitted_at timestamptz
        );
        INSERT INTO teams VALUES (1, NULL);
        INSERT INTO users VALUES (1, NULL, NULL, NULL), (2, 'b', 'blocked', 1);
        INSERT INTO challenges VALUES (1, NULL, NULL, NULL, NULL), (2, 'c', 'web', 300, NULL);
        INSERT INTO submissions VALUES
            (1, 1, 1, NULL, NULL, '2026-02-27 18:00Z'), (2, 1, 1, true, NULL, NULL),
            (3, 1, 2, true, NULL, '2026-02-27 18:00Z');
    """)
    rows = (await make_source(database).read()).rows
    assert rows.roster.teams == [TeamRow(1, "")]
    assert rows.roster.users == [UserRow(1, "")]
    assert rows.roster.challenges == [ChallengeRow(1, "", "", 0, 0), ChallengeRow(2, "c", "web", 300, 300)]
    assert rows.solves.tolist() == [(1, 2, AT, False)]
    assert rows.roster.divisions == []


async def test_a_commit_during_the_read_is_not_seen(admin, platform: str, source: PostgresSource):
    await insert(admin, CONTEST)
    writer = await asyncpg.connect(platform, timeout=10, command_timeout=30)
    try:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("LOCK TABLE submissions IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(source.read())
        await until(lambda: stuck(admin), "the read has come to the submissions")
        await writer.execute("INSERT INTO submissions VALUES (2, 1, 1, true, true, '2020-01-01Z')")
        await writer.execute("UPDATE users SET username = 'changed'")
        await writer.execute("INSERT INTO divisions VALUES (2, 'new')")
        await transaction.commit()
        rows = (await reading).rows
    finally:
        writer.terminate()
    assert rows.roster == ROSTER
    assert rows.solves.tolist() == SOLVES
    rows = (await source.read()).rows
    assert rows.roster.users == [UserRow(1, "changed", 1)]
    assert rows.roster.divisions == [DivisionRow(1, "open"), DivisionRow(2, "new")]
    assert min(rows.solves["at"]) < AT


async def _connections(admin: Any) -> int:
    return await admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'scoreboardd'"
    )


class TestTheConnection:
    async def test_is_kept_between_reads(self, admin, source: PostgresSource):
        for _ in range(3):
            await source.read()
            assert await _connections(admin) == 1

    async def test_is_gone_after_an_error(self, admin, source: PostgresSource):
        await source.read()
        await admin.execute("ALTER TABLE users RENAME TO people")
        await refused(source)
        await until(lambda: _none(admin), "the connection is closed")

    async def test_that_was_cut_is_made_anew(self, admin, source: PostgresSource):
        await insert(admin, CONTEST)
        await source.read()
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'scoreboardd'"
        )
        await until(lambda: _none(admin), "the connection is cut")
        with suppress(SourceError):  # it may not know yet that it was cut
            await source.read()
        rows = (await source.read()).rows
        assert rows.roster == ROSTER
        assert rows.solves.tolist() == SOLVES

    async def test_can_write_nothing(self, admin, source: PostgresSource):
        await admin.execute("""
            CREATE FUNCTION meddle() RETURNS text LANGUAGE sql
                AS $$ INSERT INTO teams VALUES (9, 'x') RETURNING name $$;
            ALTER TABLE challenges RENAME TO real;
            CREATE VIEW challenges AS SELECT id, meddle() AS title, category, points, minimum_points FROM real;
            INSERT INTO real VALUES (1, 't', 'c', 1, 1);
        """)
        await refused(source, "read-only")


async def _none(admin: Any) -> bool:
    return await _connections(admin) == 0


class TestWhatIsWrong:
    """Each is said in one line, and forgotten by the next read once it is mended."""

    @pytest.mark.parametrize("table", ["submissions", "users", "teams", "challenges"])
    async def test_a_table_is_missing(self, admin, source: PostgresSource, table: str):
        await admin.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
        await refused(source, table, "postgres.dsn", "scoreboardd check")
        await admin.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
        await source.read()

    @pytest.mark.parametrize(
        "column",
        ["submissions.submitted_at", "submissions.is_first_blood", "users.role", "teams.name", "challenges.points"],
    )
    async def test_a_column_is_missing(self, admin, source: PostgresSource, column: str):
        table, name = column.split(".")
        await admin.execute(f"ALTER TABLE {table} RENAME COLUMN {name} TO elsewhere")
        await refused(source, name, "scoreboardd check")
        await admin.execute(f"ALTER TABLE {table} RENAME COLUMN elsewhere TO {name}")
        await source.read()

    async def test_a_table_may_not_be_read(self, admin, role: Role, make_source):
        source = make_source(role.dsn)
        await refused(source, "permission denied", "GRANT SELECT")
        await admin.execute(f"GRANT SELECT ON submissions, users, teams, challenges, divisions TO {role.name}")
        await source.read()

    async def test_it_is_enough_to_be_allowed_the_columns_that_are_read(self, admin, role: Role, make_source):
        await insert(admin, CONTEST)
        await admin.execute("ALTER TABLE teams ADD COLUMN invite_code text")
        await admin.execute("ALTER TABLE users ADD COLUMN password text")
        for columns, table in [
            ("id, user_id, challenge_id, correct, is_first_blood, submitted_at", "submissions"),
            ("id, username, role, team_id", "users"),
            ("id, name, division_id", "teams"),
            ("id, title, category, points, minimum_points", "challenges"),
            ("id, name", "divisions"),
        ]:
            await admin.execute(f"GRANT SELECT ({columns}) ON {table} TO {role.name}")
        rows = (await make_source(role.dsn).read()).rows
        assert rows.roster == ROSTER
        assert rows.solves.tolist() == SOLVES

    async def test_the_role_is_unknown(self, platform: str, make_source):
        source = make_source(as_user(platform, "nobody_of_that_name", "s3cret"))
        await refused(source, "nobody_of_that_name", "postgres.dsn")
        with pytest.raises(SourceError, match=r"^((?!s3cret).)*$"):
            await source.read()

    async def test_the_database_is_unknown(self, platform: str, make_source):
        dsn = urlsplit(platform)._replace(path="/no_such_database").geturl()
        await refused(make_source(dsn), "no_such_database", "postgres.dsn")

    async def test_nobody_listens(self, make_source):
        port = free_port()
        await refused(make_source(f"postgresql://ada:s3cret@127.0.0.1:{port}/ctf"), str(port), "postgres.dsn")

    async def test_nobody_answers(self, make_source, monkeypatch):
        monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.3)
        mute = await asyncio.start_server(_swallow, "127.0.0.1", 0)
        async with mute:
            port = mute.sockets[0].getsockname()[1]
            async with asyncio.timeout(5):
                await refused(make_source(f"postgresql://ada:s3cret@127.0.0.1:{port}/ctf"), "no answer in time")

    async def test_the_dsn_is_none(self, make_source):
        await refused(make_source("mysql://ada@127.0.0.1/ctf"), "postgres.dsn")

    async def test_it_takes_too_long(self, admin, platform: str, make_source):
        source = make_source(platform, statement_timeout=0.1)
        async with admin.transaction():
            await admin.execute("LOCK TABLE submissions IN ACCESS EXCLUSIVE MODE")
            await refused(source, "statement timeout", "postgres.statement_timeout", "scoreboardd check")
        await source.read()


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize("password", ["hun/ter2", "hun#ter2", "hun?ter2", "hun%zzter2"])
async def test_a_password_that_is_not_encoded_is_not_told(password: str):
    async with PostgresSource(f"postgresql://u:{password}@127.0.0.1:1/db", "smctf", statement_timeout=1) as source:
        with pytest.raises(SourceError) as raised:
            await source.read()
    assert "hun" not in str(raised.value)
    assert "ter2" not in str(raised.value)
