"""A listener that is full."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from structlog.testing import capture_logs

from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.web import connection_limit
from scoreboardd.web.connection_limit import ConnectionLimit
from tests.web.client import Connection
from tests.web.server import becomes

MOST = 3


@asynccontextmanager
async def full(busy: asyncio.Event) -> AsyncIterator[tuple[tuple[str, int], web.Server, Metrics]]:
    """A listener with room for `MOST`. `/slow` answers once `busy` is set."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await busy.wait()
        return web.Response(text="well")

    app, metrics = web.Application(), Metrics()
    app.router.add_get("/{anything:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    bound = socket.create_server(("127.0.0.1", 0))
    assert runner.server is not None
    make = ConnectionLimit(runner.server, runner.server, metrics, max_connections=MOST)
    server = await asyncio.get_running_loop().create_server(make, sock=bound)
    try:
        yield bound.getsockname(), runner.server, metrics
    finally:
        server.close()
        await runner.cleanup()


async def test_idle_connections_end_for_newcomers() -> None:
    async with full(asyncio.Event()) as (address, server, metrics):
        with capture_logs() as logs:
            opened = []
            for _ in range(5 * MOST):
                connection = await Connection.open(address)
                await connection.request("/")
                assert (await connection.answer()).status == 200
                opened.append(connection)
                assert len(server.connections) <= MOST + 1
        assert len(logs) == 1
        assert b"scoreboardd_descriptors_exhausted_total 0.0" not in metrics.exposition()
        for connection in opened:
            connection.close()


async def test_an_answer_under_way_is_not_cut_off_and_newcomers_are_refused() -> None:
    go_on = asyncio.Event()
    async with full(go_on) as (address, server, _):
        waiting = []
        for _ in range(MOST + connection_limit.MAX_EXCESS_CONNECTIONS):
            connection = await Connection.open(address)
            await connection.request("/slow")
            waiting.append(connection)
            await becomes(lambda: len(server.connections) == len(waiting))
            await becomes(lambda: all(handler._request_in_progress for handler in server.connections))
        reader, writer = await asyncio.open_connection(*address)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        go_on.set()
        for connection in waiting:
            assert (await connection.answer()).status == 200
            connection.close()
