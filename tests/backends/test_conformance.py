"""What every backend promises, on a real server of each: the lock, the commit, the documents and the bus."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from scoreboardd.backends.base import (
    MESSAGES_PER_TURN,
    Abandoned,
    Begun,
    Busy,
    Changed,
    Confirmed,
    Damaged,
    Lease,
    Rebuilt,
)
from scoreboardd.backends.factory import BACKENDS
from scoreboardd.board.document_names import document_names
from scoreboardd.model import Version
from tests.backends.harness import (
    LOCK_TTL_SECONDS,
    SOLVE,
    STAGE_TTL_SECONDS,
    acquired,
    hearing,
    holds,
    opened,
    stage,
    won,
)
from tests.nodes import until


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The backend's name, and the address of its server."""
    fixture = {"redis": "redis_url", "postgres": "cache_dsn", "local": "tmp_path"}[request.param]
    return request.param, str(request.getfixturevalue(fixture))


@pytest.fixture
async def harness(server: tuple[str, str]) -> AsyncIterator[Any]:
    async with opened(*server) as harness:
        yield harness


@pytest.fixture
def store(harness):
    return harness.cluster_backend()


@pytest.fixture
def document_store(harness):
    return harness.document_store()


async def commit(store, document_store, lease: Lease | None = None, divisions: tuple[int, ...] = ()) -> Version:
    lease = lease or await won(store)
    assert await store.commit(lease, await stage(document_store, lease, divisions), SOLVE)
    return lease.version


class TestAcquire:
    async def test_a_free_lock_gives_the_first_version_of_an_epoch(self, store, harness):
        lease = await won(store, "me")
        assert lease.token == "me"
        assert lease.version.number == 1
        assert Version.parse(str(lease.version)) == lease.version
        assert await harness.holder() == "me"
        assert 0 < await harness.seconds_left(harness.names.lock) <= LOCK_TTL_SECONDS

    async def test_a_held_lock_says_for_how_long(self, store, harness):
        await won(store, "me")
        answer = await store.acquire("you", None)
        assert isinstance(answer, Busy)
        assert LOCK_TTL_SECONDS - 20 < answer.remaining <= LOCK_TTL_SECONDS
        assert await harness.holder() == "me"

    async def test_again_with_the_same_token_is_the_same_lease(self, store, harness):
        # As when the answer to the first try was lost.
        lease = await won(store, "me")
        await harness.set_lock("me", 30)
        async with hearing(store) as heard:
            assert await won(store, "me") == lease
            assert await harness.seconds_left(harness.names.lock) > 30
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]  # it began once

    async def test_an_expired_lock_gives_the_next_version(self, harness):
        store = harness.cluster_backend(lock_ttl=0.05)
        lease = await won(store, "me")
        other = await until(lambda: acquired(store, "you"), "the lock runs out")
        assert other.version == Version(lease.version.epoch, lease.version.number + 1)

    async def test_a_failed_build_leaves_a_gap(self, store):
        lease = await won(store)
        await store.abandon(lease)
        assert (await won(store, "you")).version.number == lease.version.number + 1

    @pytest.mark.parametrize("other", [True, False])
    async def test_the_epoch_stays_while_the_store_knows_all_that_was_seen(self, store, document_store, other: bool):
        version = await commit(store, document_store)
        lease = await won(store, "me", seen=Version("other", 99) if other else version)
        assert lease.version == Version(version.epoch, version.number + 1)

    async def test_a_store_that_has_lost_all_starts_a_new_epoch(self, store, document_store, harness):
        version = await commit(store, document_store)
        await harness.delete(*await harness.keys())
        lease = await won(store, "me", seen=version)
        assert lease.version.epoch != version.epoch
        assert lease.version.number == 1

    async def test_a_store_whose_numbers_went_back_starts_a_new_epoch(self, store, document_store):
        version = await commit(store, document_store)
        lease = await won(store, "me", seen=Version(version.epoch, version.number + 5))
        assert lease.version.epoch != version.epoch
        assert lease.version.number == 1

    async def test_a_store_whose_documents_went_back_starts_a_new_epoch(self, store, document_store, harness):
        # The number was given out already when the dump was made that the server came back from.
        first = await commit(store, document_store)
        second = await commit(store, document_store)
        await harness.set_version(first)
        assert (await won(store, "a", seen=first)).version.epoch == first.epoch
        await harness.expire_lock()
        assert (await won(store, "b", seen=second)).version.epoch != second.epoch

    async def test_a_lock_without_its_number_starts_a_new_epoch(self, store, harness):
        lease = await won(store, "me")
        await harness.forget_number()
        assert (await won(store, "me")).version.epoch != lease.version.epoch


class TestRenew:
    async def test_extends_our_lock(self, store, harness):
        lease = await won(store)
        await harness.set_lock("me", 30)
        assert await store.renew(lease)
        assert await harness.seconds_left(harness.names.lock) > 30

    async def test_not_one_that_is_another_s(self, store, harness):
        lease = await won(store)
        await harness.set_lock("you", 30)
        assert not await store.renew(lease)
        assert await harness.seconds_left(harness.names.lock) <= 30
        assert await harness.holder() == "you"

    async def test_not_one_that_has_run_out(self, store, harness):
        lease = await won(store)
        await harness.expire_lock()
        assert not await store.renew(lease)
        assert await harness.holder() is None


class TestCommit:
    async def test_removes_the_divisions_that_are_gone(self, store, document_store, harness):
        await commit(store, document_store, divisions=(1, 2))
        await commit(store, document_store, divisions=(2, 3))
        left = {key for key in await harness.keys() if ":div:" in key}
        assert left == {harness.names.document(name) for name in document_names((2, 3)) if ":div:" in name}

    async def test_without_the_lock_is_refused(self, store, document_store, harness):
        before = await commit(store, document_store)
        lease = await won(store)
        metadata = await stage(document_store, lease)
        await harness.expire_lock()
        assert not await store.commit(lease, metadata, SOLVE)
        await holds(document_store, before)

    async def test_after_a_takeover_is_refused(self, store, document_store, harness):
        before = await commit(store, document_store)
        late = await won(store, "late")
        metadata = await stage(document_store, late)
        await harness.expire_lock()  # while its holder was frozen
        fresh = await won(store, "fresh")
        async with hearing(store) as heard:
            assert not await store.commit(late, metadata, SOLVE)
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]  # and announces nothing
        await holds(document_store, before)
        assert await harness.holder() == "fresh"
        await commit(store, document_store, fresh)
        assert not await store.commit(late, metadata, SOLVE)
        await holds(document_store, fresh.version)

    @pytest.mark.parametrize("fence", ["number", "epoch", "none"])
    async def test_with_another_fence_is_refused_even_with_the_lock(self, store, document_store, harness, fence: str):
        before = await commit(store, document_store)
        late = await won(store)
        metadata = await stage(document_store, late)
        match fence:
            case "number":
                await harness.set_number(late.version.number + 1)
            case "epoch":
                await harness.set_epoch("other")
            case "none":
                await harness.forget_number()
        assert not await store.commit(late, metadata, SOLVE)
        await holds(document_store, before)

    @pytest.mark.parametrize("missing", document_names(()))
    async def test_without_a_staged_document_is_refused(self, store, document_store, harness, missing: str):
        before = await commit(store, document_store)
        lease = await won(store)
        metadata = await stage(document_store, lease)
        await harness.delete(harness.names.staged(lease.token, missing))
        assert not await store.commit(lease, metadata, SOLVE)
        await holds(document_store, before)
        assert await harness.holder() == lease.token

    async def test_said_twice_is_done_once(self, store, document_store):
        # As when the answer to the first try was lost.
        lease = await won(store)
        metadata = await stage(document_store, lease)
        assert await store.commit(lease, metadata, SOLVE)
        async with hearing(store) as heard:
            assert await store.commit(lease, metadata, SOLVE)
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]
        await holds(document_store, lease.version)

    async def test_said_twice_disturbs_nobody_who_has_the_lock_by_now(self, store, document_store, harness):
        lease = await won(store)
        metadata = await stage(document_store, lease)
        assert await store.commit(lease, metadata, SOLVE)
        await won(store, "you")
        assert await store.commit(lease, metadata, SOLVE)
        assert await harness.holder() == "you"


class TestConfirm:
    @pytest.mark.parametrize("as_of", [1772215999.0, 1772215999.5])
    async def test_brings_what_is_committed_up_to_date(self, store, document_store, harness, as_of: float):
        version = await commit(store, document_store, divisions=(7,))
        before = await holds(document_store, version)
        lease = await won(store)
        async with hearing(store) as heard:
            assert await store.confirm(lease, as_of, full=True, complete=True)
            assert await heard(1) == [Confirmed(lease.version, version, as_of)]
        assert await harness.holder() is None
        after = await holds(document_store, version)
        assert after.as_of == pytest.approx(as_of, abs=1e-6)
        assert replace(after, as_of=before.as_of) == replace(before, full=lease.version.number)

    @pytest.mark.parametrize("divisions", [(), (2**63 - 1,), (1_250_000_000_000_000_001, 1_250_000_000_000_000_002)])
    async def test_leaves_the_divisions_as_they_are(self, store, document_store, divisions):
        version = await commit(store, document_store, divisions=divisions)
        assert await store.confirm(await won(store), 1.5, full=True, complete=True)
        assert (await holds(document_store, version)).divisions == divisions

    @pytest.mark.parametrize("lost", ["taken", "expired"])
    async def test_is_refused_to_who_does_not_hold_the_lock(self, store, document_store, harness, lost: str):
        version = await commit(store, document_store)
        before = await holds(document_store, version)
        lease = await won(store)
        await (harness.set_lock("you", 30) if lost == "taken" else harness.expire_lock())
        assert not await store.confirm(lease, 9e9, full=True, complete=True)
        assert await harness.holder() == ("you" if lost == "taken" else None)
        assert await holds(document_store, version) == before


class TestAbandon:
    async def test_frees_the_lock_and_says_so(self, store, harness):
        lease = await won(store)
        async with hearing(store) as heard:
            await store.abandon(lease)
            assert await heard(1) == [Abandoned(lease.version)]
        assert await harness.holder() is None

    @pytest.mark.parametrize("lost", ["taken", "expired"])
    async def test_not_one_that_is_ours_no_more(self, store, harness, lost: str):
        lease = await won(store)
        await (harness.set_lock("you", 30) if lost == "taken" else harness.expire_lock())
        async with hearing(store) as heard:
            await store.abandon(lease)
            await store.publish(SOLVE)
            assert [type(message) for message in await heard(1)] == [Changed]
        assert await harness.holder() == ("you" if lost == "taken" else None)


class TestDocuments:
    async def test_an_empty_store_has_nothing(self, document_store):
        assert (await document_store.load(None)).documents is None
        assert (await document_store.head()).version is None

    async def test_what_is_staged_is_not_seen_and_has_an_end(self, store, document_store, harness):
        lease = await won(store)
        await stage(document_store, lease)
        for name in document_names(()):
            assert 0 < await harness.seconds_left(harness.names.staged(lease.token, name)) <= STAGE_TTL_SECONDS
        assert (await document_store.load(None)).documents is None

    @pytest.mark.parametrize("missing", document_names((3,)))
    async def test_a_version_without_one_of_its_documents_is_none(self, store, document_store, harness, missing: str):
        await commit(store, document_store, divisions=(3,))
        await harness.delete(harness.names.document(missing))
        with pytest.raises(Damaged, match="gone"):
            await document_store.load(None)
        assert (await document_store.head()).version is None

    async def test_what_is_committed_can_be_known_without_reading_it(self, store, document_store):
        lease = await won(store)
        metadata = await stage(document_store, lease, (3,))
        assert await store.commit(lease, metadata, SOLVE)
        head = await document_store.head()
        assert (head.version, head.metadata) == (lease.version, metadata)


class TestTheBus:
    async def test_says_everything_in_the_order_in_which_it_was_done_to_all(self, harness, document_store):
        store, other = harness.cluster_backend(), harness.cluster_backend()
        async with hearing(store) as heard, hearing(other) as heard_by_the_other:
            await other.publish(SOLVE, "f00")
            first = await won(other, "a")
            await store.publish(SOLVE)
            assert await other.commit(first, await stage(document_store, first), SOLVE)
            second = await won(store, "b")
            await other.publish(SOLVE)
            await store.confirm(second, 1.5, full=True, complete=True)
            third = await won(other, "c")
            await other.abandon(third)
            said = await heard(9)
            assert said == [
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
            assert await heard_by_the_other(9) == said

    async def test_other_prefixes_are_other_clusters(self, store, harness):
        prefix = harness.names.prefix
        async with hearing(store) as heard:
            for other in ("", f"other-{prefix}", prefix.upper()):
                await harness.publish(other, "events", "{}")
            await store.publish(SOLVE)
            assert await heard(1) == [Changed(SOLVE)]

    async def test_finds_nothing_wrong_with_a_server_that_was_prepared(self, store):
        assert await store.check() == []

    async def test_a_flood_lets_the_loop_turn(self, store, harness):
        turns, most, count = 0, 0, 20 * MESSAGES_PER_TURN

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with hearing(store) as heard:
            await harness.flood(count)
            counting = asyncio.create_task(count_turns())
            seen, in_this_turn = -1, 0
            for _ in range(count):
                await heard(1)
                in_this_turn = in_this_turn + 1 if turns == seen else 1
                seen, most = turns, max(most, in_this_turn)
            counting.cancel()
        assert most <= MESSAGES_PER_TURN
