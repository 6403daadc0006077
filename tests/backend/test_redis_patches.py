"""A version written over a copy of the one before: on a real server, and whatever befalls the one before."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import zstandard
from redis.asyncio import Redis

from scoreboardd.backend import slots
from scoreboardd.backend.base import Catalogue, Lease
from scoreboardd.backend.names import Names
from scoreboardd.backend.redis import RedisStore, RedisVault
from scoreboardd.board.documents import keys
from scoreboardd.board.sheet import Document
from scoreboardd.compression import compressed, plain
from scoreboardd.edition import Event
from tests.documents import document_of

SOLVE = Event("all", "submission_correct", "2026-02-27T18:00:00Z")
TTL = 30.0
FEW = 8000
"Bytes: more than a change of one piece takes in each of the documents, and less than any of them."


@pytest.fixture
async def names(redis_client: Redis, key_prefix: str) -> AsyncIterator[Names]:
    yield Names(key_prefix)
    found = [key async for key in redis_client.scan_iter(match=f"{key_prefix}*")]
    if found:
        await redis_client.delete(*found)


@pytest.fixture
async def store(redis_url: str, names: Names) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, prefix=names.prefix, lock_ttl=TTL)
    yield store
    await store.aclose()


@pytest.fixture
async def make_vault(redis_url: str, names: Names) -> AsyncIterator[Callable[..., RedisVault]]:
    made: list[RedisVault] = []

    def make(encoding: str = "zstd") -> RedisVault:
        made.append(RedisVault(redis_url, prefix=names.prefix, encoding=encoding, stage_ttl=TTL))
        return made[-1]

    yield make
    for vault in made:
        await vault.aclose()


@pytest.fixture
def vault(make_vault: Callable[..., RedisVault]) -> RedisVault:
    return make_vault()


class Contest:
    """Documents of forty pieces, of which `solve` changes one in each."""

    def __init__(self) -> None:
        self.solves = 0
        self.divisions: tuple[int, ...] = ()

    def solve(self) -> None:
        self.solves += 1

    def texts(self) -> dict[str, bytes]:
        return {name: b"".join(self._pieces(name)) for name in keys(self.divisions)}

    def documents(self) -> dict[str, Document]:
        return {name: document_of(*self._pieces(name)) for name in keys(self.divisions)}

    def _pieces(self, name: str) -> Iterator[bytes]:
        for place in range(40):
            solves = len(range(place, self.solves + 1, 40))
            yield b",".join(b"%s %d %d" % (name.encode(), place, n * n * 7919) for n in range(40 + solves))


@pytest.fixture
def contest() -> Contest:
    return Contest()


async def won(store: RedisStore, token: str) -> Lease:
    lease = await store.acquire(token, None)
    assert isinstance(lease, Lease)
    return lease


async def commit(store: RedisStore, vault: RedisVault, contest: Contest, token: str = "me") -> int:
    """Returns the bytes that were written."""
    lease = await won(store, token)
    written = await vault.stage(lease, contest.documents())
    assert await store.commit(lease, Catalogue(f"digest {lease.version}", 1.5, contest.divisions), SOLVE)
    return written


@pytest.fixture
def stored(redis_client: Redis, names: Names) -> Callable[[], Any]:
    """What a stranger finds, who has never heard of slots."""

    async def read() -> dict[str, bytes]:
        found = {}
        async for key in redis_client.scan_iter(match=f"{names.prefix}*:*"):
            name = key.decode().removeprefix(names.prefix)
            if name in keys((1, 2)):
                found[name] = plain(await redis_client.get(key))
        return found

    return read


async def test_the_first_is_written_whole_and_the_next_where_it_differs(store, vault, contest, stored):
    first = await commit(store, vault, contest)
    assert await stored() == contest.texts()
    for _ in range(50):
        contest.solve()
        assert 0 < await commit(store, vault, contest) < FEW < first
        assert await stored() == contest.texts()


async def test_a_version_that_does_not_differ_is_a_copy(store, vault, contest, stored):
    await commit(store, vault, contest)
    assert await commit(store, vault, contest) == 0
    assert await stored() == contest.texts()


async def test_what_is_staged_is_not_seen_and_expires(store, vault, contest, stored, redis_client, names):
    await commit(store, vault, contest)
    before = await stored()
    contest.solve()
    lease = await won(store, "other")
    assert await vault.stage(lease, contest.documents()) < FEW
    assert await stored() == before
    for name in keys(()):
        assert 0 < await redis_client.pttl(names.staged(lease.token, name)) <= TTL * 1000
    assert await store.commit(lease, Catalogue("", 1.5, ()), SOLVE)
    for name in keys(()):
        assert await redis_client.pttl(names.document(name)) == -1


async def test_a_value_grows_by_being_written_whole(store, vault, contest, stored, monkeypatch):
    monkeypatch.setattr(slots, "ROOM", 8)
    monkeypatch.setattr(slots, "TAIL", 1 << 40)
    first = await commit(store, vault, contest)
    written = []
    for _ in range(60):
        contest.solve()
        written.append(await commit(store, vault, contest))
        assert await stored() == contest.texts()
    assert min(written) < FEW
    assert max(written) > first / 8


async def test_another_node_that_reads_it_has_the_same_text(store, vault, make_vault, contest):
    await commit(store, vault, contest)
    contest.solve()
    await commit(store, vault, contest)
    stored = await make_vault().load()
    assert stored is not None
    assert {name: plain(payload) for name, payload in stored.documents} == contest.texts()
    assert all(payload.startswith(zstandard.FRAME_HEADER) for _, payload in stored.documents)


class TestWhenItIsNotWhatWasStagedLast:
    """Each time it is written whole, and the time after that is a patch again."""

    @pytest.fixture(autouse=True)
    async def committed(self, store, vault, contest: Contest) -> None:
        self.whole = await commit(store, vault, contest)
        contest.solve()
        assert await commit(store, vault, contest) < FEW
        contest.solve()

    @pytest.fixture
    def healed(self, store, vault, contest: Contest, stored) -> Callable[..., Any]:
        async def check(*, whole: int = 4) -> None:
            written = await commit(store, vault, contest)
            assert written > self.whole * whole / 4 - FEW
            assert await stored() == contest.texts()
            contest.solve()
            assert await commit(store, vault, contest) < FEW
            assert await stored() == contest.texts()

        return check

    @pytest.mark.parametrize("encoding", ["zstd", "identity"])
    async def test_another_node_committed(self, store, make_vault, healed, encoding):
        await commit(store, make_vault(encoding), Contest(), token="other")
        await healed()

    async def test_another_node_committed_the_same(self, store, make_vault, contest, healed):
        await commit(store, make_vault(), contest, token="other")
        await healed()

    async def test_a_commit_of_ours_was_refused(self, store, vault, contest, stored, redis_client, names, healed):
        before = await stored()
        lease = await won(store, "me")
        contest.solve()
        await vault.stage(lease, contest.documents())
        await redis_client.delete(names.lock)
        assert not await store.commit(lease, Catalogue("", 1.5, ()), SOLVE)
        assert await stored() == before
        await healed()

    async def test_a_build_of_ours_was_abandoned(self, store, vault, contest, healed):
        lease = await won(store, "me")
        contest.solve()
        await vault.stage(lease, contest.documents())
        await store.abandon(lease)
        await healed()

    async def test_the_store_is_empty(self, redis_client, names, healed):
        keys_there = [key async for key in redis_client.scan_iter(match=f"{names.prefix}*")]
        await redis_client.delete(*keys_there)
        await healed()

    async def test_the_version_is_gone(self, redis_client, names, healed):
        await redis_client.delete(names.version)
        await healed()

    async def test_a_document_is_gone(self, redis_client, names, healed):
        await redis_client.delete(names.document(keys(())[0]))
        await healed()

    async def test_the_last_document_is_gone(self, redis_client, names, healed):
        await redis_client.delete(names.document(keys(())[-1]))
        await healed(whole=1)

    @pytest.mark.parametrize("by_hand", [b"", b'{"challenges":[],"entries":[]}', compressed(b"{}"), bytes(10**6)])
    async def test_a_document_is_another(self, redis_client, names, healed, by_hand):
        await redis_client.set(names.document(keys(())[0]), by_hand)
        await healed()

    async def test_a_document_is_longer(self, redis_client, names, healed):
        await redis_client.append(names.document(keys(())[0]), b"\n")
        await healed()

    async def test_a_document_is_no_string(self, redis_client, names, healed):
        await redis_client.delete(names.document(keys(())[0]))
        await redis_client.rpush(names.document(keys(())[0]), "a", "b")
        await healed()

    async def test_there_was_no_right_to_copy(self, store, vault, contest, stored, redis_client, redis_url, names):
        user = names.prefix.strip(":")
        await redis_client.acl_setuser(user, enabled=True, nopass=True, commands=["+@all", "-copy"], keys=["*"])
        vault = RedisVault(
            redis_url.replace("://", f"://{user}:any@"), prefix=names.prefix, encoding="zstd", stage_ttl=TTL
        )
        try:
            for _ in range(2):
                assert await commit(store, vault, contest) > self.whole - FEW
                assert await stored() == contest.texts()
        finally:
            await vault.aclose()
            await redis_client.acl_deluser(user)


async def test_divisions_come_and_go(store, vault, contest, stored):
    four = await commit(store, vault, contest)
    contest.divisions = (1,)
    contest.solve()
    assert four - FEW < await commit(store, vault, contest) < four + 2 * FEW
    assert await stored() == contest.texts()
    contest.divisions = (1, 2)
    assert four - FEW < await commit(store, vault, contest) < four + 2 * FEW
    contest.divisions = (2,)
    contest.solve()
    assert await commit(store, vault, contest) < 2 * FEW
    assert await stored() == contest.texts()
    contest.divisions = ()
    assert await commit(store, vault, contest) < FEW
    assert await stored() == contest.texts()


async def test_staging_twice_under_one_lease_leaves_the_last(store, vault, contest, stored):
    await commit(store, vault, contest)
    lease = await won(store, "other")
    for _ in range(2):
        contest.solve()
        await vault.stage(lease, contest.documents())
    assert await store.commit(lease, Catalogue("", 1.5, ()), SOLVE)
    assert await stored() == contest.texts()
    contest.solve()
    assert await commit(store, vault, contest) < FEW
    assert await stored() == contest.texts()


async def test_staging_that_fails_half_way_leaves_nothing_to_go_on_from(store, vault, contest, stored):
    """Under one lease, twice, the second time not to the end: what is then committed is some of each."""
    await commit(store, vault, contest)
    lease = await won(store, "other")
    contest.solve()
    await vault.stage(lease, contest.documents())
    contest.solve()
    first, *_ = contest.documents().items()
    with pytest.raises(RuntimeError, match="enough"):
        await vault.stage(lease, _Failing([first]))
    assert await store.commit(lease, Catalogue("", 1.5, ()), SOLVE)
    contest.solve()
    assert await commit(store, vault, contest) > FEW
    assert await stored() == contest.texts()


class _Failing(dict[str, Document]):
    def items(self) -> Any:
        yield from super().items()
        raise RuntimeError("enough")


async def test_plain_documents_are_always_written_whole(store, make_vault, contest, redis_client, names):
    vault = make_vault("identity")
    for _ in range(2):
        texts = contest.texts()
        assert await commit(store, vault, contest) == sum(map(len, texts.values()))
        for name, text in texts.items():
            assert await redis_client.get(names.document(name)) == text
        contest.solve()
