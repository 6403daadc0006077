"""Events that a platform publishes in Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from scoreboardd.backends.base import MESSAGES_PER_TURN, Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis.connection import COMMAND_TIMEOUT_SECONDS, deadline
from scoreboardd.cluster import wire
from scoreboardd.events.source import CHECK_SECONDS, Payloads


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
            # Not its own: on Python 3.11 it may swallow a cancellation (asyncio.wait_for). `deadline` keeps the time.
            socket_timeout=None,
            socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            lib_name=None,
            lib_version=None,
        )
        async with client, client.pubsub() as pubsub:
            async with deadline():
                await pubsub.subscribe(self._channel)
            yield self._payloads(pubsub)

    async def _payloads(self, pubsub: Any) -> Payloads:
        is_subscribed = is_asked = False
        received = 0
        while True:
            async with deadline(CHECK_SECONDS + COMMAND_TIMEOUT_SECONDS):
                message = await pubsub.get_message(timeout=CHECK_SECONDS)
            if message is None:
                if is_asked or not is_subscribed:
                    raise Unavailable("redis: the subscription does not answer; see that it runs, and redis.url")
                async with deadline():
                    await pubsub.ping()
                is_asked = True
                continue
            is_asked = False
            received += 1
            if received % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # so that a flood does not hold up the loop
            if message["type"] == "subscribe":
                # The client reconnects silently; a second confirmation is the only sign that events may be lost.
                if is_subscribed:
                    raise Unavailable("redis: the subscription was interrupted; reconnecting")
                is_subscribed = True
            elif message["type"] == "message":
                yield message["data"]
