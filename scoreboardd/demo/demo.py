"""`scoreboardd demo`: a simulated contest on temporary servers, shown by one or several nodes of the daemon.

Each node is a process of its own, started with `scoreboardd serve` as in production. Ctrl-C stops the contest, then the
nodes, then the servers, and removes all files.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import aiohttp
import asyncpg
import click
import uvloop
from redis.asyncio import Redis

from scoreboardd.demo.contest import SimulatedContest
from scoreboardd.demo.ctfd import CtfdContest
from scoreboardd.demo.servers import HOST, Postgres, ServerError, Valkey, tied_to_owner

START_TIMEOUT_SECONDS = 15.0
"The longest time until a node serves its first document."
STOP_TIMEOUT_SECONDS = 10.0
"The longest time until a node has stopped; then it is killed."


class DemoError(Exception):
    """The demo cannot continue. The text is one line."""


@dataclass(frozen=True, slots=True)
class Node:
    """The ports of one node."""

    port: int
    admin_port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.admin_port}"


def run(*, platform: str, teams: int, challenges: int, rate: float, nodes: int, port: int, seed: int) -> None:
    """Run the demo until Ctrl-C or SIGTERM. Exits with 1 if it cannot continue.

    `platform` is "smctf", or "ctfd", which has one node and needs no server. `rate` is in solves per second. The public
    listeners of the nodes use the ports from `port` on, and the admin listeners the ports after those. `seed` makes the
    contest reproducible.
    """
    cluster = [Node(port + number, port + nodes + number) for number in range(nodes)]
    try:
        if platform == "ctfd":
            with TemporaryDirectory(prefix="scoreboardd-ctfd-") as folder, _runner() as runner:
                ctfd = CtfdContest(Path(folder) / "ctfd.db", teams, challenges, rate, seed)
                ctfd.seed()
                runner.run(_until_interrupted(_demo_ctfd(ctfd, cluster[0])))
            return
        contest = SimulatedContest(teams, challenges, rate, seed)
        click.echo("starting PostgreSQL and Valkey …")
        with Postgres() as postgres, Valkey() as valkey, _runner() as runner:
            runner.run(_until_interrupted(_demo(contest, cluster, postgres.dsn(), valkey.url())))
    except (DemoError, ServerError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        return  # Ctrl-C while the servers were starting; they have been stopped


def _runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    demo = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([demo, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    demo.cancel()
    try:
        await demo
    except asyncio.CancelledError:
        click.echo("\nstopped")
    except BaseExceptionGroup as group:
        demo_errors = group.subgroup(DemoError)
        if demo_errors is None:
            raise
        raise demo_errors.exceptions[0] from None


async def _demo(contest: SimulatedContest, cluster: Sequence[Node], dsn: str, redis_url: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        await contest.seed(connection)
    finally:
        connection.terminate()
    environ = {"SCOREBOARDD_REDIS__URL": redis_url, "SCOREBOARDD_POSTGRES__DSN": dsn}

    def counters() -> str:
        return (
            f"{contest.solves} solves, {contest.wrong} wrong, {contest.bans} bans, {contest.edits} edits, "
            f"{contest.published} events"
        )

    async with Redis.from_url(redis_url) as redis:
        await _serve(cluster, environ, contest.run(dsn, redis), counters)


async def _demo_ctfd(contest: CtfdContest, node: Node) -> None:
    click.echo(f"database    {contest.path}")
    environ = {
        "SCOREBOARDD_SOURCE__KIND": "ctfd",
        "SCOREBOARDD_SOURCE__DSN": contest.dsn,
        "SCOREBOARDD_COORDINATION__BACKEND": "local",
        "SCOREBOARDD_CACHE__DIRECTORY": str(contest.path.parent),
        "SCOREBOARDD_SERVER__FEEDS": "ctfd,ctftime",
    }
    await _serve([node], environ, contest.run(), lambda: str(contest))


async def _serve(
    cluster: Sequence[Node], environ: Mapping[str, str], play: Coroutine[Any, Any, None], counters: Callable[[], str]
) -> None:
    """Run the nodes with these variables, and `play` the contest, whose `counters` are shown."""
    variables = {
        **os.environ,
        "SCOREBOARDD_CONFIG": os.devnull,
        "SCOREBOARDD_LOG__LEVEL": "warning",
        "SCOREBOARDD_LOG__FORMAT": "console",
        **environ,
    }
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for node in cluster:
            tasks.create_task(_run_node(node, variables))
        for node in cluster:
            await _wait_until_ready(session, node)
            click.echo(f"scoreboard  {node.url}/")
            click.echo(f"documents   {node.url}/api/leaderboard/teams")
            click.echo(f"stream      curl -N {node.url}/api/scoreboard/stream")
            click.echo(f"metrics     {node.admin_url}/metrics")
        click.echo("Ctrl-C stops everything.\n")
        tasks.create_task(play)
        await _show(session, counters, cluster)


async def _run_node(node: Node, environ: dict[str, str]) -> None:
    """Run one node until cancelled. Raises `DemoError` if the process ends by itself."""
    async with _process(node, environ) as process:
        code = await process.wait()
    raise DemoError(f"the node on port {node.port} ended with exit code {code}; see its last lines above")


@asynccontextmanager
async def _process(node: Node, environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process of a node, which is stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        *tied_to_owner("TERM"),
        *(sys.executable, "-m", "scoreboardd", "serve"),
        env=environ | {"SCOREBOARDD_SERVER__PORT": str(node.port), "SCOREBOARDD_ADMIN__PORT": str(node.admin_port)},
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C reaches only this process, which stops the node
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _wait_until_ready(session: aiohttp.ClientSession, node: Node) -> None:
    """Wait until the node serves documents. Raises `DemoError` after `START_TIMEOUT_SECONDS`."""
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            while await _served_version(session, node) is None:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DemoError(
            f"the node on port {node.port} serves no document after {START_TIMEOUT_SECONDS:g} s; see its log above"
        ) from None


async def _served_version(session: aiohttp.ClientSession, node: Node) -> str | None:
    """Return the version that the node serves. None if it is not ready."""
    try:
        async with session.get(f"{node.admin_url}/readyz") as response:
            version: str = (await response.json())["version"]
            return version if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


async def _show(session: aiohttp.ClientSession, counters: Callable[[], str], cluster: Sequence[Node]) -> None:
    """Print the counters of the contest in one line, updated every second on a terminal, else every ten seconds."""
    live = sys.stdout.isatty()
    while True:
        versions = [await _served_version(session, node) for node in cluster]
        line = f"{counters()} → {', '.join(version or 'not ready' for version in versions)}"
        click.echo(f"\r\x1b[2K{line}" if live else line, nl=not live)
        await asyncio.sleep(1 if live else 10)


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(1)
