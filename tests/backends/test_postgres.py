"""The Postgres backend on a real server: every branch of its statements, what its subscribers hear, what they read, and
what is said when something is wrong with the server."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from scoreboardd.backends.base import (
    Abandoned,
    Begun,
    Busy,
    Changed,
    Confirmed,
    Damaged,
    Lease,
    Rebuilt,
    SnapshotMetadata,
    Unavailable,
    Value,
)
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres import cluster as postgres_cluster
from scoreboardd.backends.postgres import connection as postgres_connection
from scoreboardd.backends.postgres import documents as postgres_documents
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.cluster import wire
from scoreboardd.demo.servers import Postgres, free_port
from scoreboardd.model import MAX_DIVISION_IDS, ChangeEvent, Version
from scoreboardd.system.compression import plain
from tests.backends.harness import SOLVE, acquired, hearing, holds, text, won
from tests.backends.harness import documents as document_contents
from tests.backends.relay import relay
from tests.documents import document_of
from tests.nodes import until

TTL = 60.0
STAGE_TTL = 30.0
TABLE = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()
NOTIFY_LIMIT = 8000
"Bytes; PostgreSQL takes only what is shorter."


class Table:
    """The rows of this test, by a connection that is not the store's."""

    def __init__(self, dsn: str, connection: Any, names: Names) -> None:
        self.dsn = dsn
        self.connection = connection
        self.names = names

    async def row(self, key: str) -> Any:
        return await self.connection.fetchrow("SELECT * FROM leaderboard_cache WHERE cache_key = $1", key)

    async def keys(self, begins: str = "") -> list[str]:
        found = await self.connection.fetch(
            "SELECT cache_key FROM leaderboard_cache WHERE starts_with(cache_key, $1) ORDER BY 1",
            self.names.prefix + begins,
        )
        return [key for (key,) in found]

    async def holder(self) -> str | None:
        """Who has the lease."""
        return await self.connection.fetchval(
            "SELECT building_token FROM leaderboard_cache WHERE cache_key = $1 AND building_until > now()",
            self.names.lock,
        )

    async def left(self, key: str) -> float:
        """Seconds until `building_until`."""
        return await self.connection.fetchval(
            "SELECT extract(epoch FROM building_until - now())::float8 FROM leaderboard_cache WHERE cache_key = $1", key
        )

    async def set(self, key: str, assignments: str) -> None:
        changed = await self.connection.execute(f"UPDATE leaderboard_cache SET {assignments} WHERE cache_key = $1", key)
        assert changed == "UPDATE 1"

    async def expire(self, key: str) -> None:
        await self.set(key, "building_until = now() - interval '1 ms'")

    async def delete(self, key: str) -> None:
        await self.connection.execute("DELETE FROM leaderboard_cache WHERE cache_key = $1", key)

    async def lose(self) -> None:
        await self.connection.execute(
            "DELETE FROM leaderboard_cache WHERE starts_with(cache_key, $1)", self.names.prefix
        )

    async def overtake(self, late: Awaitable[Any], key: str, assignments: str) -> Any:
        """What `late` comes to when another's transaction, which has changed that row before it, commits while it
        waits."""
        other = await asyncpg.connect(self.dsn, timeout=10, command_timeout=30)
        try:
            async with other.transaction():
                await other.execute(f"UPDATE leaderboard_cache SET {assignments} WHERE cache_key = $1", key)
                asking = asyncio.ensure_future(late)
                await until(self._somebody_waits, "it waits for the row")
            return await asking
        finally:
            other.terminate()

    async def _somebody_waits(self) -> bool:
        return await self.connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'scoreboardd' AND wait_event_type = 'Lock')"
        )

    async def notify(self, channel: str, payload: str) -> None:
        await self.connection.execute("SELECT pg_notify($1, $2)", self.names.prefix + channel, payload)


@pytest.fixture
def names(key_prefix: str) -> Names:
    return Names(key_prefix)


@pytest.fixture
async def table(cache_dsn: str, names: Names) -> AsyncIterator[Table]:
    connection = await asyncpg.connect(cache_dsn, timeout=10, command_timeout=30)
    try:
        table = Table(cache_dsn, connection, names)
        yield table
        await table.lose()
    finally:
        connection.terminate()


@pytest.fixture
async def make_store(cache_dsn: str, table: Table) -> AsyncIterator[Callable[..., PostgresClusterBackend]]:
    made: list[PostgresClusterBackend] = []

    def make(dsn: str = cache_dsn, lock_ttl: float = TTL) -> PostgresClusterBackend:
        made.append(PostgresClusterBackend(dsn, prefix=table.names.prefix, lock_ttl=lock_ttl))
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def store(make_store: Callable[..., PostgresClusterBackend]) -> PostgresClusterBackend:
    return make_store()


@pytest.fixture
async def make_vault(cache_dsn: str, table: Table) -> AsyncIterator[Callable[..., PostgresDocumentStore]]:
    made: list[PostgresDocumentStore] = []

    def make(dsn: str = cache_dsn) -> PostgresDocumentStore:
        made.append(PostgresDocumentStore(dsn, prefix=table.names.prefix, stage_ttl=STAGE_TTL))
        return made[-1]

    yield make
    for document_store in made:
        await document_store.aclose()


@pytest.fixture
def document_store(make_vault: Callable[..., PostgresDocumentStore]) -> PostgresDocumentStore:
    return make_vault()


def documents(version: Version, divisions: tuple[int, ...] = ()) -> list[tuple[str, memoryview]]:
    """The same, joined."""
    return [(name, memoryview(b"".join(each.frames()))) for name, each in document_contents(version, divisions).items()]


def metadata(version: Version, divisions: tuple[int, ...] = (), *, as_of: float | None = None) -> SnapshotMetadata:
    as_of = 1772215200.25 + version.number if as_of is None else as_of
    documents = document_contents(version, divisions).items()
    values = {name: Value(len(b"".join(each.frames())), each.zstd_digest) for name, each in documents}
    return SnapshotMetadata(f"digest of {version}", as_of, divisions, documents=values)


async def stage(document_store: PostgresDocumentStore, lease: Lease, divisions: tuple[int, ...] = ()) -> None:
    await document_store.stage(lease, document_contents(lease.version, divisions))


async def commit(
    store: PostgresClusterBackend,
    document_store: PostgresDocumentStore,
    lease: Lease | None = None,
    divisions: tuple[int, ...] = (),
) -> Version:
    lease = lease or await won(store)
    await stage(document_store, lease, divisions)
    assert await store.commit(lease, metadata(lease.version, divisions), SOLVE)
    return lease.version


class TestAcquire:
    async def test_the_same_token_after_its_lock_ran_out_gives_the_next_version(self, store, table, names: Names):
        lease = await won(store, "me")
        await table.expire(names.lock)
        assert (await won(store, "me")).version == Version(lease.version.epoch, lease.version.number + 1)

    async def test_documents_that_redis_had_made_are_of_another_epoch(self, store, document_store, table: Table):
        # `cache.persist` has kept them; then the cluster moved here.
        kept = Version("kept", 50)
        assert await document_store.persist(kept, metadata(kept), documents(kept), quiet=0)
        lease = await won(store, "me", seen=kept)
        assert lease.version.epoch != kept.epoch
        await holds(document_store, kept)
        await commit(store, document_store, lease)
        await holds(document_store, lease.version)

    async def test_another_server_passes_over_the_numbers_that_it_may_have_forgotten(self, store, table, names):
        # A promoted replica, which lags, or a restored dump: what was given out last is not known there.
        lease = await won(store)
        await store.abandon(lease)
        await table.set(names.lock, "payload = 'another server'")
        after = await won(store)
        assert after.version.epoch == lease.version.epoch
        assert after.version.number > 10**12
        await store.abandon(after)
        assert (await won(store)).version.number == after.version.number + 1

    async def test_of_fifty_at_once_one_wins_and_no_version_is_given_out_twice(self, make_store):
        stores = [make_store() for _ in range(50)]
        numbers = []
        for round in range(4):
            answers = await asyncio.gather(*(store.acquire(f"{round}, {i}", None) for i, store in enumerate(stores)))
            (lease,) = [answer for answer in answers if isinstance(answer, Lease)]
            assert [type(answer) for answer in answers].count(Busy) == 49
            numbers.append(lease.version.number)
            await stores[0].abandon(lease)
        assert numbers == [1, 2, 3, 4]

    async def test_of_many_at_once_each_version_is_heard_to_begin_once(self, make_store, store):
        stores = [make_store() for _ in range(10)]
        leases: list[Lease] = []

        async def take(number: int) -> None:
            lease = await until(lambda: acquired(stores[number], f"token {number}"), "everybody gets a turn")
            leases.append(lease)
            await stores[number].abandon(lease)

        async with hearing(store) as heard:
            await asyncio.gather(*map(take, range(10)))
            said = await heard(20)
        versions = [lease.version for lease in leases]
        assert sorted(version.number for version in versions) == list(range(1, 11))
        assert said == [message(version) for version in versions for message in (Begun, Abandoned)]

    async def test_who_was_overtaken_looks_again(self, store: PostgresClusterBackend, table: Table, names: Names):
        lease = await won(store)
        await store.abandon(lease)
        taken = "building_token = 'you', building_until = now() + interval '50 s', version = version + 1"
        answer = await table.overtake(store.acquire("me", None), names.lock, taken)
        assert isinstance(answer, Busy)
        assert 40 < answer.remaining <= 50
        assert not answer.overlong
        assert await table.holder() == "you"

    @pytest.mark.parametrize("until", ["now() + interval '1 day'", "'infinity'"])
    async def test_a_lease_that_lasts_too_long_ends_like_one_of_ours(self, store, table: Table, names: Names, until):
        await store.abandon(await won(store))
        await table.set(names.lock, f"building_token = 'you', building_until = {until}")
        answer = await store.acquire("me", None)
        assert answer == Busy(60.0, overlong=True)
        assert 50 < await table.left(names.lock) <= 60
        answer = await store.acquire("me", None)
        assert isinstance(answer, Busy)
        assert not answer.overlong


class TestRenew:
    async def test_not_one_that_passes_on_meanwhile(self, store: PostgresClusterBackend, table: Table, names: Names):
        lease = await won(store)
        assert not await table.overtake(store.renew(lease), names.lock, "building_token = 'you'")


class TestCommit:
    async def test_makes_all_visible_and_frees_the_lock(self, store, document_store, table: Table, names: Names):
        lease = await won(store)
        await stage(document_store, lease, (1, 2))
        assert await table.keys("leaderboard:users") == []
        async with hearing(store) as heard:
            assert await store.commit(lease, metadata(lease.version, (1, 2)), SOLVE)
            assert await heard(1) == [Rebuilt(lease.version.number, SOLVE)]
        head = await table.row(names.version)
        assert (head["epoch"], head["version"]) == (lease.version.epoch, lease.version.number)
        assert head["generated_at"].timestamp() == metadata(lease.version).as_of
        for name, document in documents(lease.version, (1, 2)):
            row = await table.row(names.document(name))
            assert row["encoding"] == "zstd"
            assert row["payload"] == document
            assert (row["epoch"], row["version"]) == (lease.version.epoch, lease.version.number)
            assert row["generated_at"].timestamp() == metadata(lease.version).as_of
            assert row["building_until"] is None, "it would be forgotten"
        assert await table.holder() is None
        assert await table.keys("scoreboard:staged:") == []

    async def test_who_hears_of_it_can_read_it(self, store, document_store, table: Table):
        async with hearing(store) as heard:
            for _ in range(10):
                version = await commit(store, document_store)
                while await heard(1) != [Rebuilt(version.number, SOLVE)]:
                    pass
                await holds(document_store, version)
                assert await table.holder() is None

    async def test_overtaken_while_it_waits_is_refused(self, store, document_store, table: Table, names: Names):
        before = await commit(store, document_store)
        lease = await won(store)
        await stage(document_store, lease)
        committing = store.commit(lease, metadata(lease.version), SOLVE)
        taken = "building_token = 'you', building_until = now() + interval '50 s', version = version + 1"
        assert await table.overtake(committing, names.lock, taken) is False
        await holds(document_store, before)
        assert await table.holder() == "you"

    @pytest.mark.parametrize("missing", document_names(()))
    async def test_with_a_staged_document_that_expired_is_refused(
        self, store, document_store, table, names: Names, missing: str
    ):
        before = await commit(store, document_store)
        lease = await won(store)
        await stage(document_store, lease)
        await table.expire(names.staged(lease.token, missing))
        assert not await store.commit(lease, metadata(lease.version), SOLVE)
        await holds(document_store, before)
        assert await table.holder() == lease.token

    @pytest.mark.parametrize("garbage", ["'\\xff'", "'{}'", "'[1]'", "NULL"])
    async def test_overwrites_what_it_cannot_read(
        self, store, document_store, table: Table, names: Names, garbage: str
    ):
        await commit(store, document_store)
        await table.set(names.version, f"payload = {garbage}, version = NULL, generated_at = NULL")
        await table.set(names.document("leaderboard:users"), f"payload = {garbage}, encoding = NULL")
        assert (await document_store.load(None)).documents is None
        assert (await document_store.head()).version is None
        await holds(document_store, await commit(store, document_store))


class TestConfirm:
    async def test_microseconds_are_heard_as_they_were_said(self, store, document_store):
        as_of = 1772215999.123456
        version = await commit(store, document_store)
        lease = await won(store)
        async with hearing(store) as heard:
            assert await store.confirm(lease, as_of, full=True, complete=True)
            assert await heard(1) == [Confirmed(lease.version, version, as_of)]
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.head.metadata.as_of == pytest.approx(as_of, abs=1e-6)

    @pytest.mark.parametrize("lost", ["version = NULL", "payload = NULL", "cache_key = cache_key || ' is gone'"])
    async def test_is_refused_if_there_is_nothing_to_confirm(
        self, store, document_store, table, names: Names, lost: str
    ):
        await commit(store, document_store)
        lease = await won(store)
        await table.set(names.version, lost)
        assert not await store.confirm(lease, 1.5, full=True, complete=True)
        assert await table.holder() == "me"


class TestTheVault:
    async def test_what_dead_builders_have_staged_is_forgotten_by_the_next(
        self, store, document_store, table, names: Names
    ):
        dead = await won(store, "dead")
        await stage(document_store, dead)
        slow = Lease("slow", Version("e", 1))
        await stage(document_store, slow)
        for name in document_names(()):
            await table.expire(names.staged("dead", name))
        await table.expire(names.lock)
        version = await commit(store, document_store, await won(store, "next"))
        await holds(document_store, version)
        assert await table.keys("scoreboard:staged:") == sorted(
            names.staged("slow", name) for name in document_names(())
        )

    async def test_staging_leaves_alone_what_only_looks_expired(
        self, store, document_store, table: Table, names: Names
    ):
        version = await commit(store, document_store)
        for key in (names.version, names.lock, *map(names.document, document_names(()))):
            await table.expire(key)
        await stage(document_store, Lease("me", Version("e", 1)))
        await holds(document_store, version)
        assert await table.row(names.lock) is not None

    @pytest.mark.parametrize("missing", document_names((3,)))
    async def test_a_version_with_a_document_without_payload_is_none(
        self, store, document_store, table, names, missing
    ):
        await commit(store, document_store, divisions=(3,))
        await table.set(names.document(missing), "payload = NULL")
        with pytest.raises(Damaged, match="gone"):
            await document_store.load(None)
        assert (await document_store.head()).version is None

    async def test_documents_come_back_as_they_went(self, store, document_store, table: Table, names: Names):
        said = b'{"text":"\xf0\x9f\x98\x80 <script>"}' * 1000
        parts = document_of(said[:9000], said[9000:])
        lease = await won(store)
        written, values = await document_store.stage(lease, dict.fromkeys(document_names(()), parts))
        assert await store.commit(lease, replace(metadata(lease.version), documents=values), SOLVE)
        raw = (await table.row(names.document("leaderboard:users")))["payload"]
        assert raw == b"".join(parts.frames())
        assert written == len(document_names(())) * len(raw)
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.documents == [(name, raw) for name in document_names(())]

    async def test_is_not_compressed_twice(self, table: Table):
        storage = await table.connection.fetchval(
            "SELECT attstorage FROM pg_attribute WHERE attrelid = 'leaderboard_cache'::regclass AND attname = 'payload'"
        )
        assert storage == b"e"

    async def test_reads_no_mix_of_versions(self, make_store, make_vault, document_store: PostgresDocumentStore):
        store, writer = make_store(), make_vault()
        await commit(store, document_store, divisions=(1, 2))
        stop, reads, seen = asyncio.Event(), 0, set()

        async def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await commit(store, writer, divisions=(1, 2) if number % 2 else (2, 3))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            deadline = time.monotonic() + 20
            while (reads < 100 or len(seen) < 20) and time.monotonic() < deadline:
                stored = await document_store.load(None)
                assert stored is not None
                assert all(plain(document) == text(name, stored.head.version) for name, document in stored.documents)
                assert [name for name, _ in stored.documents] == document_names(stored.head.metadata.divisions)
                assert stored.head.metadata.digest == f"digest of {stored.head.version}"
                reads += 1
                seen.add(stored.head.version)
            stop.set()
        assert len(seen) >= 20


class TestKeep:
    """The tier that outlives Redis."""

    @staticmethod
    async def keep(
        document_store: PostgresDocumentStore,
        version: Version,
        divisions: tuple[int, ...] = (),
        *,
        quiet: float = 0,
        as_of: float | None = None,
    ) -> bool:
        kept = metadata(version, divisions, as_of=as_of)
        return await document_store.persist(version, kept, documents(version, divisions), quiet=quiet)

    async def test_what_is_kept_can_be_read(self, document_store: PostgresDocumentStore, table: Table, names: Names):
        version = Version("e", 5)
        assert await self.keep(document_store, version, (1, 2), quiet=100)
        await holds(document_store, version)
        head = await document_store.head()
        assert (head.version, head.metadata) == (version, metadata(version, (1, 2)))
        assert await table.keys("scoreboard:staged:") == []
        assert {
            row["encoding"] for row in [await table.row(names.document(name)) for name in document_names((1, 2))]
        } == {"zstd"}

    async def test_a_newer_version_replaces_it_with_all_its_divisions(self, document_store, table: Table, names: Names):
        await self.keep(document_store, Version("e", 5), (1, 2))
        assert await self.keep(document_store, Version("e", 6), (2, 3))
        await holds(document_store, Version("e", 6))
        kept = {key for key in await table.keys() if ":div:" in key}
        assert kept == {names.document(name) for name in document_names((2, 3)) if ":div:" in name}

    @pytest.mark.parametrize("number", [4, 5])
    async def test_an_older_version_or_the_same_does_not_and_there_is_nothing_more_to_do(
        self, document_store, table, number
    ):
        await self.keep(document_store, Version("e", 5), (1,))
        before = await table.connection.fetch("SELECT cache_key, xmin FROM leaderboard_cache ORDER BY 1")
        assert await self.keep(document_store, Version("e", number), (2,), as_of=9e9)
        await holds(document_store, Version("e", 5))
        assert await table.connection.fetch("SELECT cache_key, xmin FROM leaderboard_cache ORDER BY 1") == before

    async def test_of_another_epoch_the_younger_snapshot_wins(self, document_store: PostgresDocumentStore):
        await self.keep(document_store, Version("e", 5), (1,), as_of=1000.0)
        assert await self.keep(document_store, Version("old", 99), (2,), as_of=999.0)
        await holds(document_store, Version("e", 5))
        assert await self.keep(document_store, Version("new", 1), (3,), as_of=1001.0)
        await holds(document_store, Version("new", 1))

    async def test_an_older_snapshot_that_lost_leaves_nothing_behind_for_long(
        self, document_store, table: Table, names: Names
    ):
        await self.keep(document_store, Version("e", 5), as_of=1000.0)
        await self.keep(document_store, Version("old", 99), as_of=999.0)
        for key in await table.keys("scoreboard:staged:"):
            await table.expire(key)
        await self.keep(document_store, Version("e", 6))
        assert await table.keys("scoreboard:staged:") == []

    async def test_overtaken_by_a_newer_one_while_it_waits_it_does_not_replace_it(
        self, document_store, table, names: Names
    ):
        await self.keep(document_store, Version("e", 5))
        newer = "version = 7, payload = '{}'"
        await table.overtake(self.keep(document_store, Version("e", 6)), names.version, newer)
        assert (await table.row(names.version))["version"] == 7
        assert (await table.row(names.document("leaderboard:users")))["version"] == 5

    @pytest.mark.parametrize("garbage", ["payload = NULL", "version = NULL, generated_at = NULL", "epoch = NULL"])
    async def test_it_replaces_what_cannot_be_read(self, document_store, table: Table, names: Names, garbage: str):
        await self.keep(document_store, Version("e", 5), as_of=1000.0)
        await table.set(names.version, garbage)
        assert await self.keep(document_store, Version("e", 6), as_of=1001.0)
        await holds(document_store, Version("e", 6))

    async def test_nobody_writes_while_it_is_quiet(
        self, document_store: PostgresDocumentStore, make_vault, table: Table, names: Names
    ):
        assert await self.keep(document_store, Version("e", 5), quiet=100)
        for number, other in enumerate((document_store, make_vault()), start=6):
            assert not await self.keep(other, Version("e", number), quiet=100)
            assert not await self.keep(other, Version("other", number), quiet=100, as_of=9e9)
        await holds(document_store, Version("e", 5))
        assert await table.keys("scoreboard:staged:") == []
        await table.expire(names.version)
        assert await self.keep(document_store, Version("e", 8), quiet=100)
        await holds(document_store, Version("e", 8))

    async def test_who_is_about_to_end_does_not_wait_for_the_end_of_the_quiet(self, document_store, make_vault):
        await self.keep(document_store, Version("e", 5), quiet=100)
        assert await self.keep(make_vault(), Version("e", 6), quiet=0)
        await holds(document_store, Version("e", 6))

    async def test_many_at_once_write_once(self, document_store: PostgresDocumentStore, make_vault, table: Table):
        written = await self._writes_of_the_version(table)
        vaults = [make_vault() for _ in range(10)]
        await asyncio.gather(
            *(self.keep(one, Version("e", number), quiet=100) for number, one in enumerate(vaults, start=1))
        )
        assert len(await written()) == 1

    async def test_many_at_once_who_are_about_to_end_keep_the_newest(
        self, document_store: PostgresDocumentStore, make_vault
    ):
        vaults = [make_vault() for _ in range(10)]
        await asyncio.gather(
            *(self.keep(one, Version("e", 1 + number * 7 % 10), quiet=0) for number, one in enumerate(vaults))
        )
        await holds(document_store, Version("e", 10))

    @staticmethod
    async def _writes_of_the_version(table: Table) -> Callable[[], Awaitable[list[int]]]:
        """Counts in the database itself: the numbers that are written, in order."""
        suffix = table.names.prefix.strip(":").replace("-", "_")
        await table.connection.execute(f"""
            CREATE TABLE writes_{suffix} (place serial, number bigint);
            CREATE FUNCTION count_{suffix}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO writes_{suffix} (number) VALUES (NEW.version); RETURN NULL; END $$;
            CREATE TRIGGER count_{suffix} AFTER INSERT OR UPDATE ON leaderboard_cache FOR EACH ROW
            WHEN (NEW.cache_key = '{table.names.version}') EXECUTE FUNCTION count_{suffix}();
        """)

        async def written() -> list[int]:
            await table.connection.execute(f"DROP FUNCTION count_{suffix} CASCADE")
            rows = await table.connection.fetch(f"DELETE FROM writes_{suffix} RETURNING place, number")
            return [number for _, number in sorted(rows)]

        return written


class TestTheBus:
    async def test_a_platform_is_heard_when_it_commits_and_not_at_all_if_it_rolls_back(self, store, table: Table):
        async def say(payload: str) -> None:
            await table.notify("scoreboard_events", payload)

        async with hearing(store) as heard:
            async with table.connection.transaction():
                await say('{"reason":"first"}')
                await say('{"reason":"first"}')  # equal ones of a transaction are one
                await say('{"reason":"second"}')
                lease = await won(store)
            await say('{"reason":"third"}')
            rolled_back = table.connection.transaction()
            await rolled_back.start()
            await say('{"reason":"never"}')
            await rolled_back.rollback()
            await table.connection.execute(f'NOTIFY "{table.names.prefix}scoreboard_events"')
            begun, *said, empty = await heard(5)
        # What was not yet committed when the build began is not said to have come before it.
        assert begun == Begun(lease.version)
        assert [message.event.reason for message in said] == ["first", "second", "third"]
        assert not empty.readable

    async def test_passes_over_garbage(self, store: PostgresClusterBackend, table: Table):
        payloads = ("", "\x01 \\x00 \U0001f98a", "x" * (NOTIFY_LIMIT - 1), "[" * 5000, '{"state":"begun","version":-1}')
        async with hearing(store) as heard:
            for channel in ("scoreboard_building", "scoreboard_rebuilt", "scoreboard_events"):
                for payload in payloads:
                    await table.notify(channel, payload)
            assert [(type(message), message.readable) for message in await heard(5)] == [
                (Changed, False),
                (Changed, False),
                (Changed, False),
                (Changed, False),
                (Changed, True),
            ]

    async def test_what_is_said_is_what_the_contract_says(self, store, document_store, table: Table, names: Names):
        heard: asyncio.Queue[str] = asyncio.Queue()
        await table.connection.add_listener(
            f"{names.prefix}scoreboard_rebuilt", lambda *said: heard.put_nowait(said[-1])
        )
        version = await commit(store, document_store)
        said = '{"scope":"all","reason":"submission_correct","ts":"2026-02-27T18:00:00Z","version":%d}'
        async with asyncio.timeout(5):
            assert await heard.get() == said % version.number

    @pytest.mark.parametrize("character", ["\U0001f98a", "\x01", '"', "\x00"])
    async def test_the_largest_that_is_said_fits_into_a_notification(
        self, store, document_store, table, character: str
    ):
        field = character * wire.MAX_FIELD
        event = ChangeEvent(field, field, field, tuple(range(2**53 - MAX_DIVISION_IDS, 2**53)))
        lease = Lease((await won(store)).token, Version("z" * 32, 10**18 - 1))
        catalogued = metadata(lease.version, as_of=1.5)
        await table.set(table.names.lock, f"epoch = '{lease.version.epoch}', version = {lease.version.number}")
        await stage(document_store, lease)
        assert len(wire.change(event, "f" * 16)) < NOTIFY_LIMIT
        assert len(wire.announcement(lease.version, event.after(event))) < NOTIFY_LIMIT
        async with hearing(store) as heard:
            await store.publish(event, "f" * 16)
            assert await store.commit(lease, catalogued, event)
            assert await heard(2) == [Changed(event, "f" * 16), Rebuilt(lease.version.number, event)]

    async def test_the_longest_prefix_has_room_for_every_channel(self, cache_dsn: str, table: Table):
        names = Names(table.names.prefix.ljust(40, "x"))
        store = PostgresClusterBackend(cache_dsn, prefix=names.prefix, lock_ttl=TTL)
        async with hearing(store) as heard:
            lease = await won(store)
            await store.publish(SOLVE)
            assert await heard(2) == [Begun(lease.version), Changed(SOLVE)]
        await store.aclose()

    async def test_a_subscription_begins_at_one_instant_for_all_channels(self, make_store, cache_dsn: str):
        # Were the beginning of a build heard, and an event after it not, then the build would seem to cover the event.
        publisher, listens = make_store(), []

        async def meanwhile(question: bytes) -> None:
            if b"LISTEN" in question:
                listens.append(question)
                if len(listens) == 2:
                    await won(publisher)
                    await publisher.publish(SOLVE, "after it")

        async with overhearing(cache_dsn, meanwhile) as (dsn, _), hearing(make_store(dsn=dsn)) as heard:
            await publisher.publish(SOLVE, "mark")
            said: list[Any] = []
            while Changed(SOLVE, "mark") not in said:
                said += await heard(1)
        assert said in ([Changed(SOLVE, "mark")], [said[0], Changed(SOLVE, "after it"), Changed(SOLVE, "mark")])

    async def test_a_subscription_that_is_cut_is_lost_at_once(self, make_store, table: Table):
        store, publisher = make_store(), make_store()
        async with hearing(store) as heard:
            await publisher.publish(SOLVE)
            assert await heard(1) == [Changed(SOLVE)]
            await _terminate(table, "^(LISTEN|COMMIT)")
            with pytest.raises(Unavailable, match=r"^postgres: the subscription was closed"):
                await heard(1)
        async with hearing(store) as heard:
            # Every channel is in force again.
            lease = await won(publisher)
            await publisher.abandon(lease)
            await publisher.publish(SOLVE)
            assert await heard(3) == [Begun(lease.version), Abandoned(lease.version), Changed(SOLVE)]

    async def test_more_than_can_be_handled_is_a_lost_subscription(self, store, table: Table, monkeypatch):
        monkeypatch.setattr(postgres_cluster, "MAX_QUEUED_NOTIFICATIONS", 50)
        async with hearing(store) as heard:
            async with table.connection.transaction():
                for number in range(60):
                    await table.notify("scoreboard_events", str(number))
            await store.publish(SOLVE, "last")  # by the time it is answered, nothing was handled yet
            with pytest.raises(Unavailable, match="more notifications than can be handled"):
                await heard(61)

    async def test_a_connection_that_falls_silent_is_given_up(self, make_store, cache_dsn: str, quick: None):
        async with relay(cache_dsn) as (port, silence):
            store = make_store(dsn=_by(cache_dsn, port))
            async with hearing(store) as heard:
                await store.publish(SOLVE)
                assert await heard(1) == [Changed(SOLVE)]
                # A quiet time is not silence: the server answers when it is asked.
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.2):
                        await heard(1)
            async with hearing(store) as heard:
                silence.set()
                with pytest.raises(Unavailable, match="no answer in time"):
                    await heard(1)


def _by(dsn: str, port: int) -> str:
    """The same server by way of that port, in the clear."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}", query="sslmode=disable").geturl()


async def _terminate(table: Table, query: str) -> None:
    """Cut the connections of ours in this database whose last statement matches that."""
    cut = await table.connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'scoreboardd' AND query ~ $1",
        query,
    )
    assert cut


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not answered in half a second is not answered."""
    deadline = postgres_connection.deadline
    monkeypatch.setattr(postgres_cluster, "COMMAND_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(postgres_documents, "TRANSFER_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(postgres_cluster, "deadline", lambda dsn, within=0.5: deadline(dsn, within))


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """With the table, to be frozen and restarted."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        asyncio.run(_execute(server.dsn(), TABLE))
        yield server


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


class TestUnavailable:
    @staticmethod
    def _calls(store: PostgresClusterBackend, document_store: PostgresDocumentStore) -> dict[str, Any]:
        """Everything that a daemon asks of a server, but for `check`."""
        lease = Lease("me", Version("e", 1))

        async def subscribe() -> None:
            async with store.subscribe() as messages:
                await anext(messages)
                await anext(messages)

        return {
            "acquire": store.acquire("me", None),
            "renew": store.renew(lease),
            "commit": store.commit(lease, metadata(lease.version), SOLVE),
            "confirm": store.confirm(lease, 1.5, full=True, complete=True),
            "abandon": store.abandon(lease),
            "publish": store.publish(SOLVE),
            "subscribe": subscribe(),
            "load": document_store.load(None),
            "committed": document_store.head(),
            "stage": document_store.stage(lease, document_contents(lease.version)),
            "keep": document_store.persist(
                lease.version, metadata(lease.version, as_of=4e9), documents(lease.version), quiet=0
            ),
        }

    @staticmethod
    async def _all_fail(calls: dict[str, Any], *says: str) -> None:
        async with asyncio.timeout(15):
            results = await asyncio.gather(*calls.values(), return_exceptions=True)
        for call, result in zip(calls, results, strict=True):
            assert isinstance(result, Unavailable), (call, result)
            text = str(result)
            assert text.startswith("postgres: "), (call, text)
            for part in says:
                assert part in text, (call, text)
            assert "; " in text, "it says how to mend it"
            assert "\n" not in text
            assert "s3cret" not in text

    @pytest.fixture
    def calls(self, make_store, make_vault) -> Callable[[str], dict[str, Any]]:
        return lambda dsn: self._calls(make_store(dsn=dsn), make_vault(dsn=dsn))

    @staticmethod
    def _as(dsn: str, user: str) -> str:
        """The same, as another role, with a password of its own."""
        parts = urlsplit(dsn)
        return parts._replace(netloc=f"{user}:s3cret@{parts.netloc.rpartition('@')[2]}").geturl()

    async def test_nobody_listens(self, calls):
        dsn = f"postgresql://someone:s3cret@127.0.0.1:{free_port()}/ctf"
        every = calls(dsn) | {"check": PostgresClusterBackend(dsn, prefix="", lock_ttl=1).check()}
        await self._all_fail(every, "postgres.dsn is right")

    async def test_the_password_is_wrong(self, calls, cache_dsn: str):
        await self._all_fail(calls(self._as(cache_dsn, "nobody")), "password", "in postgres.dsn are right")

    async def test_the_database_is_not_there(self, calls, cache_dsn: str):
        await self._all_fail(calls(urlsplit(cache_dsn)._replace(path="/s3").geturl()), "does not exist")

    async def test_the_dsn_cannot_be_read(self, calls):
        await self._all_fail(calls("postgresql://someone:a/s3cret#b@127.0.0.1:x/ctf"), "postgres.dsn cannot be read")

    async def test_nobody_answers_and_then_somebody_does(self, make_store, cache_dsn, calls, quick: None):
        async with relay(cache_dsn) as (port, silence):
            dsn = _by(cache_dsn, port)
            store = make_store(dsn=dsn, lock_ttl=60.0)
            lease = await won(store, "holder")
            silence.set()
            await self._all_fail(calls(dsn) | {"known connection": store.renew(lease)}, "no answer in time")
            silence.clear()
            assert isinstance(await store.acquire("me", None), Busy)
            assert await store.renew(lease)

    async def test_the_server_is_frozen_and_thaws(self, own_server: Postgres, make_store, calls, quick: None):
        dsn = own_server.dsn()
        store = make_store(dsn=dsn, lock_ttl=60.0)
        lease = await won(store, "holder")
        main = psutil.Process(own_server.pid)
        family = [main, *main.children(recursive=True)]
        for member in family:
            os.kill(member.pid, signal.SIGSTOP)
        try:
            await self._all_fail(calls(dsn) | {"known connection": store.renew(lease)}, "no answer in time")
        finally:
            for member in family:
                os.kill(member.pid, signal.SIGCONT)
        await until(lambda: _answers(store.renew(lease)), "it renews again")
        assert isinstance(await store.acquire("me", None), Busy)
        await store.abandon(lease)

    async def test_another_transaction_has_the_rows_locked(self, quick: None, table: Table, make_store, make_vault):
        store, document_store = make_store(lock_ttl=60.0), make_vault()
        lease = await won(store)
        await stage(document_store, lease)
        other = await asyncpg.connect(table.dsn, timeout=10, command_timeout=30)
        try:
            async with other.transaction():
                await other.execute("LOCK TABLE leaderboard_cache IN EXCLUSIVE MODE")
                calls = self._calls(make_store(), document_store)
                for reads in ("publish", "subscribe", "load", "committed"):
                    calls.pop(reads).close()
                await self._all_fail(calls)
                assert (await document_store.load(None)).documents is None, "who only reads is not kept from it"
        finally:
            other.terminate()
        assert await store.commit(lease, metadata(lease.version), SOLVE)
        await holds(document_store, lease.version)

    async def test_a_connection_that_was_cut_is_made_anew(self, store, document_store, table: Table):
        lease = await won(store)
        await stage(document_store, lease)
        for _ in range(3):
            await _terminate(table, "")
            # The very next call may find out; no later one fails.
            await _answers(store.renew(lease))
            assert await store.renew(lease)
            await _answers(document_store.head())
            assert (await document_store.head()).version is None
        assert await store.commit(lease, metadata(lease.version), SOLVE)
        await holds(document_store, lease.version)

    async def test_a_server_that_was_restarted_is_found_again(self, own_server: Postgres, names: Names):
        store = PostgresClusterBackend(own_server.dsn(), prefix=names.prefix, lock_ttl=60.0)
        document_store = PostgresDocumentStore(own_server.dsn(), prefix=names.prefix, stage_ttl=STAGE_TTL)
        version = await commit(store, document_store)
        lease = await won(store)
        async with hearing(store) as heard:
            await asyncio.to_thread(own_server.restart)
            with pytest.raises(Unavailable, match=r"^postgres: "):
                await heard(1)
        await until(lambda: _answers(store.renew(lease)), "the lease is ours still")
        await until(lambda: _answers(document_store.head()), "it can be read")
        await holds(document_store, version)
        # It is the same server: no number is passed over.
        assert lease.version.number == version.number + 1
        await store.abandon(lease)
        assert (await won(store)).version.number == lease.version.number + 1
        await asyncio.to_thread(own_server.kill)
        await self._all_fail(self._calls(store, document_store), "postgres.dsn is right")
        await asyncio.to_thread(own_server.start)
        await holds(document_store, version)
        await store.aclose()
        await document_store.aclose()

    async def test_the_table_is_missing(self, calls, make_store, database: str):
        those = calls(database)
        for others in ("publish", "subscribe"):
            those.pop(others).close()
        await self._all_fail(those, "leaderboard_cache", "run `scoreboardd migrate`")
        assert await make_store(dsn=database).check() == [
            "postgres: table leaderboard_cache is missing; run `scoreboardd migrate`"
        ]

    async def test_the_table_is_another_s(self, calls, make_store, database: str):
        role = f"stranger_{urlsplit(database).path[1:]}"
        await _execute(database, TABLE, f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
        try:
            dsn = self._as(database, role)
            those = calls(dsn)
            for others in ("publish", "subscribe"):
                those.pop(others).close()
            await self._all_fail(those, "permission denied", "run `scoreboardd check`")
            (problem,) = await make_store(dsn=dsn).check()
            assert problem.startswith("postgres: leaderboard_cache may not be written; ")
            # One right that is missing is enough.
            await _execute(database, f"GRANT SELECT, INSERT, UPDATE ON leaderboard_cache TO {role}")
            assert await make_store(dsn=dsn).check() == [problem]
            await _execute(database, f"GRANT DELETE ON leaderboard_cache TO {role}")
            assert await make_store(dsn=dsn).check() == []
            # And those are all that it needs.
            store, document_store = (
                make_store(dsn=dsn),
                PostgresDocumentStore(dsn, prefix=make_store()._names.prefix, stage_ttl=9),
            )
            async with hearing(store) as heard:
                version = await commit(store, document_store)
                assert await heard(2) == [Begun(version), Rebuilt(version.number, SOLVE)]
            await store.aclose()
            await document_store.aclose()
        finally:
            await _execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    async def test_the_database_takes_no_writes(self, calls, make_store, database: str):
        name = urlsplit(database).path[1:]
        await _execute(database, TABLE, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        those = calls(database)
        for others in ("publish", "subscribe", "load", "committed"):
            those.pop(others).close()
        await self._all_fail(those, "read-only transaction", "point postgres.dsn at the primary")
        (problem,) = await make_store(dsn=database).check()
        assert "takes no writes; point postgres.dsn at the primary" in problem

    async def test_the_server_is_a_replica(self, make_store, make_vault, tmp_path, names: Names):
        with Postgres(tmp_path, settings={"wal_level": "replica"}) as primary:
            await _execute(primary.dsn(), TABLE)
            store, document_store = make_store(dsn=primary.dsn()), make_vault(dsn=primary.dsn())
            version = await commit(store, document_store)
            await asyncio.to_thread(primary.stop)
            (primary._data / "standby.signal").touch()
            await asyncio.to_thread(primary.start)
            those = self._calls(store, document_store)
            for reads in ("load", "committed"):
                those.pop(reads).close()
            await self._all_fail(those, "point postgres.dsn at the primary")
            await holds(document_store, version)
            (problem,) = await store.check()
            assert "takes no writes; point postgres.dsn at the primary" in problem


async def _answers(call: Awaitable[Any]) -> bool:
    try:
        await call
    except Unavailable:
        return False
    return True


async def _nothing(question: bytes) -> None:
    pass


@asynccontextmanager
async def overhearing(
    dsn: str, before: Callable[[bytes], Awaitable[None]] = _nothing
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A DSN that leads to the same server, and what it has said of each connection's transaction whenever it was ready
    for the next statement: `I` idle, `T` in a transaction. `before` is awaited before a question is passed on."""
    target, states = urlsplit(dsn), list[bytes]()

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(1):
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length) - 4)
            if head == b"Z":
                states.append(body)
            writer.write(head + length + body)

    async def questions(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await before(data)
            writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection(target.hostname, target.port)
        try:
            await asyncio.gather(questions(reader, their_writer), answers(their_reader, writer), return_exceptions=True)
        finally:
            writer.close()
            their_writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield _by(dsn, server.sockets[0].getsockname()[1]), states


class TestNobodyCanStopInTheMiddle:
    """A client that freezes between two round trips holds no lock in the database."""

    async def test_every_statement_is_over_when_its_answer_comes(self, make_store, make_vault, cache_dsn: str):
        async with overhearing(cache_dsn) as (dsn, states):
            store, document_store = make_store(dsn=dsn), make_vault(dsn=dsn)
            async with hearing(make_store()) as heard:
                await commit(store, document_store, divisions=(1,))
                lease = await won(store)
                assert isinstance(await store.acquire("you", None), Busy)
                assert await store.renew(lease)
                assert await store.confirm(lease, 1.5, full=True, complete=True)
                assert not await store.commit(lease, metadata(lease.version), SOLVE)
                await store.abandon(await won(store))
                await store.publish(SOLVE)
                later = Version("later", 99)
                assert await document_store.persist(later, metadata(later), documents(later), quiet=0)
                await heard(7)
            assert len(states) > 30
            assert set(states) == {b"I"}
            # Only who reads is in a transaction for longer: of one snapshot, and without a lock on any row.
            await holds(document_store, later)
            assert b"T" in states
            await store.aclose()
            await document_store.aclose()

    async def test_who_reads_and_freezes_is_thrown_out(self, document_store: PostgresDocumentStore):
        async with document_store._link.snapshot() as connection:
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
            assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "20s"


class TestDamage:
    """Whatever is in our rows and is not what was committed is neither loaded nor taken for unchanged."""

    @pytest.mark.parametrize(
        "how",
        [
            "set_byte(payload, 20, get_byte(payload, 20) # 1)",
            "substr(payload, 1, length(payload) / 2)",
            "payload || ' '::bytea",
            "'\\x28b52ffd'::bytea || substr(payload, 5, length(payload) - 8) || '\\xffffffff'::bytea",
            "'{}'::bytea",
            "(SELECT payload FROM leaderboard_cache WHERE cache_key = '{other}')",
        ],
    )
    async def test_of_a_document_is_found(self, store, document_store, table: Table, names: Names, how: str):
        await commit(store, document_store)
        key, other = names.document("leaderboard:users"), names.document("timeline:users")
        await table.set(key, f"payload = {how}".replace("{other}", other))
        with pytest.raises(Damaged, match=re.escape(key)):
            await document_store.load(None)
        version = await commit(store, document_store)
        assert (await document_store.load(None)).head.version == version

    @pytest.mark.parametrize(
        "row",
        [
            "epoch = E'a\\r\\nb'",
            "epoch = ''",
            "epoch = NULL",
            f"epoch = '{'e' * 33}'",
            "version = 9007199254740992",
            "version = 9223372036854775807",
            "version = -1",
            "version = NULL",
        ],
    )
    async def test_a_last_number_that_is_none_begins_an_epoch(
        self, store, document_store, table: Table, names: Names, row: str
    ):
        await commit(store, document_store)
        await table.set(names.lock, row)
        assert (await document_store.head()).given is None
        lease = await won(store)
        assert lease.version.number == 1
        assert re.fullmatch("[0-9a-z]{8}", lease.version.epoch)

    @pytest.mark.parametrize("row", ["payload = '\\xff00'", "payload = '[]'", "payload = NULL", "generated_at = NULL"])
    async def test_a_catalogue_that_is_none_is_nothing(
        self, store, document_store, table: Table, names: Names, row: str
    ):
        await commit(store, document_store)
        await table.set(names.version, row)
        assert (await document_store.head()).version is None
        assert (await document_store.load(None)).documents is None
        version = await commit(store, document_store)
        assert (await document_store.load(None)).head.version == version

    async def test_a_run_that_is_garbage_is_another_run(self, store, document_store, table: Table, names: Names):
        await commit(store, document_store)
        await table.set(names.lock, "payload = '\\xff00'")
        assert (await won(store)).version.number > 1000
