"""Receives the events of a platform from Redis or PostgreSQL, and passes them on."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import asyncpg
import redis.asyncio as aioredis
import structlog
from redis.exceptions import RedisError

from scoreboardd.backends.base import Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.cluster import wire
from scoreboardd.model import ChangeEvent
from scoreboardd.postgres import connection as postgres
from scoreboardd.system.backoff import Backoff
from scoreboardd.telemetry.logs import LogThrottle

ANSWER_TIMEOUT_SECONDS = 5.0
"The longest time until a server answers."
CHECK_SECONDS = 10.0
"How often to ask whether a connection on which nothing was received is alive."
RECONNECT = Backoff(0.5, 10.0)
MAX_QUEUED_NOTIFICATIONS = 10_000
"More are dropped: each of them only says that something has changed."

Payloads = AsyncIterator[bytes]
Publish = Callable[[ChangeEvent], Awaitable[None]]
Request = Callable[[], Awaitable[object]]

log = structlog.stdlib.get_logger("scoreboardd.events")


class EventSource(Protocol):
    """A server on which a platform publishes."""

    name: str

    def receive(self) -> AbstractAsyncContextManager[Payloads]:
        """Connect, and yield each payload as it is received. Raises an error of the driver when that fails."""


class RedisEvents:
    """The channel `scoreboard.events` in the Redis at `url`. Only SUBSCRIBE and PING are sent, which Redis 4 has."""

    name = "redis"

    def __init__(self, url: str, *, prefix: str) -> None:
        self._url = url
        self._channel = Names(prefix).channel(wire.EVENTS)

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[Payloads]:
        client = aioredis.Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=ANSWER_TIMEOUT_SECONDS,
            socket_connect_timeout=ANSWER_TIMEOUT_SECONDS,
            lib_name=None,
            lib_version=None,
        )
        async with client, client.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            yield self._payloads(pubsub)

    async def _payloads(self, pubsub: "aioredis.client.PubSub") -> Payloads:
        unanswered = False
        while True:
            message = await pubsub.get_message(timeout=CHECK_SECONDS)
            if message is None:
                if unanswered:
                    raise TimeoutError("no answer to a ping")
                await pubsub.ping()
                unanswered = True
                continue
            unanswered = False
            if message["type"] == "message":
                yield message["data"]


class PostgresEvents:
    """What the triggers of `scoreboardd migrate --triggers` notify in the database at `dsn`."""

    name = "postgres"

    def __init__(self, dsn: str, *, prefix: str) -> None:
        self._dsn = dsn
        self._channel = Names(prefix).channel(wire.EVENTS.replace(".", "_"))

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[Payloads]:
        connection = await postgres.connect(self._dsn, statement_timeout=ANSWER_TIMEOUT_SECONDS)
        try:
            received: asyncio.Queue[bytes] = asyncio.Queue(MAX_QUEUED_NOTIFICATIONS)

            def put(*notification: str) -> None:
                if not received.full():
                    received.put_nowait(notification[3].encode())

            await connection.add_listener(self._channel, put)
            yield self._payloads(connection, received)
        finally:
            connection.terminate()

    async def _payloads(self, connection: "asyncpg.Connection", received: "asyncio.Queue[bytes]") -> Payloads:
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    payload = await received.get()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=ANSWER_TIMEOUT_SECONDS)
            else:
                yield payload


FAILURES = (*postgres.FAILURES, RedisError, TimeoutError)


async def pass_on(source: EventSource, publish: Publish, request: Request) -> None:
    """Publish each event of `source` until cancelled. After each connection `request` a rebuild: events may be lost."""
    failures = 0
    throttle = LogThrottle()
    while True:
        try:
            async with source.receive() as payloads:
                log.info("receiving the platform's events", source=source.name)
                await request()
                async for payload in payloads:
                    failures = 0
                    await publish(wire.changed(payload).event)
        except FAILURES as error:
            if throttle(source.name):
                text = " ".join(str(error).split()) or type(error).__name__
                fix = "see that it runs, and redis.url or source.dsn"
                log.warning(
                    "cannot receive the platform's events, retrying", source=source.name, error=f"{text}; {fix}"
                )
        except Unavailable as error:
            if throttle("publish"):
                log.warning("cannot pass on an event, retrying", source=source.name, error=str(error))
        failures += 1
        await asyncio.sleep(RECONNECT.delay(failures, random.random()))
