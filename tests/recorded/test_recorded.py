"""What a client receives is, byte for byte, what was recorded; on every backend, and however documents are stored."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.recorded import recording
from tests.recorded.record import ANOTHER, DOCUMENTS, Publish, create, record

ANEW = "RECORD_ANEW"
"Set in the environment by `python -m tests.recorded`: write the file instead of comparing with it."

STORES = {
    "redis-zstd": {"redis__encoding": "zstd"},
    "postgres": {"coordination__backend": "postgres"},
    "redis": {"redis__encoding": "identity"},
}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=60)
    yield connection
    connection.terminate()


@asynccontextmanager
async def redis_bus(client: Redis, prefix: str) -> AsyncIterator[tuple[Publish, list[bytes]]]:
    """How a platform publishes, and what other programs receive."""
    announced: list[bytes] = []

    async def listen(channel: Any) -> None:
        async for message in channel.listen():
            announced.append(message["data"])  # noqa: PERF401  it is read while it grows

    async def publish(payloads: list[bytes]) -> None:
        async with client.pipeline(transaction=True) as together:
            for payload in payloads:
                together.publish(f"{prefix}scoreboard.events", payload)
            await together.execute()

    async with client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(f"{prefix}scoreboard.rebuilt")
        listening = asyncio.create_task(listen(channel))
        try:
            yield publish, announced
        finally:
            listening.cancel()


@asynccontextmanager
async def postgres_bus(connection: Any, dsn: str, prefix: str) -> AsyncIterator[tuple[Publish, list[bytes]]]:
    """The same, with the table that the daemon needs."""
    environ = os.environ | {"SCOREBOARDD_CONFIG": os.devnull, "SCOREBOARDD_POSTGRES__DSN": dsn}
    command = (sys.executable, "-m", "scoreboardd", "migrate")
    migrate = await asyncio.create_subprocess_exec(*command, env=environ, stdout=asyncio.subprocess.DEVNULL)
    assert await migrate.wait() == 0
    announced: list[bytes] = []

    async def publish(payloads: list[bytes]) -> None:
        notify = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"
        await connection.execute(notify, f"{prefix}scoreboard_events", [payload.decode() for payload in payloads])

    listening = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        await listening.add_listener(f"{prefix}scoreboard_rebuilt", lambda *said: announced.append(said[3].encode()))
        yield publish, announced
    finally:
        listening.terminate()


@pytest.mark.parametrize("store", STORES)
async def test_a_client_receives_what_was_recorded(
    store: str, connection: Any, database: str, redis_url: str, redis_client: Redis, key_prefix: str
) -> None:
    contest = await create(connection)
    settings = {"redis__url": redis_url, "redis__key_prefix": key_prefix, "postgres__dsn": database} | STORES[store]
    bus = postgres_bus(connection, database, key_prefix) if store == "postgres" else redis_bus(redis_client, key_prefix)
    async with bus as (publish, announced):
        received = await record(contest, connection, publish, announced, settings, another=store != "redis")
    if os.environ.get(ANEW) == store:
        recording.write(received)
    recorded = recording.read()
    if store == "redis":  # a third start of two nodes would show nothing new; other programs read this one
        recorded = {title: text for title, text in recorded.items() if not title.startswith(ANOTHER)}
        await other_programs_read_the_same(received, redis_client, key_prefix, contest.divisions)
    difference = recording.difference(recorded, received)
    assert not difference, f"{difference}\n\nIf this is on purpose: python -m tests.recorded"


async def other_programs_read_the_same(
    received: recording.Recording, client: Redis, prefix: str, divisions: list[int]
) -> None:
    """The keys in Redis that the protocol promises have the bytes that were served last."""
    for path in DOCUMENTS:
        kind, _, teams = path.removeprefix("/api/").partition("/")
        for id in (None, *divisions):
            query, suffix = ("", "") if id is None else (f"?division_id={id}", f":div:{id}")
            *_, served = (text for title, text in received.items() if title.endswith(f": GET {path}{query}"))
            value = await client.get(f"{prefix}{kind}:{teams or 'users'}{suffix}")
            assert value is not None and value.decode() == served
