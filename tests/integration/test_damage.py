"""What somebody else writes to the store is neither served nor in the way."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.resources import files
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.builder.platform import locked
from tests.integration.conftest import SOLVED, Platform, score
from tests.integration.test_process import _command, _environ
from tests.integration.test_tiers import end_of_a_cluster, readyz, say, says, serves
from tests.nodes import nodes, until

TABLE = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()
TEAMS = "leaderboard:teams"
Change = Callable[[str, Callable[[bytes], bytes]], Awaitable[None]]


@pytest.fixture
async def platform(platform: Platform) -> Platform:
    await platform.connection.execute(TABLE)
    return platform


@pytest.fixture(params=["identity", "zstd", "postgres"])
def store(request: pytest.FixtureRequest, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a cluster with that store."""
    if request.param == "postgres":
        return settings | {"coordination__backend": "postgres"}
    return settings | {"redis__encoding": request.param}


@pytest.fixture
def change(store: dict[str, Any], platform: Platform, redis_client: Redis, key_prefix: str) -> Change:
    """Writes a document that nobody committed."""

    async def change(name: str, to: Callable[[bytes], bytes]) -> None:
        key = key_prefix + name
        if "coordination__backend" not in store:
            value = await redis_client.get(key)
            assert value is not None
            await redis_client.set(key, to(value))
            return
        row = "FROM leaderboard_cache WHERE cache_key = $1"
        value = await platform.connection.fetchval(f"SELECT payload {row}", key)
        await platform.connection.execute(
            "UPDATE leaderboard_cache SET payload = $2 WHERE cache_key = $1", key, to(value)
        )

    return change


def flipped(value: bytes) -> bytes:
    at = len(value) // 3
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


# How a store finds each kind of damage is tested in tests/backends/test_damage.py.
async def test_a_node_that_starts_has_the_true_board(platform, session, store, change: Change):
    async with nodes(1, **store) as (node,):
        await serves(session, node)
        await solve(platform, store, 1)
        await until(lambda: scores(session, node, 1), "it shows the solve")
        served = await serves(session, node)
    await change(TEAMS, flipped)
    code, said = await _command("check", environ=_environ(store))
    assert code == 1
    assert TEAMS in said
    assert len(said.splitlines()) == 1
    async with nodes(1, **store) as (node,):
        _, version = await says(session, node, "memory")
        assert version.follows(served)
        assert await scores(session, node, 1)
        status, body = await readyz(session, node)
        assert status == 200, body
    assert await _command("check", environ=_environ(store)) == (0, "all is well\n")


async def test_a_node_that_joins_others_has_the_true_board(platform, session, store, change: Change):
    async with nodes(2, **store) as cluster:
        for node in cluster:
            await serves(session, node)
        await solve(platform, store, 1)
        for node in cluster:
            await until(lambda node=node: scores(session, node, 1), "it shows the solve")
        await change(TEAMS, flipped)
        async with nodes(1, **store) as (joining,):
            await says(session, joining, "memory")
            assert await scores(session, joining, 1)


async def test_a_damaged_edition_that_was_kept_is_not_served(
    platform: Platform, session, settings, database: str, redis_client: Redis, key_prefix: str
):
    persisted = settings | {"cache__persist": "true", "cache__persist_interval": 3600}
    await end_of_a_cluster(session, persisted)
    await redis_client.delete(*[key async for key in redis_client.scan_iter(match=f"{key_prefix}*")])
    await platform.connection.execute(
        "UPDATE leaderboard_cache SET payload = set_byte(payload, 30, get_byte(payload, 30) # 1) WHERE cache_key = $1",
        key_prefix + TEAMS,
    )
    async with AsyncExitStack() as lock:
        await lock.enter_async_context(locked(database))
        async with nodes(1, **persisted) as (node,):
            count = "SELECT count(*) FROM leaderboard_cache WHERE cache_key = $1"
            await until(lambda: _gone(platform, count, f"{key_prefix}scoreboard:version"), "it is forgotten")
            async with session.get(f"{node.url}/api/leaderboard") as response:
                assert response.status == 503
            await lock.aclose()
            await says(session, node, "memory")


async def test_no_last_number_loses_a_solve(platform, session, store, redis_client, key_prefix: str):
    async with nodes(2, **store) as cluster:
        for node in cluster:
            await serves(session, node)
        for team, number in enumerate((10**14, 2**53, 9 * 10**18), start=1):
            if "coordination__backend" in store:
                await platform.connection.execute(
                    "UPDATE leaderboard_cache SET version = $2 WHERE cache_key = $1",
                    f"{key_prefix}leaderboard:rebuild:lock",
                    number,
                )
            else:
                await redis_client.hset(f"{key_prefix}scoreboard:fence", "number", number)
            await solve(platform, store, team)
            for node in cluster:
                await until(lambda node=node, team=team: scores(session, node, team), f"it shows solve {team}")
        await solve(platform, store, 4)
        for node in cluster:
            await until(lambda node=node: scores(session, node, 4), "it shows the solve after them")


async def solve(platform: Platform, store: dict[str, Any], team: int) -> None:
    """A challenge that no other team has solved."""
    await platform.solve(team, team, publish=False)
    await say(platform, "postgres" if "coordination__backend" in store else "redis")


async def _gone(platform: Platform, count: str, key: str) -> bool:
    return await platform.connection.fetchval(count, key) == 0


async def scores(session, node, team: int) -> bool:
    return await score(session, node.url, team) == SOLVED
