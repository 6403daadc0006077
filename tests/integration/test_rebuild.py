"""One build for all who ask, counted in the database itself.

`challenges`, which every build reads exactly once, is a view here, with a gate that a test may close: a build then
takes as long as the test likes, and is seen in `pg_locks`. A build that has read everything says so with a NOTIFY,
which PostgreSQL sends when its transaction commits.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from scoreboardd.demo.servers import free_port
from tests.integration.conftest import Platform
from tests.nodes import Node, metric, nodes, until

GATE = """
    ALTER TABLE challenges RENAME TO platform_challenges;
    CREATE FUNCTION read_challenges() RETURNS SETOF platform_challenges LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(1);
        PERFORM pg_notify('builds', '');
        RETURN QUERY TABLE platform_challenges;
    END $$;
    CREATE VIEW challenges AS SELECT * FROM read_challenges();
"""
ASK = {"X-Scoreboard-Rebuild-Token": "s3cr3t"}
LOCK_TTL = 1


class Builds:
    """What the database knows of the builds that read it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._heard: list[str] = []

    async def watch(self) -> None:
        await self._connection.execute(GATE)
        await self._connection.add_listener("builds", lambda *heard: self._heard.append(heard[-1]))

    async def done(self) -> int:
        """How many have read everything, since the beginning."""
        mark = secrets.token_hex(8)
        await self._connection.execute("SELECT pg_notify('builds', $1)", mark)
        await until(lambda: mark in self._heard, "notifications come in the order of the commits")
        return self._heard.count("")

    async def close_gate(self) -> None:
        await self._connection.execute("SELECT pg_advisory_lock(1)")

    async def open_gate(self) -> None:
        await self._connection.execute("SELECT pg_advisory_unlock(1)")

    async def waiting(self) -> list[int]:
        """The client ports of those that have come to the closed gate."""
        return [
            row["client_port"]
            for row in await self._connection.fetch(
                "SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE locktype = 'advisory' AND objid = 1 AND NOT granted AND pg_locks.database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        ]


@pytest.fixture
async def builds(platform: Platform, database: str) -> AsyncIterator[Builds]:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    try:
        builds = Builds(connection)
        await builds.watch()
        yield builds
    finally:
        connection.terminate()


@pytest.fixture(params=["redis", "postgres"])
async def backend_settings(request, settings: dict[str, Any]) -> dict[str, Any]:
    """For three nodes that build only what a test asks for; a debounce so long that who starts or asks together is
    never taken apart by a busy machine."""
    settings |= {
        "coordination__backend": request.param,
        "rebuild__token": ASK["X-Scoreboard-Rebuild-Token"],
        "rebuild__lock_ttl": LOCK_TTL,
        "rebuild__debounce": 1.5,
        "rebuild__max_wait": 15,
        "rebuild__reconcile": 3600,
    }
    if request.param == "postgres":
        settings |= {"redis__url": f"redis://127.0.0.1:{free_port()}/0"}  # nobody there, and nobody missed
        assert await run("migrate", settings) == 0
    return settings


async def run(command: str, settings: dict[str, Any]) -> int:
    """The exit code of `scoreboardd` with that command."""
    environ = {f"SCOREBOARDD_{key.upper()}": str(value) for key, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoreboardd", command),
        env=os.environ | {"SCOREBOARDD_CONFIG": os.devnull} | environ,
        stdout=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """All at once, however many."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def rebuilt(session: aiohttp.ClientSession, node: Node) -> tuple[int, int]:
    """Ask for a rebuild and wait: the status, and the version."""
    async with session.post(f"{node.url}/api/leaderboard/rebuild?wait=1", headers=ASK) as response:
        return response.status, (await response.json())["version"]


async def served(session: aiohttp.ClientSession, node: Node) -> str:
    """The version of the first document that can be had."""
    while True:
        async with session.get(f"{node.url}/api/leaderboard") as response:
            if response.status == 200:
                return response.headers["X-Scoreboard-Version"]
            assert response.status == 503
        await asyncio.sleep(0.1)


def one_more_than(before: int) -> tuple[int, int]:
    """The numbers of builds after a burst. On a machine that is busy enough it may cost one build more than needed: if
    the answer to the lock overtakes the burst's last event, the next build is for that (docs/theory.md)."""
    return before + 1, before + 2


async def test_while_cold_all_who_read_are_answered_from_one_build(builds: Builds, session, backend_settings):
    await builds.close_gate()
    async with nodes(3, **backend_settings) as cluster:
        reading = [asyncio.create_task(served(session, cluster[number % 3])) for number in range(200)]
        await until(builds.waiting, "the first build has begun")
        assert all(node.said("connected to the bus") for node in cluster), "after all nodes had joined"
        await builds.open_gate()
        assert len(set(await asyncio.gather(*reading))) == 1
        done = await builds.done()
        assert done in one_more_than(0)
        # Nobody is about to do another: the next is the one that is asked for.
        await rebuilt(session, cluster[0])
        assert await builds.done() in one_more_than(done)


async def test_200_who_ask_at_once_share_one_build(builds: Builds, session, backend_settings):
    async with nodes(3, **backend_settings) as cluster:
        before = {await served(session, node) for node in cluster}
        settled = await builds.done()
        answers = await asyncio.gather(*(rebuilt(session, cluster[number % 3]) for number in range(200)))
        ((status, version),) = set(answers)
        assert status == 200
        assert version > max(int(one.rpartition("-")[2]) for one in before)
        done = await builds.done()
        assert done in one_more_than(settled)
        await rebuilt(session, cluster[0])
        assert await builds.done() in one_more_than(done)


async def test_a_build_longer_than_the_lease_keeps_it_and_is_the_only_one(builds: Builds, session, backend_settings):
    async with nodes(3, **backend_settings) as cluster:
        for node in cluster:
            await served(session, node)
        settled = await builds.done()
        await builds.close_gate()
        asking = [asyncio.create_task(rebuilt(session, node)) for node in cluster]
        begun = await until(builds.waiting, "a build has begun")
        busy = [await found_busy(session, node) for node in cluster]
        (builder,) = await building(builds, cluster)

        async def looked_twice() -> bool:
            """Each at least a lease after the other."""
            now = [await found_busy(session, node) for node in cluster]
            return await builds.waiting() != begun or all(
                new >= old + 2 for node, old, new in zip(cluster, busy, now, strict=True) if node is not builder
            )

        await until(looked_twice, "the other nodes look whether the lease has run out")
        assert await builds.waiting() == begun
        await builds.open_gate()
        ((status, _),) = set(await asyncio.gather(*asking))
        assert status == 200
        assert await builds.done() in one_more_than(settled)


async def test_the_lease_of_a_killed_node_is_taken_over_when_it_runs_out(builds: Builds, session, backend_settings):
    async with nodes(3, **backend_settings) as cluster:
        for node in cluster:
            await served(session, node)
        settled = await builds.done()
        await builds.close_gate()
        asking = {node: asyncio.create_task(rebuilt(session, node)) for node in cluster}
        await until(builds.waiting, "a build has begun")
        (victim,) = await building(builds, cluster)
        await victim.end(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await asking.pop(victim)

        async def others() -> list[Node]:
            return await building(builds, list(asking))

        assert len(await until(others, "another node builds")) == 1
        await builds.open_gate()
        ((status, _),) = set(await asyncio.gather(*asking.values()))
        assert status == 200
        assert await builds.done() in one_more_than(settled)


async def building(builds: Builds, cluster: list[Node]) -> list[Node]:
    """Those whose builds have come to the closed gate."""
    ports = set(await builds.waiting())
    return [node for node in cluster if ports & local_ports(node.builder_pid)]


def local_ports(pid: int) -> set[int]:
    return {connection.laddr.port for connection in psutil.Process(pid).net_connections("tcp")}


async def found_busy(session: aiohttp.ClientSession, node: Node) -> float:
    return await metric(session, node, 'scoreboardd_lock_attempts_total{result="busy"}')
