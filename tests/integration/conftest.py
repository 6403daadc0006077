"""A platform's database, an HTTP session, and what a platform does."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

SCHEMA = (files("scoreboardd.demo") / "schema.sql").read_text()

#: The points of a challenge that one of the five teams has: 500 − (500 − 100) / 5².
SOLVED = 484


class Platform:
    """Writes and publishes as a CTF platform does: first the commit, then the event."""

    def __init__(self, connection: Any, redis: Redis, prefix: str) -> None:
        self.connection = connection
        self._redis = redis
        self._channel = f"{prefix}scoreboard.events"

    async def create(self, teams: int = 5, challenges: int = 5) -> None:
        """Team n has user n; ids from 1."""
        await self.connection.execute(SCHEMA)
        await self.connection.execute(
            "INSERT INTO teams (id, name) SELECT n, 'team ' || n FROM generate_series(1, $1::int) n", teams
        )
        await self.connection.execute(
            "INSERT INTO users (id, username, team_id) SELECT n, 'user ' || n, n FROM generate_series(1, $1::int) n",
            teams,
        )
        await self.connection.execute(
            "INSERT INTO challenges (id, title, category, points, minimum_points) "
            "SELECT n, 'challenge ' || n, 'misc', 500, 100 FROM generate_series(1, $1::int) n",
            challenges,
        )

    async def solve(self, user: int, challenge: int, *, publish: bool = True) -> None:
        await self.connection.execute(
            "INSERT INTO submissions (user_id, challenge_id, correct) VALUES ($1, $2, true)", user, challenge
        )
        if publish:
            await self.publish()

    async def publish(self, reason: str = "submission_correct") -> None:
        event = {"scope": "all", "reason": reason, "ts": datetime.now(UTC).isoformat()}
        await self.say(json.dumps(event).encode())

    async def say(self, payload: bytes) -> None:
        await self._redis.publish(self._channel, payload)


@pytest.fixture
async def platform(database: str, redis_client: Redis, key_prefix: str) -> AsyncIterator[Platform]:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=60)
    try:
        platform = Platform(connection, redis_client, key_prefix)
        await platform.create()
        yield platform
    finally:
        connection.terminate()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest.fixture
def settings(database: str, redis_url: str, key_prefix: str) -> dict[str, Any]:
    """For `tests.nodes.nodes`: the servers of this test."""
    return {"redis__url": redis_url, "redis__key_prefix": key_prefix, "postgres__dsn": database}


async def document(session: aiohttp.ClientSession, url: str, path: str = "/api/leaderboard/teams") -> Any:
    async with session.get(f"{url}{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def score(session: aiohttp.ClientSession, url: str, team: int) -> int:
    entries = (await document(session, url))["entries"]
    return next(entry["score"] for entry in entries if entry["team_id"] == team)


async def version(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/api/leaderboard") as response:
        return response.headers.get("X-Scoreboard-Version", "")
