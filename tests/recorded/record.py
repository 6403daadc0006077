"""Run the generated contest against a real daemon, and record what its clients receive.

Nothing of the package is imported here: the daemon is a process, its servers are real, and what is recorded comes from
its public listener and from the channel that other programs read. README.md says what is normalised.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from tests.nodes import DEADLINE, nodes, until
from tests.recorded.contest import BETWEEN_ROUNDS, ROUND_ONE, Contest, Step

SETTINGS = {
    "server__name": 'A "contest" \U0001f6a9 <of> ours',
    "rebuild__debounce": 0.02,
    "rebuild__reconcile": 86_400,
    "sse__heartbeat": 59,
    "sse__retry_min": 1,
    "sse__retry_max": 5,
}
"As in the environment; the queue of a client, which decides when steps are merged, is the default."
DOCUMENTS = ("/api/leaderboard", "/api/leaderboard/teams", "/api/timeline", "/api/timeline/teams")
STREAM = "/api/scoreboard/stream"
REFUSED = (
    *("/api/leaderboard?division_id=0", "/api/leaderboard/teams?division_id=999", "/api/timeline?window=x"),
    *("/api/timeline/teams?window=0&division_id=-1", f"{STREAM}?deltas=2", f"{STREAM}?deltas=1&division_id=999"),
    "/api/nothing",
)
ANOTHER = "at another node"
"How the titles begin of what a second node answered."
HEADER_FIELDS = ("Content-Type", "Cache-Control", "Vary", "X-Accel-Buffering")

Recording = dict[str, str]
"Text by title, in the order in which it was received."
Publish = Callable[[list[bytes]], Awaitable[None]]
"Publishes messages on the channel `scoreboard.events`, all at once."


class Normaliser:
    """Replaces what is random or depends on the time, and nothing else; in documents nothing is replaced."""

    def __init__(self) -> None:
        self._epoch = ""
        self._ordinals: dict[int, int] = {0: 0}
        self._given: set[str] = set()

    def committed(self, version: str) -> None:
        """The next version: numbers may have gaps, so the recording counts them from 1."""
        epoch, _, number = version.rpartition("-")
        assert self._epoch in ("", epoch), "the daemon began another epoch"
        self._epoch = epoch
        self._ordinals.setdefault(int(number), len(self._ordinals))

    def given(self, ts: str) -> None:
        """A time that the platform chose, which is passed on as it is."""
        self._given.add(ts)

    def __call__(self, text: bytes) -> str:
        said = text.decode().replace(f"{self._epoch}-", "<epoch>-") if self._epoch else text.decode()
        said = re.sub(r"<epoch>-(\d+)", lambda found: f"<epoch>-{self._ordinal(found[1])}", said)
        said = re.sub(r'"(from|version)":(\d+)', lambda found: f'"{found[1]}":{self._ordinal(found[2])}', said)
        said = re.sub(r'"ts":"([^"]*)"', lambda found: found[0] if found[1] in self._given else '"ts":"<now>"', said)
        said = re.sub(r"^retry: \d{4}$", "retry: <random>", said, flags=re.MULTILINE)
        return re.sub(r"^:.*\n\n", "", said, flags=re.MULTILINE)  # heartbeats come with the time

    def _ordinal(self, number: str) -> str:
        return str(self._ordinals.get(int(number), "<a version that was not waited for>"))


class Stream:
    """One connection to the stream, and all bytes of its body so far, without the framing of HTTP."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.body = b""

    async def read_until(self, wanted: bytes, times: int = 1) -> None:
        """Until `wanted` has come so many times, and the last block has ended."""
        async with asyncio.timeout(DEADLINE):
            while self.body.count(wanted) < times or not self.body.endswith(b"\n\n"):
                chunk = await self._response.content.readany()
                assert chunk, f"the stream ended before {wanted!r}: {self.body[-200:]!r}"
                self.body += chunk


class Recorder:
    """`announced` grows by what the daemon publishes on `scoreboard.rebuilt`."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, connection: Any, publish: Publish, announced: list[bytes]
    ) -> None:
        self._session = session
        self._url = url
        self._publish = publish
        self._connection = connection
        self._announced = announced
        self._normalised = Normaliser()
        self._recording: Recording = {}
        self._streams: dict[str, Stream] = {}
        self._versions: list[str] = []

    async def record(self, contest: Contest) -> Recording:
        async with AsyncExitStack() as stack:
            self._versions.append(await until(self._version, "a first version"))
            self._normalised.committed(self._versions[0])
            for path in REFUSED:
                await self._get(path, f"refused: GET {path}")
            for path in (STREAM, f"{STREAM}?deltas=1", f"{STREAM}?deltas=1&division_id=1"):
                self._streams[path] = await stack.enter_async_context(self._stream(path))
            await self._documents("step 0, as created", contest.divisions)
            for number, step in enumerate(contest.steps(), start=1):
                await self._take(number, step)
                for stream in self._streams.values():
                    await stream.read_until(b"id: %s\n" % self._versions[-1].encode())
                await self._documents(f"step {number}, {step.title}", contest.divisions)
                if 3 in contest.divisions and (path := f"{STREAM}?deltas=1&division_id=3") not in self._streams:
                    self._streams[path] = await stack.enter_async_context(self._stream(path))
            for path, stream in self._streams.items():
                self._recording[f"stream: GET {path}"] = self._normalised(stream.body)
            await until(lambda: len(self._announced) >= len(self._versions), "every version is announced")
            self._recording["channel scoreboard.rebuilt"] = self._normalised(b"\n".join(self._announced))
            await self._resumed()
            await self._windows()
        return self._recording

    async def record_another(self, url: str, divisions: list[int]) -> None:
        """What a second node answers, once it has read the whole database and found nothing that differs."""
        self._url = url

        async def confirmed() -> bool:
            async with self._session.get(f"{url}{DOCUMENTS[0]}") as response:
                return response.headers.get("X-Scoreboard-Cache") == "memory"

        await until(confirmed, "the second node confirms what it has loaded")
        await self._documents(ANOTHER, divisions)
        await self._resume(len(self._versions) - 1, f"{ANOTHER}, resumed")

    async def _version(self) -> str | None:
        async with self._session.get(f"{self._url}{DOCUMENTS[0]}") as response:
            return response.headers["X-Scoreboard-Version"] if response.status == 200 else None

    async def _take(self, number: int, step: Step) -> None:
        """Make the change, announce it, and wait for the version that it leads to."""
        async with self._connection.transaction():
            for sql, rows in step.statements:
                await self._connection.executemany(sql, rows)
        ts = (ROUND_ONE + timedelta(seconds=number)).isoformat()
        self._normalised.given(ts)
        more = {} if step.division_ids is None else {"division_ids": step.division_ids}
        events = [{"scope": step.scope, "reason": reason, "ts": ts, **more} for reason in step.reasons]
        await self._publish([json.dumps(event).encode() for event in events])
        stream = self._streams[STREAM]
        await stream.read_until(b"\nevent: scoreboard\n", times=number)
        last = re.findall(rb"^id: (\S+)$", stream.body, re.MULTILINE)[-1].decode()
        self._versions.append(last)
        self._normalised.committed(last)

    # Reads

    async def _get(self, path: str, title: str) -> None:
        async with self._session.get(f"{self._url}{path}") as response:
            body = await response.read()
            fields = [f"{name}: {response.headers[name]}" for name in HEADER_FIELDS if name in response.headers]
            status = f"{response.status} {response.reason}"
            self._recording[title] = "\n".join([status, *fields, "", self._normalised(body)])

    async def _documents(self, when: str, divisions: list[int]) -> None:
        await self._get("/api/scoreboard", f"{when}: GET /api/scoreboard")
        for query in ("", *(f"?division_id={id}" for id in divisions)):
            for path in DOCUMENTS:
                async with self._session.get(f"{self._url}{path}{query}") as response:
                    assert response.status == 200
                    assert response.headers["X-Scoreboard-Version"] == self._versions[-1]
                    self._recording[f"{when}: GET {path}{query}"] = (await response.read()).decode()

    async def _windows(self) -> None:
        """The windows of the timelines: back to between the two rounds, to before everything, to the present minute."""
        between = round((time.time() - BETWEEN_ROUNDS.timestamp()) / 60)
        for name, minutes in (("the second round", between), ("all time", 10**9), ("the last minute", 1)):
            for path in DOCUMENTS[2:]:
                for query in ("", "&division_id=2"):
                    title = f"window, {name}: GET {path}?window=…{query}"
                    await self._get(f"{path}?window={minutes}{query}", title)

    # Streams

    @asynccontextmanager
    async def _stream(self, path: str, last: str | None = None) -> AsyncIterator[Stream]:
        headers = {"Last-Event-ID": last} if last else {}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(f"{self._url}{path}", headers=headers, timeout=timeout) as response:
            assert response.status == 200
            fields = {name: response.headers[name] for name in HEADER_FIELDS if name in response.headers}
            self._recording.setdefault("stream: head", json.dumps(fields, indent=0))
            stream = Stream(response)
            await stream.read_until(b"event: ready\n")
            yield stream

    async def _resumed(self) -> None:
        """What a client is sent that comes back after having missed some of it, or with an id that leads nowhere."""
        epoch = self._versions[-1].rpartition("-")[0]
        for steps in (0, 1, 5, 16, 17, len(self._versions) - 1):
            await self._resume(steps, f"resumed after {steps} missed steps")
        for name, last in (("another epoch", "0dead0-7"), ("no version", "nonsense"), ("zero", f"{epoch}-0")):
            for path in (STREAM, f"{STREAM}?deltas=1"):
                answered = b"event: scoreboard\n" if path == STREAM else b"event: reset\n"
                async with self._stream(path, last) as stream:
                    await stream.read_until(b"event: ready\n" if name == "no version" else answered)
                self._recording[f"resumed from {name}: GET {path}"] = self._normalised(stream.body)

    async def _resume(self, steps: int, title: str) -> None:
        last, present = self._versions[-1 - steps], self._versions[-1]
        for path in (STREAM, f"{STREAM}?deltas=1", f"{STREAM}?deltas=1&division_id=2"):
            async with self._stream(path, last) as stream:
                await stream.read_until(b"id: %s\n" % present.encode())
                if path == STREAM and steps:
                    await stream.read_until(b"event: scoreboard\n")
            self._recording[f"{title}: GET {path}"] = self._normalised(stream.body)


async def create(connection: Any) -> Contest:
    """Create the platform's tables in an empty database."""
    contest = Contest()
    await connection.execute((Path(__file__).parent / "platform.sql").read_text())
    for sql, rows in contest.create():
        await connection.executemany(sql, rows)
    return contest


async def record(
    contest: Contest,
    connection: Any,
    publish: Publish,
    announced: list[bytes],
    settings: dict[str, Any],
    *,
    another: bool,
) -> Recording:
    """`connection` is to the database of the contest, `settings` are those of the servers.

    `another`: with what a second node answers.
    """
    async with aiohttp.ClientSession() as session, nodes(1, **SETTINGS, **settings) as [node]:
        recorder = Recorder(session, node.url, connection, publish, announced)
        try:
            recording = await recorder.record(contest)
        except (AssertionError, TimeoutError) as error:
            error.add_note("\n".join(["The daemon's log ends:", *map(str, node.log[-5:])]))
            raise
        if another:
            async with nodes(1, **SETTINGS, **settings) as [second]:
                await recorder.record_another(second.url, contest.divisions)
    return recording
