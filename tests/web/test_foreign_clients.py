"""Other people's clients of event streams, straight at the daemon: what they print is what they make of a stream."""

import asyncio
import fcntl
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from scoreboardd.stream.endpoint import PATH
from tests.external_tools import require
from tests.web.server import Node, becomes, serving

HERE = Path(__file__).parent / "foreign"
BUILD = Path(__file__).parents[2] / "build" / "foreign-clients"
"Where they are installed, once."

PYTHON = ["sseclient_requests", "sseclient_httpx", "requests_lines", "requests_sse", "httpx_sse", "aiohttp_sse_client2"]
SPOKEN = [*((client, "1.1") for client in PYTHON), ("aiohttp_sse_client2", "1.0")]
"The clients and the versions of HTTP that they speak."
NPM = ["eventsource", "reconnecting-eventsource", "event-source-polyfill", "fetch-event-source"]


def installed(name: str, files: list[str], *commands: list[str]) -> Path:
    """The folder where `commands` have installed what these files say, and have been run again if they say another."""
    folder = BUILD / name
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        marker = folder / "installed"
        wanted = "".join((HERE / file).read_text() for file in files)
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for command in commands:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
            marker.write_text(wanted)
    return folder


@pytest.fixture(scope="session")
def python() -> Path:
    """An interpreter that has the clients from PyPI."""
    venv = [sys.executable, "-m", "venv", "--without-pip", "venv"]
    pip = [sys.executable, "-m", "pip", "--python", "venv/bin/python", "install", "--no-compile", "--quiet"]
    install = [*pip, "--requirement", str(HERE / "requirements.txt")]
    return installed("python", ["requirements.txt"], venv, install) / "venv/bin/python"


@pytest.fixture(scope="session")
def program() -> Path:
    """A program for Node that has the clients from npm beside it."""
    npm = str(require("npm"))
    files = ["package.json", "package-lock.json", "follow.mjs"]
    copy = ["cp", *(str(HERE / file) for file in files), "."]
    return installed("npm", files, copy, [npm, "ci", "--no-audit", "--no-fund"]) / "follow.mjs"


class Follower:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def prints(self, line: str) -> None:
        """The next line is this one."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            assert (await self._process.stdout.readline()).decode() == f"{line}\n"


@asynccontextmanager
async def following(*command: object) -> AsyncIterator[Follower]:
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE)
    try:
        yield Follower(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def url(node: Node, query: str = "") -> str:
    return "http://{}:{}".format(*node.address) + PATH + query


async def assert_each_comes_at_once(node: Node, follower: Follower) -> None:
    """Nothing waits for what comes after it, and nothing but events is taken for one."""
    await follower.prints("ready 7f3a-41")
    for number in (42, 43, 44):
        node.publish(number)
        await follower.prints(f"scoreboard 7f3a-{number}")


@pytest.mark.parametrize(("client", "protocol"), SPOKEN)
async def test_a_client_from_pypi(python: Path, client: str, protocol: str) -> None:
    async with serving() as node, following(python, HERE / "follow.py", client, url(node), protocol) as follower:
        await assert_each_comes_at_once(node, follower)


@pytest.mark.parametrize("client", NPM)
async def test_a_client_from_npm_and_that_it_comes_back_for_what_it_missed(program: Path, client: str) -> None:
    async with (
        serving(retry=(0.1, 0.1)) as node,
        following(require("node"), program, client, url(node)) as follower,
    ):
        await assert_each_comes_at_once(node, follower)
        (stream,) = node.broadcaster._subscribers
        node.serve(45)
        stream.transport.abort()
        await follower.prints("ready 7f3a-45")
        await follower.prints("scoreboard 7f3a-45")
        await becomes(lambda: len(node.broadcaster) == 1)
