"""A server that says what a test wants said (deltas, gaps, resets, nothing at all), and who follows it under Node."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.leaderboards import Leaderboards
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from scoreboardd.web.frontend import Frontend
from tests.client.server import view as board
from tests.external_tools import require

FOLLOW = Path(__file__).with_name("follow.js")
DEADLINE = 20.0
PATHS = {"/api/leaderboard": 0, "/api/leaderboard/teams": 1}
LONG = 3600
"Seconds that whoever is refused is told to stay away."


class Server:
    """Serves `view` as `version`, and the page; says on its streams what it is told to say."""

    def __init__(self) -> None:
        self.version, self.view = Version("7f3a", 1), board(1)
        self.asked: list[str] = []
        "The documents that were sent, not merely confirmed."
        self.joined: list[str | None] = []
        "The Last-Event-ID of each stream."
        self.refused: list[str] = []
        "Who was, while it was `refusing`: some of the paths."
        self.refusing: set[str] = set()
        self.answering = asyncio.Event()
        self.answering.set()
        self.greeting = True
        "A stream begins with `ready`."
        self.queries: list[str] = []
        "Of the documents asked for."
        self.divisions: list[dict[str, Any]] = []
        self._steps: list[VersionedDelta] = []
        self.streams: list[web.StreamResponse] = []
        self._end = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        for path in PATHS:
            app.router.add_get(path, self._document)
        app.router.add_get(STREAM, self._stream)
        app.router.add_get("/api/scoreboard", self._about)
        Frontend("Scripted CTF").add_to(app)
        return app

    async def _document(self, request: web.Request) -> web.Response:
        self.queries.append(request.query_string)
        version, body = self.version, document_text.leaderboards(self.view)[PATHS[request.path]]
        headers = {"ETag": f'W/"{version}"', "X-Scoreboard-Version": str(version), "X-Scoreboard-Cache": "memory"}
        if request.path in self.refusing:
            return self._refuse(request)
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        if request.method == "GET":
            self.asked.append(request.path)
            await self.answering.wait()
        return web.Response(body=body, headers=headers, content_type="application/json")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        assert request.query["deltas"] == "1"
        if STREAM in self.refusing:
            return self._refuse(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        last = request.headers.get("Last-Event-ID")
        self.joined.append(last)
        if self.greeting:
            await response.write(b"retry: 100\n\n" + _event("ready", self.version, b"{}"))
            for step in self._steps:
                if last is not None and last == f"7f3a-{step.since}":
                    await response.write(_event("delta", Version("7f3a", step.number), step.data()))
                    last = f"7f3a-{step.number}"
        self.streams.append(response)
        await self._end.wait()
        return response

    async def _about(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "Scripted CTF", "version": str(self.version), "divisions": self.divisions})

    def _refuse(self, request: web.Request) -> web.Response:
        self.refused.append(request.path)
        return web.Response(status=503, headers={"Retry-After": str(LONG)})

    async def hang_up(self) -> None:
        self.streams.clear()
        self._end.set()
        self._end = asyncio.Event()

    def forget(self) -> None:
        """Whoever is connected now hears nothing more, and not that it is over."""
        self.streams.clear()

    async def say(self, event: str, version: Version, data: bytes) -> None:
        for stream in self.streams:
            await stream.write(_event(event, version, data))

    async def step(self, view: Leaderboards, *, to: int) -> VersionedDelta:
        """Serve `view` from now on, and tell everyone of the delta that leads to it."""
        step = VersionedDelta(self.version.number, to, delta.diff(self.view, view))
        self.version, self.view = Version("7f3a", to), view
        self._steps.append(step)
        await self.say("delta", self.version, step.data())
        return step


STREAM = "/api/scoreboard/stream"


def _event(event: str, version: Version, data: bytes) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(version).encode(), event.encode(), data)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    """Its address, without a slash at the end."""
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await server.hang_up()
        await runner.cleanup()


class Follower:
    """What the tabs say, line by line. The first is there from the beginning."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """The next line of which this is true."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            async for line in self._process.stdout:
                said: dict[str, Any] = json.loads(line)
                if wanted.items() <= said.items():
                    return said
        raise AssertionError(f"it ended without {wanted}")

    async def holds(self, server: Server, *, tab: int = 0, **wanted: Any) -> None:
        """Both boards of the tab become what the server has."""
        bodies = dict(zip(("users", "teams"), document_text.leaderboards(server.view), strict=True))
        while bodies:
            said = await self.until(say="board", tab=tab, version=str(server.version), **wanted)
            assert said["document"] == bodies.pop(said["kind"]).decode()

    def do(self, command: str, value: int = 0) -> None:
        """As in follow.js."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {value}\n".encode())

    async def verify(self) -> bool:
        self.do("verify")
        return bool((await self.until(say="verified"))["same"])


@asynccontextmanager
async def following(server: Server) -> AsyncIterator[Follower]:
    """A follower that holds what the server has, and is live."""
    node = require("node")
    async with serving(server) as url:
        process = await asyncio.create_subprocess_exec(
            *(str(node), str(FOLLOW), f"{url}/"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            follower = Follower(process)
            await follower.until(say="state", status="live", since=None)
            yield follower
        finally:
            process.kill()
            await process.wait()
