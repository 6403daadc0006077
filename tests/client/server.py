"""A server that says what a test wants said: deltas, gaps, resets, nothing, or nonsense."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from scoreboardd.board.delta import VersionedDelta, diff
from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, Solve
from scoreboardd.model import Version
from scoreboardd.render import text as document_text

USERS, TEAMS = "/api/leaderboard", "/api/leaderboard/teams"
STREAM = "/api/scoreboard/stream"
EPOCH = "7f3a"

Answer = Callable[[], web.Response]


def view(solves: int) -> Leaderboards:
    """Team 1 and its user have the first so many challenges."""
    held = {id: Solve(f"2026-02-27T18:00:0{id}Z", False) for id in range(1, solves + 1)}
    challenges = {id: Challenge(f"challenge {id}", "misc", 500 - 10 * (id <= solves)) for id in range(1, 9)}
    owners = {id: Entry(name, held if id == 1 else {}) for id, name in {1: "one", 2: "two"}.items()}
    return Leaderboards(challenges, owners, owners)


class Server:
    """Serves `view` as `version`, and says on its streams what it is told to say."""

    def __init__(self, prefix: str = "") -> None:
        self.version, self.view = Version(EPOCH, 1), view(1)
        self.sent: list[str] = []
        "The paths of documents that were sent, not merely confirmed."
        self.queries: set[str] = set()
        "What stood behind the paths asked for."
        self.joined: list[str | None] = []
        "The Last-Event-ID of each stream that was asked for."
        self.authorizations: list[str | None] = []
        "The Authorization of each request."
        self.instead: defaultdict[str, deque[Answer]] = defaultdict(deque)
        "By path: what to answer first, before the truth."
        self.answering = asyncio.Event()
        "Clear it, and documents wait."
        self.answering.set()
        self.asking = asyncio.Condition()
        "Notified whenever something is asked for."
        self.app = web.Application()
        for path, handler in ((USERS, self._document), (TEAMS, self._document), (STREAM, self._stream)):
            self.app.router.add_get(prefix + path, handler)
        self._prefix = prefix
        self._streams: list[web.StreamResponse] = []
        self._end = asyncio.Event()

    async def _asked(self, request: web.Request) -> str:
        self.queries.add(request.query_string)
        self.authorizations.append(request.headers.get("Authorization"))
        async with self.asking:
            self.asking.notify_all()
        return request.path.removeprefix(self._prefix)

    async def _document(self, request: web.Request) -> web.Response:
        path = await self._asked(request)
        if request.method == "GET" and self.instead[path]:
            return self.instead[path].popleft()()
        tag = f'W/"{self.version}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        answer = document(path, self.version, self.view)
        if request.method == "GET":
            self.sent.append(path)
            await self.answering.wait()
        return answer

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.joined.append(request.headers.get("Last-Event-ID"))
        path = await self._asked(request)
        if self.instead[path]:
            return self.instead[path].popleft()()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"retry: 100\n\nid: {self.version}\nevent: ready\ndata: {{}}\n\n".encode())
        self._streams.append(response)
        await self._end.wait()
        return response

    async def hang_up(self) -> None:
        self._streams.clear()
        self._end.set()
        self._end = asyncio.Event()

    async def say(self, event: str, version: Version, data: bytes = b"{}") -> None:
        for stream in self._streams:
            await stream.write(b"id: %s\nevent: %s\ndata: %s\n\n" % (str(version).encode(), event.encode(), data))

    async def step(self, to: int, view: Leaderboards) -> None:
        """Serve `view` from now on, and tell everyone of the delta that leads to it."""
        step = VersionedDelta(self.version.number, to, diff(self.view, view))
        self.version, self.view = Version(EPOCH, to), view
        await self.say("delta", self.version, step.data())

    async def until_asked(self, condition: Callable[[], object]) -> None:
        """Until this is true of what was asked for."""
        async with self.asking:
            await self.asking.wait_for(condition)


def document(path: str, version: Version, view: Leaderboards) -> web.Response:
    headers = {"ETag": f'W/"{version}"', "X-Scoreboard-Version": str(version)}
    body = document_text.leaderboards(view)[path == TEAMS]
    return web.Response(body=body, headers=headers, content_type="application/json")


@asynccontextmanager
async def serving(server: Server, port: int = 0) -> AsyncIterator[str]:
    """The address of `server`."""
    runner = web.AppRunner(server.app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await server.hang_up()
        await runner.cleanup()
