"""aiohttp-sse: `python aiohttp_sse_app.py PORT`. A POST to /publish sends its body to every stream.

The cheapest way the library allows: no queue and no task a delivery, at the price that one client could hold up all.
"""

import asyncio
import sys

import uvloop
from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

streams: set[EventSourceResponse] = set()


async def stream(request: web.Request) -> web.StreamResponse:
    async with sse_response(request) as response:
        await response.send("{}", event="ready")
        streams.add(response)
        try:
            await response.wait()
        finally:
            streams.discard(response)
    return response


async def publish(request: web.Request) -> web.Response:
    body = await request.text()
    for response in list(streams):
        await response.send(body, event="scoreboard", id="7f3a-42")
    return web.Response()


async def main() -> None:
    app = web.Application()
    app.router.add_get("/stream", stream)
    app.router.add_post("/publish", publish)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]), backlog=4096).start()
    await asyncio.Event().wait()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    loop.run(main())
