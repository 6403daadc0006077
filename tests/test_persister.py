"""The archive with a real builder and a real table: what a node finds when it starts, and what it leaves behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from scoreboardd.backends.names import Names
from scoreboardd.builder.process import BuilderProcess
from scoreboardd.cache import persister
from scoreboardd.cache.document_cache import CacheTier, DocumentCache
from scoreboardd.cache.persister import SnapshotPersister
from scoreboardd.model import Snapshot, Version
from scoreboardd.system.backoff import Backoff
from tests.nodes import until
from tests.snapshots import joined, snapshot

TABLE = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()
FIVE, SIX = Version("e", 5), Version("e", 6)
NEVER = 3600.0


class Kept:
    """The version that is kept, and whether it has been written since."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def version(self) -> Version | None:
        row = await self.connection.fetchrow(
            "SELECT epoch, version FROM leaderboard_cache WHERE cache_key = $1", Names("").version
        )
        return Version(*row) if row else None

    async def rows(self) -> list[Any]:
        return await self.connection.fetch("SELECT cache_key, xmin FROM leaderboard_cache ORDER BY cache_key")

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Nobody else gets at it while this lasts."""
        async with self.connection.transaction():
            await self.connection.execute("LOCK TABLE leaderboard_cache IN ACCESS EXCLUSIVE MODE")
            yield


@pytest.fixture
async def persisted(database: str) -> AsyncIterator[Kept]:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    try:
        await connection.execute(TABLE)
        yield Kept(connection)
    finally:
        connection.terminate()


class Counting(BuilderProcess):
    """How often it was asked."""

    restores = keeps = 0

    async def restore(self) -> Snapshot | None:
        self.restores += 1
        return await super().restore()

    async def persist(self, snapshot: Snapshot, *, quiet: float) -> bool:
        self.keeps += 1
        return await super().persist(snapshot, quiet=quiet)


@pytest.fixture
async def builder(database: str, persisted: Kept) -> AsyncIterator[Counting]:
    persister = {"dsn": database, "prefix": "", "stage_ttl": 30}
    source = {"dsn": database, "platform": "smctf", "statement_timeout": 5}
    builder = Counting(source=source, document_store={"backend": "postgres"} | persister, persister=persister)
    async with running(builder.run()):
        yield builder


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Node:
    """What an archive sees of one."""

    def __init__(self, builder: BuilderProcess, interval: float) -> None:
        self.cache = DocumentCache()
        self.restored: list[Snapshot] = []
        self.persister = SnapshotPersister(self.cache, builder, interval=interval, restored=self._restore)

    def _restore(self, found: Snapshot) -> None:
        self.restored.append(found)
        self.cache.install(found, CacheTier.POSTGRES)

    def serve(self, version: Version, **options: Any) -> Snapshot:
        served = snapshot(version, **options)
        assert self.cache.install(served)
        return served


@pytest.fixture
def make(builder: BuilderProcess) -> Callable[..., Node]:
    return lambda interval=NEVER: Node(builder, interval)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


async def persist(make: Callable[..., Node], version: Version, **options: Any) -> Snapshot:
    """As a node did that has ended since."""
    node = make()
    served = node.serve(version, **options)
    await node.persister.flush()
    return served


class TestRestoring:
    async def test_what_a_node_has_left_is_what_the_next_finds(self, make, logs):
        left = await persist(make, FIVE, divisions=(1, 2), as_of=time.time() - 100)
        node = make()
        async with running(node.persister.run()):
            await until(lambda: node.restored, "it is found")
        (found,) = node.restored
        assert found.version == FIVE
        assert found.divisions == (1, 2)
        assert found.as_of == pytest.approx(left.as_of, abs=1e-6)
        assert joined(found.documents) == joined(left.documents)
        assert [(line["event"], line["version"], line["age"] >= 100) for line in logs] == [("restored", "e-5", True)]

    async def test_it_is_not_kept_again(self, make, persisted: Kept):
        await persist(make, FIVE)
        before = await persisted.rows()
        node = make(interval=0.05)
        async with running(node.persister.run()):
            await until(lambda: node.restored, "it is found")
            node.serve(SIX)
            await until(lambda: _is(persisted, SIX), "what is newer is kept")
        assert len(node.restored) == 1
        assert before != await persisted.rows()

    async def test_finding_nothing_it_goes_on_to_keep(self, make, persisted: Kept):
        node = make(interval=0.05)
        async with running(node.persister.run()):
            node.serve(FIVE)
            await until(lambda: _is(persisted, FIVE), "it is kept")
        assert node.restored == []

    async def test_a_node_that_has_documents_by_then_keeps_them(self, make, persisted: Kept):
        await persist(make, FIVE)
        node = make(interval=0.05)
        async with persisted.locked():
            working = running(node.persister.run())
            await working.__aenter__()
            await until(lambda: _waits(persisted), "it reads")
            node.serve(Version("new", 1))
        await until(lambda: _is(persisted, Version("new", 1)), "it has read on, and keeps its own")
        await working.__aexit__(None, None, None)
        assert node.restored == []
        assert node.cache.version == Version("new", 1)

    async def test_a_table_that_cannot_be_read_is_tried_again_and_told_once(
        self, make, persisted: Kept, builder: Counting, logs, monkeypatch
    ):
        monkeypatch.setattr(persister, "RETRY", Backoff(0.05, 0.05))
        await persist(make, FIVE)
        await persisted.connection.execute("ALTER TABLE leaderboard_cache RENAME TO elsewhere")
        node = make()
        async with running(node.persister.run()):
            told = "cannot read the persisted copy, retrying"
            await until(lambda: [line for line in logs if line["event"] == told], "it is told")
            await until(lambda: builder.restores >= 4, "it tries on")
            await persisted.connection.execute("ALTER TABLE elsewhere RENAME TO leaderboard_cache")
            await until(lambda: node.restored, "it is found at last")
        (line,) = [line for line in logs if line["log_level"] == "warning"]
        assert "run `scoreboardd migrate`" in line["error"]

    async def test_a_builder_that_dies_meanwhile_is_asked_again(self, make, builder: BuilderProcess, persisted: Kept):
        await persist(make, FIVE)
        node = make()
        async with persisted.locked():
            working = running(node.persister.run())
            await working.__aenter__()
            await until(lambda: _waits(persisted), "it reads")
            builder.kill()
        await until(lambda: node.restored, "it is found at last")
        await working.__aexit__(None, None, None)


async def _is(persisted: Kept, version: Version) -> bool:
    return await persisted.version() == version


async def _waits(persisted: Kept) -> bool:
    return await persisted.connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'scoreboardd' AND wait_event_type = 'Lock')"
    )


class TestKeeping:
    async def test_the_newest_is_kept_and_the_same_is_not_offered_twice(self, make, persisted: Kept, builder: Counting):
        node = make(interval=0.05)
        async with running(node.persister.run()):
            for version in (FIVE, SIX, Version("other", 1)):
                node.serve(version)
                await until(lambda version=version: _is(persisted, version), "it is kept")
        asked = builder.keeps
        await node.persister.flush()
        assert builder.keeps == asked

    async def test_two_nodes_write_one_of_the_same(self, make, persisted: Kept):
        nodes = [make(interval=0.05), make(interval=0.05)]
        for node in nodes:
            node.serve(FIVE)
        async with running(nodes[0].persister.run()):
            await until(lambda: _is(persisted, FIVE), "one writes")
        rows = await persisted.rows()
        await nodes[1].persister.flush()
        assert await persisted.rows() == rows

    async def test_an_older_one_replaces_nothing_and_is_not_offered_again(self, make, persisted: Kept):
        await persist(make, SIX)
        node = make(interval=0.05)
        node.serve(FIVE)
        rows = await persisted.rows()
        async with running(node.persister.run()):
            await until(lambda: node.persister._persisted_version == FIVE, "there is nothing more to do")
        assert await persisted.rows() == rows

    async def test_within_an_interval_of_another_s_it_waits(self, make, persisted: Kept):
        first, second = make(), make()
        first.serve(FIVE)
        await first.persister._persist(quiet=NEVER)
        second.serve(SIX)
        await second.persister._persist(quiet=NEVER)
        assert await persisted.version() == FIVE
        await second.persister.flush()  # but who ends does not
        assert await persisted.version() == SIX

    async def test_failing_is_told_once_and_tried_again(self, make, persisted: Kept, builder: Counting, logs):
        node = make(interval=0.05)
        node.serve(FIVE)
        await persisted.connection.execute("ALTER TABLE leaderboard_cache RENAME TO elsewhere")
        async with running(node.persister.run()):
            await until(lambda: [line for line in logs if line["event"].startswith("cannot persist")], "it is told")
            await until(lambda: builder.keeps >= 4, "it tries on")
            await persisted.connection.execute("ALTER TABLE elsewhere RENAME TO leaderboard_cache")
            await until(lambda: _is(persisted, FIVE), "it is kept at last")
        (line,) = [line for line in logs if line["log_level"] == "warning"]
        assert line["version"] == "e-5"
        assert "run `scoreboardd migrate`" in line["error"]


class TestTheEnd:
    async def test_of_a_node_without_documents_leaves_all_as_it_is(self, make, persisted: Kept):
        await persist(make, FIVE)
        rows = await persisted.rows()
        await make().persister.flush()
        assert await persisted.rows() == rows

    async def test_does_not_wait_for_a_database_that_hangs(self, make, persisted: Kept, logs, monkeypatch):
        monkeypatch.setattr(persister, "FLUSH_TIMEOUT_SECONDS", 0.3)
        node = make()
        node.serve(FIVE)
        async with persisted.locked(), asyncio.timeout(5):
            await node.persister.flush()
        assert [line["event"] for line in logs] == ["the documents were not persisted in time"]

    async def test_does_not_wait_for_a_database_that_is_gone(self, make, persisted: Kept, logs):
        node = make()
        node.serve(FIVE)
        await persisted.connection.execute("DROP TABLE leaderboard_cache")
        async with asyncio.timeout(5):
            await node.persister.flush()
        assert [line["event"] for line in logs] == ["cannot persist the documents, retrying"]
