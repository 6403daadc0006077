"""Events that the triggers of a platform's tables notify."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scoreboardd.backends.base import MESSAGES_PER_TURN, Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.connection import COMMAND_TIMEOUT_SECONDS, Session, channel, deadline
from scoreboardd.cluster import wire
from scoreboardd.events.source import CHECK_SECONDS, Payloads
from scoreboardd.postgres.connection import connect

MAX_QUEUED_NOTIFICATIONS = 10_000
"With more notifications than this waiting, the connection is given up, and made anew."


class PostgresEvents:
    """What the triggers of `scoreboardd migrate --triggers` notify in the database at `dsn`."""

    name = "postgres"

    def __init__(self, dsn: str, *, prefix: str) -> None:
        self._dsn = dsn
        self._channel = channel(Names(prefix), wire.EVENTS)

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[Payloads]:
        async with deadline(self._dsn):
            connection: Session = await connect(self._dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        try:
            received: asyncio.Queue[bytes | None] = asyncio.Queue()
            connection.add_termination_listener(lambda _: received.put_nowait(None))
            async with deadline(self._dsn):
                await connection.add_listener(self._channel, lambda *said: received.put_nowait(said[3].encode()))
            yield self._payloads(connection, received)
        finally:
            connection.terminate()

    async def _payloads(self, connection: Session, received: "asyncio.Queue[bytes | None]") -> Payloads:
        count = 0
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    payload = await received.get()
            except TimeoutError:
                async with deadline(self._dsn):
                    await connection.execute("SELECT 1")
                continue
            if payload is None:
                raise Unavailable("postgres: the connection for events was closed; reconnecting")
            if received.qsize() > MAX_QUEUED_NOTIFICATIONS:
                raise Unavailable("postgres: more notifications than can be handled; reconnecting")
            count += 1
            if count % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # so that a flood does not hold up the loop
            yield payload
