"""`scoreboardd demo`: a simulated contest on real, throw-away servers, and one or several nodes of the daemon.

The nodes are processes of their own, started as an organiser would start them, so that they can be killed and watched.
Ctrl-C ends everything in order: the contest, the nodes, the servers; nothing is left behind.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

import aiohttp
import asyncpg
import click
import uvloop
from redis.asyncio import Redis

from scoreboardd.demo.contest import Contest
from scoreboardd.demo.servers import HOST, Postgres, ServerError, Valkey, tied_to_owner

START = 15.0
"Seconds a node may take to show its first document."
STOP = 10.0
"Seconds a node may take to stop."


class DemoError(Exception):
    """One line on why the demo cannot go on."""


@dataclass(frozen=True, slots=True)
class Node:
    port: int
    admin_port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.admin_port}"


def run(*, teams: int, challenges: int, rate: float, nodes: int, port: int, seed: int) -> None:
    """Until Ctrl-C or SIGTERM. `rate` is in solves a second; the nodes listen from `port` on, then their admin."""
    contest = Contest(teams, challenges, rate, seed)
    cluster = [Node(port + number, port + nodes + number) for number in range(nodes)]
    try:
        click.echo("starting PostgreSQL and Valkey …")
        with Postgres() as postgres, Valkey() as valkey, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_interrupted(contest, cluster, postgres.dsn(), valkey.url()))
    except (DemoError, ServerError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        return  # while the servers were starting; they have been stopped


async def _until_interrupted(contest: Contest, cluster: Sequence[Node], dsn: str, redis_url: str) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    demo = asyncio.create_task(_demo(contest, cluster, dsn, redis_url))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([demo, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    demo.cancel()
    try:
        await demo
    except asyncio.CancelledError:
        click.echo("\nstopped")
    except BaseExceptionGroup as group:
        ours = group.subgroup(DemoError)
        if ours is None:
            raise
        raise ours.exceptions[0] from None


async def _demo(contest: Contest, cluster: Sequence[Node], dsn: str, redis_url: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        await contest.seed(connection)
    finally:
        connection.terminate()
    environ = os.environ | {
        "SCOREBOARDD_CONFIG": os.devnull,
        "SCOREBOARDD_REDIS__URL": redis_url,
        "SCOREBOARDD_POSTGRES__DSN": dsn,
        "SCOREBOARDD_LOG__LEVEL": "warning",
        "SCOREBOARDD_LOG__FORMAT": "console",
    }
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
        Redis.from_url(redis_url) as redis,
        asyncio.TaskGroup() as tasks,
    ):
        for node in cluster:
            tasks.create_task(_keep(node, environ))
        for node in cluster:
            await _answering(session, node)
            click.echo(f"scoreboard  {node.url}/")
            click.echo(f"documents   {node.url}/api/leaderboard/teams")
            click.echo(f"stream      curl -N {node.url}/api/scoreboard/stream")
            click.echo(f"metrics     {node.admin_url}/metrics")
        click.echo("Ctrl-C stops everything.\n")
        tasks.create_task(contest.run(dsn, redis))
        await _show(session, contest, cluster)


async def _keep(node: Node, environ: dict[str, str]) -> None:
    """Run one node; when it ends by itself, so does the demo."""
    async with _process(node, environ) as process:
        code = await process.wait()
    raise DemoError(f"the node on port {node.port} ended with exit code {code}; its last lines say why")


@asynccontextmanager
async def _process(node: Node, environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *tied_to_owner("TERM"),
        *(sys.executable, "-m", "scoreboardd", "serve"),
        env=environ | {"SCOREBOARDD_SERVER__PORT": str(node.port), "SCOREBOARDD_ADMIN__PORT": str(node.admin_port)},
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # the terminal's Ctrl-C is for us, and we stop it
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _answering(session: aiohttp.ClientSession, node: Node) -> None:
    try:
        async with asyncio.timeout(START):
            while await _ready(session, node) is None:  # noqa: ASYNC110  it is another process, and HTTP has no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DemoError(f"the node on port {node.port} shows no document after {START:g} s") from None


async def _ready(session: aiohttp.ClientSession, node: Node) -> str | None:
    """The version a node serves, or None if it is not ready."""
    try:
        async with session.get(f"{node.admin_url}/readyz") as response:
            version: str = (await response.json())["version"]
            return version if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


async def _show(session: aiohttp.ClientSession, contest: Contest, cluster: Sequence[Node]) -> None:
    """One line, written over itself on a terminal, else every ten seconds."""
    live = sys.stdout.isatty()
    while True:
        versions = [await _ready(session, node) for node in cluster]
        line = (
            f"{contest.solves} solves, {contest.wrong} wrong, {contest.bans} bans, {contest.edits} edits, "
            f"{contest.published} events → {', '.join(version or 'not ready' for version in versions)}"
        )
        click.echo(f"\r\x1b[2K{line}" if live else line, nl=not live)
        await asyncio.sleep(1 if live else 10)


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(1)
