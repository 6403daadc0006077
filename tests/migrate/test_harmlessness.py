"""What the triggers never do: fail a statement of the platform's, whatever became of its tables, roles and server."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from scoreboardd.demo.servers import Postgres
from tests.migrate.conftest import CHANNEL, SCHEMA, Listener, Roles, announcing, done, listening


@pytest.fixture
async def platform(database: str) -> str:
    await announcing(database)
    return database


@pytest.fixture
async def listener(platform: str) -> AsyncIterator[Listener]:
    async with listening(platform) as listener:
        yield listener


async def test_under_any_key_prefix(admin, platform: str, listener: Listener):
    prefix = "a'b\"$scoreboardd$\\%s{}:"
    await done(platform, undo=True)
    await done(platform, triggers=True, redis__key_prefix=prefix)
    async with listening(platform, prefix + CHANNEL) as elsewhere:
        for strings in ("on", "off"):
            await admin.execute(f"SET standard_conforming_strings = {strings}; UPDATE teams SET name = name || 'x'")
            assert await elsewhere.reasons() == ["scoreboard_updated"]
    assert await listener.reasons() == []


async def test_as_a_role_that_may_not_call_the_functions(admin, roles: Roles):
    await done(roles.owner.dsn, triggers=True)
    await admin.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    async with listening(roles.board.dsn) as listener:
        await roles.writer.execute("""
            INSERT INTO teams VALUES (1, 'engines');
            UPDATE teams SET name = 'looms';
            DELETE FROM teams;
        """)
        assert sorted(await listener.reasons()) == ["scoreboard_updated", "team_created"]
        await roles.writer.execute("TRUNCATE submissions")
        assert await listener.reasons() == ["scoreboard_updated"]


async def test_when_a_column_has_gone(admin, listener: Listener):
    await admin.execute("ALTER TABLE users DROP COLUMN team_id")
    await listener.events()
    await admin.execute("UPDATE users SET username = 'x'")
    assert await listener.reasons() == ["scoreboard_updated"], "what cannot be compared counts as changed"


async def test_when_a_column_cannot_be_compared(admin, listener: Listener):
    await admin.execute("ALTER TABLE challenges ALTER COLUMN title TYPE json USING to_json(title)")
    await listener.events()
    await admin.execute("UPDATE challenges SET title = '{}'")
    assert await listener.reasons() == ["scoreboard_updated"]


async def test_when_nobody_may_notify(admin, database: str, roles: Roles):
    await done(database, triggers=True)
    await admin.execute("INSERT INTO teams VALUES (1, 'engines'); REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC")
    await roles.writer.execute("UPDATE teams SET name = 'looms'")
    assert await admin.fetchval("SELECT name FROM teams") == "looms"


async def test_when_a_stuck_listener_has_let_the_queue_fill_up(tmp_path: Path):
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
