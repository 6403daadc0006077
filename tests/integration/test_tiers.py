"""Where an answer comes from (`X-Scoreboard-Cache`), and what of it outlives Redis: every tier, provoked.

A node that starts while the platform's database holds its builds up has only what it finds: that is how a test looks at
what is otherwise over in a moment.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import aiohttp
import pytest
from redis.asyncio import Redis

from scoreboardd.demo.servers import Valkey, free_port
from scoreboardd.model import Version
from scoreboardd.system.compression import plain
from tests.builder.platform import locked
from tests.integration.conftest import SOLVED, Platform, score
from tests.nodes import Listener, Node, listening, nodes, until

TABLE = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()
PATHS = {
    "leaderboard:users": "/api/leaderboard",
    "leaderboard:teams": "/api/leaderboard/teams",
    "timeline:users": "/api/timeline",
    "timeline:teams": "/api/timeline/teams",
}


class Answer(NamedTuple):
    cache: str
    version: Version | None


async def answer(session: aiohttp.ClientSession, node: Node) -> Answer:
    async with session.get(f"{node.url}/api/leaderboard") as response:
        assert response.status in (200, 503)
        headers = response.headers
        assert (response.status == 200) == ("X-Scoreboard-Cache" in headers)
        return Answer(headers.get("X-Scoreboard-Cache", ""), Version.parse(headers.get("X-Scoreboard-Version", "")))


async def says(session: aiohttp.ClientSession, node: Node, cache: str) -> Answer:
    """The first answer of that kind."""
    seen = set()

    async def it() -> Answer | None:
        said = await answer(session, node)
        seen.add(said.cache)
        return said if said.cache == cache else None

    try:
        return await until(it, f"it says {cache}")
    except AssertionError as error:
        raise AssertionError(f"{error}, but {seen}") from error


async def serves(session: aiohttp.ClientSession, node: Node) -> Version:
    """What it has, once it has something."""
    return await until(lambda: _version(session, node), "it has a version")


async def _version(session: aiohttp.ClientSession, node: Node) -> Version | None:
    return (await answer(session, node)).version


async def readyz(session: aiohttp.ClientSession, node: Node) -> tuple[int, dict[str, Any]]:
    async with session.get(f"{node.admin_url}/readyz") as response:
        return response.status, await response.json()


async def scores(session: aiohttp.ClientSession, node: Node, team: int) -> bool:
    """True if that team has the one challenge that it alone has solved."""
    return await score(session, node.url, team) == SOLVED


def told_of(listener: Listener, version: Version | None) -> bool:
    return listener.last is not None and listener.last.id == str(version)


@pytest.fixture
async def platform(platform: Platform) -> Platform:
    await platform.connection.execute(TABLE)
    return platform


@pytest.fixture
def persisted(settings: dict[str, Any]) -> dict[str, Any]:
    """Kept as a node ends, and only then."""
    return settings | {"cache__persist": "true", "cache__persist_interval": 3600}


@pytest.fixture(params=["redis", "postgres"])
def either(request: pytest.FixtureRequest, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What coordinates, and its settings."""
    if request.param == "postgres":
        settings |= {"coordination__backend": "postgres", "redis__url": f"redis://127.0.0.1:{free_port()}/0"}
    return request.param, settings


async def end_of_a_cluster(session: aiohttp.ClientSession, settings: dict[str, Any]) -> Version:
    """One that has been: what it served last."""
    async with nodes(1, **settings) as (node,):
        _, version = await says(session, node, "memory")
        assert await node.end(signal.SIGTERM) == 0
    assert version is not None
    return version


async def test_a_node_that_joins_answers_from_the_store_until_that_is_confirmed(platform, session, either, database):
    tier, settings = either
    served = await end_of_a_cluster(session, settings)
    async with AsyncExitStack() as lock:
        await lock.enter_async_context(locked(database))
        async with nodes(1, **settings) as (node,), listening(session, node.url) as (listener,):
            assert await says(session, node, tier) == (tier, served)
            await until(lambda: told_of(listener, served), "its clients are told of that version")
            assert await says(session, node, tier) == (tier, served)
            await lock.aclose()
            assert await says(session, node, "memory") == ("memory", served)
            assert told_of(listener, served), "it was confirmed, not made anew"


async def test_a_change_that_is_not_built_yet_makes_it_stale(platform, session, either, database: str):
    tier, settings = either
    async with AsyncExitStack() as lock, nodes(1, **settings) as (node,):
        _, served = await says(session, node, "memory")
        # What is announced is there to be found, or the nodes would look for it again and again.
        await platform.solve(1, 1, publish=False)
        await lock.enter_async_context(locked(database))
        await say(platform, tier)
        assert await says(session, node, "stale-memory") == ("stale-memory", served)
        if tier == "postgres":
            async with nodes(1, **settings) as (joining,):
                await says(session, joining, "postgres")
                await platform.connection.execute("UPDATE teams SET name = 'renamed' WHERE id = 1")
                await say(platform, tier)
                assert await says(session, joining, "stale-postgres") == ("stale-postgres", served)
        await lock.aclose()
        _, newer = await says(session, node, "memory")
        assert newer.follows(served)


async def say(platform: Platform, tier: str) -> None:
    """Announce a solve, as the platform does."""
    if tier == "redis":
        await platform.publish()
    else:
        channel = f"{platform._channel.removesuffix('scoreboard.events')}scoreboard_events"
        event = '{"scope": "all", "reason": "submission_correct"}'
        await platform.connection.execute("SELECT pg_notify($1, $2)", channel, event)


async def test_a_cold_cluster_answers_from_postgres_and_moves_on(
    platform: Platform, session, persisted, database: str, redis_client: Redis, key_prefix: str
):
    served = await end_of_a_cluster(session, persisted)
    found = [key async for key in redis_client.scan_iter(match=f"{key_prefix}*")]
    await redis_client.delete(*found)
    await platform.solve(1, 1, publish=False)
    async with AsyncExitStack() as lock:
        await lock.enter_async_context(locked(database))
        async with nodes(3, **persisted) as cluster:
            for node in cluster:
                assert await says(session, node, "stale-postgres") == ("stale-postgres", served)
            async with listening(session, *(node.url for node in cluster)) as listeners:
                await until(lambda: all(told_of(one, served) for one in listeners), "they are greeted with it")
                await lock.aclose()
                for node in cluster:
                    _, newer = await says(session, node, "memory")
                    assert newer.epoch != served.epoch
                    assert await scores(session, node, 1)
                    assert await answer(session, node) == ("memory", newer), "and stays"
                await until(lambda: all(told_of(one, newer) for one in listeners), "all clients are told")
                assert {one.connections for one in listeners} == {1}


async def test_nodes_that_start_together_all_answer_from_memory(platform: Platform, session, either):
    # Those that build nothing themselves have heard the cluster say what it made.
    _, settings = either
    async with nodes(3, **settings) as cluster:
        assert len({await says(session, node, "memory") for node in cluster}) == 1


@pytest.fixture
def valkey(tmp_path) -> Iterator[Valkey]:
    """Of this test alone, to be stopped."""
    with Valkey(tmp_path) as valkey:
        yield valkey


async def start_again(valkey: Valkey, *, keep_data: bool) -> None:
    """After a `stop`."""
    if not keep_data:
        valkey._dump.unlink()
    await asyncio.to_thread(valkey.start)


keeping = pytest.mark.parametrize("keep_data", [True, False], ids=["with its data", "empty"])


@keeping
async def test_a_node_that_starts_without_redis_serves_what_postgres_has_until_it_returns(
    platform: Platform, session, persisted, valkey: Valkey, keep_data: bool
):
    persisted |= {"redis__url": valkey.url()}
    served = await end_of_a_cluster(session, persisted)
    await asyncio.to_thread(valkey.stop)
    await platform.solve(1, 1, publish=False)
    async with nodes(1, **persisted) as (node,), listening(session, node.url) as (listener,):
        assert await says(session, node, "stale-postgres") == ("stale-postgres", served)
        status, body = await readyz(session, node)
        assert status == 503
        assert body["redis"].startswith("redis: ")
        assert (body["documents"], body["version"]) == ("ok", str(served))
        await until(lambda: told_of(listener, served), "its clients are told of that version")

        await start_again(valkey, keep_data=keep_data)
        await until(lambda: scores(session, node, 1), "what nobody published is found")
        _, newer = await says(session, node, "memory")
        assert (newer.epoch == served.epoch) == keep_data
        assert newer.follows(served)
        await until(lambda: told_of(listener, newer), "its clients are told")
        status, body = await readyz(session, node)
        assert (status, body["redis"], body["version"]) == (200, "ok", str(newer))


async def test_a_node_that_starts_without_redis_and_finds_nothing_says_so(platform, session, persisted):
    persisted |= {"redis__url": f"redis://127.0.0.1:{free_port()}/0"}
    async with nodes(1, **persisted) as (node,):
        await until(lambda: _tried(session, node), "it has tried")
        assert await answer(session, node) == ("", None)


async def _tried(session: aiohttp.ClientSession, node: Node) -> bool:
    status, body = await readyz(session, node)
    assert status == 503
    return body["redis"].startswith("redis: ")


@keeping
async def test_redis_goes_away_under_running_nodes_and_returns(
    platform: Platform, session, persisted, valkey: Valkey, keep_data: bool
):
    persisted |= {"redis__url": valkey.url(), "cache__stale_after": 0.5, "rebuild__lock_ttl": 2}
    async with nodes(2, **persisted) as cluster, reading(session, cluster) as read:
        (served,) = {await serves(session, node) for node in cluster}
        async with listening(session, *(node.url for node in cluster)) as listeners:
            await until(lambda: all(told_of(one, served) for one in listeners), "every listener is greeted")
            await asyncio.to_thread(valkey.stop)
            await platform.solve(1, 1, publish=False)
            for node in cluster:
                await until(lambda node=node: _stale(session, node), "it says that what it has is old")
                status, body = await readyz(session, node)
                assert status == 503
                assert body["redis"].startswith("redis: ")

            await start_again(valkey, keep_data=keep_data)
            for node in cluster:
                await until(lambda node=node: scores(session, node, 1), "what nobody published is found")
                await until(lambda node=node: _ready(session, node), "it is ready again")
            (newer,) = {await serves(session, node) for node in cluster}
            assert (newer.epoch == served.epoch) == keep_data
            await until(lambda: all(told_of(one, newer) for one in listeners), "all clients are told")
            for one in listeners:
                assert one.connections == 1
                numbers = [notice.version for notice in one.heard if notice.id.startswith(f"{served.epoch}-")]
                assert numbers == sorted(numbers)
        assert read == {200}


async def _stale(session: aiohttp.ClientSession, node: Node) -> bool:
    return (await answer(session, node)).cache.startswith("stale-")


async def _ready(session: aiohttp.ClientSession, node: Node) -> bool:
    return (await readyz(session, node))[0] == 200


@asynccontextmanager
async def reading(session: aiohttp.ClientSession, cluster: list[Node]) -> AsyncIterator[set[int]]:
    """Asks on and on, once there is something: the statuses that came."""
    statuses: set[int] = set()

    async def read(node: Node) -> None:
        while True:
            async with session.get(f"{node.url}/api/leaderboard") as response:
                statuses.add(response.status)
            await asyncio.sleep(0.01)

    for node in cluster:
        await serves(session, node)
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read(node)) for node in cluster]
        try:
            yield statuses
        finally:
            for reader in readers:
                reader.cancel()


class Kept:
    """What is in the table, read as somebody else would."""

    def __init__(self, connection: Any, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix

    async def version(self) -> Version | None:
        row = await self._connection.fetchrow(
            "SELECT epoch, version FROM leaderboard_cache WHERE cache_key = $1", f"{self._prefix}scoreboard:version"
        )
        return Version(*row) if row else None

    async def documents(self) -> dict[str, bytes]:
        """Those of `PATHS`."""
        rows = await self._connection.fetch(
            "SELECT cache_key, payload, encoding FROM leaderboard_cache WHERE cache_key = ANY ($1)",
            [f"{self._prefix}{name}" for name in PATHS],
        )
        assert {encoding for _, _, encoding in rows} == {"zstd"}
        return {key.removeprefix(self._prefix): plain(payload) for key, payload, _ in rows}

    async def count_writes(self) -> None:
        await self._connection.execute("""
            CREATE TABLE writes (place bigserial, at timestamptz, epoch text, number bigint);
            CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO writes (at, epoch, number) VALUES (now(), NEW.epoch, NEW.version);
                RETURN NULL;
            END $$;
            CREATE TRIGGER count_write AFTER INSERT OR UPDATE ON leaderboard_cache FOR EACH ROW
            WHEN (NEW.cache_key LIKE '%scoreboard:version') EXECUTE FUNCTION count_write();
        """)

    async def writes(self) -> list[tuple[float, Version]]:
        rows = await self._connection.fetch("SELECT at, epoch, number FROM writes ORDER BY place")
        return [(at.timestamp(), Version(epoch, number)) for at, epoch, number in rows]


@pytest.fixture
def kept(platform: Platform, key_prefix: str) -> Kept:
    return Kept(platform.connection, key_prefix)


async def test_a_node_that_ends_leaves_its_last_version_behind(platform: Platform, session, persisted, kept: Kept):
    async with nodes(1, **persisted) as (node,):
        await says(session, node, "memory")
        await platform.solve(1, 1)
        await until(lambda: scores(session, node, 1), "the last version")
        bodies = {name: await _body(session, f"{node.url}{path}") for name, path in PATHS.items()}
        _, served = await answer(session, node)
        assert await kept.version() is None
        assert await node.end(signal.SIGTERM) == 0
    assert await kept.version() == served
    assert await kept.documents() == bodies


async def _body(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        return await response.read()


async def test_a_node_that_was_left_behind_does_not_replace_what_is_newer(
    platform: Platform, session, persisted, valkey: Valkey, kept: Kept
):
    persisted |= {"redis__url": valkey.url()}
    async with nodes(2, **persisted) as (left, other):
        (old,) = {await serves(session, node) for node in (left, other)}
        left.process.send_signal(signal.SIGSTOP)
        await platform.solve(1, 1, publish=False)
        async with Redis.from_url(valkey.url(), single_connection_client=True) as redis:
            await redis.publish(platform._channel, "{}")
        await until(lambda: scores(session, other, 1), "a version that the frozen one has not")
        assert await other.end(signal.SIGTERM) == 0
        newer = await kept.version()
        assert newer.epoch == old.epoch
        assert newer.number > old.number
        await asyncio.to_thread(valkey.stop)  # so that it cannot catch up
        left.process.send_signal(signal.SIGCONT)
        assert await serves(session, left) == old
        assert await left.end(signal.SIGTERM) == 0
        assert await kept.version() == newer
        teams = json.loads((await kept.documents())["leaderboard:teams"])["entries"]
        assert (teams[0]["team_id"], teams[0]["score"]) == (1, SOLVED)


async def test_three_nodes_write_once_in_an_interval(platform: Platform, session, persisted, kept: Kept):
    interval = 0.7
    await kept.count_writes()
    fast = {"cache__persist_interval": interval, "rebuild__debounce": 0.02, "rebuild__max_wait": 0.05}
    async with nodes(3, **persisted | fast) as cluster:
        for node in cluster:
            await serves(session, node)
        number = 0

        async def written() -> bool:
            nonlocal number
            number += 1
            await platform.solve(number % 5 + 1, number // 5 % 5 + 1)
            return len(await kept.writes()) >= 4

        await until(written, "it is written again and again")
        writes = await kept.writes()
    assert all(after - before >= interval for (before, _), (after, _) in pairwise(writes)), writes
    assert all(after.number > before.number for (_, before), (_, after) in pairwise(writes))
