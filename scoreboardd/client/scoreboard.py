"""The shell: fetches the documents, follows the stream, and hands over the newest board."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from scoreboardd import __version__
from scoreboardd.client.backoff import backoff
from scoreboardd.client.board import Board
from scoreboardd.client.documents import LeaderboardFetcher
from scoreboardd.client.events import StreamEvent
from scoreboardd.client.http import ClientError, RequestFailed, shown
from scoreboardd.client.stream import Stream
from scoreboardd.client.sync_state import SyncState

CHECK = 120.0
"About so many seconds between two checks of the served version: the stream may never be available."

log = logging.getLogger("scoreboardd.client")


@dataclass(frozen=True, slots=True)
class Outage:
    """Why the board may be old, in one line for a person, and since when."""

    since: datetime
    problem: str


class Scoreboard:
    """The scoreboard at `url`, where its page is, of everyone or of one division; to be entered with `async with`.

    Iterating gives the present board, then each later one; a slow consumer gets only the newest. Any number may
    iterate. It raises `ClientError` if the server says at the beginning that the request is wrong (a 4xx, or no
    scoreboardd at all); anything else is an outage, and tried again for ever.
    """

    def __init__(self, url: str, *, division_id: int | None = None) -> None:
        try:
            self._url = URL(url).with_query(None).with_fragment(None)
        except ValueError as error:
            raise ClientError(f"{url!r} is no URL: {error}") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ClientError(f"{url!r} is no URL: it has to begin with https:// or http:// and a host")
        self._query = {} if division_id is None else {"division_id": str(division_id)}
        self._keeper = SyncState()
        self._task: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        "The state has changed."
        self._news = asyncio.Event()
        "Set when there is another board, or when there will be no more; replaced then."
        self._outages: dict[str, Outage] = {}
        "By what is not available."

    @property
    def board(self) -> Board | None:
        """The newest board; None before the first."""
        return self._keeper.board

    @property
    def outage(self) -> Outage | None:
        """The outage that has lasted longest; None if there is none."""
        return min(self._outages.values(), key=lambda outage: outage.since, default=None)

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a scoreboard is entered once")
        self._task = asyncio.create_task(self._run(), name="scoreboardd.client")
        self._task.add_done_callback(lambda _: self._tell())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if error is None and not self._task.cancelled():
            self._task.result()

    def __aiter__(self) -> AsyncIterator[Board]:
        return _Boards(self._newer)

    async def _newer(self, seen: Board | None) -> Board:
        """The newest board, once it is not the one `seen`."""
        if self._task is None:
            raise RuntimeError("a scoreboard has to be entered first: async with Scoreboard(url) as scoreboard")
        while self.board is None or self.board is seen:
            if self._task.cancelled():
                raise StopAsyncIteration
            if self._task.done():
                self._task.result()
            await self._news.wait()
        return self.board

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _run(self) -> None:
        headers = {"User-Agent": f"scoreboardd-client/{__version__}"}
        # Deadlines are where something is waited for: one for a whole exchange would end the stream.
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as session:
            leaderboards = LeaderboardFetcher(session, self._url, self._query)
            while self.board is None:
                await asyncio.sleep(self._keeper.due - _now())
                await self._fetch(leaderboards)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(leaderboards))
                tasks.create_task(self._follow(Stream(session, self._url, self._query)))

    async def _keep(self, leaderboards: LeaderboardFetcher) -> None:
        check_at = _next_check()
        while True:
            self._told.clear()
            if self._keeper.due <= _now():
                await self._fetch(leaderboards)
            elif check_at <= _now():
                await self._check(leaderboards)
                check_at = _next_check()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(min(self._keeper.due, check_at)):
                        await self._told.wait()

    async def _fetch(self, leaderboards: LeaderboardFetcher) -> None:
        try:
            board = await leaderboards.fetch(self.board.version if self.board is not None else None)
        except RequestFailed as error:
            if self.board is None and error.wrong:
                raise ClientError(f"no scoreboard at {shown(self._url)}: {error}") from error
            self._keeper.failed(_now(), error.retry_after)
            self._out("documents", error)
        else:
            self._keeper.fetched(board, _now())
            self._well("documents")
            self._tell()

    async def _check(self, leaderboards: LeaderboardFetcher) -> None:
        try:
            self._keeper.tell(await leaderboards.served(), _now())
        except RequestFailed as error:
            log.debug("%s", error)  # the answer does not matter: the stream shows the state

    async def _follow(self, stream: Stream) -> None:
        attempt = 0

        def hear(event: StreamEvent) -> None:
            nonlocal attempt
            if event.name == "ready":
                attempt = 0
                self._well("stream")
            self._keeper.hear(event, _now())
            if not self._keeper.behind:
                self._well("documents")  # they are not wanted any more
            self._told.set()
            self._tell()

        while True:
            assert self.board is not None
            try:
                await stream.follow(self.board.version, hear)
            except RequestFailed as error:
                self._out("stream", error)
                await asyncio.sleep(backoff(attempt, max(stream.retry, error.retry_after), random.random()))
                attempt += 1

    def _out(self, what: str, error: RequestFailed) -> None:
        known = self._outages.get(what)
        if known is None:
            log.warning("%s; trying again", error)
        self._outages[what] = Outage(datetime.now(UTC) if known is None else known.since, str(error))

    def _well(self, what: str) -> None:
        outage = self._outages.pop(what, None)
        if outage is not None:
            log.info("the %s is available again, after %s", what, datetime.now(UTC) - outage.since)


class _Boards(AsyncIterator[Board]):
    """Not a generator: a generator ends when a task that waits for it is cancelled, for example by a timeout."""

    def __init__(self, newer: Callable[[Board | None], Awaitable[Board]]) -> None:
        self._newer = newer
        self._seen: Board | None = None

    async def __anext__(self) -> Board:
        self._seen = await self._newer(self._seen)
        return self._seen


def _now() -> float:
    return asyncio.get_running_loop().time()


def _next_check() -> float:
    return _now() + CHECK * random.uniform(0.5, 1.5)
