"""A platform with a small contest, and a way to keep everybody from reading it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests import oracle
from tests.contests import START

CONTEST = oracle.Tables(
    submissions=[oracle.Submission(1, 1, 1, True, True, START)],
    users=[oracle.User(1, "ada", "user", 1), oracle.User(2, "bob", "user", None)],
    teams=[oracle.Team(1, "engines", 1), oracle.Team(2, "looms", 2)],
    challenges=[oracle.Challenge(1, "sums", "misc", 500, 100)],
    divisions=[oracle.Division(1, "open"), oracle.Division(2, "closed")],
)


@asynccontextmanager
async def locked(database: str) -> AsyncIterator[None]:
    """No build gets through while this lasts."""
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE submissions IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        connection.terminate()


async def stuck(connection: Any) -> int:
    """How many builds wait for that lock. `connection` is to the same database, and not in a transaction."""
    waiting: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'scoreboardd' AND wait_event_type = 'Lock'"
    )
    return waiting
