"""A listener that takes no more connections than there are descriptors for.

When it is full the connections end first that are of least use: the oldest that has sent nothing, then those that are
idle between two requests. If there are none the newcomer is refused.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import structlog
from aiohttp import web

from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

OVERFLOW = 8
"Newcomers that are let in while idle connections end."

log = structlog.stdlib.get_logger("scoreboardd.web")


class ConnectionLimit:
    """Makes protocols with `make`, as long as there is room. `http` has the connections that aiohttp serves, and
    `others()` is how many more there are; `end_silent()` ends one that has sent nothing, if there is any."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        http: web.Server,
        metrics: Metrics,
        *,
        max_connections: int,
        others: Callable[[], int] = lambda: 0,
        end_silent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._make = make
        self._http = http
        self._metrics = metrics
        self._max_connections = max_connections
        self._others = others
        self._end_silent = end_silent
        self._seldom = LogThrottle()

    def __call__(self) -> asyncio.Protocol:
        others = self._others()
        if others + len(self._http.connections) < self._max_connections:
            return self._make()
        self._metrics.descriptors_exhausted.inc()
        if self._seldom("full"):
            log.warning(
                "no room for more connections, closing idle ones; raise LimitNOFILE, or lower sse.max_clients",
                connections=self._max_connections,
            )
        if self._end_silent():
            return self._make()
        for connection in self._http.connections:
            if not connection._request_in_progress:  # noqa: SLF001  aiohttp has no public name for it
                connection.force_close()
        if others + len(self._http.connections) < self._max_connections + OVERFLOW:
            return self._make()
        return _Refused()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
