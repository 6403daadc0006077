"""Real daemons in real processes, and a client of their streams."""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import psutil

DEADLINE = 20.0
"Seconds any of this may take; a test that needs to be quicker says so itself."
SERVE = ("-m", "scoreboardd", "serve")


async def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Poll until `condition` (or what it awaits) is true, and return that."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert loop.time() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(0.02)


class Node:
    """One `scoreboardd serve`, on ports the system chose."""

    def __init__(
        self, environ: dict[str, str], *, descriptors: int | None = None, command: tuple[str, ...] = SERVE
    ) -> None:
        self._environ = environ
        self._command = command
        self._descriptors = descriptors
        self.log: list[dict[str, Any]] = []
        self.url = self.admin_url = ""

    async def start(self) -> Self:
        before = len(self.said("listening"))
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._command),
            env=os.environ | {"SCOREBOARDD_CONFIG": os.devnull} | self._environ,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=None if self._descriptors is None else self._limit,
        )
        self._reading = asyncio.create_task(self._read_log())
        (listening,) = await until(lambda: self.said("listening")[before:] or self._ended(), "the daemon listens")
        self.url = "http://{}:{}".format(*listening["public"])
        self.admin_url = "http://{}:{}".format(*listening["admin"])
        return self

    def _limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._descriptors, self._descriptors))

    def _ended(self) -> None:
        assert self.process.returncode is None, f"the daemon ended: {self.log}"

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": line.decode(errors="replace")})

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    @property
    def builder_pid(self) -> int:
        """Of its child."""
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, wait, and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        async with asyncio.timeout(DEADLINE):
            code = await self.process.wait()
            await self._reading
        return code


@asynccontextmanager
async def nodes(
    count: int, *, descriptors: int | None = None, command: tuple[str, ...] = SERVE, **settings: Any
) -> AsyncIterator[list[Node]]:
    """`settings` are `section__key=value`, as in the environment; `descriptors` is what `ulimit -n` would say."""
    environ = {f"SCOREBOARDD_{key.upper()}": str(value) for key, value in settings.items()}
    environ = {"SCOREBOARDD_SERVER__PORT": "0", "SCOREBOARDD_ADMIN__PORT": "0"} | environ
    started = [Node(environ, descriptors=descriptors, command=command) for _ in range(count)]
    try:
        await asyncio.gather(*(node.start() for node in started))
        yield started
    finally:
        for node in started:
            if hasattr(node, "process"):
                await node.end(signal.SIGKILL)


@dataclass(frozen=True)
class Notice:
    """One event of a stream."""

    id: str
    event: str
    data: dict[str, Any]

    @property
    def version(self) -> int:
        """0 before the first document."""
        return int(self.id.rpartition("-")[2] or 0)


class Listener:
    """Follows a stream like a browser, reconnecting with `Last-Event-ID`; `heard` grows."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/api/scoreboard/stream"
        self.heard: list[Notice] = []
        self.connections = 0

    @property
    def last(self) -> Notice | None:
        return self.heard[-1] if self.heard else None

    @property
    def version(self) -> int:
        return self.last.version if self.last else 0

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            headers = {"Last-Event-ID": self.last.id} if self.last else {}
            try:
                async with self._session.get(
                    self._url, headers=headers, timeout=aiohttp.ClientTimeout(None)
                ) as response:
                    if response.status == 200:
                        self.connections += 1
                        async for notice in notices(response.content):
                            self.heard.append(notice)
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.05)


async def notices(stream: aiohttp.StreamReader) -> AsyncIterator[Notice]:
    fields: dict[str, str] = {}
    async for raw in stream:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "event" in fields:
                yield Notice(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}


@asynccontextmanager
async def listening(session: aiohttp.ClientSession, *urls: str) -> AsyncIterator[list[Listener]]:
    listeners = [Listener(session, url) for url in urls]
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(listener.follow()) for listener in listeners]
        try:
            yield listeners
        finally:
            for task in following:
                task.cancel()


async def metric(session: aiohttp.ClientSession, node: Node, series: str) -> float:
    """The value of one series, as it stands in the exposition."""
    async with session.get(f"{node.admin_url}/metrics") as response:
        text = await response.text()
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == series)
