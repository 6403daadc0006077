"""Several daemons over one Redis and one database: together they rebuild once, and say the same."""

import asyncio
import signal

import aiohttp
import asyncpg

from tests.integration.conftest import SOLVED, Platform, score, version
from tests.nodes import listening, metric, nodes, until


async def test_a_burst_over_three_nodes_costs_two_or_three_rebuilds(platform, session, settings):
    async with nodes(3, **settings) as cluster, listening(session, *(node.url for node in cluster)) as listeners:
        await until(lambda: all(listener.version for listener in listeners), "every listener is greeted")
        before = sum([await _committed(session, node) for node in cluster])

        async with asyncio.timeout(10):
            for number in range(1000):
                await platform.solve(number % 5 + 1, number // 5 % 5 + 1)
                if number % 50 == 49:
                    await asyncio.sleep(0.05)
        await platform.solve(1, 5)

        async def settled() -> bool:
            versions = {await version(session, node.url) for node in cluster}
            fresh = [await score(session, node.url, 1) == 5 * 100 for node in cluster]
            return len(versions) == 1 and all(fresh)

        await until(settled, "all nodes serve the same last version")
        last = await version(session, cluster[0].url)
        await until(lambda: all(listener.last.id == last for listener in listeners), "all clients are told of it")
        rebuilds = sum([await _committed(session, node) for node in cluster]) - before
        assert rebuilds <= 3


async def _committed(session: aiohttp.ClientSession, node) -> float:
    return await metric(session, node, 'scoreboardd_rebuilds_total{result="committed"}')


async def test_the_others_take_over_from_a_node_killed_while_it_builds(platform: Platform, session, settings, database):
    async with nodes(3, rebuild__lock_ttl=2, **settings) as cluster:
        for node in cluster:
            await until(lambda node=node: _ready(session, node), "every node is ready")
        holder = await asyncpg.connect(database, timeout=10, command_timeout=60)
        try:
            await platform.solve(1, 1, publish=False)
            async with holder.transaction():
                await holder.execute("LOCK TABLE challenges IN ACCESS EXCLUSIVE MODE")  # builds now hang
                attempts = [await _acquired(session, node) for node in cluster]
                await platform.publish()

                async def building():
                    now = [await _acquired(session, node) for node in cluster]
                    return [node for node, old, new in zip(cluster, attempts, now, strict=True) if new > old]

                (victim,) = await until(building, "one node holds the lock")
                await victim.end(signal.SIGKILL)
        finally:
            holder.terminate()
        start = asyncio.get_running_loop().time()
        rest = [node for node in cluster if node is not victim]
        for node in rest:
            await until(lambda node=node: _has(session, node, SOLVED), "the survivors serve the change")
        # The lock runs out after at most 2 s; a debounce and a build come on top.
        assert asyncio.get_running_loop().time() - start < 2 + 0.3 + 3


async def _acquired(session: aiohttp.ClientSession, node) -> float:
    return await metric(session, node, 'scoreboardd_lock_attempts_total{result="acquired"}')


async def _has(session: aiohttp.ClientSession, node, points: int) -> bool:
    return await score(session, node.url, 1) == points


async def _ready(session: aiohttp.ClientSession, node) -> bool:
    async with session.get(f"{node.admin_url}/readyz") as response:
        return response.status == 200


async def test_a_node_that_starts_serves_what_the_cluster_has(platform, session, settings):
    async with nodes(1, **settings) as (first,):
        await until(lambda: _ready(session, first), "the first is ready")
        served = await version(session, first.url)
        async with nodes(1, **settings) as (second,):
            await until(lambda: _ready(session, second), "the second is ready")
            # It finds nothing changed, and so makes no version of its own.
            await until(lambda: _answered(session, second), "its first rebuild is over")
            assert await version(session, second.url) == served


async def _answered(session: aiohttp.ClientSession, node) -> bool:
    tried = [
        await metric(session, node, f'scoreboardd_lock_attempts_total{{result="{r}"}}') for r in ("acquired", "busy")
    ]
    return sum(tried) > 0
