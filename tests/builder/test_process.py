"""The builder process: a real child, a real database, a real store."""

import asyncio
import gc
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from scoreboardd.backends.base import Lease
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.builder import process
from scoreboardd.builder.messages import Answer, Build, BuildResult, Pong
from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.demo.servers import free_port
from scoreboardd.model import ChangeEvent, Snapshot, Version
from scoreboardd.system.clock import Clock
from scoreboardd.system.compression import Frames, plain
from scoreboardd.telemetry.metrics import Metrics
from tests import oracle
from tests.backends.relay import relay
from tests.board.expected import expected, parsed
from tests.builder.platform import CONTEST, locked, stuck
from tests.contests import MICROSECOND, SCHEMA_SQL, START, insert
from tests.nodes import until
from tests.snapshots import joined

EXPECTED = expected(CONTEST)
TIMEOUT = 20.0


@pytest.fixture
async def admin(database: str) -> AsyncIterator[Any]:
    """The platform's connection to its database, which has a contest."""
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    await connection.execute(SCHEMA_SQL(divisions=True))
    await insert(connection, CONTEST)
    yield connection
    connection.terminate()


@pytest.fixture
def options(admin: Any, database: str, redis_url: str, key_prefix: str) -> dict[str, Any]:
    return {
        "source": {"dsn": database, "platform": "smctf", "statement_timeout": TIMEOUT},
        "document_store": {
            "backend": "redis",
            "url": redis_url,
            "prefix": key_prefix,
            "encoding": "identity",
            "stage_ttl": 30,
        },
    }


@asynccontextmanager
async def running(builder: BuilderProcess) -> AsyncIterator[BuilderProcess]:
    task = asyncio.create_task(builder.run())
    try:
        yield builder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def builder(options: dict[str, Any]) -> AsyncIterator[BuilderProcess]:
    async with running(BuilderProcess(**options)) as builder:
        yield builder


@pytest.fixture
async def store(redis_url: str, redis_client: Redis, key_prefix: str) -> AsyncIterator[RedisClusterBackend]:
    store = RedisClusterBackend(redis_url, prefix=key_prefix, lock_ttl=30, encoding="identity")
    yield store
    await store.aclose()
    found = [key async for key in redis_client.scan_iter(match=f"{key_prefix}*")]
    if found:
        await redis_client.delete(*found)


class Built:
    """A result and the documents that came with it."""

    def __init__(self, result: BuildResult, documents: Mapping[str, Frames] | None) -> None:
        self.result, self.documents = result, documents

    @property
    def complete(self) -> bool:
        return self.result.metadata.complete

    def __getattr__(self, name: str) -> Any:
        return getattr(self.result, name)

    def snapshot(self, version: Version) -> Snapshot:
        assert self.documents is not None
        return self.result.metadata.snapshot(version, self.documents)


async def build(
    builder: BuilderProcess, lease: Lease | None = None, *, timeout: float = TIMEOUT, **options: Any
) -> Built:
    lease = lease or Lease("token", Version("e", 1))
    request = Build(lease.version, **{"quiet": False, "full": True} | options)
    return Built(*await builder.build(request, lease.token, timeout=timeout))


async def commit(builder: BuilderProcess, store: RedisClusterBackend) -> Version:
    lease = await store.acquire("token", None)
    assert isinstance(lease, Lease)
    built = await build(builder, lease)
    assert await store.commit(lease, built.metadata, ChangeEvent.updated())
    return lease.version


class TestBuild:
    async def test_returns_the_documents_and_has_staged_them(self, builder, redis_client: Redis, key_prefix: str):
        built = await build(builder)
        assert parsed(built.documents) == EXPECTED
        assert built.metadata.divisions == (1, 2)
        assert built.rows == {"challenges": 1, "teams": 2, "users": 2, "solves": 1}
        assert set(built.timings) == {"read", "build", "render", "commit"}
        assert built.unchanged is None
        names = Names(key_prefix)
        for name, body in built.documents.items():
            assert await redis_client.get(names.staged("token", name)) == plain(body)
        assert built.staged_bytes == built.size == sum(len(plain(body)) for body in built.documents.values())

    async def test_quietly_finds_what_is_committed(self, builder, store, admin, redis_client: Redis, key_prefix: str):
        version = await commit(builder, store)
        lease = Lease("next", Version(version.epoch, version.number + 1))
        built = await build(builder, lease, quiet=True)
        assert built.unchanged == version
        assert built.documents is None
        assert await redis_client.keys(f"{key_prefix}scoreboard:staged:*") == []
        # Not if somebody has said that something changed, not if something has, and not in another epoch.
        assert (await build(builder, lease, quiet=False)).unchanged is None
        assert (await build(builder, Lease("next", Version("new", 1)), quiet=True)).unchanged is None
        await redis_client.delete(f"{key_prefix}timeline:teams:div:2")
        assert (await build(builder, lease, quiet=True)).unchanged is None
        await commit(builder, store)
        await admin.execute("UPDATE users SET username = 'eve' WHERE id = 2")
        assert (await build(builder, lease, quiet=True)).unchanged is None

    async def test_says_what_is_wrong_with_the_database(self, builder: BuilderProcess, admin):
        await admin.execute("ALTER TABLE users RENAME TO people")
        with pytest.raises(BuilderError, match='postgres: relation "users" does not exist') as raised:
            await build(builder)
        assert raised.value.part == "source"
        await admin.execute("ALTER TABLE people RENAME TO users")
        await build(builder)

    async def test_says_what_is_wrong_with_the_store(self, options: dict[str, Any]):
        options["document_store"]["url"] = f"redis://:s3cret@127.0.0.1:{free_port()}/0"
        async with running(BuilderProcess(**options)) as builder:
            for work in (build(builder), builder.load(None)):
                with pytest.raises(BuilderError, match="redis: ") as raised:
                    await work
                assert raised.value.part == "store"
                assert "s3cret" not in str(raised.value)


class TestABuildThatIsNotWhole:
    """Reads what is new, and makes of it what a whole one makes of all."""

    @staticmethod
    async def solve(admin: Any, number: int, user: int) -> oracle.Tables:
        """Submission `number`, and the contest with it."""
        submission = oracle.Submission(number, user, 1, True, False, START + number * MICROSECOND)
        await admin.execute("INSERT INTO submissions VALUES ($1, $2, $3, $4, $5, $6)", *astuple(submission))
        return replace(CONTEST, submissions=[*CONTEST.submissions, submission])

    async def test_after_a_solve_has_the_documents_of_a_whole_one(self, options, builder: BuilderProcess, admin):
        await build(builder)
        contest = await self.solve(admin, 2, user=2)
        followed = await build(builder, full=False)
        async with running(BuilderProcess(**options)) as other:
            anew = await build(other, full=True)
        assert (followed.full, anew.full) == (False, True)
        assert parsed(followed.documents) == expected(contest)
        assert texts(followed) == texts(anew)
        assert (followed.metadata.digest, followed.size) == (anew.metadata.digest, anew.size)
        assert followed.metadata.divisions == (1, 2)
        assert followed.staged_bytes == followed.size

    async def test_after_nothing_has_the_documents_it_had(self, builder: BuilderProcess):
        first, second = await build(builder), await build(builder, full=False)
        assert not second.full
        assert joined(second.documents) == joined(first.documents)
        assert second.metadata.digest == first.metadata.digest

    async def test_quietly_finds_what_is_committed(self, builder: BuilderProcess, store: RedisClusterBackend, admin):
        version = await commit(builder, store)
        lease = Lease("next", Version(version.epoch, version.number + 1))
        built = await build(builder, lease, full=False, quiet=True)
        assert (built.full, built.unchanged, built.documents) == (False, version, None)
        await self.solve(admin, 2, user=2)
        assert (await build(builder, lease, full=False, quiet=True)).unchanged is None

    async def test_at_first_is_whole_all_the_same(self, builder: BuilderProcess):
        built = await build(builder, full=False)
        assert built.full
        assert parsed(built.documents) == EXPECTED

    async def test_by_another_child_is_whole_all_the_same(self, builder: BuilderProcess, admin):
        await build(builder)
        first = builder.pid
        builder.kill()
        await until(lambda: builder.pid not in (None, first), "there is another child")
        contest = await self.solve(admin, 2, user=2)
        built = await build(builder, full=False)
        assert built.full
        assert parsed(built.documents) == expected(contest)
        assert not (await build(builder, full=False)).full

    async def test_after_one_that_could_not_read_is_whole_all_the_same(self, builder: BuilderProcess, admin):
        await build(builder)
        await admin.execute("ALTER TABLE submissions RENAME TO elsewhere")
        for full in (False, True):
            with pytest.raises(BuilderError, match="does not exist"):
                await build(builder, full=full)
        await admin.execute("ALTER TABLE elsewhere RENAME TO submissions")
        await admin.execute("UPDATE users SET username = 'eve' WHERE id = 2")
        built = await build(builder, full=False)
        assert built.full
        assert parsed(built.documents)["leaderboard:users"]["entries"][1]["username"] == "eve"

    async def test_after_one_that_did_not_reach_the_store_goes_on_from_what_it_read(
        self, options, redis_url: str, admin
    ):
        port = free_port()
        options["document_store"]["url"] = f"redis://127.0.0.1:{port}/0"
        async with running(BuilderProcess(**options)) as builder:
            async with relay(redis_url, port):
                await build(builder)
            with pytest.raises(BuilderError, match="redis: "):
                await build(builder, full=False)
            contest = await self.solve(admin, 2, user=2)
            async with relay(redis_url, port):
                built = await build(builder, full=False)
        assert not built.full
        assert parsed(built.documents) == expected(contest)


class TestWhatWasAnnounced:
    async def test_is_missed_and_found(self, builder: BuilderProcess, admin):
        assert (await build(builder)).complete
        assert not (await build(builder, full=False, solves=1)).complete
        await admin.execute("INSERT INTO submissions VALUES (9, 2, 1, true, false, $1)", START)
        built = await build(builder, full=False)
        assert built.metadata.complete
        assert not built.full

    async def test_may_be_another_change(self, builder: BuilderProcess, admin):
        assert (await build(builder)).complete
        await admin.execute("UPDATE users SET username = 'bert' WHERE id = 2")
        assert (await build(builder, announced=True)).complete
        assert not (await build(builder, announced=True)).complete


class TestWhatOtherNodesRead:
    async def test_is_read_here_too(self, builder: BuilderProcess, options, store: RedisClusterBackend, admin):
        """A row that increments do not see stays on the board once another node has found it."""
        await commit(builder, store)
        async with running(BuilderProcess(**options)) as other:
            lease = await store.acquire("token", None)
            assert isinstance(lease, Lease)
            built = await build(other, lease)
            assert built.full
            assert built.metadata.full == lease.version.number
            assert await store.commit(lease, built.metadata, ChangeEvent.updated())
        lease = await store.acquire("token", None)
        assert isinstance(lease, Lease)
        built = await build(builder, lease, full=False)
        assert built.full
        assert built.metadata.full == lease.version.number
        assert await store.commit(lease, built.metadata, ChangeEvent.updated())
        lease = await store.acquire("token", None)
        assert isinstance(lease, Lease)
        again = await build(builder, lease, full=False)
        assert not again.full
        assert again.metadata.full == built.metadata.full


def texts(built: Built) -> dict[str, bytes]:
    assert built.documents is not None
    return {name: plain(document) for name, document in built.documents.items()}


class TestLoad:
    async def test_nothing(self, builder: BuilderProcess):
        assert (await builder.load(None))[1] is None

    async def test_what_is_committed(self, builder: BuilderProcess, store: RedisClusterBackend):
        version = await commit(builder, store)
        snapshot = (await builder.load(None))[1]
        assert snapshot is not None
        assert snapshot.version == version
        assert snapshot.divisions == (1, 2)
        assert parsed(snapshot.documents) == EXPECTED

    async def test_goes_on_beside_a_build_that_does_not(
        self, builder, store: RedisClusterBackend, admin, database: str
    ):
        version = await commit(builder, store)
        async with asyncio.TaskGroup() as tasks, locked(database):
            building = tasks.create_task(build(builder))
            await until(lambda: stuck(admin), "the build waits")
            snapshot = (await builder.load(None))[1]
            assert not building.done()
        assert snapshot is not None
        assert snapshot.version == version


class TestKeep:
    """Where documents outlive the store."""

    @pytest.fixture
    def options(self, options: dict[str, Any], cache_dsn: str, key_prefix: str) -> dict[str, Any]:
        return options | {"persister": {"dsn": cache_dsn, "prefix": key_prefix, "stage_ttl": 30}}

    @pytest.fixture(autouse=True)
    async def cache(self, cache_dsn: str, key_prefix: str) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(cache_dsn, timeout=10, command_timeout=30)
        yield connection
        await connection.execute("DELETE FROM leaderboard_cache WHERE starts_with(cache_key, $1)", key_prefix)
        await connection.close()

    async def test_nothing_is_kept_at_first(self, builder: BuilderProcess, store: RedisClusterBackend):
        await commit(builder, store)
        assert await builder.restore() is None

    async def test_what_is_kept_comes_back(
        self, builder: BuilderProcess, store: RedisClusterBackend, redis_client, key_prefix
    ):
        await commit(builder, store)
        served = (await builder.load(None))[1]
        assert await builder.persist(served, quiet=100)
        await redis_client.delete(Names(key_prefix).version)
        assert (await builder.load(None))[1] is None
        persisted = await builder.restore()
        assert (persisted.version, persisted.divisions) == (served.version, served.divisions)
        assert persisted.as_of == pytest.approx(served.as_of, abs=1e-6)
        assert joined(persisted.documents) == joined(served.documents)

    async def test_what_was_built_here_can_be_kept(self, builder: BuilderProcess):
        built, version = await build(builder), Version("e", 1)
        assert await builder.persist(built.snapshot(version), quiet=0)
        persisted = await builder.restore()
        assert parsed(persisted.documents) == EXPECTED

    async def test_says_if_it_is_still_to_be_done(self, builder: BuilderProcess):
        built = await build(builder)
        one, two = (built.snapshot(Version("e", number)) for number in (1, 2))
        assert await builder.persist(one, quiet=100)
        assert not await builder.persist(two, quiet=100)
        assert await builder.persist(two, quiet=0)
        assert await builder.persist(one, quiet=0), "older than what is kept, there is nothing to do"
        assert (await builder.restore()).version == two.version

    async def test_goes_on_beside_a_build_that_does_not(self, builder: BuilderProcess, admin, database: str):
        built = await build(builder)
        async with asyncio.TaskGroup() as tasks, locked(database):
            building = tasks.create_task(build(builder))
            await until(lambda: stuck(admin), "the build waits")
            assert await builder.persist(built.snapshot(Version("e", 1)), quiet=0)
            assert await builder.restore() is not None
            assert not building.done()

    async def test_of_documents_of_a_child_that_died(self, builder: BuilderProcess):
        built = await build(builder)
        first = builder.pid
        builder.kill()
        await until(lambda: builder.pid not in (None, first), "there is another child")
        assert await builder.persist(built.snapshot(Version("e", 1)), quiet=0)
        assert parsed((await builder.restore()).documents) == EXPECTED

    async def test_says_what_is_wrong_with_the_table(self, options: dict[str, Any], database: str):
        options["persister"]["dsn"] = database  # which has none
        async with running(BuilderProcess(**options)) as builder:
            built = await build(builder)
            for work in (builder.restore(), builder.persist(built.snapshot(Version("e", 1)), quiet=0)):
                with pytest.raises(BuilderError, match="run `scoreboardd migrate`") as raised:
                    await work
                assert raised.value.part == "store"

    async def test_leaves_no_memory_behind(self, builder: BuilderProcess):
        before = held()
        built = await build(builder)
        counts = set()
        for number in range(3):
            assert await builder.persist(built.snapshot(Version("e", number + 1)), quiet=0)
            persisted = await builder.restore()
            counts.add(held())
        assert len(counts) == 1, "each takes the place of the one before"
        await until(lambda: held(builder.pid) == 1, "the child holds what it has built, and nothing else")
        del built, persisted
        await until(lambda: held() == before, "all memory is freed")


class TestTheChild:
    async def test_killed_fails_what_is_pending_and_the_next_request_is_well(
        self, builder: BuilderProcess, admin, database: str
    ):
        async with locked(database):
            building = asyncio.create_task(build(builder))
            await until(lambda: stuck(admin), "the build waits")
            first = builder.pid
            os.kill(first, signal.SIGKILL)
            with pytest.raises(BuilderError, match="died") as raised:
                await building
            assert raised.value.part == "builder"
        assert parsed((await build(builder)).documents) == EXPECTED
        assert builder.pid != first

    async def test_that_answers_nothing_is_killed_in_seconds(self, options, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(process, "PING_SECONDS", 0.05)
        monkeypatch.setattr(process, "PING_TIMEOUT_SECONDS", 0.5)
        metrics = Metrics()
        async with running(BuilderProcess(**options, metrics=metrics)) as builder:
            assert builder.problem == "not started yet"
            await until(lambda: builder.problem is None, "the child answers")
            stopped = builder.pid
            os.kill(stopped, signal.SIGSTOP)
            with pytest.raises(BuilderError, match="died"):
                await build(builder)  # long before its own deadline
            assert builder.problem == "the builder process did not answer, starting another"
            assert parsed((await build(builder)).documents) == EXPECTED
            assert builder.pid != stopped
            assert builder.problem is None
        assert b'scoreboardd_builder_restarts_total{cause="unresponsive"} 1.0' in metrics.exposition()

    async def test_that_is_busy_with_a_build_still_answers(self, options, admin, database: str, monkeypatch):
        monkeypatch.setattr(process, "PING_SECONDS", 0.05)
        async with running(BuilderProcess(**options)) as builder, locked(database):
            await until(lambda: builder.problem is None, "the child answers")
            pid, building = builder.pid, asyncio.create_task(build(builder))
            await stuck(admin)
            heard = builder._received
            await until(lambda: builder._received > heard + 5, "it answers pings")
            assert builder.pid == pid
            building.cancel()
            await asyncio.wait([building])

    async def test_tells_the_time_of_the_database(self, options, admin):
        ours = Clock(wall=lambda: 0.0)
        async with running(BuilderProcess(**options, clock=ours)):
            await until(lambda: ours.known, "the clock is known")
        theirs = await admin.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        assert abs(ours.now() - theirs) < 5
        assert ours.ahead < -(10**9)

    async def test_that_quotes_megabytes_of_the_database_says_it_shortly(self, options, admin):
        await admin.execute(
            "ALTER TABLE challenges RENAME TO raw; CREATE VIEW challenges AS "
            "SELECT id, title, category, (repeat('x', 2000000))::text::int AS points, minimum_points FROM raw"
        )
        metrics = Metrics()
        async with running(BuilderProcess(**options, metrics=metrics)) as builder:
            with pytest.raises(BuilderError) as raised:
                await build(builder)
            assert raised.value.part == "source" and len(str(raised.value)) < 5000
            await builder.load(None)
        assert metrics.builder_restarts.labels("died")._value.get() == 0

    async def test_that_sends_no_message_of_ours_is_replaced(self, options, monkeypatch: pytest.MonkeyPatch):
        garbage = [b"no json", b'{"id":1,"body":{"op":"unheard of"}}']

        class Channel(process.Channel):
            async def receive(self) -> tuple[bytes, int | None] | None:
                return (garbage.pop(), None) if garbage else await super().receive()

        monkeypatch.setattr(process, "Channel", Channel)
        async with running(BuilderProcess(**options)) as builder:
            while garbage:
                with suppress(BuilderError):  # what waits for an answer fails with the child
                    await builder.load(None)
            await until(lambda: builder.problem is None, "a child answers")
            with suppress(BuilderError):
                await builder.load(None)

    async def test_without_a_database_there_is_only_our_own_time(self, options):
        options["source"]["dsn"] = f"postgresql://127.0.0.1:{free_port()}/ctf"
        ours = Clock(wall=lambda: 5.0)
        async with running(BuilderProcess(**options, clock=ours)) as builder:
            await until(lambda: builder._received >= 2, "the child answers")
            assert ours.now() == 5.0

    @pytest.mark.parametrize("arguments", [["not-a-number", "info", "json"], ["99", "info", "json"]])
    async def test_logs_what_it_cannot_go_on_from_as_json(self, arguments: list[str]):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scoreboardd.builder", *arguments, stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await child.communicate()
        assert child.returncode
        (line,) = map(json.loads, stderr.splitlines())
        assert line["level"] == "critical"
        assert line["logger"] == "scoreboardd"
        assert "Traceback" in line["exception"]

    async def test_is_killed_if_a_build_is_out_of_time(self, builder: BuilderProcess, admin, database: str):
        await build(builder)
        first = builder.pid
        async with locked(database):
            with pytest.raises(BuilderError, match=r"not built within 0\.2 s.*rebuild\.timeout"):
                await build(builder, timeout=0.2)
            await until(lambda: _gone(first), "the child is gone")
        await until(lambda: builder.pid not in (None, first), "there is another")
        await build(builder)

    async def test_is_killed_if_a_build_is_given_up(self, builder: BuilderProcess, admin, database: str):
        async with locked(database):
            building = asyncio.create_task(build(builder))
            await until(lambda: stuck(admin), "the build waits")
            first = builder.pid
            building.cancel()
            with pytest.raises(asyncio.CancelledError):
                await building
            await until(lambda: _gone(first), "the child is gone")
        await until(lambda: builder.pid not in (None, first), "there is another")
        await build(builder)

    async def test_lets_the_signals_pass_that_end_the_daemon(self, builder: BuilderProcess):
        await build(builder)
        first = builder.pid
        os.kill(first, signal.SIGTERM)
        os.kill(first, signal.SIGINT)
        await build(builder)
        assert builder.pid == first

    async def test_that_is_not_there_yet_is_waited_for(self, options: dict[str, Any]):
        builder = BuilderProcess(**options)
        early = asyncio.create_task(build(builder))
        async with running(builder):
            assert parsed((await early).documents) == EXPECTED

    async def test_that_dies_before_it_listens_keeps_nobody_waiting(self, options, monkeypatch):
        opened = []

        class Channel(process.Channel):
            async def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
                opened.append(message)
                if len(opened) == 1:
                    raise BrokenPipeError
                await super().send(message, descriptor)

        monkeypatch.setattr(process, "Channel", Channel)
        builder = BuilderProcess(**options)
        early = asyncio.create_task(build(builder))
        async with running(builder):
            assert parsed((await early).documents) == EXPECTED

    async def test_ends_with_run(self, options: dict[str, Any]):
        async with running(BuilderProcess(**options)) as builder:
            await build(builder)
            pid = builder.pid
        assert _gone(pid)
        assert builder.pid is None

    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "building"])
    async def test_ends_when_its_parent_is_killed(self, options, admin, database: str, tmp_path: Path, busy: bool):
        script = tmp_path / "parent.py"
        script.write_text(PARENT)
        async with locked(database):
            parent = await asyncio.create_subprocess_exec(
                *(sys.executable, str(script), json.dumps(options), "build" if busy else "load"),
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
            try:
                assert parent.stdout is not None
                async with asyncio.timeout(TIMEOUT):
                    child = int(await parent.stdout.readline())
                if busy:
                    await until(lambda: stuck(admin), "the build waits")
                assert not _gone(child)
            finally:
                parent.kill()
                await parent.wait()
            await until(lambda: _gone(child), "the child is gone")


PARENT = textwrap.dedent("""
    import asyncio, json, sys
    from scoreboardd.builder.messages import Build
    from scoreboardd.builder.process import BuilderProcess
    from scoreboardd.model import Version

    async def main():
        builder = BuilderProcess(**json.loads(sys.argv[1]))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(builder.run())
            await builder.load(None)
            print(builder.pid, flush=True)
            if sys.argv[2] == "build":
                await builder.build(Build(Version("e", 1), quiet=False, full=True), "token", timeout=60)

    asyncio.run(main())
""")


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestMemory:
    """Documents live as long as somebody holds one of them, and not longer."""

    async def test_is_freed_when_the_documents_are_dropped(self, builder: BuilderProcess, store: RedisClusterBackend):
        before = held()
        snapshots: list[Snapshot | None] = []
        for _ in range(5):
            await commit(builder, store)
            snapshots.append((await builder.load(None))[1])
        assert held() >= before + 5
        snapshots.clear()
        await until(lambda: held() == before, "all memory is freed")
        await until(lambda: held(builder.pid) == 1, "the child holds what it has built, and nothing else")

    async def test_of_versions_is_freed_with_the_last_of_them_that_is_held(self, builder: BuilderProcess, admin):
        before = held()
        builds = []
        for number in range(20):
            await admin.execute("UPDATE users SET username = $1", f"user {number}")
            builds.append(await build(builder))
        for number, built in enumerate(builds):
            assert parsed(built.documents)["leaderboard:users"]["entries"][0]["username"] == f"user {number}"
        assert held(builder.pid) == 1
        del builds, built
        await until(lambda: held() == before, "all memory is freed")

    async def test_of_one_document_outlives_the_others(self, builder: BuilderProcess, store: RedisClusterBackend):
        before = held()
        await commit(builder, store)
        snapshot = (await builder.load(None))[1]
        document = snapshot.documents["leaderboard:users:div:1"]
        del snapshot
        await until(lambda: held() == before + 1, "nothing holds the rest")
        assert json.loads(plain(document)) == EXPECTED["leaderboard:users:div:1"]
        del document
        await until(lambda: held() == before, "all memory is freed")

    async def test_cannot_be_written(self, builder: BuilderProcess):
        built = await build(builder)
        for stretch in built.documents["leaderboard:users"]:
            with pytest.raises(TypeError):
                stretch[0] = 0

    async def test_is_freed_if_nobody_waits_for_the_answer(self, builder: BuilderProcess, store: RedisClusterBackend):
        before = held()
        await commit(builder, store)
        for _ in range(20):
            loading = asyncio.create_task(builder.load(None))
            await asyncio.sleep(0)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
        assert (await builder.load(None))[1] is not None
        await until(lambda: held() == before and held(builder.pid) == 1, "all memory is freed")

    async def test_is_freed_if_who_waits_leaves_as_the_answer_comes(self, options, builder, store: RedisClusterBackend):
        before = held()

        class Leaving(BuilderProcess):
            leaver: asyncio.Task[Any]

            def _deliver(self, answer: dict[str, Any], descriptor: int | None) -> None:
                super()._deliver(answer, descriptor)
                self.leaver.cancel()

        await commit(builder, store)
        async with running(Leaving(**options)) as other:
            other.leaver = asyncio.create_task(other.load(None))
            with pytest.raises(asyncio.CancelledError):
                await other.leaver
            await until(lambda: held() == before, "all memory is freed")

    async def test_is_ours_if_the_child_is_killed(self, builder: BuilderProcess, store: RedisClusterBackend):
        await commit(builder, store)
        snapshot = (await builder.load(None))[1]
        first = builder.pid
        builder.kill()
        await until(lambda: builder.pid not in (None, first), "there is another child")
        assert parsed(snapshot.documents) == EXPECTED


def held(pid: int | str = "self") -> int:
    """How many parcels a process has descriptors of, or has mapped."""
    gc.collect()
    folder = Path(f"/proc/{pid}")
    links = []
    for descriptor in (folder / "fd").iterdir():
        with suppress(FileNotFoundError):  # the one of the folder itself
            links.append(descriptor.readlink().name)
    inodes = (line.split(maxsplit=5) for line in (folder / "maps").read_text().splitlines())
    mapped = {inode[4] for inode in inodes if "scoreboardd-documents" in inode[-1]}
    descriptors = sum("scoreboardd-documents" in link for link in links)
    return max(len(mapped), descriptors)


async def test_a_parcel_that_did_not_arrive_is_a_failure_and_not_an_empty_store():
    builder = BuilderProcess(source={}, document_store={})
    waiting = builder._answers[1] = asyncio.get_running_loop().create_future()
    builder._deliver(Answer(1, Pong(), [("a", 0, 1)]), None)
    with pytest.raises(BuilderError, match="LimitNOFILE"):
        await waiting
