"""The Redis backend on a real server: every branch of its scripts, what its subscribers hear, and what they read."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
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
    Damaged,
    Lease,
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
from scoreboardd.model import Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import compressed, digest_of, plain
from tests.backends.harness import SOLVE, hearing, text, won
from tests.backends.relay import relay
from tests.documents import document_of

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


def documents(lease: Lease, divisions: tuple[int, ...] = ()) -> dict[str, Document]:
    """Every one says which version it is of."""
    return {name: document_of(text(name, lease.version)) for name in document_names(divisions)}


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
    async def test_of_many_at_once_one_wins(self, make_store):
        stores = [make_store() for _ in range(5)]
        answers = await asyncio.gather(*(store.acquire(f"token {i}", None) for i, store in enumerate(stores)))
        assert [type(answer) for answer in answers].count(Lease) == 1
        assert [type(answer) for answer in answers].count(Busy) == 4


class TestALockOfAnother:
    @pytest.mark.parametrize("ends", [{"px": 86_400_000}, {}])
    async def test_that_lasts_too_long_ends_like_one_of_ours(self, store, redis_client, names: Names, ends):
        await redis_client.set(names.lock, "you", **ends)
        assert await store.acquire("me", None) == Busy(TTL, overlong=True)
        assert 0 < await redis_client.pttl(names.lock) <= TTL * 1000
        answer = await store.acquire("me", None)
        assert isinstance(answer, Busy)
        assert not answer.overlong


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
    @pytest.mark.parametrize("lost", ["version", "metadata"])
    async def test_is_refused_if_there_is_nothing_to_confirm(
        self, store, document_store, redis_client, names: Names, lost: str
    ):
        await commit(store, document_store)
        lease = await won(store)
        await redis_client.delete(getattr(names, lost))
        assert not await store.confirm(lease, 1.5, full=True, complete=True)
        assert await redis_client.get(names.lock) == b"me"


class TestTheVault:
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


class TestTheBus:
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
