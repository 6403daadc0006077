"""What a platform's tables say by their triggers: of every change to what the board reads, and of nothing else."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoreboardd.config import load
from scoreboardd.migrate import migrate
from tests.migrate.conftest import CONTEST, TABLES, Listener, announcing, execute, listening

QUERIES = [
    (files("scoreboardd.platforms") / "smctf" / f"{name}.sql").read_text()
    for name in ("challenges", "divisions", "solves", "teams", "users")
]

#: What those read, before they group it.
READ = [
    "SELECT id, user_id, challenge_id, is_first_blood, submitted_at FROM submissions WHERE correct",
    "SELECT id, username, role, team_id FROM users WHERE role NOT IN ('blocked', 'admin')",
    "SELECT id, name, division_id FROM teams",
    "SELECT id, title, category, points, minimum_points, is_active FROM challenges",
    "SELECT id, name FROM divisions",
]


@pytest.fixture(scope="module")
def shared(postgres_dsn: str) -> Iterator[str]:
    """The DSN of a platform that announces; no test changes more of it than its rows."""
    name = f"announcing_{secrets.token_hex(8)}"
    dsn = urlsplit(postgres_dsn)._replace(path=f"/{name}").geturl()

    async def prepare() -> None:
        await execute(postgres_dsn, f"CREATE DATABASE {name}")
        await announcing(dsn)

    asyncio.run(prepare())
    yield dsn
    asyncio.run(execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def admin(shared: str) -> AsyncIterator[Any]:
    """A connection of a superuser, when the contest is as it was."""
    connection = await asyncpg.connect(shared, timeout=10, command_timeout=30)
    await connection.execute(f"TRUNCATE {', '.join(TABLES)}; {CONTEST}")
    yield connection
    connection.terminate()


@pytest.fixture
async def listener(shared: str, admin: Any) -> AsyncIterator[Listener]:
    async with listening(shared) as listener:
        yield listener


# --- histories ----------------------------------------------------------------------------------------------

USER, TEAM, CHALLENGE, SUBMISSION = (st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 6))
BOOLEAN = st.sampled_from(["true", "false"])
TIME = st.integers(0, 2).map(lambda minute: f"'2026-02-27 18:0{minute}Z'")


def statement(text: str, **values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return st.fixed_dictionaries(values).map(lambda drawn: text.format(**drawn))


STATEMENTS = st.one_of(
    statement(
        "INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) "
        "SELECT u.id, c.id, {correct}, {at} FROM users u, challenges c WHERE u.id = {user} AND c.id = {challenge}",
        user=USER,
        challenge=CHALLENGE,
        correct=BOOLEAN,
        at=TIME,
    ),
    statement("UPDATE submissions SET correct = {to} WHERE id = {id}", to=BOOLEAN, id=SUBMISSION),
    statement("UPDATE submissions SET submitted_at = {to} WHERE id = {id}", to=TIME, id=SUBMISSION),
    statement("UPDATE submissions SET is_first_blood = {to}", to=BOOLEAN),
    statement("DELETE FROM submissions WHERE id = {id}", id=SUBMISSION),
    statement("INSERT INTO users (username, role) VALUES ('new', {role})", role=st.sampled_from(["'user'", "'admin'"])),
    statement(
        "UPDATE users SET role = '{role}' WHERE id = {id}", role=st.sampled_from(["user", "blocked", "admin"]), id=USER
    ),
    statement("UPDATE users SET username = '{name}' WHERE id = {id}", name=st.sampled_from(["ada", "eve"]), id=USER),
    statement("UPDATE users SET password = 'secret' WHERE id = {id}", id=USER),
    statement("UPDATE users SET team_id = {team} WHERE id = {id}", team=TEAM, id=USER),
    statement("DELETE FROM users WHERE id = {id}", id=USER),
    st.just("INSERT INTO teams (name) VALUES ('engines'), ('engines')"),
    statement("UPDATE teams SET name = '{name}' WHERE id = {id}", name=st.sampled_from(["engines", "looms"]), id=TEAM),
    statement("UPDATE teams SET motto = 'to win' WHERE id = {id}", id=TEAM),
    statement("UPDATE teams SET division_id = {to} WHERE id = {id}", to=st.sampled_from(["1", "NULL"]), id=TEAM),
    statement("UPDATE challenges SET points = {to}", to=st.sampled_from([100, 500])),
    statement("UPDATE challenges SET is_active = {to} WHERE id = {id}", to=BOOLEAN, id=CHALLENGE),
    statement("DELETE FROM challenges WHERE id = {id}", id=CHALLENGE),
    st.just("UPDATE divisions SET name = lower(name)"),
    statement(
        "INSERT INTO challenges VALUES ({id}, 'sums', 'misc', 500, 100) "
        "ON CONFLICT (id) DO UPDATE SET points = excluded.points",
        id=CHALLENGE,
    ),
)

#: Transactions: their statements, each with whether a savepoint takes it back, and whether it commits.
HISTORIES = st.lists(
    st.tuples(
        st.lists(st.tuples(STATEMENTS, st.booleans()), min_size=1, max_size=4), st.sampled_from([True, True, False])
    ),
    min_size=1,
    max_size=6,
)


async def _rows(connection: Any, queries: list[str]) -> list[list[Any]]:
    return [sorted(await connection.fetch(query), key=repr) for query in queries]


@given(history=HISTORIES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_transaction_speaks_if_and_only_if_it_changed_what_the_board_reads(admin, listener, history):
    await admin.execute(f"TRUNCATE {', '.join(TABLES)}")
    await admin.execute(CONTEST)
    await listener.events()
    for statements, commits in history:
        served = await _rows(admin, QUERIES)
        touched = False
        transaction = admin.transaction()
        await transaction.start()
        for text, taken_back in statements:
            before = await _rows(admin, READ)
            savepoint = admin.transaction()
            await savepoint.start()
            await admin.execute(text)
            if taken_back:
                await savepoint.rollback()
            else:
                touched |= await _rows(admin, READ) != before
                await savepoint.commit()
        await (transaction.commit() if commits else transaction.rollback())
        said = await listener.reasons()
        if await _rows(admin, QUERIES) != served:
            assert said, "no lost change"
        assert bool(said) == (touched and commits)
        assert len(said) == len(set(said)), "one notification for each reason"


# --- by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "reasons"),
    [
        ("INSERT INTO submissions (user_id, challenge_id, correct) VALUES (1, 2, true)", ["submission_correct"]),
        ("INSERT INTO submissions (user_id, challenge_id, correct) VALUES (1, 2, false)", []),
        ("UPDATE submissions SET correct = true WHERE id = 2", ["scoreboard_updated"]),
        ("UPDATE submissions SET correct = false", ["scoreboard_updated"]),
        ("UPDATE submissions SET submitted_at = now() WHERE id = 2", []),
        ("DELETE FROM submissions WHERE id = 1", ["scoreboard_updated"]),
        ("DELETE FROM submissions WHERE id = 2", []),
        ("TRUNCATE submissions", ["scoreboard_updated"]),
        ("INSERT INTO users (username) VALUES ('new')", ["user_registered"]),
        ("INSERT INTO users (username, role) VALUES ('new', 'admin')", []),
        ("UPDATE users SET username = 'x' WHERE id = 1", ["user_profile_update"]),
        ("UPDATE users SET username = 'x' WHERE id = 3", []),
        ("UPDATE users SET password = 'x'", []),
        ("UPDATE users SET role = 'blocked' WHERE id = 1", ["user_blocked"]),
        ("UPDATE users SET role = 'user' WHERE id = 3", ["user_unblocked"]),
        ("UPDATE users SET role = 'admin' WHERE id = 1", ["user_profile_update"]),
        ("UPDATE users SET team_id = 2 WHERE id = 1", ["user_team_moved"]),
        ("DELETE FROM users WHERE id = 1", ["scoreboard_updated"]),  # its submissions with it
        ("INSERT INTO teams (name) VALUES ('new')", ["team_created"]),
        ("UPDATE teams SET division_id = 2", ["scoreboard_updated"]),
        ("UPDATE teams SET name = name, motto = 'x'", []),
        ("INSERT INTO challenges VALUES (3, 'c', 'd', 1, 1)", ["challenge_created"]),
        ("INSERT INTO challenges VALUES (1, 'c', 'd', 1, 1) ON CONFLICT DO NOTHING", []),
        ("UPDATE challenges SET points = 1", ["challenge_updated"]),
        ("UPDATE challenges SET is_active = false WHERE id = 2", ["challenge_updated"]),
        ("DELETE FROM challenges WHERE id = 2", ["challenge_deleted"]),
        ("INSERT INTO divisions VALUES (3, 'x')", ["scoreboard_updated"]),
        (f"TRUNCATE {', '.join(TABLES)}", ["scoreboard_updated"]),
        (
            "MERGE INTO teams USING (VALUES (1, 'x'), (9, 'y')) AS new (id, name) ON teams.id = new.id "
            "WHEN MATCHED THEN UPDATE SET name = new.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (9, 'y')",
            ["scoreboard_updated", "team_created"],
        ),
    ],
)
async def test_the_reason_is_what_was_done(admin, listener: Listener, statement: str, reasons: list[str]):
    await admin.execute(statement)
    assert sorted(await listener.reasons()) == reasons


async def test_a_bulk_insert_says_one_thing(admin, listener: Listener):
    await admin.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct) SELECT 1, 1, true FROM generate_series(1, 5000)"
    )
    assert await listener.reasons() == ["submission_correct"]
    await admin.copy_records_to_table(
        "submissions", records=[(1, 2, True)] * 5000, columns=["user_id", "challenge_id", "correct"]
    )
    assert await listener.reasons() == ["submission_correct"]


async def test_a_transaction_of_many_statements_says_each_reason_once(admin, listener: Listener):
    async with admin.transaction():
        for n in range(100):
            async with admin.transaction():
                await admin.execute("INSERT INTO submissions (user_id, challenge_id, correct) VALUES (1, 1, true)")
                await admin.execute("UPDATE challenges SET points = $1", n)
        assert await listener.reasons() == [], "nothing before it has committed"
    assert await listener.reasons() == ["submission_correct", "challenge_updated"]


async def test_what_is_said_is_an_event_of_the_time_the_transaction_began(admin, listener: Listener):
    async with admin.transaction():
        began = await admin.fetchval("SELECT now()")
        await admin.execute("SET LOCAL timezone = 'Asia/Kathmandu'; SET LOCAL datestyle = 'SQL, DMY'")
        await admin.execute("UPDATE teams SET name = 'x'")
    (event,) = await listener.events()
    assert event.scope == "all"
    assert event.ts.endswith("Z")
    assert datetime.fromisoformat(event.ts) == began.replace(microsecond=began.microsecond // 1000 * 1000).astimezone(
        UTC
    )


# --- columns of other types ---------------------------------------------------------------------------------


@pytest.fixture
async def retyped(postgres_dsn: str) -> AsyncIterator[tuple[str, Any]]:
    """A platform whose columns have other types, which announces: its DSN, and a connection of a superuser."""
    name = f"retyped_{secrets.token_hex(8)}"
    dsn = urlsplit(postgres_dsn)._replace(path=f"/{name}").geturl()
    await execute(postgres_dsn, f"CREATE DATABASE {name}")
    admin = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        await admin.execute((files("scoreboardd.demo") / "schema.sql").read_text())
        await admin.execute("""
            CREATE TYPE role AS ENUM ('user', 'admin', 'blocked', 'judge');
            ALTER TABLE users ALTER role DROP DEFAULT, ALTER role TYPE role USING role::role;
            DROP INDEX scoreboardd_submissions_correct;
            ALTER TABLE submissions ALTER correct TYPE smallint USING correct::int;
            ALTER TABLE challenges ALTER points TYPE double precision;
            INSERT INTO users (id, username, role) VALUES (1, 'ada', 'user');
            INSERT INTO challenges VALUES (1, 'sums', 'misc', 500, 100);
        """)
        settings = load(None, {"SCOREBOARDD_POSTGRES__DSN": dsn, "SCOREBOARDD_CONFIG": os.devnull})
        assert await migrate(settings, triggers=True, undo=False, dry_run=False, report=lambda line: None) == []
        yield dsn, admin
    finally:
        admin.terminate()
        await execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


async def test_columns_of_other_types_announce_the_same(retyped: tuple[str, Any]):
    dsn, admin = retyped
    async with listening(dsn) as listener:
        for statement, reasons in [
            ("INSERT INTO submissions (user_id, challenge_id, correct) VALUES (1, 1, 0)", []),
            ("INSERT INTO submissions (user_id, challenge_id, correct) VALUES (1, 1, 1)", ["submission_correct"]),
            ("UPDATE users SET role = 'judge'", ["user_profile_update"]),
            ("UPDATE users SET role = 'blocked'", ["user_blocked"]),
            ("UPDATE users SET role = 'user'", ["user_unblocked"]),
            ("UPDATE challenges SET points = points", []),
            ("UPDATE challenges SET points = 'NaN'", ["challenge_updated"]),
        ]:
            await admin.execute(statement)
            assert await listener.reasons() == reasons, statement
