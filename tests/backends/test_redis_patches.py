"""A version written over the one before the last: on a real server, and whatever has befallen that one."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import zstandard
from redis.asyncio import Redis

from scoreboardd.backends.base import Lease, SnapshotMetadata
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis import value_layout
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.model import ChangeEvent
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import compressed, plain
from tests.documents import document_of

SOLVE = ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z")
TTL = 30.0
FEW = 1_350 * len(document_names(()))
"Bytes: more than a change of one piece takes in each of the documents, and less than any of them."


@pytest.fixture
async def names(redis_client: Redis, key_prefix: str) -> AsyncIterator[Names]:
    yield Names(key_prefix)
    found = [key async for key in redis_client.scan_iter(match=f"{key_prefix}*")]
    if found:
        await redis_client.delete(*found)


@pytest.fixture
async def store(redis_url: str, names: Names) -> AsyncIterator[RedisClusterBackend]:
    store = RedisClusterBackend(redis_url, prefix=names.prefix, lock_ttl=TTL, encoding="zstd")
    yield store
    await store.aclose()


@pytest.fixture
async def make_vault(redis_url: str, names: Names) -> AsyncIterator[Callable[..., RedisDocumentStore]]:
    made: list[RedisDocumentStore] = []

    def make(encoding: str = "zstd") -> RedisDocumentStore:
        made.append(RedisDocumentStore(redis_url, prefix=names.prefix, encoding=encoding, stage_ttl=TTL))
        return made[-1]

    yield make
    for document_store in made:
        await document_store.aclose()


@pytest.fixture
def document_store(make_vault: Callable[..., RedisDocumentStore]) -> RedisDocumentStore:
    return make_vault()


class Contest:
    """Documents of forty pieces, of which `solve` changes one in each."""

    def __init__(self) -> None:
        self.solves = 0
        self.divisions: tuple[int, ...] = ()

    def solve(self) -> None:
        self.solves += 1

    def texts(self) -> dict[str, bytes]:
        return {name: b"".join(self._pieces(name)) for name in document_names(self.divisions)}

    def documents(self) -> dict[str, Document]:
        return {name: document_of(*self._pieces(name)) for name in document_names(self.divisions)}

    def _pieces(self, name: str) -> Iterator[bytes]:
        for place in range(40):
            solves = len(range(place, self.solves + 1, 40))
            yield b",".join(b"%s %d %d" % (name.encode(), place, n * n * 7919) for n in range(40 + solves))


@pytest.fixture
def contest() -> Contest:
    return Contest()


async def won(store: RedisClusterBackend) -> Lease:
    lease = await store.acquire(secrets.token_hex(4), None)
    assert isinstance(lease, Lease)
    return lease


async def commit(store: RedisClusterBackend, document_store: RedisDocumentStore, contest: Contest) -> int:
    """Returns the bytes that were written."""
    lease = await won(store)
    written, values = await document_store.stage(lease, contest.documents())
    metadata = SnapshotMetadata(f"digest {lease.version}", 1.5, contest.divisions, documents=values)
    assert await store.commit(lease, metadata, SOLVE)
    return written


async def begin(store: RedisClusterBackend, document_store: RedisDocumentStore, contest: Contest) -> int:
    """Twice, so that there are documents to write over. Returns how much it is to write them whole."""
    await commit(store, document_store, contest)
    contest.solve()
    return await commit(store, document_store, contest)


@pytest.fixture
def stored(redis_client: Redis, names: Names) -> Callable[[], Any]:
    """What a stranger finds, who has never heard of slots."""

    async def read() -> dict[str, bytes]:
        found = {}
        async for key in redis_client.scan_iter(match=f"{names.prefix}*:*"):
            name = key.decode().removeprefix(names.prefix)
            if name in document_names((1, 2)):
                found[name] = plain(await redis_client.get(key))
        return found

    return read


async def test_two_are_written_whole_and_those_after_where_they_differ(store, document_store, contest, stored):
    for _ in range(2):
        assert await commit(store, document_store, contest) > FEW
        assert await stored() == contest.texts()
        contest.solve()
    for _ in range(50):
        assert 0 < await commit(store, document_store, contest) < FEW
        assert await stored() == contest.texts()
        contest.solve()


async def test_a_version_that_does_not_differ_costs_nothing(store, document_store, contest, stored):
    await begin(store, document_store, contest)
    await commit(store, document_store, contest)
    assert await commit(store, document_store, contest) == 0
    assert await stored() == contest.texts()


async def test_what_is_staged_is_not_seen_and_expires(store, document_store, contest, stored, redis_client, names):
    await begin(store, document_store, contest)
    before = await stored()
    contest.solve()
    lease = await won(store)
    written, values = await document_store.stage(lease, contest.documents())
    assert written < FEW
    assert await stored() == before
    for name in document_names(()):
        assert 0 < await redis_client.pttl(names.staged(lease.token, name)) <= TTL * 1000
    assert await store.commit(lease, SnapshotMetadata("", 1.5, (), documents=values), SOLVE)
    for name in document_names(()):
        assert await redis_client.pttl(names.document(name)) == -1


async def test_a_value_grows_by_being_written_whole(store, document_store, contest, stored, monkeypatch):
    monkeypatch.setattr(value_layout, "SPARE_BYTES_PER_SEGMENT", 8)
    monkeypatch.setattr(value_layout, "TAIL_DIVISOR", 1 << 40)
    full = await begin(store, document_store, contest)
    written = []
    for _ in range(60):
        contest.solve()
        written.append(await commit(store, document_store, contest))
        assert await stored() == contest.texts()
    assert min(written) < FEW
    assert max(written) > full / 8


async def test_another_node_that_reads_it_has_the_same_text(store, document_store, make_vault, contest):
    await begin(store, document_store, contest)
    contest.solve()
    assert await commit(store, document_store, contest) < FEW
    stored = await make_vault().load(None)
    assert stored is not None
    assert {name: plain(payload) for name, payload in stored.documents} == contest.texts()
    assert all(payload.startswith(zstandard.FRAME_HEADER) for _, payload in stored.documents)


async def test_two_nodes_that_take_turns_write_over_their_own(store, document_store, make_vault, contest, stored):
    other = make_vault()
    for number in range(12):
        written = await commit(store, (document_store, other)[number % 2], contest)
        assert (written < FEW) == (number >= 2)
        assert await stored() == contest.texts()
        contest.solve()


class TestWhatIsNotAsItWasLeft:
    """It is written whole, and a few commits later all is as before."""

    @pytest.fixture(autouse=True)
    async def begun(self, store, document_store, contest: Contest) -> None:
        self.full = await begin(store, document_store, contest)
        contest.solve()
        assert await commit(store, document_store, contest) < FEW
        contest.solve()

    @pytest.fixture
    def healed(self, store, document_store, contest: Contest, stored) -> Callable[..., Any]:
        async def check(*, full: int = 4) -> None:
            """`full`: how many documents; 4 stands for all."""
            written = await commit(store, document_store, contest)
            expected = self.full if full == 4 else self.full * full / len(document_names(()))
            assert expected - FEW < written < expected + FEW
            assert await stored() == contest.texts()
            for _ in range(2):
                contest.solve()
                await commit(store, document_store, contest)
                assert await stored() == contest.texts()
            contest.solve()
            assert await commit(store, document_store, contest) < FEW
            assert await stored() == contest.texts()

        return check

    @pytest.mark.parametrize("encoding", ["zstd", "identity"])
    async def test_other_nodes_have_committed(self, store, make_vault, healed, encoding):
        other = make_vault(encoding)
        for _ in range(2):
            await commit(store, other, Contest())
        await healed()

    async def test_a_commit_was_refused(self, store, document_store, contest, stored, redis_client, names, healed):
        before = await stored()
        lease = await won(store)
        contest.solve()
        await document_store.stage(lease, contest.documents())
        await redis_client.delete(names.lock)
        assert not await store.commit(lease, SnapshotMetadata("", 1.5, ()), SOLVE)
        assert await stored() == before
        await healed()

    async def test_a_build_was_abandoned(self, store, document_store, contest, healed):
        lease = await won(store)
        contest.solve()
        await document_store.stage(lease, contest.documents())
        await store.abandon(lease)
        await healed()

    async def test_a_build_was_abandoned_before_it_staged(self, store, healed):
        await store.abandon(await won(store))
        await healed(full=0)

    async def test_another_took_over_and_committed(
        self, store, document_store, make_vault, contest, redis_client, names, healed
    ):
        late = await won(store)
        await redis_client.delete(names.lock)
        await commit(store, make_vault(), Contest())
        await document_store.stage(late, contest.documents())
        assert not await store.commit(late, SnapshotMetadata("", 1.5, ()), SOLVE)
        await healed()

    async def test_the_store_is_empty(self, redis_client, names, healed):
        await redis_client.delete(*[key async for key in redis_client.scan_iter(match=f"{names.prefix}*")])
        await healed()

    @pytest.mark.parametrize("what", ["version", "metadata", "fence"])
    async def test_the_store_has_forgotten_something(self, redis_client, names, healed, what):
        await redis_client.delete(getattr(names, what))
        await healed(full=4 if what == "metadata" else 0)

    async def test_a_document_is_gone(self, store, document_store, contest, stored, redis_client, names, healed):
        """Then the one before it is written over all the same; but it leaves nothing to write over in its turn."""
        await redis_client.delete(names.document(document_names(())[0]))
        assert await commit(store, document_store, contest) < FEW
        assert await stored() == contest.texts()
        contest.solve()
        await healed(full=1)

    @pytest.mark.parametrize("place", [0, 3])
    async def test_a_previous_document_is_gone(self, redis_client, names, healed, place):
        await redis_client.delete(names.previous(document_names(())[place]))
        await healed(full=1)

    @pytest.mark.parametrize("by_hand", [b"", b'{"challenges":[],"entries":[]}', compressed(b"{}"), bytes(10**6)])
    async def test_a_previous_document_is_another(self, redis_client, names, healed, by_hand):
        await redis_client.set(names.previous(document_names(())[0]), by_hand)
        await healed(full=1)

    async def test_a_previous_document_is_longer(self, redis_client, names, healed):
        await redis_client.append(names.previous(document_names(())[0]), b"\n")
        await healed(full=1)

    async def test_a_previous_document_is_no_string(self, redis_client, names, healed):
        await redis_client.delete(names.previous(document_names(())[0]))
        await redis_client.rpush(names.previous(document_names(())[0]), "a", "b")
        await healed(full=1)


async def test_divisions_come_and_go(store, document_store, contest, stored, redis_client, names):
    written = await begin(store, document_store, contest)
    five = written * 5 / len(contest.documents())  # a division's, each as long as any

    async def committed(least: float, most: float) -> None:
        contest.solve()
        assert least <= await commit(store, document_store, contest) < most
        assert await stored() == contest.texts()
        previous = [key async for key in redis_client.scan_iter(match=f"{names.prefix}scoreboard:previous:*")]
        assert len(previous) <= len(contest.documents())

    contest.divisions = (1,)
    await committed(five - FEW, five + 2 * FEW)
    await committed(five - FEW, five + 2 * FEW)
    await committed(0, 2 * FEW)
    contest.divisions = (2,)
    await committed(five - FEW, five + 2 * FEW)
    contest.divisions = ()
    await committed(0, FEW)
    contest.divisions = (1,)
    await committed(five - FEW, five + 2 * FEW)
    await committed(five - FEW, five + 2 * FEW)
    await committed(0, 2 * FEW)


async def test_staging_twice_under_one_lease_leaves_the_last(store, document_store, contest, stored):
    await begin(store, document_store, contest)
    lease = await won(store)
    for _ in range(2):
        contest.solve()
        _, values = await document_store.stage(lease, contest.documents())
    assert await store.commit(lease, SnapshotMetadata("", 1.5, (), documents=values), SOLVE)
    assert await stored() == contest.texts()
    for _ in range(3):
        contest.solve()
        assert await commit(store, document_store, contest) < FEW
        assert await stored() == contest.texts()


async def test_staging_that_fails_half_way_leaves_nothing_to_go_on_from(store, document_store, contest, stored):
    """Under one lease, twice, the second time not to the end: what is then committed is some of each."""
    await begin(store, document_store, contest)
    lease = await won(store)
    contest.solve()
    await document_store.stage(lease, contest.documents())
    contest.solve()
    first, *_ = contest.documents().items()
    with pytest.raises(RuntimeError, match="enough"):
        await document_store.stage(lease, Failing([first]))
    assert await store.commit(lease, SnapshotMetadata("", 1.5, ()), SOLVE)
    for full in (False, True, False):
        contest.solve()
        assert (await commit(store, document_store, contest) > FEW) == full
        assert await stored() == contest.texts()


class Failing(dict[str, Document]):
    def items(self) -> Any:
        yield from super().items()
        raise RuntimeError("enough")


async def test_plain_documents_are_always_written_whole_and_kept_once(
    redis_url, make_vault, contest, redis_client, names
):
    store = RedisClusterBackend(redis_url, prefix=names.prefix, lock_ttl=TTL, encoding="identity")
    document_store = make_vault("identity")
    for _ in range(4):
        texts = contest.texts()
        assert await commit(store, document_store, contest) == sum(map(len, texts.values()))
        for name, text in texts.items():
            assert await redis_client.get(names.document(name)) == text
        contest.solve()
    assert await redis_client.keys(f"{names.prefix}scoreboard:previous:*") == []
    await store.aclose()


async def test_who_stores_them_plain_from_now_on_keeps_no_others(
    redis_url, store, document_store, contest, redis_client, names
):
    await begin(store, document_store, contest)
    assert len(await redis_client.keys(f"{names.prefix}scoreboard:previous:*")) == len(contest.documents())
    plainly = RedisClusterBackend(redis_url, prefix=names.prefix, lock_ttl=TTL, encoding="identity")
    await commit(plainly, document_store, contest)
    assert await redis_client.keys(f"{names.prefix}scoreboard:previous:*") == []
    await plainly.aclose()
