"""A cluster on Postgres alone: where Redis would be, nobody listens."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.resources import files
from itertools import pairwise
from typing import Any

import aiohttp
import asyncpg
import pytest

from scoreboardd.demo.servers import Postgres, free_port
from scoreboardd.model import Version
from tests.builder.platform import locked, stuck
from tests.integration.conftest import SOLVED, Platform, score, version
from tests.integration.test_process import _command, _environ
from tests.nodes import Listener, Node, listening, metric, nodes, until

TABLE = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()
TOKEN = "s3cr3t"
LOCK_TTL = 1.0
PASSED_OVER = 10**12
"No version is as high, unless a server has passed over numbers that it may have forgotten."


class NotifyingPlatform(Platform):
    """Publishes as a platform without Redis does."""

    def __init__(self, connection: Any, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix

    async def say(self, payload: bytes) -> None:
        await self.connection.execute("SELECT pg_notify($1, $2)", f"{self.prefix}scoreboard_events", payload.decode())

    async def given_out(self) -> int:
        """The version given out last: there was a build, or an attempt at one, for each."""
        return await self.connection.fetchval(
            "SELECT version FROM leaderboard_cache WHERE cache_key = $1", f"{self.prefix}leaderboard:rebuild:lock"
        )


@pytest.fixture
async def platform(database: str, key_prefix: str) -> AsyncIterator[NotifyingPlatform]:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=60)
    try:
        platform = NotifyingPlatform(connection, key_prefix)
        await platform.create()
        await connection.execute(TABLE)
        yield platform
    finally:
        connection.terminate()


@pytest.fixture
def settings(database: str, key_prefix: str) -> dict[str, Any]:
    return _settings(database, key_prefix)


def _settings(dsn: str, key_prefix: str) -> dict[str, Any]:
    return {
        "coordination__backend": "postgres",
        "postgres__dsn": dsn,
        "redis__url": f"redis://127.0.0.1:{free_port()}/0",
        "redis__key_prefix": key_prefix,
        "rebuild__lock_ttl": str(LOCK_TTL),
        "rebuild__token": TOKEN,
    }


async def settled(session: aiohttp.ClientSession, cluster: list[Node]) -> str:
    """The version that all of them serve, once they are ready."""

    async def same() -> str | None:
        ready = [await _ready(session, node) for node in cluster]
        versions = {await version(session, node.url) for node in cluster}
        return versions.pop() if all(ready) and len(versions) == 1 else None

    return await until(same, "all are ready and serve the same")


async def _ready(session: aiohttp.ClientSession, node: Node) -> bool:
    async with session.get(f"{node.admin_url}/readyz") as response:
        return response.status == 200


async def _has(session: aiohttp.ClientSession, node: Node, points: int) -> bool:
    return await score(session, node.url, 1) == points


def never_backwards(listener: Listener) -> None:
    versions = [Version.parse(notice.id) for notice in listener.heard if notice.id]
    for before, after in pairwise([one for one in versions if one is not None]):
        assert before.epoch == after.epoch
        assert before.number <= after.number


async def test_an_insert_and_its_notify_reach_the_streams_of_all_nodes(platform, session, settings):
    async with nodes(2, **settings) as cluster, listening(session, *(node.url for node in cluster)) as listeners:
        await settled(session, cluster)
        async with platform.connection.transaction():  # what is said in it, is said when it commits
            await platform.solve(1, 1)
        for listener in listeners:
            await until(lambda one=listener: one.last.data.get("reason") == "submission_correct", "it is told")
        for node in cluster:
            assert await _has(session, node, SOLVED), "who is told can read it"
        assert listeners[0].last == listeners[1].last
        for node in cluster:
            async with session.get(f"{node.admin_url}/readyz") as response:
                assert (response.status, (await response.json())["redis"]) == (200, "not used")


async def test_a_burst_of_a_thousand_notifications_costs_a_few_builds(platform, session, settings):
    async with nodes(3, **settings) as cluster, listening(session, *(node.url for node in cluster)) as listeners:
        await settled(session, cluster)
        before = await platform.given_out()
        async with asyncio.timeout(10):
            for number in range(1000):
                await platform.solve(number % 5 + 1, number // 5 % 5 + 1, publish=False)
                await platform.publish(f"number {number}")
        await until(lambda: _all(session, cluster, 5 * 100), "all nodes serve the last of them")
        last = await settled(session, cluster)
        await until(lambda: all(one.last.id == last for one in listeners), "all clients are told of it")
        heard = [await metric(session, node, 'scoreboardd_events_total{reason="other"}') for node in cluster]
        assert heard == [1000] * 3
        # A build begins `max_wait` (2 s) after the last at the latest; the burst takes a second or two.
        assert await platform.given_out() - before <= 5


async def _all(session: aiohttp.ClientSession, cluster: list[Node], points: int) -> bool:
    return all([await _has(session, node, points) for node in cluster])


async def _holder(session: aiohttp.ClientSession, platform: NotifyingPlatform, cluster: list[Node]) -> Node:
    """Publish, while no build gets through: the node that builds."""
    attempts = [await _acquired(session, node) for node in cluster]
    await platform.publish()
    await until(lambda: stuck(platform.connection), "a build waits for the database")
    now = [await _acquired(session, node) for node in cluster]
    (holder,) = [node for node, old, new in zip(cluster, attempts, now, strict=True) if new > old]
    return holder


async def _acquired(session: aiohttp.ClientSession, node: Node) -> float:
    return await metric(session, node, 'scoreboardd_lock_attempts_total{result="acquired"}')


async def test_the_others_take_over_from_a_node_that_is_killed_while_it_builds(platform, session, settings, database):
    async with nodes(3, **settings) as cluster:
        before = await settled(session, cluster)
        given_out = await platform.given_out()
        async with AsyncExitStack() as lock:
            await platform.solve(1, 1, publish=False)
            await lock.enter_async_context(locked(database))
            victim = await _holder(session, platform, cluster)
            await victim.end(signal.SIGKILL)
            rest = [node for node in cluster if node is not victim]
            await until(lambda: _given_out(platform, given_out + 2), "another takes the lease when it runs out")
            await lock.aclose()
        await until(lambda: _all(session, rest, SOLVED), "the survivors serve the change")
        after = await settled(session, rest)
        assert after.split("-")[0] == before.split("-")[0]
        assert await platform.given_out() == given_out + 2, "one build that was lost, and one instead"


async def _given_out(platform: NotifyingPlatform, number: int) -> bool:
    return await platform.given_out() >= number


async def test_a_node_frozen_past_its_lease_commits_nothing(platform, session, settings, database):
    async with nodes(2, **settings) as cluster, listening(session, *(node.url for node in cluster)) as listeners:
        await settled(session, cluster)
        await platform.solve(1, 1, publish=False)
        async with locked(database):
            frozen = await _holder(session, platform, cluster)
            late = await platform.given_out()
            frozen.process.send_signal(signal.SIGSTOP)
        # Its child goes on, and stages what it has built; nobody is there to commit it.
        (other,) = [node for node in cluster if node is not frozen]
        await until(lambda: _has(session, other, SOLVED), "the other takes over when the lease has run out")
        fresh = await version(session, other.url)
        assert int(fresh.rpartition("-")[2]) > late

        frozen.process.send_signal(signal.SIGCONT)
        superseded = 'scoreboardd_rebuilds_total{result="superseded"}'
        await until(lambda: metric(session, frozen, superseded), "it learns that it is too late")
        await until(lambda: _has(session, frozen, SOLVED), "it serves what the other has made")
        last = await settled(session, cluster)
        await until(lambda: all(one.last.id == last for one in listeners), "all clients are told")
        for listener in listeners:
            assert listener.connections == 1
            assert late not in [notice.version for notice in listener.heard]
            never_backwards(listener)


async def test_postgres_is_restarted_under_load(tmp_path, session, key_prefix):
    with Postgres(tmp_path) as postgres:
        platform = await _platform(postgres, key_prefix)
        await platform.create()
        await platform.connection.execute(TABLE)
        async with nodes(2, **_settings(postgres.dsn(), key_prefix)) as cluster, asyncio.TaskGroup() as tasks:
            before = await settled(session, cluster)
            wrong: list[int] = []
            readers = [tasks.create_task(_read_on(session, node, wrong)) for node in cluster]
            async with listening(session, *(node.url for node in cluster)) as listeners:
                await until(lambda: all(one.version for one in listeners), "every listener is greeted")
                await asyncio.to_thread(postgres.stop)
                for node in cluster:
                    await until(lambda node=node: _missed(session, node), "it is seen to be down")
                await asyncio.to_thread(postgres.start)
                platform.connection.terminate()
                platform = await _platform(postgres, key_prefix)
                await platform.solve(1, 1, publish=False)  # nobody is told: the nodes find out as they reconnect
                await until(lambda: _all(session, cluster, SOLVED), "the change is served")
                last = await settled(session, cluster)
                await until(lambda: all(one.last.id == last for one in listeners), "all clients are told")
                for listener in listeners:
                    assert listener.connections == 1
                    never_backwards(listener)
            for reader in readers:
                reader.cancel()
            assert last.split("-")[0] == before.split("-")[0], "nothing was lost"
            assert int(last.split("-")[1]) < PASSED_OVER, "it is the same server"
            assert not wrong, "every read of a document was answered with 200"
            for node in cluster:
                warnings = [line for line in node.log if line["level"] in ("warning", "error")]
                assert 1 <= len(warnings) <= 10, "the log says what happened, in a few lines"
        platform.connection.terminate()


async def _platform(postgres: Postgres, prefix: str) -> NotifyingPlatform:
    return NotifyingPlatform(await asyncpg.connect(postgres.dsn(), timeout=10, command_timeout=60), prefix)


async def _missed(session: aiohttp.ClientSession, node: Node) -> bool:
    async with session.get(f"{node.admin_url}/readyz") as response:
        body = await response.json()
    if response.status == 200:
        return False
    assert body["postgres"].startswith("postgres: ")
    assert (body["redis"], body["documents"]) == ("not used", "ok")
    return True


async def _read_on(session: aiohttp.ClientSession, node: Node, wrong: list[int]) -> None:
    while True:
        async with session.get(f"{node.url}/api/leaderboard") as response:
            if response.status != 200:
                wrong.append(response.status)
        await asyncio.sleep(0.01)


async def test_a_node_without_the_table_names_it_and_comes_up_when_it_is_made(platform, session, settings):
    await platform.connection.execute("DROP TABLE leaderboard_cache")
    code, said = await _command("check", environ=_environ(settings))
    assert code == 1
    assert said == "postgres: table leaderboard_cache is missing; run `scoreboardd migrate`\n"
    async with nodes(1, **settings) as (node,):
        await until(lambda: _wants_the_table(session, node), "it says what is missing")
        async with session.get(f"{node.url}/api/leaderboard") as response:
            assert response.status == 503
        code, said = await _command("migrate", environ=_environ(settings))
        assert code == 0, said
        await settled(session, [node])
        assert (await _command("check", environ=_environ(settings))) == (0, "all is well\n")


async def _wants_the_table(session: aiohttp.ClientSession, node: Node) -> bool:
    async with session.get(f"{node.admin_url}/readyz") as response:
        return "run `scoreboardd migrate`" in (await response.json())["postgres"]


async def test_the_commands_and_the_endpoint_work_without_redis(platform, session, settings):
    async with nodes(2, **settings) as cluster, listening(session, *(node.url for node in cluster)) as listeners:
        await settled(session, cluster)
        assert await _command("publish", "--reason", "by_hand", environ=_environ(settings)) == (0, "")
        for listener in listeners:
            await until(lambda one=listener: one.last.data.get("reason") == "by_hand", "clients are told")
        before = listeners[0].version

        await platform.solve(1, 1, publish=False)
        code, said = await _command("rebuild", "--wait", environ=_environ(settings))
        assert code == 0
        assert int(said.removeprefix("version ")) > before
        await until(lambda: _all(session, cluster, SOLVED), "all serve it")

        await platform.solve(2, 2, publish=False)
        for node, wait, status in ((cluster[0], "1", 200), (cluster[1], "0", 202)):
            url = f"{node.url}/api/leaderboard/rebuild?wait={wait}"
            async with session.post(url, headers={"X-Scoreboard-Rebuild-Token": TOKEN}) as response:
                assert response.status == status
                body = await response.json()
            assert body["ok"]
            if wait == "1":
                assert await score(session, node.url, 2) == SOLVED
                assert body["generated_at"].endswith("Z")
