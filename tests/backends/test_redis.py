"""The Redis backend on a real server: every branch of its scripts, what its subscribers hear, and what they read."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from scoreboardd.backends.base import (
    Abandoned,
    Begun,
    Busy,
    Changed,
    Confirmed,
    Damaged,
    Lease,
    Message,
    Rebuilt,
    SnapshotMetadata,
    Subscribed,
    Unavailable,
    Value,
)
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis import cluster as redis_cluster
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.demo.servers import free_port
from scoreboardd.model import ChangeEvent, Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import compressed, digest_of, plain
from tests.backends.relay import relay
from tests.documents import document_of
from tests.nodes import until

SOLVE = ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z")
TTL = 5.0
STAGE_TTL = 30.0


@pytest.fixture
async def names(redis_client: Redis, key_prefix: str) -> AsyncIterator[Names]:
    yield Names(key_prefix)
    await lose(redis_client, key_prefix)


@pytest.fixture
async def make_store(redis_url: str, names: Names) -> AsyncIterator[Callable[..., RedisClusterBackend]]:
    made: list[RedisClusterBackend] = []

    def make(url: str = redis_url, lock_ttl: float = TTL) -> RedisClusterBackend:
        made.append(RedisClusterBackend(url, prefix=names.prefix, lock_ttl=lock_ttl, encoding="identity"))
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def store(make_store: Callable[..., RedisClusterBackend]) -> RedisClusterBackend:
    return make_store()


@pytest.fixture(params=["identity", "zstd"])
def encoding(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def document_store(redis_url: str, names: Names) -> AsyncIterator[RedisDocumentStore]:
    document_store = RedisDocumentStore(redis_url, prefix=names.prefix, encoding="identity", stage_ttl=STAGE_TTL)
    yield document_store
    await document_store.aclose()


async def lose(client: Redis, prefix: str) -> None:
    """All that this test has put there."""
    found = [key async for key in client.scan_iter(match=f"{prefix}*")]
    if found:
        await client.delete(*found)


async def won(store: RedisClusterBackend, token: str = "me", seen: Version | None = None) -> Lease:
    lease = await store.acquire(token, seen)
    assert isinstance(lease, Lease)
    return lease


def documents(lease: Lease, divisions: tuple[int, ...] = ()) -> dict[str, Document]:
    """Every one says which version it is of."""
    return {name: document_of(text(name, lease.version)) for name in document_names(divisions)}


def text(name: str, version: Version) -> bytes:
    return f'"{name} of {version}"'.encode()


def metadata(lease: Lease, divisions: tuple[int, ...] = ()) -> SnapshotMetadata:
    texts = {name: text(name, lease.version) for name in document_names(divisions)}
    values = {name: Value(len(text), digest_of(text)) for name, text in texts.items()}
    return SnapshotMetadata(
        f"digest of {lease.version}", 1772215200.25 + lease.version.number, divisions, documents=values
    )


async def commit(
    store: RedisClusterBackend,
    document_store: RedisDocumentStore,
    lease: Lease | None = None,
    divisions: tuple[int, ...] = (),
) -> Version:
    lease = lease or await won(store)
    _, values = await document_store.stage(lease, documents(lease, divisions))
    assert await store.commit(lease, replace(metadata(lease, divisions), documents=values), SOLVE)
    return lease.version


class TestAcquire:
    async def test_a_free_lock_gives_the_first_version_of_an_epoch(
        self, store: RedisClusterBackend, redis_client, names: Names
    ):
        lease = await won(store, "me")
        assert lease.token == "me"
        assert lease.version.number == 1
        assert Version.parse(str(lease.version)) == lease.version
        assert await redis_client.get(names.lock) == b"me"
        assert 0 < await redis_client.pttl(names.lock) <= TTL * 1000

    async def test_a_held_lock_says_for_how_long(self, store: RedisClusterBackend, redis_client, names: Names):
        await won(store, "me")
        answer = await store.acquire("you", None)
        assert isinstance(answer, Busy)
        assert TTL - 2 < answer.remaining <= TTL
        assert await redis_client.get(names.lock) == b"me"

    async def test_again_with_the_same_token_is_the_same_lease(
        self, store: RedisClusterBackend, redis_client, names: Names
    ):
        # As when the answer to the first try was lost.
        lease = await won(store, "me")
        await redis_client.pexpire(names.lock, 100)
        async with hearing(store) as heard:
            assert await won(store, "me") == lease
            assert await redis_client.pttl(names.lock) > 100
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]  # it began once

    async def test_an_expired_lock_gives_the_next_version(self, make_store):
        store = make_store(lock_ttl=0.05)
        lease = await won(store, "me")
        other = await until(lambda: _try(store, "you"), "the lock runs out")
        assert other.version == Version(lease.version.epoch, lease.version.number + 1)

    async def test_a_failed_build_leaves_a_gap(self, store: RedisClusterBackend):
        lease = await won(store)
        await store.abandon(lease)
        assert (await won(store, "you")).version.number == lease.version.number + 1

    async def test_the_epoch_stays_while_the_store_knows_all_that_was_seen(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore
    ):
        version = await commit(store, document_store)
        assert (await won(store, "me", seen=version)).version == Version(version.epoch, version.number + 1)

    async def test_the_epoch_stays_for_who_has_seen_another(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore
    ):
        version = await commit(store, document_store)
        lease = await won(store, "me", seen=Version("other", 99))
        assert lease.version == Version(version.epoch, version.number + 1)

    async def test_a_store_that_has_lost_all_starts_a_new_epoch(
        self, store, document_store, redis_client, names: Names
    ):
        version = await commit(store, document_store)
        await lose(redis_client, names.prefix)
        lease = await won(store, "me", seen=version)
        assert lease.version.epoch != version.epoch
        assert lease.version.number == 1

    async def test_a_store_whose_numbers_went_back_starts_a_new_epoch(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore
    ):
        version = await commit(store, document_store)
        lease = await won(store, "me", seen=Version(version.epoch, version.number + 5))
        assert lease.version.epoch != version.epoch
        assert lease.version.number == 1

    async def test_a_store_whose_documents_went_back_starts_a_new_epoch(
        self, store, document_store, redis_client, names: Names
    ):
        # The number was given out already when the dump was made that the server came back from.
        first = await commit(store, document_store)
        saved = await redis_client.get(names.version)
        second = await commit(store, document_store)
        await redis_client.set(names.version, saved)
        assert (await won(store, "a", seen=first)).version.epoch == first.epoch
        await redis_client.delete(names.lock)
        assert (await won(store, "b", seen=second)).version.epoch != second.epoch

    async def test_a_lock_without_its_number_starts_a_new_epoch(
        self, store: RedisClusterBackend, redis_client, names: Names
    ):
        lease = await won(store, "me")
        await redis_client.delete(names.fence)
        assert (await won(store, "me")).version.epoch != lease.version.epoch

    async def test_of_many_at_once_one_wins(self, make_store):
        stores = [make_store() for _ in range(5)]
        answers = await asyncio.gather(*(store.acquire(f"token {i}", None) for i, store in enumerate(stores)))
        assert [type(answer) for answer in answers].count(Lease) == 1
        assert [type(answer) for answer in answers].count(Busy) == 4


async def _try(store: RedisClusterBackend, token: str) -> Lease | None:
    answer = await store.acquire(token, None)
    return answer if isinstance(answer, Lease) else None


class TestALockOfAnother:
    @pytest.mark.parametrize("ends", [{"px": 86_400_000}, {}])
    async def test_that_lasts_too_long_ends_like_one_of_ours(self, store, redis_client, names: Names, ends):
        await redis_client.set(names.lock, "you", **ends)
        assert await store.acquire("me", None) == Busy(TTL, overlong=True)
        assert 0 < await redis_client.pttl(names.lock) <= TTL * 1000
        answer = await store.acquire("me", None)
        assert isinstance(answer, Busy)
        assert not answer.overlong


class TestRenew:
    async def test_extends_our_lock(self, store: RedisClusterBackend, redis_client, names: Names):
        lease = await won(store)
        await redis_client.pexpire(names.lock, 100)
        assert await store.renew(lease)
        assert await redis_client.pttl(names.lock) > 100

    async def test_not_one_that_is_another_s(self, store: RedisClusterBackend, redis_client, names: Names):
        lease = await won(store)
        await redis_client.set(names.lock, "you", px=100)
        assert not await store.renew(lease)
        assert await redis_client.pttl(names.lock) <= 100
        assert await redis_client.get(names.lock) == b"you"

    async def test_not_one_that_has_run_out(self, store: RedisClusterBackend, redis_client, names: Names):
        lease = await won(store)
        await redis_client.delete(names.lock)
        assert not await store.renew(lease)
        assert not await redis_client.exists(names.lock)


class TestCommit:
    async def test_makes_all_visible_and_frees_the_lock(self, store, document_store, redis_client, names: Names):
        lease = await won(store)
        await document_store.stage(lease, documents(lease, (1, 2)))
        assert await redis_client.keys(f"{names.prefix}leaderboard:users*") == []
        async with hearing(store) as heard:
            assert await store.commit(lease, metadata(lease, (1, 2)), SOLVE)
            assert await heard(1) == [Rebuilt(lease.version.number, SOLVE)]
        assert await redis_client.get(names.version) == str(lease.version).encode()
        for name in document_names((1, 2)):
            assert await redis_client.get(names.document(name)) == text(name, lease.version)
            assert await redis_client.pttl(names.document(name)) == -1, "it would expire"
        assert not await redis_client.exists(names.lock)
        assert await redis_client.keys(f"{names.prefix}scoreboard:staged:*") == []

    async def test_who_hears_of_it_can_read_it(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore, redis_client, names: Names
    ):
        lease = await won(store)
        await document_store.stage(lease, documents(lease))
        async with hearing(store) as heard:
            committing = asyncio.create_task(store.commit(lease, metadata(lease), SOLVE))
            await heard(1)
            assert await redis_client.get(names.version) == str(lease.version).encode()
            assert await redis_client.exists(*(names.document(name) for name in document_names(()))) == len(
                document_names(())
            )
            assert not await redis_client.exists(names.lock)
            assert await committing

    async def test_removes_the_divisions_that_are_gone(self, store, document_store, redis_client, names: Names):
        await commit(store, document_store, divisions=(1, 2))
        await commit(store, document_store, divisions=(2, 3))
        kept = {key.decode() for key in await redis_client.keys(f"{names.prefix}*:div:*")}
        assert kept == {names.document(name) for name in document_names((2, 3)) if ":div:" in name}

    async def test_without_the_lock_is_refused(self, store, document_store, redis_client, names: Names):
        before = await commit(store, document_store)
        lease = await won(store)
        await document_store.stage(lease, documents(lease))
        await redis_client.delete(names.lock)
        assert not await store.commit(lease, metadata(lease), SOLVE)
        await self._nothing_changed(document_store, before)

    async def test_after_a_takeover_is_refused(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore, redis_client, names: Names
    ):
        before = await commit(store, document_store)
        late = await won(store, "late")
        await document_store.stage(late, documents(late))
        await redis_client.delete(names.lock)  # it ran out while its holder was frozen
        fresh = await won(store, "fresh")
        assert not await store.commit(late, metadata(late), SOLVE)
        await self._nothing_changed(document_store, before)
        assert await redis_client.get(names.lock) == b"fresh"
        await commit(store, document_store, fresh)
        assert not await store.commit(late, metadata(late), SOLVE)
        await self._nothing_changed(document_store, fresh.version)

    async def test_with_an_old_fence_is_refused_even_with_the_lock(
        self, store, document_store, redis_client, names: Names
    ):
        before = await commit(store, document_store)
        late = await won(store, "me")
        await document_store.stage(late, documents(late))
        await redis_client.hset(names.fence, "number", late.version.number + 1)
        assert not await store.commit(late, metadata(late), SOLVE)
        await self._nothing_changed(document_store, before)

    async def test_of_another_epoch_is_refused(self, store, document_store, redis_client, names: Names):
        before = await commit(store, document_store)
        late = await won(store, "me")
        await document_store.stage(late, documents(late))
        await redis_client.hset(names.fence, "epoch", "other")
        assert not await store.commit(late, metadata(late), SOLVE)
        await self._nothing_changed(document_store, before)

    @pytest.mark.parametrize("missing", document_names(()))
    async def test_without_a_staged_document_is_refused(
        self, store, document_store, redis_client, names: Names, missing: str
    ):
        before = await commit(store, document_store)
        lease = await won(store)
        await document_store.stage(lease, documents(lease))
        await redis_client.delete(names.staged(lease.token, missing))
        assert not await store.commit(lease, metadata(lease), SOLVE)
        await self._nothing_changed(document_store, before)

    async def test_said_twice_is_done_once(self, store: RedisClusterBackend, document_store: RedisDocumentStore):
        # As when the answer to the first try was lost.
        lease = await won(store)
        await commit(store, document_store, lease)
        async with hearing(store) as heard:
            assert await store.commit(lease, metadata(lease), SOLVE)
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]

    async def test_said_twice_disturbs_nobody_who_has_the_lock_by_now(
        self, store, document_store, redis_client, names: Names
    ):
        lease = await won(store)
        await commit(store, document_store, lease)
        await won(store, "you")
        assert await store.commit(lease, metadata(lease), SOLVE)
        assert await redis_client.get(names.lock) == b"you"

    async def test_overwrites_what_it_cannot_read(self, store, document_store, redis_client, names: Names):
        await redis_client.set(names.version, b"\xff garbage")
        await redis_client.hset(names.metadata, mapping={"digest": "{", "more": "x"})
        await redis_client.rpush(names.document("leaderboard:users"), "not ours")
        assert (await document_store.load(None)).documents is None
        version = await commit(store, document_store)
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.head.version == version

    async def _nothing_changed(self, document_store: RedisDocumentStore, version: Version) -> None:
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.head.version == version
        assert all(plain(document) == text(name, version) for name, document in stored.documents)


class TestConfirm:
    async def test_brings_what_is_committed_up_to_date(
        self, store: RedisClusterBackend, document_store, redis_client, names: Names
    ):
        version = await commit(store, document_store, divisions=(7,))
        lease = await won(store)
        async with hearing(store) as heard:
            assert await store.confirm(lease, 1772215999.5, full=True, complete=True)
            assert await heard(1) == [Confirmed(lease.version, version, 1772215999.5)]
        assert not await redis_client.exists(names.lock)
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.head.version == version
        before = metadata(Lease("", version), (7,))
        assert stored.head.metadata == replace(before, as_of=1772215999.5, full=lease.version.number)

    @pytest.mark.parametrize("divisions", [(), (2**63 - 1,), (1_250_000_000_000_000_001, 1_250_000_000_000_000_002)])
    async def test_leaves_the_divisions_as_they_are(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore, divisions
    ):
        await commit(store, document_store, divisions=divisions)
        assert await store.confirm(await won(store), 1.5, full=True, complete=True)
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.head.metadata.divisions == divisions
        assert [name for name, _ in stored.documents] == document_names(divisions)

    async def test_whole_seconds_are_heard_too(self, store: RedisClusterBackend, document_store: RedisDocumentStore):
        version = await commit(store, document_store)
        lease = await won(store)
        async with hearing(store) as heard:
            assert await store.confirm(lease, 1772215999.0, full=True, complete=True)
            assert await heard(1) == [Confirmed(lease.version, version, 1772215999.0)]

    async def test_is_refused_to_who_does_not_hold_the_lock(self, store, document_store, redis_client, names: Names):
        version = await commit(store, document_store)
        lease = await won(store)
        await redis_client.set(names.lock, "you")
        assert not await store.confirm(lease, 9e9, full=True, complete=True)
        assert await redis_client.get(names.lock) == b"you"
        stored = await document_store.load(None)
        assert stored is not None
        assert stored.head.metadata.as_of == 1772215200.25 + version.number

    @pytest.mark.parametrize("lost", ["version", "metadata"])
    async def test_is_refused_if_there_is_nothing_to_confirm(
        self, store, document_store, redis_client, names: Names, lost: str
    ):
        await commit(store, document_store)
        lease = await won(store)
        await redis_client.delete(getattr(names, lost))
        assert not await store.confirm(lease, 1.5, full=True, complete=True)
        assert await redis_client.get(names.lock) == b"me"


class TestAbandon:
    async def test_frees_the_lock_and_says_so(self, store: RedisClusterBackend, redis_client, names: Names):
        lease = await won(store)
        async with hearing(store) as heard:
            await store.abandon(lease)
            assert await heard(1) == [Abandoned(lease.version)]
        assert not await redis_client.exists(names.lock)

    async def test_not_one_that_is_another_s(self, store: RedisClusterBackend, redis_client, names: Names):
        lease = await won(store)
        await redis_client.set(names.lock, "you")
        async with hearing(store) as heard:
            await store.abandon(lease)
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]
        assert await redis_client.get(names.lock) == b"you"


class TestTheVault:
    async def test_an_empty_store_has_nothing(self, document_store: RedisDocumentStore):
        assert (await document_store.load(None)).documents is None
        assert (await document_store.head()).version is None

    async def test_what_is_staged_expires(self, store, document_store, redis_client, names: Names):
        lease = await won(store)
        await document_store.stage(lease, documents(lease))
        for name in document_names(()):
            assert 0 < await redis_client.pttl(names.staged(lease.token, name)) <= STAGE_TTL * 1000
        assert (await document_store.load(None)).documents is None

    @pytest.mark.parametrize("missing", document_names((3,)))
    async def test_a_version_without_one_of_its_documents_is_none(
        self, store, document_store, redis_client, names, missing
    ):
        await commit(store, document_store, divisions=(3,))
        await redis_client.delete(names.document(missing))
        with pytest.raises(Damaged, match="gone"):
            await document_store.load(None)
        assert (await document_store.head()).version is None

    async def test_what_is_committed_can_be_known_without_reading_it(
        self, store: RedisClusterBackend, document_store: RedisDocumentStore
    ):
        lease = await won(store)
        await commit(store, document_store, lease, divisions=(3,))
        head = await document_store.head()
        assert (head.version, head.metadata) == (lease.version, metadata(lease, (3,)))

    async def test_documents_come_back_as_they_went(
        self, store: RedisClusterBackend, redis_url, redis_client, names, encoding
    ):
        said = b'{"text":"\xf0\x9f\x98\x80 <script>"}' * 1000
        parts = document_of(said[:9000], said[9000:])
        document_store = RedisDocumentStore(redis_url, prefix=names.prefix, encoding=encoding, stage_ttl=STAGE_TTL)
        lease = await won(store)
        written, values = await document_store.stage(lease, dict.fromkeys(document_names(()), parts))
        assert await store.commit(lease, replace(metadata(lease), documents=values), SOLVE)
        raw = await redis_client.get(names.document("leaderboard:users"))
        assert written == len(document_names(())) * len(raw)
        assert raw == said if encoding == "identity" else plain(raw) == said
        stored = await document_store.load(None)
        assert stored is not None
        # What is stored as text is one frame from then on.
        back = raw if encoding == "zstd" else compressed(said)
        assert stored.documents == [(name, back) for name in document_names(())]
        await document_store.aclose()

    async def test_either_coding_reads_the_other_s(self, store: RedisClusterBackend, redis_url: str, names: Names):
        one, other = (
            RedisDocumentStore(redis_url, prefix=names.prefix, encoding=encoding, stage_ttl=STAGE_TTL)
            for encoding in ("identity", "zstd")
        )
        for writer, reader in ((one, other), (other, one)):
            version = await commit(store, writer)
            stored = await reader.load(None)
            assert stored is not None
            assert stored.head.version == version
            assert all(plain(document) == text(name, version) for name, document in stored.documents)
        await one.aclose()
        await other.aclose()

    async def test_reads_no_mix_of_versions(
        self, make_store, redis_url: str, names: Names, document_store: RedisDocumentStore
    ):
        store = make_store()
        await commit(store, document_store, divisions=(1, 2))
        writer = RedisDocumentStore(redis_url, prefix=names.prefix, encoding="zstd", stage_ttl=STAGE_TTL)
        stop, reads, seen = asyncio.Event(), 0, set()

        async def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await commit(store, writer, divisions=(1, 2) if number % 2 else (2, 3))
                await asyncio.sleep(0.001 * (number % 8))  # some reads get through, some do not

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            deadline = time.monotonic() + 20
            while (reads < 100 or len(seen) < 20) and time.monotonic() < deadline:
                stored = await document_store.load(None)
                assert stored is not None
                reads += 1
                seen.add(stored.head.version)
                assert [name for name, _ in stored.documents] == document_names(stored.head.metadata.divisions)
                assert stored.head.metadata.digest == f"digest of {stored.head.version}"
                for name, document in stored.documents:
                    assert plain(document) == text(name, stored.head.version)
            stop.set()
        assert len(seen) >= 20
        await writer.aclose()


@asynccontextmanager
async def hearing(store: RedisClusterBackend) -> AsyncIterator[Callable[[int], Any]]:
    """Subscribes; what it yields waits for so many messages after the first, which says that it has begun."""
    async with asyncio.timeout(20), store.subscribe() as messages:
        assert isinstance(await anext(messages), Subscribed)

        async def heard(count: int) -> list[Message]:
            return [await anext(messages) for _ in range(count)]

        yield heard


class TestTheBus:
    async def test_says_everything_in_the_order_in_which_it_was_done(
        self, make_store, document_store: RedisDocumentStore
    ):
        store, other = make_store(), make_store()
        async with hearing(store) as heard:
            await other.publish(SOLVE, "f00")
            first = await won(other, "a")
            await store.publish(SOLVE)
            await document_store.stage(first, documents(first))
            assert await other.commit(first, metadata(first), SOLVE)
            second = await won(store, "b")
            await other.publish(SOLVE)
            await store.confirm(second, 1.5, full=True, complete=True)
            third = await won(other, "c")
            await other.abandon(third)
            assert await heard(9) == [
                Changed(SOLVE, "f00"),
                Begun(first.version),
                Changed(SOLVE),
                Rebuilt(first.version.number, SOLVE),
                Begun(second.version),
                Changed(SOLVE),
                Confirmed(second.version, first.version, 1.5),
                Begun(third.version),
                Abandoned(third.version),
            ]

    async def test_passes_over_garbage(self, store: RedisClusterBackend, redis_client, names: Names):
        async with hearing(store) as heard:
            for channel in ("scoreboard.building", "scoreboard.rebuilt", "scoreboard.events"):
                for payload in (b"", b"\xff\xfe", b"x" * 1_000_000, b"[" * 5000, b'{"state":"begun","version":-1}'):
                    await redis_client.publish(names.channel(channel), payload)
            assert [(type(message), message.readable) for message in await heard(5)] == [
                (Changed, False),
                (Changed, False),
                (Changed, False),
                (Changed, False),
                (Changed, True),
            ]

    async def test_other_prefixes_are_other_clusters(self, store: RedisClusterBackend, redis_client, names: Names):
        async with hearing(store) as heard:
            await redis_client.publish("scoreboard.events", "{}")
            await redis_client.publish(f"other-{names.prefix}scoreboard.events", "{}")
            await store.publish(SOLVE)
            assert await heard(1) == [Changed(SOLVE)]

    async def test_what_is_said_is_what_the_contract_says(self, store, document_store, redis_client, names: Names):
        async with redis_client.pubsub(ignore_subscribe_messages=True) as raw:
            await raw.subscribe(f"{names.prefix}scoreboard.rebuilt")
            await raw.get_message(timeout=5)
            version = await commit(store, document_store)
            message = await raw.get_message(timeout=5)
        said = '{"scope":"all","reason":"submission_correct","ts":"2026-02-27T18:00:00Z","version":%d}'
        assert message["data"].decode() == said % version.number

    async def test_a_broken_subscription_is_known_by_the_next_one(self, make_store, redis_url, redis_client, names):
        name = f"test-{names.prefix.strip(':')}"
        store = make_store(url=f"{redis_url}?client_name={name}")
        publisher = make_store()
        async with hearing(store) as heard:
            subscribers = [client for client in await redis_client.client_list("pubsub") if client["name"] == name]
            assert len(subscribers) == 1
            assert await redis_client.client_kill_filter(_id=subscribers[0]["id"]) == 1
            await publisher.publish(SOLVE, "missed")
            try:
                (subscribed,) = await heard(1)
                assert isinstance(subscribed, Subscribed)
            except Unavailable:
                return  # as good: the caller subscribes again
            # Every channel is in force again.
            lease = await won(publisher)
            await publisher.abandon(lease)
            await publisher.publish(SOLVE)
            assert await heard(3) == [Begun(lease.version), Abandoned(lease.version), Changed(SOLVE)]

    async def test_a_connection_that_falls_silent_is_given_up(self, make_store, redis_url, names, monkeypatch):
        monkeypatch.setattr(redis_cluster, "COMMAND_TIMEOUT_SECONDS", 0.3)
        async with relay(redis_url) as (port, silence):
            store = make_store(url=f"redis://127.0.0.1:{port}/0")
            async with hearing(store) as heard:
                await store.publish(SOLVE)
                assert await heard(1) == [Changed(SOLVE)]
                # A quiet time is not silence: the server answers when it is asked.
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await heard(1)
            async with hearing(store) as heard:
                silence.set()
                start = time.monotonic()
                with pytest.raises(Unavailable, match="no answer"):
                    await heard(1)
                assert time.monotonic() - start < 5


class TestUnavailable:
    @staticmethod
    def _calls(store: RedisClusterBackend) -> list[Any]:
        lease = Lease("me", Version("e", 1))

        async def subscribe() -> None:
            async with store.subscribe() as messages:
                await anext(messages)

        return [
            store.acquire("me", None),
            store.renew(lease),
            store.commit(lease, metadata(lease), SOLVE),
            store.confirm(lease, 1.5, full=True, complete=True),
            store.abandon(lease),
            store.publish(SOLVE),
            store.check(),
            subscribe(),
        ]

    async def _all_fail(self, calls: list[Any]) -> None:
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, Unavailable), result
            text = str(result)
            assert text.startswith("redis: ")
            assert "redis.url" in text
            assert "\n" not in text
            assert "s3cret" not in text

    async def test_nobody_listens(self, make_store, names: Names):
        url = f"redis://someone:s3cret@127.0.0.1:{free_port()}/0"
        document_store = RedisDocumentStore(url, prefix=names.prefix, encoding="identity", stage_ttl=STAGE_TTL)
        lease = Lease("me", Version("e", 1))
        staging = document_store.stage(lease, documents(lease))
        await self._all_fail(
            [*self._calls(make_store(url=url)), document_store.load(None), document_store.head(), staging]
        )
        await document_store.aclose()

    async def test_the_password_is_wrong(self, make_store, redis_url: str):
        place = urlsplit(redis_url).netloc.rpartition("@")[2]
        await self._all_fail(self._calls(make_store(url=f"redis://someone:s3cret@{place}/0")))

    async def test_nobody_answers_and_then_somebody_does(self, make_store, redis_url: str):
        async with relay(redis_url) as (port, silence):
            store = make_store(url=f"redis://127.0.0.1:{port}/0", lock_ttl=60.0)
            lease = await won(store, "holder")
            silence.set()
            start = time.monotonic()
            await self._all_fail(self._calls(store))
            assert time.monotonic() - start < 2 * redis_cluster.COMMAND_TIMEOUT_SECONDS + 3
            silence.clear()
            assert isinstance(await store.acquire("me", None), Busy)
            assert await store.renew(lease)


class TestCheck:
    async def test_finds_nothing_wrong_with_a_server_as_it_comes(self, store: RedisClusterBackend):
        assert await store.check() == []


@pytest.mark.parametrize("encoding", ["identity", "zstd"])
class TestDamage:
    """Whatever is under our keys and is not what was committed is neither loaded nor taken for unchanged."""

    @pytest.fixture
    async def document_store(self, store: RedisClusterBackend, redis_url: str, names: Names, encoding: str):
        document_store = RedisDocumentStore(redis_url, prefix=names.prefix, encoding=encoding, stage_ttl=STAGE_TTL)
        await commit(store, document_store)
        yield document_store
        await document_store.aclose()

    @pytest.mark.parametrize(
        "how", ["flipped", "cut", "longer", "garbage", "foreign", "list", "swapped", "other version"]
    )
    async def test_of_a_document_is_found(self, store, document_store, redis_client, names: Names, encoding, how: str):
        key, other = names.document("leaderboard:users"), names.document("timeline:users")
        value = await redis_client.get(key)
        match how:
            case "flipped":
                await redis_client.set(key, value[:20] + bytes([value[20] ^ 1]) + value[21:])
            case "cut":
                await redis_client.set(key, value[: len(value) // 2])
            case "longer":
                await redis_client.append(key, b" ")
            case "garbage":
                await redis_client.set(key, b"\x28\xb5\x2f\xfd" + b"\xff" * (len(value) - 4))
            case "foreign":
                await redis_client.set(key, b'{"challenges":[],"entries":[]}', px=60_000)
            case "list":
                await redis_client.delete(key)
                await redis_client.rpush(key, "1")
            case "swapped":
                await redis_client.set(key, await redis_client.get(other))
            case "other version":
                await commit(store, document_store)
                await redis_client.set(key, value)
        with pytest.raises(Damaged, match=re.escape(key)):
            await document_store.load(None)
        # What has another length or type is seen without reading it.
        assert (await document_store.head()).version is None or how in (
            "flipped",
            "garbage",
            "swapped",
            "other version",
        )
        version = await commit(store, document_store)
        assert (await document_store.load(None)).head.version == version

    @pytest.mark.parametrize("name", ["lock", "fence", "version", "metadata", "document", "previous"])
    async def test_keys_of_another_type_are_written_over(
        self, store, document_store, redis_client, names, encoding, name
    ):
        key = getattr(names, name)
        key = key if isinstance(key, str) else key("leaderboard:users")
        await redis_client.delete(key)
        await redis_client.rpush(key, "1")
        if name == "lock":
            answer = await store.acquire("me", None)
            assert answer == Busy(TTL, overlong=True)
            assert 0 < await redis_client.pttl(key) <= TTL * 1000
            await redis_client.delete(key)
        await document_store.head()
        version = await commit(store, document_store)
        assert (await document_store.load(None)).head.version == version

    @pytest.mark.parametrize(
        "fence",
        [
            {"epoch": b"\xff\xfe", "number": "7"},
            {"epoch": "a\r\nb", "number": "7"},
            {"epoch": "", "number": "7"},
            {"epoch": "e" * 33, "number": "7"},
            {"epoch": "E", "number": "7"},
            {"epoch": "e", "number": "9007199254740992"},
            {"epoch": "e", "number": str(9 * 10**18)},
            {"epoch": "e", "number": "-1"},
            {"epoch": "e", "number": "1e3"},
            {"epoch": "e", "number": "nan"},
            {"epoch": "e", "number": ""},
            {"epoch": "e"},
            {"number": "7"},
        ],
        ids=str,
    )
    async def test_a_last_number_that_is_none_begins_an_epoch(
        self, store, document_store, redis_client, names, encoding, fence
    ):
        await redis_client.delete(names.fence)
        await redis_client.hset(names.fence, mapping=fence)
        assert (await document_store.head()).given is None
        lease = await won(store)
        assert lease.version.number == 1
        assert re.fullmatch("[0-9a-z]{8}", lease.version.epoch)
        assert (await document_store.head()).given == lease.version

    @pytest.mark.parametrize("version", [b"\xff-1", b"e\r\nx-1", b"e-99999999999999999999", b"-", b"", b"e-"])
    async def test_a_committed_version_that_is_none_is_nothing(
        self, store, document_store, redis_client, names, encoding, version
    ):
        await redis_client.set(names.version, version)
        assert (await document_store.head()).version is None
        assert (await document_store.load(None)).documents is None
        assert await commit(store, document_store) == (await document_store.load(None)).head.version
