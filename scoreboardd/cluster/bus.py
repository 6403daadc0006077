"""The subscription to the bus: keeps one open, and passes its messages on in order."""

import asyncio
import random
from collections.abc import Callable

import structlog

from scoreboardd.backends.base import ClusterBackend, Message, Subscribed, Unavailable
from scoreboardd.cluster.health import Health
from scoreboardd.system.backoff import Backoff
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

RECONNECT = Backoff(0.2, 5.0)

log = structlog.stdlib.get_logger("scoreboardd.cluster")


class Bus:
    """`receive` gets every message; `lost` is called when the subscription ends."""

    def __init__(
        self,
        backend: ClusterBackend,
        receive: Callable[[Message], None],
        lost: Callable[[], None],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self.connected = False
        self._backend = backend
        self._receive = receive
        self._lost = lost
        self._health = health
        self._metrics = metrics
        self._subscriptions = 0
        self._throttle = LogThrottle()

    async def run(self) -> None:
        """Listen until cancelled, and subscribe again whenever the subscription is lost."""
        failures = 0
        while True:
            try:
                async with self._backend.subscribe() as messages:
                    async for message in messages:
                        failures = 0
                        if isinstance(message, Subscribed) and not self.connected:
                            self._subscribed()
                        self._receive(message)
            except Unavailable as error:
                self._report_loss(error)
            failures += 1
            await asyncio.sleep(RECONNECT.delay(failures, random.random()))

    def _subscribed(self) -> None:
        log.info("connected to the bus")
        if self._subscriptions:
            self._metrics.bus_reconnects.inc()
        self._subscriptions += 1
        self.connected = True
        self._health.bus = None
        self._metrics.bus_connected.set(1)

    def _report_loss(self, error: Unavailable) -> None:
        if self.connected:
            log.warning("lost the bus, reconnecting", error=str(error))
        elif self._throttle("bus"):
            log.warning("cannot reach the bus, retrying", error=str(error))
        self._health.bus = str(error)
        self.connected = False
        self._metrics.bus_connected.set(0)
        self._lost()
