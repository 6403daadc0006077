"""The shell of `scoreboard.js` under Node, before a server that says what a test wants said: deltas, gaps, resets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from scoreboardd.board import delta
from scoreboardd.board.delta import Step
from scoreboardd.board.view import Entry, Listed, Solve, View, render
from scoreboardd.edition import Version
from tests.parts import require

FOLLOW = Path(__file__).with_name("follow.js")
DEADLINE = 20.0
PATHS = {"/api/leaderboard": 0, "/api/leaderboard/teams": 1}


def board(solves: int) -> View:
    """Team 1 and its user have the first so many challenges."""
    held = {id: Solve(f"2026-02-27T18:00:0{id}Z", False) for id in range(1, solves + 1)}
    challenges = {id: Listed(f"challenge {id}", "misc", 500 - 10 * (id <= solves)) for id in range(1, 9)}
    names = {1: "one", 2: "two"}
    owners = {id: Entry(name, held if id == 1 else {}) for id, name in names.items()}
    return View(challenges, owners, owners)


class Server:
    """Serves `view` as `version`, and says on its streams what it is told to say."""

    def __init__(self) -> None:
        self.version, self.view = Version("7f3a", 1), board(1)
        self.asked: list[str] = []
        "The documents that were sent, not merely confirmed."
        self.joined: list[str | None] = []
        "The Last-Event-ID of each stream."
        self.answering = asyncio.Event()
        self.answering.set()
        self._streams: list[web.StreamResponse] = []
        self._end = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        for path in PATHS:
            app.router.add_get(path, self._document)
        app.router.add_get("/api/scoreboard/stream", self._stream)
        return app

    async def _document(self, request: web.Request) -> web.Response:
        version, body = self.version, render(self.view)[PATHS[request.path]]
        headers = {"ETag": f'W/"{version}"', "X-Scoreboard-Version": str(version), "X-Scoreboard-Cache": "memory"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        if request.method == "GET":
            self.asked.append(request.path)
            await self.answering.wait()
        return web.Response(body=body, headers=headers, content_type="application/json")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        assert request.query["deltas"] == "1"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"retry: 100\n\nid: {self.version}\nevent: ready\ndata: {{}}\n\n".encode())
        self.joined.append(request.headers.get("Last-Event-ID"))
        self._streams.append(response)
        await self._end.wait()
        return response

    async def hang_up(self) -> None:
        self._streams.clear()
        self._end.set()
        self._end = asyncio.Event()

    async def say(self, event: str, version: Version, data: bytes) -> None:
        for stream in self._streams:
            await stream.write(b"id: %s\nevent: %s\ndata: %s\n\n" % (str(version).encode(), event.encode(), data))

    async def step(self, view: View, *, to: int) -> Step:
        """Serve `view` from now on, and tell everyone of the delta that leads to it."""
        step = Step(self.version.number, to, delta.diff(self.view, view))
        self.version, self.view = Version("7f3a", to), view
        await self.say("delta", self.version, step.data())
        return step


class Follower:
    """What the process says, line by line."""

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

    async def holds(self, server: Server, **wanted: Any) -> None:
        """Both boards become what the server has."""
        bodies = dict(zip(("users", "teams"), render(server.view), strict=True))
        while bodies:
            said = await self.until(say="board", version=str(server.version), **wanted)
            assert said["document"] == bodies.pop(said["kind"]).decode()

    async def verify(self) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write(b"verify\n")
        return bool((await self.until(say="verified"))["same"])


@asynccontextmanager
async def following(server: Server) -> AsyncIterator[Follower]:
    """A follower that holds what the server has, and is live."""
    node = require("node")
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    process = await asyncio.create_subprocess_exec(
        *(str(node), str(FOLLOW), f"http://{host}:{port}/"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        follower = Follower(process)
        await follower.until(say="state", status="live", since=None)
        yield follower
    finally:
        process.kill()
        await process.wait()
        await server.hang_up()
        await runner.cleanup()


@pytest.fixture
def server() -> Server:
    return Server()


async def test_deltas_are_followed_without_another_fetch(server: Server):
    async with following(server) as follower:
        for version, solves in ((2, 2), (3, 5), (9, 4)):
            await server.step(board(solves), to=version)
            await follower.holds(server, reason="delta")
        assert sorted(server.asked) == sorted(PATHS)
        assert await follower.verify()


async def test_what_is_known_is_ignored(server: Server):
    async with following(server) as follower:
        step = await server.step(board(2), to=2)
        await follower.holds(server)
        await server.say("delta", server.version, step.data())
        await server.step(board(3), to=3)
        await follower.holds(server)
        assert sorted(server.asked) == sorted(PATHS)


@pytest.mark.parametrize("event", ["scoreboard", "delta", "reset"])
async def test_what_cannot_be_applied_is_fetched(server: Server, event: str):
    async with following(server) as follower:
        server.version, server.view = Version("7f3a", 7), board(6)
        data = {"from": 6, "version": 7, "spread": 0.1}
        await server.say(event, server.version, json.dumps(data).encode())
        await follower.holds(server, reason="refetch")
        assert sorted(server.asked) == sorted([*PATHS, *PATHS])


async def test_a_new_epoch_replaces_what_is_held_however_small_its_number(server: Server):
    async with following(server) as follower:
        await server.step(board(2), to=100)
        await follower.holds(server)
        server.version, server.view = Version("b", 1), board(0)
        await server.say("scoreboard", server.version, b"{}")
        await follower.holds(server)


async def test_deltas_that_come_during_a_fetch_are_applied_to_what_it_brings(server: Server):
    async with following(server) as follower:
        server.answering.clear()
        server.version, server.view = Version("7f3a", 7), board(1)
        await server.say("scoreboard", server.version, b"{}")
        while len(server.asked) < 4:  # noqa: ASYNC110  it is another process
            await asyncio.sleep(0.01)
        await server.step(board(2), to=8)
        await server.step(board(3), to=9)
        server.answering.set()
        await follower.holds(server)
        assert len(server.asked) == 4


async def test_a_stream_that_ends_is_resumed_where_it_was(server: Server):
    async with following(server) as follower:
        await server.step(board(2), to=2)
        await follower.holds(server)
        await server.hang_up()
        await follower.until(say="state", status="reconnecting")
        await follower.until(say="state", status="live")
        assert server.joined == [None, "7f3a-2"]
        await server.step(board(3), to=3)
        await follower.holds(server)
        assert sorted(server.asked) == sorted(PATHS)


async def test_what_was_missed_and_never_told_is_found_out(server: Server):
    """As for a tab that follows another, whose stream missed less."""
    async with following(server) as follower:
        await server.hang_up()
        server.version, server.view = Version("7f3a", 5), board(4)
        await follower.holds(server, reason="refetch")


async def test_verify_tells_and_mends(server: Server):
    async with following(server) as follower:
        server.view = board(7)  # the same version, and another board: what must never be
        assert not await follower.verify()
        assert await follower.verify()
