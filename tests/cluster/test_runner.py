"""One and two nodes in this process, each with a real builder, over a real store and a real database."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from scoreboardd.backends.base import Lease, Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.builder.process import BuilderProcess
from scoreboardd.cache.document_cache import CacheTier, DocumentCache
from scoreboardd.cluster.coordinator import Coordinator, Timing
from scoreboardd.cluster.runner import Runner
from scoreboardd.demo.servers import free_port
from scoreboardd.model import ChangeEvent, Version
from scoreboardd.telemetry.metrics import Metrics
from tests.backends.relay import relay
from tests.board.expected import parsed
from tests.builder.platform import CONTEST, locked, stuck
from tests.contests import SCHEMA_SQL, insert
from tests.nodes import until
from tests.snapshots import snapshot

TIMING = {
    "debounce": 0.05,
    "max_wait": 0.3,
    "lock_ttl": 30.0,
    "reconcile": 60.0,
    "backoff_min": 0.1,
    "backoff_max": 0.4,
}


@dataclass
class Node:
    """Runs a runner, and keeps what it told its clients."""

    runner: Runner
    store: RedisClusterBackend
    builder: BuilderProcess
    cache: DocumentCache
    metrics: Metrics
    told: list[tuple[Version, ChangeEvent]] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    def announce(self, version: Version, event: ChangeEvent) -> None:
        assert self.cache.version == version, "told before it could be read"
        self.told.append((version, event))

    def start(self) -> None:
        self._task = asyncio.create_task(self.runner.run())

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def has(self, username: str) -> bool:
        """True if that user is on the board."""
        if self.cache.snapshot is None:
            return False
        entries = parsed(self.cache.snapshot.documents)["leaderboard:users"]["entries"]
        return username in [entry["username"] for entry in entries]

    def count(self, metric: str, **labels: str) -> float:
        found = getattr(self.metrics, metric)
        return (found.labels(**labels) if labels else found)._value.get()


@dataclass
class Platform:
    """Writes and publishes."""

    database: str
    connection: Any
    redis: Redis
    names: Names

    async def rename(self, username: str, *, publish: bool = True) -> None:
        await self.connection.execute("UPDATE users SET username = $1 WHERE id = 1", username)
        if publish:
            await self.publish()

    async def publish(self, payload: bytes = b'{"scope":"all","reason":"user_profile_update"}') -> None:
        await self.redis.publish(self.names.channel("scoreboard.events"), payload)

    async def lose_the_store(self) -> None:
        found = [key async for key in self.redis.scan_iter(match=f"{self.names.prefix}*")]
        if found:
            await self.redis.delete(*found)


@pytest.fixture
async def platform(database: str, redis_client: Redis, key_prefix: str) -> AsyncIterator[Platform]:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    await connection.execute(SCHEMA_SQL(divisions=True))
    await insert(connection, CONTEST)
    platform = Platform(database, connection, redis_client, Names(key_prefix))
    yield platform
    connection.terminate()
    await platform.lose_the_store()


Cluster = Callable[..., Any]


@pytest.fixture
def cluster(platform: Platform, redis_url: str) -> Cluster:
    """`async with cluster(2) as nodes`: ready nodes, of which each has told of the first version."""

    @asynccontextmanager
    async def run(
        count: int,
        *,
        url: str = redis_url,
        build_timeout: float = 20.0,
        store: type[RedisClusterBackend] = RedisClusterBackend,
        ready: bool = True,
        **timing: float,
    ) -> AsyncIterator[list[Node]]:
        options: dict[str, Any] = TIMING | timing
        nodes = [_node(platform, url, Timing(**options), build_timeout, store) for _ in range(count)]
        builders = [asyncio.create_task(node.builder.run()) for node in nodes]
        try:
            for node in nodes:
                node.start()
            if ready:
                for node in nodes:
                    await until(lambda node=node: node.told and not _busy(node), "the node is ready")
            yield nodes
        finally:
            for node in nodes:
                await node.stop()
                await node.store.aclose()
            for task in builders:
                task.cancel()
            await asyncio.gather(*builders, return_exceptions=True)

    return run


def _busy(node: Node) -> bool:
    coordinator = node.runner.coordinator
    return coordinator.contained < coordinator.changes or coordinator._refresh_needed or coordinator._loading


def _node(platform: Platform, url: str, timing: Timing, build_timeout: float, store: type[RedisClusterBackend]) -> Node:
    prefix = platform.names.prefix
    cache, metrics = DocumentCache(), Metrics()
    builder = BuilderProcess(
        source={"dsn": platform.database, "platform": "smctf", "statement_timeout": 20},
        document_store={"backend": "redis", "url": url, "prefix": prefix, "encoding": "identity", "stage_ttl": 60},
    )
    its_store = store(url, prefix=prefix, lock_ttl=timing.lock_ttl, encoding="identity")
    runner = Runner(
        Coordinator(timing, jitter=random.random),
        backend=its_store,
        builder=builder,
        cache=cache,
        announce=lambda version, event: node.announce(version, event),  # noqa: PLW0108  there is no node yet
        metrics=metrics,
        build_timeout=build_timeout,
    )
    node = Node(runner, its_store, builder, cache, metrics)
    return node


@pytest.fixture
async def version(platform: Platform) -> Callable[[], Any]:
    async def committed() -> str:
        return (await platform.redis.get(platform.names.version)).decode()

    return committed


class TestAChange:
    async def test_reaches_every_node_once(self, cluster: Cluster, platform: Platform, version):
        async with cluster(2) as nodes:
            before = [len(node.told) for node in nodes]
            await platform.rename("eve")
            for node in nodes:
                await until(lambda node=node: node.has("eve"), "the change is served")
            await until(lambda: not any(map(_busy, nodes)), "nobody has anything to do")
            assert {str(node.cache.version) for node in nodes} == {await version()}
            for node, count in zip(nodes, before, strict=True):
                ((told, event),) = node.told[count:]
                assert told == node.cache.version
                assert event.reason == "user_profile_update"
            assert sum(node.count("rebuilds", result="committed") for node in nodes) == 2  # the first, and this
            assert sum(node.count("events", reason="user_profile_update") for node in nodes) == 2

    async def test_by_the_hundred_costs_a_few_rebuilds(self, cluster: Cluster, platform: Platform):
        async with cluster(2) as nodes:
            before = sum(node.count("rebuilds", result="committed") for node in nodes)
            for number in range(300):
                await platform.rename(f"user {number}")
            for node in nodes:
                await until(lambda node=node: node.has("user 299"), "the last change is served")
            assert sum(node.count("rebuilds", result="committed") for node in nodes) - before <= 10

    async def test_that_cannot_be_read_is_one_too(self, cluster: Cluster, platform: Platform):
        async with cluster(1) as (node,):
            await platform.rename("eve", publish=False)
            for payload in (b"\xff\x00", b"x" * 100_000, b"[]"):
                await platform.publish(payload)
            await until(lambda: node.has("eve"), "the change is served")
            assert node.count("events", reason="other") == 3

    async def test_that_nobody_published_is_found(self, cluster: Cluster, platform: Platform):
        async with cluster(2, reconcile=0.3) as nodes:
            await platform.rename("eve", publish=False)
            for node in nodes:
                await until(lambda node=node: node.has("eve"), "the change is served")

    async def test_while_the_bus_was_away_is_found(self, cluster: Cluster, platform: Platform, redis_url: str):
        name = f"test-{platform.names.prefix.strip(':')}"
        async with cluster(1, url=f"{redis_url}?client_name={name}") as (node,):
            await platform.rename("eve", publish=False)
            (subscriber,) = [client for client in await platform.redis.client_list("pubsub") if client["name"] == name]
            await platform.redis.client_kill_filter(_id=subscriber["id"])
            await until(lambda: node.has("eve"), "the change is served")
            assert node.count("bus_reconnects") == 1
            assert node.runner.bus.connected
            assert node.runner.health.store is None


class TestNoChange:
    async def test_commits_nothing_and_says_that_it_is_true_still(self, cluster: Cluster, version):
        async with cluster(2, reconcile=0.3) as nodes:
            committed, told = await version(), [list(node.told) for node in nodes]
            as_of = [node.cache.as_of for node in nodes]
            for node, before in zip(nodes, as_of, strict=True):
                await until(lambda node=node, before=before: node.cache.as_of > before, "it is known to be true later")
            assert await version() == committed
            assert [node.told for node in nodes] == told


class TestARequest:
    async def test_is_contained_once_a_later_build_is_served(self, cluster: Cluster, platform: Platform):
        async with cluster(2) as nodes:
            for number, node in enumerate(nodes * 2):
                await platform.rename(f"user {number}", publish=False)
                async with asyncio.timeout(10):
                    await node.runner.contained(await node.runner.request())
                assert node.has(f"user {number}")

    async def test_many_share_one_rebuild(self, cluster: Cluster, platform: Platform):
        async with cluster(1) as (node,):
            before = node.count("rebuilds", result="committed")
            await platform.rename("eve", publish=False)

            async def ask() -> None:
                await node.runner.contained(await node.runner.request())
                assert node.has("eve")

            async with asyncio.timeout(10):
                await asyncio.gather(*(ask() for _ in range(50)))
            assert node.count("rebuilds", result="committed") - before <= 2

    async def test_is_refused_if_nobody_can_be_told(self, cluster: Cluster):
        async with cluster(1, url=f"redis://127.0.0.1:{free_port()}/0", ready=False) as (node,):
            with pytest.raises(Unavailable):
                await node.runner.request()

    async def test_who_waits_may_leave(self, cluster: Cluster, platform: Platform):
        async with cluster(1) as (node,):
            async with locked(platform.database):
                change = await node.runner.request()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await node.runner.contained(change)
            async with asyncio.timeout(10):
                await node.runner.contained(change)


class TestTheLock:
    async def test_lost_while_building_is_noticed_and_the_change_is_not_lost(self, cluster, platform: Platform):
        async with cluster(1, lock_ttl=0.6) as (node,):
            first = node.builder.pid
            async with locked(platform.database):
                await platform.rename("eve")
                await until(lambda: stuck(platform.connection), "a build waits for the database")
                await platform.redis.delete(platform.names.lock)
                await until(lambda: node.count("rebuilds", result="superseded"), "the loss is noticed")
                await until(lambda: node.builder.pid not in (None, first), "the build was ended")
            await until(lambda: node.has("eve"), "the change is served")

    async def test_lost_to_another_commits_nothing(self, cluster: Cluster, platform: Platform, version):
        async with cluster(1) as (node,):
            before = await version()
            async with locked(platform.database):
                await platform.rename("eve")
                await until(lambda: stuck(platform.connection), "a build waits for the database")
                await platform.redis.set(platform.names.lock, "another", px=700)
            await until(lambda: node.count("rebuilds", result="superseded"), "the commit is refused")
            assert await version() == before
            assert await platform.redis.get(platform.names.lock) == b"another"
            await until(lambda: node.has("eve"), "the change is served")

    async def test_is_renewed_during_a_long_build(self, cluster: Cluster, platform: Platform):
        renewed: list[bool] = []

        class Counting(RedisClusterBackend):
            async def renew(self, lease: Lease) -> bool:
                renewed.append(await super().renew(lease))
                return renewed[-1]

        async with cluster(1, lock_ttl=0.6, store=Counting) as (node,):
            async with locked(platform.database):
                await platform.rename("eve")
                # Every third of its life: so often that without it the lock would have run out twice.
                await until(lambda: len(renewed) >= 6, "the lock is renewed")
                assert all(renewed)
            await until(lambda: node.has("eve"), "the change is served")
            assert node.count("rebuilds", result="superseded") == 0

    async def test_of_a_node_that_leaves_is_free_at_once(self, cluster: Cluster, platform: Platform):
        async with cluster(2) as nodes:
            async with locked(platform.database):
                await platform.rename("eve")
                await until(lambda: stuck(platform.connection), "a build waits for the database")
                (holder,) = [node for node in nodes if node.runner.coordinator.lease]
                (other,) = [node for node in nodes if node is not holder]
                await holder.stop()
                await until(lambda: other.runner.coordinator.lease, "the other node takes over")
            await until(lambda: other.has("eve"), "the change is served")

    async def test_a_slow_answer_about_an_earlier_one_ends_no_build(self, cluster: Cluster, platform: Platform):
        answer = asyncio.Event()
        asked: list[Lease] = []

        class Slow(RedisClusterBackend):
            async def renew(self, lease: Lease) -> bool:
                asked.append(lease)
                if lease != asked[0]:
                    return await super().renew(lease)
                await answer.wait()
                return await super().renew(lease)

        async with cluster(1, lock_ttl=2.4, store=Slow) as (node,):
            async with locked(platform.database):
                await platform.rename("eve")
                await until(lambda: asked, "the first lease is to be renewed")
            await until(lambda: node.has("eve") and not _busy(node), "the first build is done")
            async with locked(platform.database):
                await platform.rename("mallory")
                await until(lambda: stuck(platform.connection), "the second build waits for the database")
                lease = node.runner.coordinator.lease
                answer.set()
                await until(lambda: asked[-1].version == lease, "the second lease is renewed after that")
                assert node.runner.coordinator.lease == lease
            await until(lambda: node.has("mallory"), "the change is served")
            assert node.count("rebuilds", result="superseded") == 0
            assert node.cache.version == lease


class TestFailure:
    async def test_of_the_database_is_told_and_ends_when_it_is_mended(self, cluster: Cluster, platform: Platform):
        async with cluster(1) as (node,):
            await platform.connection.execute("ALTER TABLE users RENAME TO people")
            await platform.publish()
            await until(lambda: node.runner.health.source, "the failure is known")
            assert node.runner.health.source.startswith('postgres: relation "users" does not exist')
            assert node.runner.coordinator.stale
            assert node.runner.coordinator.failing
            assert node.count("rebuilds", result="failed") >= 1
            assert node.has("ada"), "what was there is still served"
            await platform.connection.execute("UPDATE people SET username = 'eve' WHERE id = 1")
            await platform.connection.execute("ALTER TABLE people RENAME TO users")
            await until(lambda: node.has("eve"), "it recovers by itself")
            assert node.runner.health.source is None
            assert not node.runner.coordinator.failing

    async def test_at_the_start_leaves_nothing_to_serve_until_it_is_mended(self, cluster: Cluster, platform: Platform):
        await platform.connection.execute("ALTER TABLE users RENAME TO people")
        async with cluster(1, ready=False) as (node,):
            await until(lambda: node.count("rebuilds", result="failed") >= 2, "it tries again")
            assert node.cache.snapshot is None
            assert node.told == []
            await platform.connection.execute("ALTER TABLE people RENAME TO users")
            await until(lambda: node.has("ada"), "it recovers by itself")

    async def test_of_a_build_that_takes_too_long_ends_the_child(self, cluster: Cluster, platform: Platform):
        async with cluster(1, build_timeout=1.5) as (node,):
            first, before = node.builder.pid, node.count("rebuilds", result="failed")
            async with locked(platform.database):
                await platform.rename("eve")
                await until(lambda: node.count("rebuilds", result="failed") > before, "the build is given up")
                await until(lambda: node.builder.pid not in (None, first), "there is another child")
            await until(lambda: node.has("eve"), "the change is served")

    async def test_of_the_child_is_the_builder_s(self, cluster: Cluster, platform: Platform):
        async with cluster(1) as (node,):
            async with locked(platform.database):
                await platform.rename("eve")
                await until(lambda: stuck(platform.connection), "a build waits for the database")
                node.builder.kill()
                await until(lambda: node.count("rebuilds", result="failed"), "the build has failed")
            await until(lambda: node.has("eve"), "the change is served")
            assert node.runner.health.source is None

    async def test_of_the_store_to_be_there_at_the_start(self, cluster: Cluster, redis_url: str):
        port = free_port()
        async with cluster(1, url=f"redis://127.0.0.1:{port}/0", ready=False) as (node,):
            await until(lambda: "not connected" not in (node.runner.health.store or ""), "it has tried")
            assert node.runner.health.store.startswith("redis: ")
            assert not node.runner.bus.connected
            async with relay(redis_url, port):
                await until(lambda: node.has("ada"), "it comes up by itself")
                assert node.runner.bus.connected
                assert node.runner.health.store is None
                await node.stop()
                await node.store.aclose()

    async def test_of_the_store_to_keep_its_data_starts_a_new_epoch(self, cluster: Cluster, platform: Platform):
        async with cluster(2) as nodes:
            before = nodes[0].cache.version
            await platform.lose_the_store()
            await platform.rename("eve")
            for node in nodes:
                await until(lambda node=node: node.has("eve"), "the change is served")
            assert nodes[0].cache.version.epoch != before.epoch
            assert nodes[0].told[-1][0] == nodes[1].told[-1][0] == nodes[0].cache.version


class TestJoining:
    async def test_a_node_serves_what_is_there_before_it_has_built_anything(self, cluster, platform: Platform):
        async with cluster(1) as (first,), locked(platform.database), cluster(1, ready=False) as (second,):
            await until(lambda: second.told, "it tells of the version that is there")
            assert second.cache.version == first.cache.version
            assert second.has("ada")

    async def test_of_nodes_that_start_together_all_know_that_it_is_what_the_board_is(self, cluster: Cluster):
        async with cluster(2) as nodes:
            assert [node.cache.tier for node in nodes] == [CacheTier.MEMORY] * 2


class TestRestored:
    """What was kept outside the store is found before the store is."""

    async def test_is_served_and_told_until_the_store_has_its_say(self, cluster: Cluster, redis_url: str):
        port, kept = free_port(), Version("kept", 5)
        async with cluster(1, url=f"redis://127.0.0.1:{port}/0", ready=False) as (node,):
            node.runner.restored(snapshot(kept, {"leaderboard:users": {"entries": []}}))
            assert (node.cache.version, node.cache.tier) == (kept, CacheTier.POSTGRES)
            assert [version for version, _ in node.told] == [kept]
            async with relay(redis_url, port):
                await until(lambda: node.has("ada"), "the store is empty, so it builds")
                assert node.cache.version.epoch != kept.epoch
                assert node.cache.tier is CacheTier.MEMORY
                await until(lambda: node.told[-1][0] == node.cache.version, "its clients are told")
                await node.stop()
                await node.store.aclose()

    async def test_that_is_what_the_store_has_is_not_told_again(self, cluster: Cluster, redis_url: str):
        port = free_port()
        async with (
            cluster(1) as (first,),
            cluster(1, url=f"redis://127.0.0.1:{port}/0", ready=False) as (node,),
        ):
            node.runner.restored(first.cache.snapshot)
            told = list(node.told)
            async with relay(redis_url, port):
                await until(lambda: node.cache.tier is CacheTier.MEMORY, "the cluster has confirmed it")
                assert node.cache.version == first.cache.version
                assert node.told == told
                await node.stop()
                await node.store.aclose()

    @pytest.mark.parametrize("epoch", ["its own", "another"])
    async def test_when_there_is_something_better_changes_nothing(self, cluster: Cluster, epoch: str):
        async with cluster(1) as (node,):
            served, told = node.cache.snapshot, list(node.told)
            node.runner.restored(snapshot(Version(served.version.epoch, 0) if epoch == "its own" else Version("e", 9)))
            assert node.cache.snapshot is served
            assert node.cache.tier is CacheTier.MEMORY
            assert node.told == told
