"""Limits the connections of a listener to the number of file descriptors.

When the limit is reached, it ends the oldest connection that has sent nothing, or else all connections that are idle
between two requests. If there are none, it refuses the new connection.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import structlog
from aiohttp import web

from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

MAX_EXCESS_CONNECTIONS = 8
"Connections above the limit that are accepted while idle connections end."

log = structlog.stdlib.get_logger("scoreboardd.web")


class ConnectionLimit:
    """Creates protocols with `make_protocol` while there are at most `max_connections` connections.

    `http` has the connections that aiohttp serves, and `count_others()` returns the number of all others.
    `end_silent()` ends a connection that has sent nothing, and returns False if there is none.
    """

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        http: web.Server,
        metrics: Metrics,
        *,
        max_connections: int,
        count_others: Callable[[], int] = lambda: 0,
        end_silent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._make_protocol = make_protocol
        self._http = http
        self._metrics = metrics
        self._max_connections = max_connections
        self._count_others = count_others
        self._end_silent = end_silent
        self._may_log = LogThrottle()

    def __call__(self) -> asyncio.Protocol:
        others = self._count_others()
        if others + len(self._http.connections) < self._max_connections:
            return self._make_protocol()
        self._metrics.descriptors_exhausted.inc()
        if self._may_log("full"):
            log.warning(
                "no room for more connections, closing idle ones; raise LimitNOFILE, or lower sse.max_clients",
                connections=self._max_connections,
            )
        if self._end_silent():
            return self._make_protocol()
        for connection in self._http.connections:
            if not connection._request_in_progress:  # noqa: SLF001  aiohttp has no public name for it
                connection.force_close()
        if others + len(self._http.connections) < self._max_connections + MAX_EXCESS_CONNECTIONS:
            return self._make_protocol()
        return _Refused()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
