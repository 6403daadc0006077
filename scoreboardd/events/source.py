"""Passes the events of a platform from one place on to the bus of this node."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from scoreboardd.backends.base import Unavailable
from scoreboardd.cluster import wire
from scoreboardd.cluster.health import Health
from scoreboardd.model import ChangeEvent
from scoreboardd.system.backoff import Backoff
from scoreboardd.telemetry.metrics import Metrics

CHECK_SECONDS = 10.0
"How often to ask whether a connection on which nothing was received is alive."
RECONNECT = Backoff(0.5, 10.0)

Payloads = AsyncIterator[bytes]

log = structlog.stdlib.get_logger("scoreboardd.events")


class EventSource(Protocol):
    """A place where a platform publishes."""

    name: str
    "As in `Health.events` and in the metric."

    def receive(self) -> AbstractAsyncContextManager[Payloads]:
        """Connect, and yield each payload as it is received. Raises `Unavailable` when the connection is lost, or when
        a payload may be."""


async def pass_on(
    source: EventSource,
    publish: Callable[[ChangeEvent], Awaitable[None]],
    interrupted: Callable[[], Awaitable[None]],
    *,
    health: Health,
    metrics: Metrics,
) -> None:
    """Publish each event of `source` until cancelled. After each connection `interrupted` is called: events may have
    been lost before. Both may raise `Unavailable`; then the source is connected to again."""
    name, failures, is_loss_logged = source.name, 0, False
    connected = metrics.event_source_connected.labels(name)
    health.events[name] = "not connected yet"
    connected.set(0)
    while True:
        try:
            async with source.receive() as payloads:
                await interrupted()
                log.info("receiving the platform's events", source=name)
                health.events[name], is_loss_logged = None, False
                connected.set(1)
                async for payload in payloads:
                    failures = 0
                    await publish(wire.changed(payload).event)
        except Unavailable as error:
            if not is_loss_logged:  # once: /readyz and the metric show it as long as it lasts
                is_loss_logged = True
                log.warning("cannot receive the platform's events, retrying", source=name, error=str(error))
            health.events[name] = str(error)
            connected.set(0)
        failures += 1
        await asyncio.sleep(RECONNECT.delay(failures, random.random()))
