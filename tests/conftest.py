"""Real servers for every test, started once, and a database and a key prefix of its own for each.

`POSTGRES_DSN` and `REDIS_URL`, when set, point the tests at other servers. A test that stops or kills a server
makes one of its own (`scoreboardd.demo.servers`).
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import settings
from redis.asyncio import Redis

from scoreboardd.demo.servers import Postgres, Valkey
from tests.contests import SCHEMA_SQL

settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> str:
    """Of a database to connect to for making others; the tests leave it alone."""
    given = os.environ.get("POSTGRES_DSN")
    return given or request.getfixturevalue("postgres_server").dsn()


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    given = os.environ.get("REDIS_URL")
    return given or request.getfixturevalue("valkey_server").url()


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of a new, empty database that goes after the test, whoever is still connected to it."""
    name = f"test_{secrets.token_hex(8)}"
    server = await asyncpg.connect(postgres_dsn, timeout=10, command_timeout=30)
    try:
        await server.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres_dsn)._replace(path=f"/{name}").geturl()
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await server.close()


@pytest.fixture(scope="session")
def cache_dsn(postgres_dsn: str) -> Iterator[str]:
    """The DSN of a database with the table that `scoreboardd migrate` makes; a test takes a key prefix of its own."""
    name = f"cache_{secrets.token_hex(8)}"
    dsn = urlsplit(postgres_dsn)._replace(path=f"/{name}").geturl()
    asyncio.run(_execute(postgres_dsn, f"CREATE DATABASE {name}"))
    asyncio.run(_execute(dsn, (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()))
    yield dsn
    asyncio.run(_execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def admin(database: str) -> AsyncIterator[Any]:
    """A connection of a superuser to the platform's database."""
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    yield connection
    connection.terminate()


@pytest.fixture
async def platform(admin: Any, database: str) -> str:
    """The DSN of a platform with divisions and no contest yet."""
    await admin.execute(SCHEMA_SQL(divisions=True))
    return database


@pytest.fixture
def key_prefix() -> str:
    return f"t-{secrets.token_hex(4)}:"


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    # With a `socket_timeout` redis-py swallows cancellations (Python 3.11's `wait_for`); pytest-timeout bounds it.
    async with Redis.from_url(redis_url, socket_timeout=None, socket_connect_timeout=10) as client:
        yield client
