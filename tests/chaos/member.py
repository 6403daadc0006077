"""One node of the cluster, and the witness that holds what it shows against the invariants (DESIGN: I2, I4, I5, I6)."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

import aiohttp

from scoreboardd.demo.servers import free_port
from scoreboardd.model import Version
from tests.chaos.history import History, Solve
from tests.chaos.proxy import Proxy
from tests.nodes import Node, notices


class Member:
    """`links` are its proxies, by the server they lead to. `follow` is a client of it, who reads the board whenever it
    is told of one; `read_on` reads it all the while."""

    def __init__(self, history: History, links: Mapping[str, Proxy], environ: dict[str, str]) -> None:
        self.links = links
        self.port, self._admin_port = free_port(), free_port()
        self._environ = environ | {
            "SCOREBOARDD_SERVER__PORT": str(self.port),
            "SCOREBOARDD_ADMIN__PORT": str(self._admin_port),
        }
        self._history = history
        self.board: frozenset[Solve] = frozenset()
        "What it showed when last read."
        self.version: Version | None = None
        self.first: tuple[str, frozenset[Solve]] | None = None
        "The tier that the first answer of this process came from, and the board it showed."
        self._life = 0
        "Grows with every process that is killed."
        self._killed = False

    async def start(self) -> None:
        node = Node(self._environ)
        try:
            await node.start()
        finally:
            self.node, self._killed = node, False

    async def kill(self) -> None:
        self._killed = True
        self._life += 1
        self.first, self.board, self.version = None, frozenset(), None
        await self.node.end(signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def read(self, session: aiohttp.ClientSession, *, at_least: Version | None = None) -> None:
        """Read the board, if the node can be reached, and hold it against what it showed before."""
        node, life = self.node, self._life
        if node.process.returncode is not None and not self._killed:
            self._killed = True
            self._history.violated(f"I6: {self.url} ended by itself: {node.log[-1]['event']}")
        try:
            async with session.get(f"{self.url}/api/leaderboard") as response:
                status, headers = response.status, response.headers
                body = await response.json() if status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return  # dead, or stopped, and so not answering: no answer is not a wrong one
        if life != self._life:
            return  # what answered may have been killed since, and replaced
        self._history.reads += 1
        if body is None:
            if self.first is not None:
                self._history.violated(f"I6: {self.url} answered {status} after it had had a document")
            return
        version = Version.parse(headers["X-Scoreboard-Version"])
        assert version is not None
        board = frozenset((e["user_id"], s["challenge_id"]) for e in body["entries"] for s in e["solves"])
        self._history.show(version, board)
        if self.first is None:
            self.first = headers["X-Scoreboard-Cache"], board
        if at_least is not None and at_least.epoch == version.epoch and version.number < at_least.number:
            self._history.violated(f"I4: {self.url} told of {at_least} and then served {version}")
        before = self.version
        if before is not None and before.epoch == version.epoch and version.number < before.number:
            self._history.violated(f"I2: {self.url} served {before} and then {version}")
        if before is not None and version.number >= before.number and not self.board <= board:
            self._history.violated(f"I2: {self.url} lost {len(self.board - board)} solves from {before} to {version}")
        self.board, self.version = board, version

    async def follow(self, session: aiohttp.ClientSession, stay: Callable[[], float | None] = lambda: None) -> None:
        """Follow the stream as a browser would, for `stay()` seconds at a time if it says so; ends never."""
        last: Version | None = None
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with (
                    asyncio.timeout(stay()),
                    session.get(
                        f"{self.url}/api/scoreboard/stream",
                        headers={"Last-Event-ID": str(last)} if last else {},
                        timeout=aiohttp.ClientTimeout(total=None, sock_read=4),
                    ) as response,
                ):
                    async for notice in notices(response.content):
                        told = Version.parse(notice.id)
                        if told is None:
                            continue
                        self._history.told += 1
                        await self.read(session, at_least=told)
                        if last is not None and last != told and last.includes(told) and not self._restored(told):
                            self._history.violated(f"I2: {self.url} told of {last} and then of {told}")
                        last = told
            await asyncio.sleep(0.1)

    def _restored(self, version: Version) -> bool:
        """What is kept for a day without Redis lags, and is all that a node which starts on that day has to tell."""
        return any(line["version"] == str(version) for line in self.node.said("restored"))

    async def read_on(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self.read(session)
            await asyncio.sleep(0.1)
