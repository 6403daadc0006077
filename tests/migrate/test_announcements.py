"""What a platform's tables say by their triggers: of every change to what the board reads, and of nothing else."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoreboardd.demo.servers import Postgres
from scoreboardd.edition import Event
from tests.migrate.conftest import TABLES, Roles, done

CHANNEL = "scoreboard_events"
SCHEMA = (files("scoreboardd.demo") / "schema.sql").read_text()
QUERIES = [
    (files("scoreboardd.source") / "smctf" / f"{name}.sql").read_text()
    for name in ("challenges", "divisions", "solves", "teams", "users")
]

#: What those read, before they group it.
READ = [
    "SELECT id, user_id, challenge_id, is_first_blood, submitted_at FROM submissions WHERE correct",
    "SELECT id, username, role, team_id FROM users WHERE role NOT IN ('blocked', 'admin')",
    "SELECT id, name, division_id FROM teams",
    "SELECT id, title, category, points, minimum_points FROM challenges",
    "SELECT id, name FROM divisions",
]

CONTEST = """
    INSERT INTO divisions VALUES (1, 'open'), (2, 'closed');
    INSERT INTO teams VALUES (1, 'engines', 1), (2, 'looms', NULL);
    INSERT INTO users VALUES (1, 'ada', 'user', 1), (2, 'bob', 'user', 2), (3, 'eve', 'blocked', 2);
    INSERT INTO challenges VALUES (1, 'sums', 'misc', 500, 100), (2, 'logs', 'misc', 100, 100);
    INSERT INTO submissions VALUES
        (1, 1, 1, true, true, '2026-02-27 18:00Z'), (2, 2, 1, false, false, '2026-02-27 18:01Z');
    ALTER TABLE submissions ALTER id RESTART WITH 3;
    ALTER TABLE users ALTER id RESTART WITH 4;
    ALTER TABLE teams ALTER id RESTART WITH 3;
"""


class Listener:
    """Who hears what is said in a database."""

    def __init__(self, connection: Any, channel: str = CHANNEL) -> None:
        self._connection = connection
        self._channel = channel
        self._heard: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        await self._connection.add_listener(self._channel, lambda *said: self._heard.put_nowait(said[3]))

    async def events(self) -> list[Event]:
        """All that was said by transactions that have committed, since the last time."""
        end = secrets.token_hex(4)
        await self._connection.execute("SELECT pg_notify($1, $2)", self._channel, end)
        said = []
        async with asyncio.timeout(10):
            while (payload := await self._heard.get()) != end:
                said.append(Event(**json.loads(payload)))
        return said

    async def reasons(self) -> list[str]:
        return [event.reason for event in await self.events()]


@pytest.fixture
async def platform(admin: Any, database: str) -> str:
    await admin.execute(SCHEMA)
    await admin.execute("ALTER TABLE users ADD password text; ALTER TABLE teams ADD motto text")
    await done(database, triggers=True)
    await admin.execute(CONTEST)
    return database


@pytest.fixture
async def listener(platform: str) -> AsyncIterator[Listener]:
    connection = await asyncpg.connect(platform, timeout=10, command_timeout=30)
    listener = Listener(connection)
    await listener.start()
    yield listener
    connection.terminate()


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


async def test_any_key_prefix_names_a_channel(admin, platform: str, listener: Listener):
    prefix = "a'b\"$scoreboardd$\\%s{}:"
    await done(platform, undo=True)
    await done(platform, triggers=True, redis__key_prefix=prefix)
    connection = await asyncpg.connect(platform, timeout=10, command_timeout=30)
    try:
        elsewhere = Listener(connection, prefix + CHANNEL)
        await elsewhere.start()
        for strings in ("on", "off"):
            await admin.execute(f"SET standard_conforming_strings = {strings}; UPDATE teams SET name = name || 'x'")
            assert await elsewhere.reasons() == ["scoreboard_updated"]
        assert await listener.reasons() == []
    finally:
        connection.terminate()


class TestThePlatformsStatementNeverFails:
    async def test_as_a_role_that_may_not_call_the_functions(self, admin, database: str, roles: Roles):
        await done(roles.owner.dsn, triggers=True)
        await admin.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
        connection = await asyncpg.connect(roles.board.dsn, timeout=10, command_timeout=30)
        listener = Listener(connection)
        await listener.start()
        await roles.writer.execute("""
            INSERT INTO teams VALUES (1, 'engines');
            UPDATE teams SET name = 'looms';
            DELETE FROM teams;
        """)
        assert sorted(await listener.reasons()) == ["scoreboard_updated", "team_created"]
        await roles.writer.execute("TRUNCATE submissions")
        assert await listener.reasons() == ["scoreboard_updated"]
        connection.terminate()

    async def test_when_a_column_has_gone(self, admin, listener: Listener):
        await admin.execute("ALTER TABLE users DROP COLUMN team_id")
        await listener.events()
        await admin.execute("UPDATE users SET username = 'x'")
        assert await listener.reasons() == ["scoreboard_updated"], "what cannot be compared counts as changed"

    async def test_when_a_column_cannot_be_compared(self, admin, listener: Listener):
        await admin.execute("ALTER TABLE challenges ALTER COLUMN title TYPE json USING to_json(title)")
        await listener.events()
        await admin.execute("UPDATE challenges SET title = '{}'")
        assert await listener.reasons() == ["scoreboard_updated"]

    async def test_when_nobody_may_notify(self, admin, database: str, roles: Roles):
        await done(database, triggers=True)
        await admin.execute("INSERT INTO teams VALUES (1, 'engines'); REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC")
        await roles.writer.execute("UPDATE teams SET name = 'looms'")
        assert await admin.fetchval("SELECT name FROM teams") == "looms"

    async def test_when_a_stuck_listener_has_let_the_queue_fill_up(self, tmp_path: Path):
        with Postgres(tmp_path, {"max_notify_queue_pages": "64"}) as server:
            admin, stuck = [await asyncpg.connect(server.dsn(), timeout=10, command_timeout=30) for _ in range(2)]
            await admin.execute(SCHEMA)
            await done(server.dsn(), triggers=True)
            await stuck.execute("LISTEN anything")
            await stuck.execute("BEGIN; SELECT 1")
            with suppress(asyncpg.PostgresError):  # the queue is full
                while True:
                    await admin.execute("SELECT pg_notify('x', repeat('x', 7000) || n) FROM generate_series(1, 8) n")
            with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
                await admin.execute("SELECT pg_notify('x', repeat('x', 7000) || n) FROM generate_series(1, 8) n")
            await admin.execute("INSERT INTO teams (name) VALUES ('engines')")
            stuck.terminate()
            admin.terminate()
