"""sse-starlette on uvicorn, uvloop and httptools: `python sse_starlette_app.py PORT`."""

import asyncio
import sys
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

queues: set[asyncio.Queue[str]] = set()


async def events() -> AsyncIterator[ServerSentEvent]:
    queue: asyncio.Queue[str] = asyncio.Queue(16)
    queues.add(queue)
    try:
        yield ServerSentEvent("{}", event="ready")
        while True:
            yield ServerSentEvent(await queue.get(), event="scoreboard", id="7f3a-42")
    finally:
        queues.discard(queue)


async def stream(_: Request) -> Response:
    return EventSourceResponse(events(), sep="\n")


async def publish(request: Request) -> Response:
    body = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(body)
    return Response()


app = Starlette(routes=[Route("/stream", stream), Route("/publish", publish, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", backlog=4096, log_level="error")
