"""The emptiest aiohttp handler, served as the daemon serves its own: `python empty_app.py PORT`."""

import asyncio
import sys

import uvloop
from aiohttp import web


async def empty(_: web.Request) -> web.Response:
    return web.Response()


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", empty)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    loop.run(main())
