"""What `scoreboardd migrate` makes, leaves alone, removes, and says when it cannot."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from scoreboardd.backends.postgres.table import cache_problem
from scoreboardd.cli import main
from scoreboardd.demo.servers import free_port
from scoreboardd.migrate import perform
from tests.builder.platform import CONTEST
from tests.contests import SCHEMA_SQL, insert
from tests.migrate.conftest import TABLES, Outcome, Roles, done, dump, psql, quoted, run
from tests.nodes import until
from tests.platforms import test_check

CACHE = "created table leaderboard_cache"
INDEX = "created index scoreboardd_submissions_correct on submissions"
NOTHING = ["nothing to do"]
DDL = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()


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
    """A role that reads the platform's tables and has a schema: what is to be on the tables is left to their owner."""

    async def test_what_is_the_owner_s_is_left_to_it_in_one_line(self, admin, roles: Roles):
        outcome = await run(roles.board.dsn, triggers=True)
        assert outcome.said == [CACHE]
        assert await admin.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{roles.board.name}.leaderboard_cache")
        (problem,) = outcome.problems
        assert all(f"public.{table}" in problem for table in TABLES)
        assert f"let the owner, {roles.owner.name}, run" in problem
        assert problem.endswith("scoreboardd migrate --triggers --dry-run | psql")
        assert await run(roles.board.dsn, triggers=True) == Outcome([], [problem]), "nothing was made halfway"
        script = await done(roles.board.dsn, triggers=True, dry_run=True)
        assert "leaderboard_cache" not in str(script), "that is there"
        await psql(roles.owner.dsn, "\n".join(script))
        assert await done(roles.board.dsn, triggers=True) == NOTHING
        assert await done(roles.owner.dsn, triggers=True, dry_run=True) != NOTHING, "its own table"
        assert await test_check.problems(roles.board.dsn) == []

    async def test_whoever_runs_the_sql_everything_is_the_right_one_s(self, admin, database: str, roles: Roles):
        script = await done(roles.board.dsn, triggers=True, dry_run=True)
        # Of an administrator's session, which finds other tables first.
        decoys = "".join(f"CREATE TABLE decoys.{table} (id int);" for table in TABLES)
        await admin.execute(f"CREATE SCHEMA decoys; {decoys}")
        await psql(database, "\n".join(["SET search_path = decoys;", *script]))
        assert await done(roles.board.dsn, triggers=True) == NOTHING
        owners = await admin.fetch("""
            SELECT DISTINCT proowner::regrole::text, pronamespace::regnamespace::text FROM pg_proc
            WHERE proname LIKE 'scoreboardd_%'
        """)
        assert [tuple(row) for row in owners] == [(roles.owner.name, "public")]
        owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = $1::text::regclass"
        assert await admin.fetchval(owner, f"{roles.board.name}.leaderboard_cache") == roles.board.name
        assert (
            await admin.fetchval("SELECT count(*) FROM pg_trigger WHERE tgrelid::regclass::text LIKE 'decoys.%'") == 0
        )

    async def test_the_owner_does_it_itself(self, admin, roles: Roles):
        assert len(await done(roles.owner.dsn, triggers=True)) == 12
        assert await done(roles.board.dsn, triggers=True) == [CACHE]

    async def test_undo_too(self, database: str, roles: Roles):
        before = await dump(database)
        await psql(database, "\n".join(await done(roles.board.dsn, triggers=True, dry_run=True)))
        outcome = await run(roles.board.dsn, undo=True)
        assert outcome.said == ["dropped table leaderboard_cache"]
        (problem,) = outcome.problems
        assert problem.endswith("scoreboardd migrate --undo --dry-run | psql")
        await psql(roles.owner.dsn, "\n".join(await done(roles.board.dsn, undo=True, dry_run=True)))
        assert await done(roles.board.dsn, undo=True) == NOTHING
        assert await dump(database) == before

    async def test_a_function_that_another_role_could_replace_is_taken_from_it(
        self, admin, database: str, roles: Roles
    ):
        """Its body would run as whoever writes to the table."""
        await done(roles.owner.dsn, triggers=True)
        await admin.execute(f"ALTER FUNCTION scoreboardd_announce_users OWNER TO {roles.board.name}")
        outcome = await run(roles.owner.dsn, triggers=True)
        assert outcome.said == []
        assert "must be owner of function scoreboardd_announce_users" in outcome.problems[0]
        script = await done(roles.owner.dsn, triggers=True, dry_run=True)
        await psql(database, "\n".join(script))
        assert await done(roles.owner.dsn, triggers=True) == NOTHING
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await roles.board.execute("DROP FUNCTION public.scoreboardd_announce_users()")

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
        assert "leaderboard_cache may not be written" in outcome.problems[0]
        assert await _cache_problem(roles.board.dsn) == outcome.problems[0]
        await admin.execute(quoted(outcome.problems[0]))
        assert "may not be written" not in str(await run(roles.board.dsn))
        assert await _cache_problem(roles.board.dsn) is None
        assert f"{roles.board.name}.leaderboard_cache" in (await run(roles.board.dsn, undo=True)).problems[0]


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
    assert await _cache_problem(roles.board.dsn) == problem
    assert (await run(roles.board.dsn, undo=True)).said == NOTHING
    assert await admin.fetchval("SELECT 'leaderboard_cache'::regclass::oid") == theirs
    await admin.execute(problem[problem.index("CREATE SCHEMA") :])
    assert (
        await _cache_problem(roles.board.dsn)
        == "postgres: table leaderboard_cache is missing; run `scoreboardd migrate`"
    )
    assert (await run(roles.board.dsn)).said == [CACHE]
    assert await _cache_problem(roles.board.dsn) is None
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
        assert await done(platform) == [f"{INDEX}, replacing an unusable one"]
        assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
        assert await done(platform) == NOTHING

    async def test_of_an_older_release_is_replaced(self, admin, platform: str):
        await done(platform)
        await admin.execute("""
            DROP INDEX scoreboardd_submissions_correct;
            CREATE INDEX scoreboardd_submissions_correct ON submissions (user_id);
            COMMENT ON INDEX scoreboardd_submissions_correct IS 'scoreboardd: as it was';
        """)
        assert await done(platform) == [f"{INDEX}, replacing an unusable one"]
        assert await done(platform) == NOTHING

    @pytest.mark.parametrize("serves", [True, False])
    async def test_of_our_name_that_the_platform_made_is_let_be(self, admin, platform: str, serves: bool):
        columns = "user_id, challenge_id" if serves else "submitted_at"
        await admin.execute(f"CREATE INDEX scoreboardd_submissions_correct ON submissions ({columns})")
        before = await dump(platform)
        outcome = await run(platform)
        assert outcome.said == [CACHE]
        assert len(outcome.problems) == (0 if serves else 1)
        for problem in outcome.problems:
            assert "index public.scoreboardd_submissions_correct is not ours" in problem
        await done(platform, undo=True)
        assert await dump(platform) == before

    async def test_on_a_partitioned_table_is_made_by_hand(self, admin, platform: str):
        await admin.execute("""
            DROP TABLE submissions;
            CREATE TABLE submissions (id bigint, user_id bigint, challenge_id bigint, correct boolean,
                is_first_blood boolean, submitted_at timestamptz) PARTITION BY RANGE (id);
            CREATE TABLE first PARTITION OF submissions FOR VALUES FROM (0) TO (1000);
        """)
        outcome = await run(platform, triggers=True)
        assert len(outcome.said) == 11, "and it announces"
        assert outcome.problems == await test_check.problems(platform)
        (problem,) = outcome.problems
        assert "public.submissions is partitioned" in problem
        assert (await run(platform, dry_run=True)).said == [], "nothing that would hold up the platform"
        by_hand = problem[problem.index("CREATE INDEX") :]
        await admin.execute(by_hand)
        assert await done(platform, triggers=True) == NOTHING
        assert await test_check.problems(platform) == []
        await done(platform, undo=True)
        with pytest.raises(asyncpg.DuplicateTableError):
            await admin.execute(by_hand)

    async def test_may_take_longer_than_a_statement(self, admin, platform: str):
        async with _transaction(platform, "LOCK TABLE submissions IN ROW EXCLUSIVE MODE"):
            running = asyncio.create_task(done(platform, postgres__statement_timeout="0.5"))
            await until(lambda: _waiting(admin, "CREATE INDEX", for_ms=800), "it waits longer than its timeout")
        assert INDEX in await running

    async def test_waits_for_others_only_so_long(self, platform: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(perform, "_STANDALONE_SETTINGS", "SET lock_timeout = '50ms';")
        async with _transaction(platform, "LOCK TABLE submissions IN ROW EXCLUSIVE MODE"):
            outcome = await run(platform)
        assert outcome.said == [CACHE]
        assert "a long transaction of the platform" in outcome.problems[0]
        assert await done(platform) == [f"{INDEX}, replacing an unusable one"]


class TestThePlatformIsNotHeldUp:
    async def test_a_long_transaction_in_the_way_is_a_problem(
        self, admin, platform: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(perform, "RETRY_SECONDS", 1.0)
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
    monkeypatch.setattr(perform, "RETRY_SECONDS", 0.1)
    await admin.fetchval("SELECT pg_advisory_lock($1)", perform.ADVISORY_LOCK_KEY)
    outcome = await run(platform)
    assert outcome.said == []
    assert "another `scoreboardd migrate` is running" in outcome.problems[0]


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

    async def test_cannot_be_where_a_column_is_missing(self, admin, platform: str):
        await admin.execute("ALTER TABLE challenges DROP COLUMN minimum_points")
        outcome = await run(platform, triggers=True)
        assert len(outcome.said) == 2 + 4 * 2
        assert "challenges.minimum_points is missing" in outcome.problems[0]

    async def test_cannot_be_on_a_view_nor_can_an_index(self, admin, platform: str):
        await admin.execute("""
            ALTER TABLE submissions RENAME TO attempts;
            CREATE VIEW submissions AS SELECT * FROM attempts;
        """)
        note = "submissions is a view: an index can only be on the tables behind it"
        assert await done(platform) == [note, CACHE]
        assert await test_check.problems(platform) == []
        outcome = await run(platform, triggers=True)
        assert len(outcome.said) == 1 + 4 * 2
        assert "submissions is not a table and can have no triggers" in outcome.problems[0]
        assert await done(platform, dry_run=True) == [f"-- {note}", "-- nothing to do"]

    async def test_of_another_cluster_stay_its_own(self, platform: str):
        await done(platform, triggers=True, redis__key_prefix="a'$\\:")
        made = await dump(platform)
        for options in ({"triggers": True}, {"undo": True}):
            outcome = await run(platform, redis__key_prefix="b:", dry_run=True, **options)
            (problem,) = outcome.problems
            assert repr("a'$\\:scoreboard_events") in problem
            assert "'b:scoreboard_events'" in problem
            assert "announce" not in str(outcome.said)
        assert (await run(platform, redis__key_prefix="b:", triggers=True)).said == []
        assert await dump(platform) == made
        await done(platform, undo=True, redis__key_prefix="a'$\\:")
        assert len(await done(platform, triggers=True, redis__key_prefix="b:")) == 12

    async def test_are_undone_wherever_their_functions_are(self, admin, platform: str):
        before = await dump(platform)
        await done(platform, triggers=True)
        await admin.execute("CREATE SCHEMA elsewhere; ALTER FUNCTION scoreboardd_announce_users SET SCHEMA elsewhere")
        await done(platform, undo=True)
        await admin.execute("DROP SCHEMA elsewhere")
        assert await dump(platform) == before


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
        assert problems == 'warning: with coordination.backend = "redis" nodes do not receive what triggers announce\n'
        await psql(platform, said)
        assert await _command(platform, "--triggers", prefix="x" * 46) == (0, "nothing to do\n", problems)


async def _cache_problem(dsn: str) -> str | None:
    """What `scoreboardd check` says of the table."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        return await cache_problem(connection)
    finally:
        connection.terminate()


async def _command(dsn: str, *args: str, prefix: str = "") -> tuple[int, str, str]:
    environ = {
        "SCOREBOARDD_CONFIG": os.devnull,
        "SCOREBOARDD_POSTGRES__DSN": dsn,
        "SCOREBOARDD_REDIS__KEY_PREFIX": prefix,
    }
    # In a thread of its own, as it runs an event loop of its own.
    result = await asyncio.to_thread(CliRunner().invoke, main, ["migrate", *args], env=environ)
    return result.exit_code, result.stdout, result.stderr


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
