"""What `scoreboardd migrate` makes, leaves alone, removes, and says when it cannot."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from scoreboardd.demo.servers import free_port
from scoreboardd.migrate import perform
from scoreboardd.migrate.plan import DDL
from tests.builder.platform import CONTEST
from tests.contests import SCHEMA_SQL, insert
from tests.migrate.conftest import TABLES, Roles, done, dump, psql, quoted, run
from tests.nodes import until
from tests.source import test_check

CACHE = "created table leaderboard_cache"
INDEX = "created index scoreboardd_submissions_correct on submissions"
NOTHING = ["nothing to do"]


@pytest.mark.parametrize("divisions", [True, False], ids=["with divisions", "without divisions"])
async def test_all_is_made_once(admin, database: str, divisions: bool):
    await admin.execute(SCHEMA_SQL(divisions))
    assert await done(database) == [CACHE, INDEX]
    assert await done(database) == NOTHING
    tables = ["submissions", "users", "teams", "challenges"] + ["divisions"] * divisions
    made = await done(database, triggers=True)
    assert made == [
        step
        for table in tables
        for step in (
            f"created function scoreboardd_announce_{table}",
            f"created triggers on {table}: insert, update, delete, truncate",
        )
    ]
    assert await done(database, triggers=True) == NOTHING
    assert await done(database) == NOTHING
    assert await test_check.problems(database) == []


async def test_the_table_is_the_contract_s(admin, platform: str):
    await done(platform)
    columns = await admin.fetch("""
        SELECT attname, atttypid::regtype::text, attstorage::text FROM pg_attribute
        WHERE attrelid = 'leaderboard_cache'::regclass AND attnum > 0 ORDER BY attnum
    """)
    assert [(name, kind) for name, kind, _ in columns] == [
        ("cache_key", "text"),
        ("payload", "bytea"),
        ("encoding", "text"),
        ("version", "bigint"),
        ("epoch", "text"),
        ("generated_at", "timestamp with time zone"),
        ("building_until", "timestamp with time zone"),
        ("building_token", "text"),
    ]
    assert columns[1][2] == "e", "compressed already: Postgres need not try"


@pytest.mark.parametrize("triggers", [False, True], ids=["without triggers", "with triggers"])
async def test_a_dry_run_changes_nothing_and_prints_what_a_real_one_does(admin, platform: str, triggers: bool):
    await insert(admin, CONTEST)
    bare = await dump(platform)
    to_make = await done(platform, triggers=triggers, dry_run=True)
    assert await dump(platform) == bare
    await done(platform, triggers=triggers)
    made = await dump(platform)
    assert made != bare
    to_undo = await done(platform, undo=True, dry_run=True)
    assert await dump(platform) == made
    await done(platform, undo=True)
    assert await dump(platform) == bare
    await psql(platform, "\n".join(to_make))
    assert await dump(platform) == made
    assert await done(platform, triggers=triggers) == NOTHING
    assert await done(platform, triggers=triggers, dry_run=True) == ["-- nothing to do"]
    await psql(platform, "\n".join(to_undo))
    assert await dump(platform) == bare
    assert await done(platform, undo=True) == NOTHING


async def test_undo_leaves_what_others_made(admin, platform: str):
    await admin.execute("""
        CREATE INDEX theirs ON submissions (user_id, challenge_id) WHERE correct;
        CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER theirs AFTER INSERT ON users EXECUTE FUNCTION theirs();
        CREATE TABLE leaderboard_cache (cache_key text PRIMARY KEY, payload bytea, encoding text, version bigint,
            epoch text, generated_at timestamptz, building_until timestamptz, building_token text);
    """)
    before = await dump(platform)
    made = await done(platform, triggers=True)
    assert CACHE not in made and INDEX not in made, "what serves is there already"
    await done(platform, undo=True)
    assert await dump(platform) == before


async def test_undo_drops_nothing_that_others_lean_on(admin, platform: str):
    await done(platform)
    await admin.execute("CREATE VIEW theirs AS SELECT cache_key FROM leaderboard_cache")
    outcome = await run(platform, undo=True)
    assert len(outcome.problems) == 1
    assert "view theirs depends on table leaderboard_cache" in outcome.problems[0]
    assert await admin.fetchval("SELECT count(*) FROM theirs") == 0


class TestLeastPrivilege:
    """A role that reads the platform's tables, and owns a schema."""

    async def test_each_thing_denied_is_one_line_and_the_rest_is_done(self, admin, roles: Roles):
        outcome = await run(roles.board.dsn, triggers=True)
        assert outcome.said == [CACHE]
        assert await admin.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{roles.board.name}.leaderboard_cache")
        *grants, index = outcome.problems
        assert len(grants) == 5
        assert all(f"GRANT TRIGGER ON {table} TO" in grant for table, grant in zip(TABLES, grants, strict=True))
        assert "no index on submissions" in index
        for problem in outcome.problems:
            assert f"let the owner, {roles.owner.name}, run: " in problem
            await roles.owner.execute(quoted(problem))
        outcome = await run(roles.board.dsn, triggers=True)
        assert outcome.problems == []
        assert len(outcome.said) == 10
        assert await done(roles.board.dsn, triggers=True) == NOTHING

    async def test_undo_too(self, admin, database: str, roles: Roles):
        await roles.owner.execute(f"GRANT TRIGGER ON {', '.join(TABLES)} TO {roles.board.name}")
        before = await dump(database)
        await run(roles.board.dsn, triggers=True)
        await roles.owner.execute(quoted((await run(roles.board.dsn)).problems[0]))
        outcome = await run(roles.board.dsn, undo=True)
        assert outcome.said == ["dropped table leaderboard_cache"]
        assert len(outcome.problems) == 6
        for problem in outcome.problems:
            await roles.owner.execute(quoted(problem))
        assert len(await done(roles.board.dsn, undo=True)) == 5, "the functions, now that nothing calls them"
        assert await dump(database) == before

    async def test_the_triggers_stay_when_the_grant_goes(self, admin, roles: Roles):
        tables = ", ".join(TABLES)
        await roles.owner.execute(f"GRANT TRIGGER ON {tables} TO {roles.board.name}")
        await run(roles.board.dsn, triggers=True)
        await roles.owner.execute(f"REVOKE TRIGGER ON {tables} FROM {roles.board.name}")
        outcome = await run(roles.board.dsn, triggers=True, redis__key_prefix="other:")
        assert outcome.said == [f"replaced function scoreboardd_announce_{table}" for table in TABLES]

    async def test_an_owner_who_runs_the_dry_run_s_sql_serves_as_well(self, roles: Roles):
        outcome = await run(roles.owner.dsn, triggers=True, dry_run=True)
        await psql(roles.owner.dsn, "\n".join(outcome.said))
        assert await done(roles.board.dsn, triggers=True) == [CACHE]

    async def test_without_a_schema_to_make_things_in(self, admin, roles: Roles):
        await admin.execute(f"DROP SCHEMA {roles.board.name}")
        outcome = await run(roles.board.dsn)
        assert outcome.said == []
        assert f"role {roles.board.name} may create nothing in schema public" in outcome.problems[0]
        await admin.execute(quoted(outcome.problems[0]))
        assert (await run(roles.board.dsn)).said == [CACHE]

    async def test_a_table_of_ours_that_another_role_made(self, admin, roles: Roles):
        await admin.execute(f"SET search_path = {roles.board.name}")
        await admin.execute(DDL)
        outcome = await run(roles.board.dsn)
        assert "may not write" in outcome.problems[0]
        await admin.execute(quoted(outcome.problems[0]))
        assert "leaderboard_cache" not in str(await run(roles.board.dsn))
        assert "is ours; let the owner" in (await run(roles.board.dsn, undo=True)).problems[0]


@pytest.mark.parametrize(
    "columns",
    [
        "id int, leaderboard jsonb",
        "cache_key text PRIMARY KEY, payload jsonb, encoding text, version bigint, epoch text, "
        "generated_at timestamptz, building_until timestamptz, building_token text",
        "cache_key text, payload bytea, encoding text, version bigint, epoch text, "
        "generated_at timestamptz, building_until timestamptz, building_token text",
    ],
    ids=["something else", "another type", "no key"],
)
async def test_a_platform_s_table_of_that_name_is_let_be(admin, roles: Roles, columns: str):
    await admin.execute(f"DROP SCHEMA {roles.board.name}; GRANT CREATE ON SCHEMA public TO {roles.board.name}")
    await roles.owner.execute(f"CREATE TABLE leaderboard_cache ({columns})")
    theirs = await admin.fetchval("SELECT 'leaderboard_cache'::regclass::oid")
    outcome = await run(roles.board.dsn)
    assert outcome.said == []
    problem = outcome.problems[0]
    assert "public.leaderboard_cache is not ours" in problem
    assert (await run(roles.board.dsn, undo=True)).said == NOTHING
    assert await admin.fetchval("SELECT 'leaderboard_cache'::regclass::oid") == theirs
    await admin.execute(problem[problem.index("CREATE SCHEMA") :])
    assert (await run(roles.board.dsn)).said == [CACHE]
    assert await admin.fetchval("SELECT 'leaderboard_cache'::regclass::oid") == theirs


class TestTheIndex:
    async def test_left_half_made_by_a_run_that_was_killed_is_made_again(self, admin, platform: str):
        async with _transaction(platform, "INSERT INTO teams VALUES (1, 'x', NULL)") as holder:
            await holder.execute("LOCK TABLE submissions IN ROW EXCLUSIVE MODE")
            running = asyncio.create_task(run(platform))
            await until(lambda: _waiting(admin, "CREATE INDEX"), "the index waits for the transaction")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%'"
            )
            assert len((await running).problems) == 1
        assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1
        assert await done(platform) == [f"{INDEX}, in place of one that did not serve"]
        assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
        assert await done(platform) == NOTHING

    async def test_of_our_name_that_is_for_something_else_is_replaced(self, admin, platform: str):
        await admin.execute("CREATE INDEX scoreboardd_submissions_correct ON submissions (user_id)")
        assert f"{INDEX}, in place of one that did not serve" in await done(platform)
        assert await done(platform) == NOTHING

    async def test_may_take_longer_than_a_statement(self, admin, platform: str):
        async with _transaction(platform, "LOCK TABLE submissions IN ROW EXCLUSIVE MODE"):
            running = asyncio.create_task(done(platform, postgres__statement_timeout="0.5"))
            await until(lambda: _waiting(admin, "CREATE INDEX", for_ms=800), "it waits longer than its timeout")
        assert INDEX in await running

    async def test_waits_for_others_only_so_long(self, platform: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(perform, "_APART", "SET lock_timeout = '50ms';")
        async with _transaction(platform, "LOCK TABLE submissions IN ROW EXCLUSIVE MODE"):
            outcome = await run(platform)
        assert outcome.said == [CACHE]
        assert "a long transaction of the platform" in outcome.problems[0]
        assert await done(platform) == [f"{INDEX}, in place of one that did not serve"]


class TestThePlatformIsNotHeldUp:
    async def test_a_long_transaction_in_the_way_is_a_problem(
        self, admin, platform: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(perform, "PATIENCE", 1.0)
        before = await dump(platform)
        async with _transaction(platform, "INSERT INTO teams VALUES (1, 'x', NULL)"):
            running = asyncio.create_task(run(platform, triggers=True))
            await until(lambda: _waiting(admin, "BEGIN"), "it waits for a lock")
            while not running.done():
                # Behind a lock that is waited for, this would wait too. It is what the platform does all day.
                await admin.execute("SET lock_timeout = '900ms'; UPDATE teams SET name = name")
            outcome = await running
            assert outcome.said == [INDEX]
            assert "a long transaction of the platform" in outcome.problems[0]
            assert "run `scoreboardd migrate` again" in outcome.problems[0]
        await done(platform, undo=True)
        await admin.execute("DELETE FROM teams")
        assert await dump(platform) == before
        assert (await done(platform, triggers=True))[0] == CACHE

    async def test_one_that_ends_in_time_is_waited_for(self, admin, platform: str):
        async with _transaction(platform, "INSERT INTO teams VALUES (1, 'x', NULL)"):
            running = asyncio.create_task(done(platform, triggers=True))
            await until(lambda: _waiting(admin, "BEGIN"), "it waits for a lock")
        assert CACHE in await running


async def test_two_at_once_make_everything_once(platform: str):
    both = await asyncio.gather(done(platform, triggers=True), done(platform, triggers=True))
    assert min(both, key=len) == NOTHING


async def test_one_that_finds_another_at_work_says_so(admin, platform: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(perform, "PATIENCE", 0.1)
    await admin.fetchval("SELECT pg_advisory_lock($1)", perform.ONE_AT_A_TIME)
    outcome = await run(platform)
    assert outcome.said == []
    assert "another `scoreboardd migrate` is at work" in outcome.problems[0]


class TestTheTriggers:
    async def test_follow_the_columns(self, admin, database: str):
        await admin.execute(SCHEMA_SQL(divisions=False))
        await done(database, triggers=True)
        await admin.execute("CREATE TABLE divisions (id bigint, name text); ALTER TABLE teams ADD division_id bigint")
        assert await done(database, triggers=True) == [
            "replaced function scoreboardd_announce_teams",
            "created function scoreboardd_announce_divisions",
            "created triggers on divisions: insert, update, delete, truncate",
        ]

    async def test_that_are_switched_off_are_made_anew(self, admin, platform: str):
        await done(platform, triggers=True)
        await admin.execute("ALTER TABLE users DISABLE TRIGGER scoreboardd_announce_update")
        assert await done(platform, triggers=True) == ["created triggers on users: update"]
        assert await done(platform, triggers=True) == NOTHING

    async def test_cannot_be_where_a_column_is_missing_or_a_view_is(self, admin, platform: str):
        await admin.execute("""
            ALTER TABLE challenges DROP COLUMN minimum_points;
            ALTER TABLE divisions RENAME TO leagues;
            CREATE VIEW divisions AS SELECT * FROM leagues;
        """)
        outcome = await run(platform, triggers=True)
        assert len(outcome.said) == 2 + 3 * 2
        missing, view = outcome.problems
        assert "challenges.minimum_points is missing" in missing
        assert "divisions is not a table" in view


async def test_an_empty_database_gets_the_table_and_a_word_on_the_rest(database: str):
    outcome = await run(database)
    assert outcome.said == [CACHE]
    assert len(outcome.problems) == 1
    assert "table submissions is missing" in outcome.problems[0]
    outcome = await run(database, triggers=True)
    assert len(outcome.problems) == 5


async def test_a_server_that_takes_no_writes_is_named(admin, platform: str, database: str):
    await admin.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET default_transaction_read_only = on")
    outcome = await run(platform)
    assert outcome.said == []
    assert len(outcome.problems) == 2, "of the table, of the index"
    assert all("point postgres.dsn at the primary" in problem for problem in outcome.problems)


async def test_a_database_that_cannot_be_reached_is_the_one_problem():
    outcome = await run(f"postgresql://ada:s3cret@127.0.0.1:{free_port()}/ctf", triggers=True)
    assert len(outcome.problems) == 1
    assert "s3cret" not in outcome.problems[0]


class TestTheCommand:
    async def test_says_a_line_for_each_step_and_ends_with_0(self, platform: str):
        assert await _command(platform) == (0, f"{CACHE}\n{INDEX}\n", "")
        assert await _command(platform) == (0, "nothing to do\n", "")

    async def test_ends_with_1_if_something_cannot_be_had(self, database: str):
        code, said, problems = await _command(database)
        assert (code, said) == (1, f"{CACHE}\n")
        assert len(problems.splitlines()) == 1

    async def test_ends_with_2_on_a_mistake(self, platform: str):
        code, said, problems = await _command(platform, "--triggers", prefix="x" * 50)
        assert (code, said) == (2, "")
        assert "redis.key_prefix: too long for a channel of PostgreSQL; shorten it to 46 characters" in problems
        assert (await _command(platform, "--triggers", "--undo"))[0] == 2

    async def test_says_who_does_not_hear_the_triggers(self, platform: str):
        code, said, problems = await _command(platform, "--triggers", "--dry-run", prefix="x" * 46)
        assert code == 0
        assert problems == 'warning: nodes hear these triggers only with coordination.backend="postgres"\n'
        await psql(platform, said)
        assert await _command(platform, "--triggers", prefix="x" * 46) == (0, "nothing to do\n", problems)


async def _command(dsn: str, *args: str, prefix: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoreboardd", "migrate", *args),
        env=os.environ
        | {
            "SCOREBOARDD_CONFIG": os.devnull,
            "SCOREBOARDD_POSTGRES__DSN": dsn,
            "SCOREBOARDD_REDIS__KEY_PREFIX": prefix,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def _transaction(dsn: str, statement: str) -> AsyncIterator[Any]:
    """One of the platform's, open as long as the block, and then committed."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield connection
    finally:
        connection.terminate()


async def _waiting(admin: Any, query: str, for_ms: int = 0) -> int:
    waiting: int = await admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, $1) "
        "AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > make_interval(secs => $2)",
        query,
        for_ms / 1000,
    )
    return waiting
