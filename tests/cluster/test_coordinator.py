"""The state machine of one node, row by row of its table, and what no sequence of inputs may break.

Time is what a test says it is: nothing here waits, and `jitter` is 0 unless said otherwise.
"""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.backends.base import Abandoned, Begun, Confirmed, Rebuilt
from scoreboardd.cluster.coordinator import (
    LOOK_AGAIN_SECONDS,
    NEVER,
    Abandon,
    Action,
    Announce,
    Build,
    BuildFailed,
    Built,
    CancelBuild,
    ChangeReported,
    Commit,
    CommitFailed,
    CommitRefused,
    Committed,
    Confirm,
    Coordinator,
    DocumentsDamaged,
    Input,
    LeaseLost,
    Load,
    Loaded,
    LoadFailed,
    LockAcquired,
    LockBusy,
    LockFailed,
    MessageReceived,
    Phase,
    Renew,
    Restored,
    SubscriptionStarted,
    Tick,
    Timing,
    TryLock,
    Unchanged,
)
from scoreboardd.model import ChangeEvent, Version
from tests.effort import examples

TIMING = Timing(debounce=0.3, max_wait=2.0, lock_ttl=9.0, reconcile=60.0, backoff_min=0.5, backoff_max=4.0)
HANDICAP = TIMING.non_builder_delay
SOLVE = ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z")
BAN = ChangeEvent("all", "user_blocked", "2026-02-27T18:00:01Z")


def v(number: int, epoch: str = "e") -> Version:
    return Version(epoch, number)


class Machine:
    """A coordinator and its clock, which only goes forward."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.coordinator = Coordinator(TIMING, jitter=lambda: jitter)
        self.now = 0.0

    def __call__(self, received: Input, at: float | None = None) -> list[Action]:
        """Feed it, `at` a time or now."""
        self.now = self.now if at is None else at
        return self.coordinator.handle(received, self.now)

    def wake(self) -> list[Action]:
        """Let the time come for which it asked."""
        return self(Tick(), at=self.coordinator.wake)

    def at_wake(self, *expected: Action, at: float) -> None:
        """The next thing it does by itself, and when."""
        assert self.coordinator.wake == pytest.approx(at)
        assert self.wake() == list(expected)


def won(node: Machine, number: int) -> bool:
    """Give it the lock; whether its build reads everything."""
    (build, *_) = node(LockAcquired(v(number)))
    assert isinstance(build, Build)
    return build.full


@pytest.fixture
def node() -> Machine:
    """Connected, serves version 1, which it made, and knows of no change; its clock stands at 10."""
    node = Machine()
    assert node(SubscriptionStarted()) == [Load()]
    assert node(Loaded(None)) == []
    assert node.wake() == [TryLock(None)]
    assert node(LockAcquired(v(1))) == [Build(v(1), quiet=True, full=True)]
    assert node(MessageReceived(Begun(v(1)))) == []
    assert node(Built()) == [Commit(None, changes=1)]
    assert node(Committed()) == [Announce(v(1), None)]
    assert node(Tick(), at=10) == []
    return node


@pytest.fixture
def follower() -> Machine:
    """Connected, serves version 1, which another made, and knows of no change; its clock stands at 10."""
    node = Machine()
    assert node(SubscriptionStarted()) == [Load()]
    assert node(Loaded(v(1))) == [Announce(v(1), None)]
    assert node.wake() == [TryLock(v(1))]
    assert node(LockAcquired(v(2))) == [Build(v(2), quiet=True, full=True)]
    assert node(MessageReceived(Begun(v(2)))) == []
    assert node(Unchanged(v(1))) == [Confirm()]
    assert node(MessageReceived(Confirmed(v(2), v(1), 0.0))) == []
    assert node(Committed()) == []
    assert node(Tick(), at=10) == []
    return node


@pytest.fixture
def builder(node: Machine) -> Machine:
    """Has heard of one solve, and builds version 3 for it; its clock stands at 10.3."""
    node(ChangeReported(SOLVE))
    node.at_wake(TryLock(v(1)), at=10.3)
    assert node(LockAcquired(v(3))) == [Build(v(3), quiet=False, solves=1)]
    assert node(MessageReceived(Begun(v(3)))) == []
    return node


@pytest.fixture
def loser(node: Machine) -> Machine:
    """Has heard of one solve, and that another node builds version 3 since; its clock stands at 10.2."""
    node(ChangeReported(SOLVE))
    assert node(MessageReceived(Begun(v(3))), at=10.2) == []
    return node


class TestNoted:
    def test_waits_until_nothing_more_comes(self, node: Machine):
        assert node(ChangeReported(SOLVE)) == []
        assert node(ChangeReported(SOLVE), at=10.2) == []
        node.at_wake(TryLock(v(1)), at=10.5)

    def test_but_not_longer_than_max_wait(self, node: Machine):
        for number in range(10):
            assert node(ChangeReported(SOLVE), at=10 + number * 0.2) == []
        node.at_wake(TryLock(v(1)), at=12.0)

    def test_tells_of_one_cause_or_of_a_batch(self, builder: Machine):
        assert builder(Built()) == [Commit(SOLVE, changes=1)]

    def test_a_batch(self, node: Machine):
        for event in (SOLVE, BAN, None):
            node(ChangeReported(event))
        node.wake()
        node(LockAcquired(v(3)))
        assert node(Built()) == [Commit(ChangeEvent("all", "batch", BAN.ts), changes=3)]

    def test_makes_what_is_served_stale(self, node: Machine):
        assert not node.coordinator.stale
        node(ChangeReported(SOLVE))
        assert node.coordinator.stale

    def test_nothing_in_particular_does_not(self, node: Machine):
        node(ChangeReported(None))
        assert not node.coordinator.stale
        node.wake()
        assert node(LockAcquired(v(3))) == [Build(v(3), quiet=True, full=True)]

    def test_during_a_build_waits_for_the_next(self, builder: Machine):
        builder(ChangeReported(BAN))
        assert builder(Built()) == [Commit(SOLVE, changes=1)]
        assert builder(Committed()) == [Announce(v(3), SOLVE)]
        builder.at_wake(TryLock(v(3)), at=10.6)
        assert builder(LockAcquired(v(4))) == [Build(v(4), quiet=False, full=True, announced=True)]
        assert builder(Built()) == [Commit(BAN, changes=1)]


class TestResumed:
    def test_looks_for_a_version_and_builds_quietly(self):
        node = Machine()
        assert node.coordinator.wake == NEVER
        assert node(SubscriptionStarted()) == [Load()]
        node.at_wake(TryLock(None), at=0.3)
        assert node(LockAcquired(v(1))) == [Build(v(1), quiet=True, full=True)]
        assert not node.coordinator.stale

    def test_again_is_the_same(self, node: Machine):
        assert node(SubscriptionStarted()) == [Load()]
        assert node(Loaded(v(1))) == []
        node.at_wake(TryLock(v(1)), at=10.3)

    def test_wakes_who_waits_for_the_lock(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        node(LockBusy(5.0))
        assert node(SubscriptionStarted()) == [Load()]
        node.at_wake(TryLock(v(1)), at=10.6)


class TestBegun:
    def test_covers_all_that_came_before(self, loser: Machine):
        # A loser of the lock does nothing, unless the builder is not heard of again.
        loser.at_wake(TryLock(v(1)), at=10.2 + TIMING.lock_ttl)

    def test_and_nothing_that_came_after(self, loser: Machine):
        loser(ChangeReported(BAN))
        loser.at_wake(TryLock(v(1)), at=10.5)
        assert loser(LockBusy(8.7)) == []
        assert loser(MessageReceived(Rebuilt(3, SOLVE)), at=11) == [Load()]
        assert loser(Loaded(v(3))) == [Announce(v(3), SOLVE)]
        loser.at_wake(TryLock(v(3)), at=11 + HANDICAP)
        assert loser(LockAcquired(v(4))) == [Build(v(4), quiet=False, full=True, solves=1, announced=True)]
        assert loser(Built()) == [Commit(BAN, changes=1)]

    def test_is_said_while_we_ask_for_the_lock_ourselves(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        node(MessageReceived(Begun(v(3))))
        node(LockBusy(8.9))
        node.at_wake(TryLock(v(1)), at=10.3 + 8.9)

    def test_said_twice_covers_nothing_new(self, loser: Machine):
        loser(ChangeReported(BAN))
        loser(MessageReceived(Begun(v(3))))
        loser.at_wake(TryLock(v(1)), at=10.5)

    def test_of_a_new_epoch_counts(self, loser: Machine):
        loser(ChangeReported(BAN))
        loser(MessageReceived(Begun(v(1, "f"))))
        assert loser.coordinator.wake == pytest.approx(10.2 + TIMING.lock_ttl)

    def test_of_the_served_epoch_after_the_store_began_another_covers_nothing(self):
        """The store was taken back to documents of an old epoch, and gives out numbers of a new one: a message of the
        old epoch is repeated from long ago."""
        node = Machine()
        node(SubscriptionStarted(v(1, "f")))
        node(Loaded(v(2), confirmed=2, full=1, given=v(1, "f")))
        node(ChangeReported(SOLVE))
        node(MessageReceived(Begun(v(1))))
        node(Loaded(v(2), confirmed=2, full=1, given=v(1, "f")))
        assert node.coordinator.contained == 0

    def test_of_our_own_build_may_come_before_the_answer(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        node(MessageReceived(Begun(v(3))))
        assert node(LockAcquired(v(3))) == [Build(v(3), quiet=False, solves=1)]
        assert node(Built()) == [Commit(SOLVE, changes=1)]

    def test_does_not_put_off_reading_everything(self, node: Machine):
        due = node.coordinator.wake
        node(MessageReceived(Begun(v(3))), at=50)
        assert node.coordinator.wake == due

    def test_puts_off_no_look_after_the_builder_that_came_first(self, loser: Machine):
        # Or somebody who says so again and again could keep everybody from asking.
        loser(MessageReceived(Begun(v(4))), at=15)
        loser.at_wake(TryLock(v(1)), at=10.2 + TIMING.lock_ttl)

    def test_of_a_number_given_out_before_the_subscription_covers_nothing(self, node: Machine):
        node(SubscriptionStarted(given=v(4)))
        node(ChangeReported(SOLVE))
        node(MessageReceived(Begun(v(3))))
        node(MessageReceived(Begun(v(4))))
        assert node.coordinator.covered < node.coordinator.changes
        node(MessageReceived(Begun(v(5))))
        assert node.coordinator.covered == node.coordinator.changes

    def test_of_a_number_that_the_store_has_not_given_out_is_found_out(self, node: Machine):
        node(MessageReceived(Begun(v(10**15))))
        node(MessageReceived(Rebuilt(3, SOLVE)))
        # What is old is not known any more, and asked for again.
        assert node(Loaded(v(3), confirmed=3, given=v(3))) == [Announce(v(3), SOLVE), Load()]
        node(Loaded(v(3), confirmed=3, given=v(3)))
        node(ChangeReported(SOLVE))
        node(MessageReceived(Begun(v(4))))
        assert node.coordinator.covered == node.coordinator.changes

    def test_of_a_higher_number_is_not_true_when_the_lock_is_ours(self, loser: Machine):
        loser(MessageReceived(Begun(v(10**15))))
        loser(ChangeReported(BAN))
        loser.wake()
        assert loser(LockAcquired(v(4)))[0] == Build(v(4), quiet=False, full=True, solves=1, announced=True)
        loser(Built())
        assert loser(Committed()) == [Announce(v(4), ChangeEvent("all", "batch", BAN.ts))]
        assert loser.coordinator.contained == loser.coordinator.changes


class TestRebuilt:
    def test_is_loaded_and_told(self, loser: Machine):
        assert loser(MessageReceived(Rebuilt(3, SOLVE))) == [Load()]
        assert loser.coordinator.stale
        assert loser(Loaded(v(3))) == [Announce(v(3), SOLVE)]
        assert not loser.coordinator.stale
        assert loser.coordinator.contained == loser.coordinator.changes

    def test_the_cause_is_told_only_of_the_version_it_belongs_to(self, loser: Machine):
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        assert loser(Loaded(v(5))) == [Announce(v(5), None)]

    def test_of_a_version_that_is_passed_over_is_told_with_the_next(self, loser: Machine):
        # Some clients care only about the first of them.
        loser(MessageReceived(Rebuilt(3, ChangeEvent("division", "user_blocked", BAN.ts, (1,)))))
        loser(MessageReceived(Begun(v(4))))
        loser(MessageReceived(Rebuilt(4, ChangeEvent("division", "user_blocked", BAN.ts, (2,)))))
        told = ChangeEvent("division", "user_blocked", BAN.ts, (1, 2))
        assert loser(Loaded(v(4), confirmed=4)) == [Announce(v(4), told), Load()]

    def test_while_loading_is_loaded_after_that(self, loser: Machine):
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        loser(MessageReceived(Begun(v(4))))
        assert loser(MessageReceived(Rebuilt(4, BAN))) == []
        assert loser(Loaded(v(3))) == [Announce(v(3), None), Load()]
        assert loser(Loaded(v(4))) == [Announce(v(4), ChangeEvent("all", "batch", BAN.ts))]

    def test_without_having_heard_it_begin_is_loaded_and_settles_nothing(self, node: Machine):
        node(ChangeReported(SOLVE))
        assert node(MessageReceived(Rebuilt(3, BAN))) == [Load()]
        assert node(Loaded(v(3))) == [Announce(v(3), BAN)]
        assert node.coordinator.stale
        node.at_wake(TryLock(v(3)), at=10.3 + HANDICAP)

    def test_of_our_own_commit_is_an_echo(self, builder: Machine):
        builder(Built())
        assert builder(MessageReceived(Rebuilt(3, SOLVE))) == []
        assert builder(Committed()) == [Announce(v(3), SOLVE)]

    def test_of_our_own_commit_after_its_answer_is_no_news(self, builder: Machine):
        builder(Built())
        builder(Committed())
        assert builder(MessageReceived(Rebuilt(3, SOLVE))) == []

    def test_of_a_version_before_the_one_that_covers_us_does_not_settle_ours(self, loser: Machine):
        loser(ChangeReported(BAN))
        loser(MessageReceived(Begun(v(4))))
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        loser(Loaded(v(3)))
        assert loser.coordinator.stale

    def test_is_word_for_who_was_told_that_the_lock_is_busy(self, loser: Machine):
        loser(ChangeReported(BAN))
        loser.wake()
        # The word overtakes the answer: that the lock was busy is out of date.
        assert loser(MessageReceived(Rebuilt(3, SOLVE))) == [Load()]
        assert loser(LockBusy(8.0)) == []
        assert loser.coordinator.wake == pytest.approx(10.5 + TIMING.debounce)


class TestConfirmed:
    def test_settles_nothing_before_the_store_says_so(self, loser: Machine):
        assert loser(MessageReceived(Confirmed(v(3), v(1), 0.0))) == [Load()]
        assert loser.coordinator.stale
        assert loser(Loaded(v(1), confirmed=3)) == []
        assert not loser.coordinator.stale

    def test_that_the_store_knows_nothing_of_settles_nothing(self, loser: Machine):
        loser(MessageReceived(Confirmed(v(9), v(1), 1e308)))
        assert loser(Loaded(v(1), confirmed=1)) == []
        assert loser.coordinator.stale

    def test_of_a_version_that_we_do_not_serve_is_loaded(self, loser: Machine):
        # The announcement was lost. Until it is loaded, nothing of it is contained in what we serve.
        assert loser(MessageReceived(Confirmed(v(4), v(3), 0.0))) == [Load()]
        assert loser.coordinator.stale
        assert loser(Loaded(v(3), confirmed=4)) == [Announce(v(3), None)]
        assert not loser.coordinator.stale

    def test_says_nothing_of_what_came_after(self, loser: Machine):
        loser(ChangeReported(BAN))
        loser(MessageReceived(Confirmed(v(3), v(1), 0.0)))
        loser(Loaded(v(1), confirmed=3))
        assert loser.coordinator.stale
        loser.at_wake(TryLock(v(1)), at=10.5)

    def test_of_our_own_build_is_an_echo(self, node: Machine):
        node(ChangeReported(None))
        node.wake()
        node(LockAcquired(v(3)))
        node(Unchanged(v(1)))
        assert node(MessageReceived(Confirmed(v(3), v(1), 0.0))) == []
        node(Committed())
        assert node(MessageReceived(Confirmed(v(3), v(1), 0.0))) == []


class TestAbandoned:
    def test_is_taken_over_at_once(self, loser: Machine):
        assert loser(MessageReceived(Abandoned(v(3))), at=11) == [TryLock(v(1))]
        assert loser(LockAcquired(v(4))) == [Build(v(4), quiet=False, solves=1)]
        assert loser(Built()) == [Commit(SOLVE, changes=1)]

    def test_but_not_by_who_has_failed_just_now(self, loser: Machine):
        loser(MessageReceived(Abandoned(v(3))), at=11)
        loser(LockFailed())
        loser(MessageReceived(Begun(v(4))))
        assert loser(MessageReceived(Abandoned(v(4)))) == []
        loser.at_wake(TryLock(v(1)), at=11 + TIMING.backoff_min)

    def test_that_is_not_true_costs_one_attempt_for_the_lock(self, loser: Machine):
        assert loser(MessageReceived(Abandoned(v(3))), at=11) == [TryLock(v(1))]
        loser(LockBusy(5.0))
        assert loser(MessageReceived(Abandoned(v(3))), at=11.1) == []
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        loser(Loaded(v(3), confirmed=3))
        assert not loser.coordinator.stale

    def test_of_another_than_the_one_that_covers_us_changes_nothing(self, loser: Machine):
        loser(MessageReceived(Begun(v(4))))
        assert loser(MessageReceived(Abandoned(v(3)))) == []
        assert loser.coordinator.wake == pytest.approx(10.2 + TIMING.lock_ttl)


class TestTheLock:
    def test_busy_is_tried_again_when_it_could_have_run_out(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        assert node(LockBusy(4.0)) == []
        node.at_wake(TryLock(v(1)), at=10.3 + 4.0)

    @pytest.mark.parametrize("remaining", [86_400.0, float("inf")])
    def test_busy_for_longer_than_any_lock_is_not_believed(self, node: Machine, remaining: float):
        node(ChangeReported(SOLVE))
        node.wake()
        assert node(LockBusy(remaining)) == []
        node.at_wake(TryLock(v(1)), at=10.3 + TIMING.lock_ttl)

    def test_is_asked_for_once_a_debounce_whatever_is_said(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        for number in range(100):
            node(LockBusy(0.0))
            for message in (Rebuilt(number + 2, SOLVE), Abandoned(v(number)), Confirmed(v(number), v(1), 0.0)):
                node(MessageReceived(message))
            node.at_wake(TryLock(v(1)), at=10.3 + (number + 1) * TIMING.debounce) if not number else None
            if number:
                assert node.coordinator.wake <= node.now + TIMING.debounce
                while TryLock(v(1)) not in node.wake():
                    pass
        assert node.now >= 10.3 + 99 * TIMING.debounce

    def test_failing_is_tried_ever_more_seldom(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        for pause in (0.5, 1, 2, 4, 4):
            node(LockFailed())
            node.at_wake(TryLock(v(1)), at=node.now + pause)
        assert node.coordinator.failing

    def test_failing_together_is_not_trying_together(self):
        wakes = set()
        for jitter in (0.0, 0.5, 0.99):
            node = Machine(jitter)
            node(SubscriptionStarted())
            node(Loaded(None))
            node.wake()
            node(LockFailed())
            wakes.add(round(node.coordinator.wake - node.now, 3))
        assert len(wakes) == 3
        assert all(TIMING.backoff_min / 2 <= wake <= TIMING.backoff_min for wake in wakes)

    def test_is_renewed_three_times_in_its_life_while_we_build(self, builder: Machine):
        for number in (1, 2, 3):
            builder.at_wake(Renew(), at=10.3 + number * TIMING.lock_ttl / 3)
        builder(Built())
        assert builder.coordinator.wake > builder.now + TIMING.lock_ttl

    def test_lost_while_we_build_is_left_to_the_next_holder(self, builder: Machine):
        assert builder(LeaseLost()) == [CancelBuild()]
        assert builder(Built()) == []  # it was on the way
        assert builder.coordinator.lease is None
        builder.at_wake(TryLock(v(1)), at=10.3 + TIMING.backoff_min)

    def test_lost_to_a_node_whose_build_covers_us_is_no_reason_to_go_again(self, builder: Machine):
        builder(MessageReceived(Begun(v(4))), at=12)
        assert builder(LeaseLost()) == [CancelBuild()]
        builder.at_wake(TryLock(v(1)), at=10.3 + TIMING.lock_ttl)


class TestTheHandicap:
    """Who made the last version goes first. `node` made version 1, `follower` did not."""

    def test_is_for_who_did_not_make_the_last_version(self, node: Machine, follower: Machine):
        node(ChangeReported(SOLVE))
        node.at_wake(TryLock(v(1)), at=10 + TIMING.debounce)
        follower(ChangeReported(SOLVE))
        follower.at_wake(TryLock(v(1)), at=10 + TIMING.debounce + HANDICAP)

    def test_is_time_to_hear_that_the_other_has_begun(self, follower: Machine):
        follower(ChangeReported(SOLVE))
        assert follower(MessageReceived(Begun(v(3))), at=10.31) == []
        follower.at_wake(TryLock(v(1)), at=10.31 + TIMING.lock_ttl)

    def test_comes_on_top_of_max_wait(self, node: Machine, follower: Machine):
        for number in range(10):
            for each in (node, follower):
                assert each(ChangeReported(SOLVE), at=10 + number * 0.2) == []
        node.at_wake(TryLock(v(1)), at=10 + TIMING.max_wait)
        follower.at_wake(TryLock(v(1)), at=10 + TIMING.max_wait + HANDICAP)

    def test_is_not_for_a_node_that_has_seen_no_version(self):
        node = Machine()
        node(SubscriptionStarted())
        node(Loaded(None))
        node.at_wake(TryLock(None), at=TIMING.debounce)

    def test_ends_with_the_first_commit(self, follower: Machine):
        follower(ChangeReported(SOLVE))
        follower.wake()
        follower(LockAcquired(v(3)))
        follower(Built())
        follower(Committed())
        follower(ChangeReported(SOLVE), at=20)
        follower.at_wake(TryLock(v(3)), at=20 + TIMING.debounce)

    def test_begins_when_another_version_is_out_though_it_is_not_loaded_yet(self, loser: Machine):
        assert loser(MessageReceived(Rebuilt(3, SOLVE))) == [Load()]
        loser(ChangeReported(SOLVE), at=12)
        loser.at_wake(TryLock(v(1)), at=12 + TIMING.debounce + HANDICAP)

    @pytest.mark.parametrize("found", [v(3), v(1, "f")])
    def test_begins_when_another_version_is_found(self, node: Machine, found: Version):
        node(SubscriptionStarted())
        node(Loaded(found))
        node.at_wake(TryLock(found), at=10 + TIMING.debounce + HANDICAP)

    def test_stays_where_it_is_when_a_version_is_confirmed(self, loser: Machine, follower: Machine):
        # `follower` has confirmed version 1 itself, and still did not make it.
        loser(MessageReceived(Confirmed(v(3), v(1), 0.0)))
        loser(Loaded(v(1), confirmed=3))
        loser(ChangeReported(SOLVE), at=20)
        loser.at_wake(TryLock(v(1)), at=20 + TIMING.debounce)
        follower(ChangeReported(SOLVE), at=20)
        follower.at_wake(TryLock(v(1)), at=20 + TIMING.debounce + HANDICAP)

    @pytest.mark.parametrize("echoes", [[], [Rebuilt(3, SOLVE)], [Rebuilt(1, SOLVE), Rebuilt(3, SOLVE)]])
    @pytest.mark.parametrize("early", [False, True])
    def test_is_not_for_who_hears_of_its_own_commits(self, builder: Machine, echoes: list[Rebuilt], early: bool):
        builder(Built())
        for received in (
            [*map(MessageReceived, echoes), Committed()] if early else [Committed(), *map(MessageReceived, echoes)]
        ):
            builder(received)
        builder(ChangeReported(SOLVE), at=20)
        builder.at_wake(TryLock(v(3)), at=20 + TIMING.debounce)

    def test_is_not_for_who_finds_that_its_own_commit_was_done(self, builder: Machine):
        builder(Built())
        builder(CommitFailed())
        builder(MessageReceived(Rebuilt(3, SOLVE)))
        builder(Loaded(v(3)))
        builder(MessageReceived(Begun(v(4))))
        builder(MessageReceived(Confirmed(v(4), v(3), 0.0)))
        builder(Loaded(v(3), confirmed=4))
        builder(ChangeReported(SOLVE), at=20)
        builder.at_wake(TryLock(v(3)), at=20 + TIMING.debounce)

    def test_is_for_who_finds_that_another_was_faster(self, builder: Machine):
        builder(MessageReceived(Begun(v(4))))
        builder(Built())
        builder(CommitRefused())
        builder(MessageReceived(Rebuilt(4, SOLVE)))
        builder(Loaded(v(4)))
        builder(ChangeReported(SOLVE), at=20)
        builder.at_wake(TryLock(v(4)), at=20 + TIMING.debounce + HANDICAP)

    @pytest.mark.parametrize("end", [Rebuilt(2, SOLVE), Confirmed(v(2), v(1), 0.0)])
    def test_begins_anew_with_the_word_that_the_lock_is_free(self, end: Rebuilt | Confirmed, follower: Machine):
        # Who made that version may have as much waiting, and hears of it no earlier.
        follower(ChangeReported(SOLVE))
        follower.wake()
        follower(LockBusy(8.0))
        assert TryLock(v(1)) not in follower(MessageReceived(end), at=12)
        follower.at_wake(TryLock(v(1)), at=12 + HANDICAP)

    def test_is_not_for_who_was_busy_with_the_last_version_itself(self, builder: Machine):
        builder(ChangeReported(SOLVE))
        builder(Built(), at=12)
        builder(MessageReceived(Rebuilt(3, SOLVE)), at=12.01)
        assert builder(Committed(), at=12.02) == [Announce(v(3), SOLVE), TryLock(v(3))]

    def test_is_not_for_what_an_abandoned_build_covered(self, follower: Machine):
        follower(ChangeReported(SOLVE))
        follower(MessageReceived(Begun(v(3))))
        follower(ChangeReported(SOLVE))
        assert follower(MessageReceived(Abandoned(v(3)))) == [TryLock(v(1))]

    def test_puts_off_no_look_after_a_builder(self, follower: Machine):
        follower(ChangeReported(SOLVE))
        follower(MessageReceived(Begun(v(3))))
        follower(ChangeReported(SOLVE))
        follower.at_wake(TryLock(v(1)), at=10 + TIMING.debounce + HANDICAP)
        follower(LockBusy(6.0))
        follower.at_wake(TryLock(v(1)), at=10 + TIMING.debounce + HANDICAP + 6.0)

    @pytest.mark.parametrize("failure", [BuildFailed(), LeaseLost()])
    def test_puts_off_no_retry(self, follower: Machine, failure: Input):
        follower(ChangeReported(SOLVE))
        follower.wake()
        follower(LockFailed())
        follower.at_wake(TryLock(v(1)), at=10 + TIMING.debounce + HANDICAP + TIMING.backoff_min)
        follower(LockAcquired(v(3)))
        follower(failure)
        follower.at_wake(TryLock(v(1)), at=follower.now + 2 * TIMING.backoff_min)


class TestTheBuild:
    def test_that_failed_is_abandoned_and_tried_again_for_the_same_cause(self, builder: Machine):
        assert builder(BuildFailed()) == [Abandon()]
        assert builder(MessageReceived(Abandoned(v(3)))) == []
        assert builder.coordinator.failing
        builder.at_wake(TryLock(v(1)), at=10.3 + TIMING.backoff_min)
        assert builder(LockAcquired(v(4))) == [Build(v(4), quiet=False)]
        assert builder(Built()) == [Commit(SOLVE, changes=1)]
        assert builder(Committed()) == [Announce(v(4), SOLVE)]
        assert not builder.coordinator.failing

    def test_that_found_what_is_committed_confirms_it(self, node: Machine):
        node(ChangeReported(None))
        node.wake()
        node(LockAcquired(v(3)))
        assert node(Unchanged(v(1))) == [Confirm()]
        assert node(Committed()) == []
        assert node.coordinator.contained == node.coordinator.changes

    def test_that_found_what_is_committed_but_not_served_loads_it(self, node: Machine):
        node(ChangeReported(None))
        node.wake()
        node(LockAcquired(v(4)))
        assert node(Unchanged(v(3))) == [Confirm(), Load()]
        assert node(Committed()) == []
        assert node.coordinator.contained < node.coordinator.changes
        assert node(Loaded(v(3), confirmed=4)) == [Announce(v(3), None)]
        assert node.coordinator.contained == node.coordinator.changes

    def test_of_a_lock_won_after_others_began_is_theirs(self, node: Machine):
        # The answer was slow: our lock has run out, and another node is at it. We learn so when we renew.
        node(ChangeReported(SOLVE))
        node.wake()
        node(MessageReceived(Begun(v(3))))
        node(MessageReceived(Begun(v(4))), at=20)
        assert node(LockAcquired(v(3))) == [Build(v(3), quiet=False, solves=1), Load()]
        assert node(LeaseLost()) == [CancelBuild()]
        node.at_wake(TryLock(v(1)), at=20 + TIMING.backoff_min)


class TestWhole:
    """What our next build reads: all, or what solves may have added since our last began."""

    @staticmethod
    def builds(node: Machine, number: int) -> bool:
        """Let it build what waits; whether it reads all."""
        while TryLock(node.coordinator.served) not in node.wake():
            pass
        return won(node, number)

    @staticmethod
    def commits(node: Machine) -> None:
        node(Built())
        node(Committed())

    @pytest.mark.parametrize("first", [SubscriptionStarted(), ChangeReported(SOLVE)])
    def test_is_our_first_build_whatever_it_is_for(self, first: Input):
        node = Machine()
        node(first)
        node.wake()
        assert won(node, 1)

    def test_is_none_for_solves_alone(self, node: Machine):
        for number in (3, 4, 5):
            node(ChangeReported(SOLVE))
            node(ChangeReported(SOLVE))
            assert not self.builds(node, number)
            self.commits(node)

    @pytest.mark.parametrize(
        "odd",
        [
            ChangeReported(BAN),
            ChangeReported(None),
            ChangeReported(ChangeEvent.updated()),
            ChangeReported(ChangeEvent("all", "batch", SOLVE.ts)),
            SubscriptionStarted(),
        ],
        ids=["ban", "unknown", "no reason", "batch", "resumed"],
    )
    @pytest.mark.parametrize("solves", [(0, 0), (1, 0), (0, 1), (2, 2)])
    def test_is_a_build_for_anything_else_and_the_next_for_solves_is_not(self, node: Machine, odd: Input, solves):
        inputs = [ChangeReported(SOLVE)] * solves[0] + [odd] + [ChangeReported(SOLVE)] * solves[1]
        for received in inputs:
            node(received)
        if isinstance(odd, SubscriptionStarted):
            node(Loaded(v(1)))
        assert self.builds(node, 3)
        self.commits(node)
        node(ChangeReported(SOLVE))
        assert not self.builds(node, 4)

    def test_is_the_look_for_what_nobody_told(self, node: Machine):
        assert self.builds(node, 3)

    def test_is_the_look_after_the_store_lost_state(self, node: Machine):
        node(SubscriptionStarted())
        node(Loaded(None))
        assert self.builds(node, 3)

    def test_is_the_next_for_what_comes_while_we_build(self, builder: Machine):
        builder(ChangeReported(BAN))
        self.commits(builder)
        assert self.builds(builder, 4)

    def test_is_this_one_for_what_comes_while_we_ask_for_the_lock(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        node(ChangeReported(BAN))
        assert won(node, 3)
        self.commits(node)
        # Ours has read it, and nothing waits any more.
        assert not node.coordinator.stale
        node(ChangeReported(SOLVE))
        assert not self.builds(node, 4)

    @pytest.mark.parametrize("end", [Rebuilt(3, BAN), Confirmed(v(3), v(1), 0.0)])
    def test_is_our_next_after_another_s_build_for_anything_else(self, node: Machine, end):
        # Theirs has it, and our builder process has not.
        node(ChangeReported(BAN))
        node(MessageReceived(Begun(v(3))))
        node(MessageReceived(end))
        node(Loaded(v(3) if isinstance(end, Rebuilt) else v(1), confirmed=3))
        node(ChangeReported(SOLVE))
        assert self.builds(node, 4)
        self.commits(node)
        node(ChangeReported(SOLVE))
        assert not self.builds(node, 5)

    def test_is_the_one_that_takes_over_from_another_s(self, node: Machine):
        node(ChangeReported(BAN))
        node(MessageReceived(Begun(v(3))))
        assert node(MessageReceived(Abandoned(v(3)))) == [TryLock(v(1))]
        assert won(node, 4)

    def test_is_none_after_another_s_build_for_solves(self, loser: Machine):
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        loser(Loaded(v(3)))
        loser(ChangeReported(SOLVE))
        assert not self.builds(loser, 4)

    @pytest.mark.parametrize("answer", [LockBusy(1.0), LockFailed()])
    def test_is_still_to_come_while_the_lock_is_not_ours(self, node: Machine, answer: Input):
        node(ChangeReported(BAN))
        node.wake()
        node(answer)
        node(ChangeReported(SOLVE))
        assert self.builds(node, 3)

    @pytest.mark.parametrize("failure", [BuildFailed(), LeaseLost()])
    def test_is_not_asked_for_again_after_a_build_that_failed(self, node: Machine, failure: Input):
        # The builder knows how far it came: one that could not read, or is another by now, reads all by itself.
        node(ChangeReported(BAN))
        assert self.builds(node, 3)
        node(failure)
        assert not self.builds(node, 4)

    @pytest.mark.parametrize("failure", [BuildFailed(), LeaseLost()])
    def test_is_the_next_after_a_build_that_failed_if_more_comes(self, builder: Machine, failure: Input):
        builder(ChangeReported(BAN))
        builder(failure)
        assert self.builds(builder, 4)

    @pytest.mark.parametrize("outcome", [CommitRefused(), CommitFailed()])
    def test_is_none_after_a_commit_that_failed(self, builder: Machine, outcome: Input):
        builder(Built())
        builder(outcome)
        builder(Loaded(v(1)))
        assert not self.builds(builder, 4)


class TestTheCommit:
    def test_is_served_and_told(self, builder: Machine):
        builder(Built())
        assert builder(Committed()) == [Announce(v(3), SOLVE)]
        assert builder.coordinator.served == v(3)
        assert not builder.coordinator.stale

    def test_refused_frees_the_lock_and_goes_again_after_a_look_at_what_is_there(self, builder: Machine):
        builder(Built())
        assert builder(CommitRefused()) == [Abandon(), Load()]
        assert builder(Loaded(v(1))) == []
        builder.at_wake(TryLock(v(1)), at=10.3 + TIMING.backoff_min)
        assert builder(LockAcquired(v(4))) == [Build(v(4), quiet=False)]

    def test_of_unknown_outcome_frees_the_lock_and_looks(self, builder: Machine):
        builder(Built())
        assert builder(CommitFailed()) == [Abandon(), Load()]
        assert builder(Loaded(v(3))) == [Announce(v(3), None)]

    def test_unanswered_contains_nothing_whatever_others_say(self, builder: Machine):
        builder(Built())
        builder(MessageReceived(Begun(v(4))))
        builder(MessageReceived(Confirmed(v(4), v(3), 0.0)))
        assert builder.coordinator.stale

    def test_answered_when_a_later_version_is_served_takes_nothing_back(self, builder: Machine):
        builder(Built())
        builder(MessageReceived(Rebuilt(3, SOLVE)))
        builder(MessageReceived(Begun(v(4))))
        assert builder(MessageReceived(Rebuilt(4, BAN))) == [Load()]
        assert builder(Loaded(v(4))) == [Announce(v(4), ChangeEvent("all", "batch", BAN.ts))]
        assert Announce(v(3), SOLVE) not in builder(Committed())
        assert builder.coordinator.served == v(4)

    def test_answered_when_the_epoch_has_changed_takes_nothing_back(self, builder: Machine):
        builder(Built())
        builder(SubscriptionStarted())
        assert builder(Loaded(v(1, "f"))) == [Announce(v(1, "f"), None)]
        actions = builder(Committed())
        assert Load() in actions
        assert Announce(v(3), SOLVE) not in actions
        assert builder.coordinator.served == v(1, "f")

    def test_of_a_new_epoch_is_served(self, node: Machine):
        node(ChangeReported(SOLVE))
        node.wake()
        node(LockAcquired(v(1, "f")))
        node(Built())
        assert node(Committed()) == [Announce(v(1, "f"), SOLVE)]


class TestLoaded:
    def test_that_is_served_already_tells_nothing(self, node: Machine):
        node(SubscriptionStarted())
        assert node(Loaded(v(1))) == []

    def test_nothing_before_the_first_document_is_no_surprise(self):
        node = Machine()
        node(SubscriptionStarted())
        assert node(Loaded(None)) == []
        assert node.coordinator.changes == 1

    @pytest.mark.parametrize("found", [None, v(0)])
    def test_less_than_was_served_means_that_the_store_lost_state(self, node: Machine, found: Version | None):
        node(SubscriptionStarted())
        node.wake()
        node(LockAcquired(v(3)))
        node(Unchanged(v(1)))
        node(Committed())
        before = node.coordinator.changes
        assert node(Loaded(found)) == []
        assert node.coordinator.changes == before + 1
        node.at_wake(TryLock(v(1)), at=node.now + TIMING.debounce)

    def test_less_than_was_announced_means_that_the_store_lost_state(self, loser: Machine):
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        assert loser(Loaded(None)) == []
        assert loser.coordinator.stale
        loser.at_wake(TryLock(v(1)), at=10.2 + HANDICAP)

    def test_of_another_epoch_is_what_the_store_says_now(self, node: Machine):
        node(SubscriptionStarted())
        assert node(Loaded(v(1, "f"))) == [Announce(v(1, "f"), None)]

    def test_that_a_commit_of_our_own_overtook_is_asked_again(self, builder: Machine):
        builder(SubscriptionStarted())
        builder(Built())
        assert builder(Committed()) == [Announce(v(3), SOLVE)]
        assert builder(Loaded(v(1))) == [Load()]
        assert builder(Loaded(v(3))) == []

    def test_of_another_epoch_that_a_commit_of_our_own_overtook_is_asked_again(self, node: Machine):
        node(SubscriptionStarted())
        node.wake()
        node(LockAcquired(v(1, "f")))
        node(Built())
        assert node(Committed()) == [Announce(v(1, "f"), None)]
        assert node(Loaded(v(9))) == [Load()]
        assert node.coordinator.served == v(1, "f")

    def test_not_is_tried_again_ever_more_seldom(self, loser: Machine):
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        for pause in (0.5, 1, 2, 4):
            assert loser(LoadFailed()) == []
            assert loser.coordinator.stale
            loser.at_wake(Load(), at=loser.now + pause)
        assert loser(Loaded(v(3))) == [Announce(v(3), SOLVE)]


class TestIncomplete:
    """A build that did not find all that was announced: it is looked for again."""

    @pytest.fixture
    def unfound(self, builder: Machine) -> Machine:
        """Committed version 3 for a solve that it did not find; its clock stands at 10.3."""
        builder(Built(complete=False))
        assert builder(Committed()) == [Announce(v(3), SOLVE)]
        return builder

    def looks(self, node: Machine, number: int) -> Build:
        while TryLock(node.coordinator.served) not in node.wake():
            pass
        (build, *_) = node(LockAcquired(v(number)))
        assert isinstance(build, Build)
        return build

    def test_leaves_the_board_stale_and_reads_everything_soon(self, unfound: Machine):
        assert unfound.coordinator.stale
        unfound.at_wake(TryLock(v(3)), at=10.3 + LOOK_AGAIN_SECONDS[0])
        assert unfound(LockAcquired(v(4))) == [Build(v(4), quiet=True, full=True, again=True)]

    def test_is_looked_for_after_pauses_that_grow_and_not_for_ever(self, unfound: Machine):
        for number, pause in enumerate(LOOK_AGAIN_SECONDS, start=4):
            assert unfound.coordinator.stale
            unfound.at_wake(TryLock(v(3)), at=unfound.now + pause)
            unfound(LockAcquired(v(number)))
            assert unfound(Unchanged(v(3), complete=False)) == [Confirm()]
            assert unfound(Committed()) == []
        assert not unfound.coordinator.stale
        assert unfound.coordinator.wake > unfound.now + 0.8 * TIMING.reconcile

    def test_is_told_when_it_is_found(self, unfound: Machine):
        assert self.looks(unfound, 4).quiet
        assert unfound(Built()) == [Commit(SOLVE, changes=1)]
        assert unfound(Committed()) == [Announce(v(4), SOLVE)]
        assert not unfound.coordinator.stale

    def test_is_looked_for_by_all_nodes(self, loser: Machine):
        loser(MessageReceived(Rebuilt(3, SOLVE)))
        assert loser(Loaded(v(3), confirmed=3, complete=False)) == [Announce(v(3), SOLVE)]
        assert loser.coordinator.stale
        loser.at_wake(TryLock(v(3)), at=10.2 + LOOK_AGAIN_SECONDS[0] + HANDICAP)

    def test_is_no_matter_of_what_a_person_asked_for(self, node: Machine):
        node(ChangeReported(ChangeEvent.updated(), requested=True))
        node.wake()
        assert node(LockAcquired(v(3))) == [Build(v(3), quiet=False, full=True)]
        node(Built(complete=False))
        node(Committed())
        assert not node.coordinator.stale

    @pytest.mark.parametrize(("first", "stale"), [(SOLVE, False), (BAN, True)])
    def test_solves_are_counted_and_of_all_else_a_look_with_something_new_proves_nothing(
        self, node: Machine, first: ChangeEvent, stale: bool
    ):
        node(ChangeReported(first))
        node.wake()
        node(LockAcquired(v(3)))
        node(Built(complete=False))
        node(Committed())
        node(ChangeReported(SOLVE))
        build = self.looks(node, 4)
        assert (build.full, build.quiet, build.again) == (True, False, True)
        node(Built())
        node(Committed())
        assert node.coordinator.stale == stale
        if stale:
            assert self.looks(node, 5).quiet
            node(Built())
            node(Committed())
            assert not node.coordinator.stale

    def test_a_build_before_its_time_takes_no_look_away(self, unfound: Machine):
        unfound(ChangeReported(BAN))
        due = unfound.coordinator._look_at
        self.looks(unfound, 4)
        assert unfound.now < due
        unfound(Built())
        unfound(Committed())
        assert not unfound.coordinator.stale, "what was looked for were solves, and they are counted"


class TestDamaged:
    def test_is_committed_again_though_nothing_changed(self, node: Machine):
        node(SubscriptionStarted())
        assert node(DocumentsDamaged()) == []
        while TryLock(v(1)) not in node.wake():
            assert node(DocumentsDamaged()) == []
        assert node(LockAcquired(v(3))) == [Build(v(3), quiet=False, full=True)]
        node(Built())
        assert node(Committed()) == [Announce(v(3), None)]
        node(ChangeReported(None))
        assert builds_quietly(node)

    def test_is_looked_at_again_ever_more_seldom_and_asks_for_one_build(self, node: Machine):
        node(SubscriptionStarted())
        changes = node.coordinator.changes
        for _ in range(5):
            node(DocumentsDamaged())
            while Load() not in node.wake():
                pass
        assert node.coordinator.changes == changes + 1
        assert node.coordinator.served == v(1)

    def test_is_over_when_it_can_be_loaded(self, node: Machine):
        node(SubscriptionStarted())
        node(DocumentsDamaged())
        assert node.wake() == [TryLock(v(1))]
        node(LockBusy(5.0))
        assert node.wake() == [Load()]
        node(Loaded(v(3)))
        assert builds_quietly(node)


def builds_quietly(node: Machine) -> bool:
    """Let it build what waits; whether it would confirm what is committed."""
    while TryLock(node.coordinator.served) not in node.wake():
        pass
    (build, *_) = node(LockAcquired(v(9)))
    assert isinstance(build, Build)
    return build.quiet


class TestRestored:
    """What was kept outside the store, read before the store has answered."""

    @pytest.fixture
    def restored(self) -> Machine:
        """Serves version 5 since the store was asked what it has; its clock stands at 0."""
        node = Machine()
        assert node(SubscriptionStarted()) == [Load()]
        node(Restored(v(5)))
        assert node.coordinator.served == v(5)
        return node

    def test_is_told_to_who_is_there_already(self):
        assert Machine()(Restored(v(5))) == [Announce(v(5), None)]

    def test_without_a_store_nothing_else_is_done(self):
        node = Machine()
        node(Restored(v(5)))
        assert node.coordinator.wake == NEVER
        assert node.coordinator.contained == 0

    def test_before_the_store_is_there_is_seen_by_it(self):
        node = Machine()
        node(Restored(v(5)))
        assert node(SubscriptionStarted()) == [Load()]
        assert node(LoadFailed()) == []
        node.at_wake(TryLock(v(5)), at=TIMING.debounce + HANDICAP)

    def test_when_something_is_served_changes_nothing(self, node: Machine):
        for older in (v(0), v(9), v(9, "f")):
            assert node(Restored(older)) == []
            assert node.coordinator.served == v(1)

    def test_that_the_store_has_too_is_not_told_again(self, restored: Machine):
        assert restored(Loaded(v(5))) == []

    def test_gives_way_to_what_is_newer_in_the_store(self, restored: Machine):
        assert restored(Loaded(v(6))) == [Announce(v(6), None)]

    def test_gives_way_to_another_epoch_but_only_when_that_is_asked_for_after_it(self, restored: Machine):
        assert restored(Loaded(v(2, "f"))) == [Load()]
        assert restored(Loaded(v(2, "f"))) == [Announce(v(2, "f"), None)]
        restored.at_wake(TryLock(v(2, "f")), at=TIMING.debounce + HANDICAP)

    @pytest.mark.parametrize("found", [None, v(4)])
    def test_that_the_store_has_lost_is_seen_by_who_builds_next(self, restored: Machine, found: Version | None):
        assert restored(Loaded(found)) == [Load()]
        assert restored(Loaded(found)) == []
        restored.at_wake(TryLock(v(5)), at=TIMING.debounce + HANDICAP)
        assert restored(LockAcquired(v(1, "f"))) == [Build(v(1, "f"), quiet=True, full=True)]
        assert restored(Built()) == [Commit(None, changes=restored.coordinator.changes)]
        assert restored(Committed()) == [Announce(v(1, "f"), None)]

    def test_contains_a_change_only_when_the_cluster_says_so(self, restored: Machine):
        restored(ChangeReported(SOLVE))
        assert restored(Loaded(v(5))) == []
        assert restored.coordinator.stale
        restored(MessageReceived(Begun(v(6))))
        assert restored(MessageReceived(Confirmed(v(6), v(5), 0.0))) == [Load()]
        restored(Loaded(v(5), confirmed=6))
        assert not restored.coordinator.stale


class TestTick:
    def test_too_early_does_nothing(self, node: Machine):
        node(ChangeReported(SOLVE))
        assert node(Tick(), at=10.29) == []

    def test_reads_everything_again(self, node: Machine):
        node.at_wake(TryLock(v(1)), at=0.3 + TIMING.reconcile)
        assert node(LockAcquired(v(3))) == [Build(v(3), quiet=True, full=True)]

    def test_takes_over_from_a_builder_that_is_not_heard_of(self, loser: Machine):
        loser.at_wake(TryLock(v(1)), at=10.2 + TIMING.lock_ttl)
        assert loser(LockAcquired(v(4))) == [Build(v(4), quiet=False, solves=1)]
        assert loser(Built()) == [Commit(SOLVE, changes=1)]

    def test_leaves_a_builder_alone_that_has_renewed_the_lock(self, loser: Machine):
        loser.wake()
        loser(LockBusy(6.0))
        loser.at_wake(TryLock(v(1)), at=10.2 + TIMING.lock_ttl + 6.0)


versions = st.builds(Version, st.sampled_from("ef"), st.integers(1, 9))
events = st.none() | st.sampled_from([SOLVE, BAN])
heard = st.one_of(
    st.builds(Begun, versions),
    st.builds(Rebuilt, st.integers(1, 9), st.just(SOLVE)),
    st.builds(Confirmed, versions, versions, st.just(0.0)),
    st.builds(Abandoned, versions),
)
unasked = st.one_of(
    st.builds(ChangeReported, events),
    st.just(SubscriptionStarted()),
    st.builds(MessageReceived, heard),
    st.builds(Restored, versions),
    st.just(Tick()),
)
#: What may be said to each question, in whatever state of the store.
answers = {
    TryLock: st.one_of(
        st.builds(LockAcquired, versions), st.builds(LockBusy, st.floats(0, TIMING.lock_ttl)), st.just(LockFailed())
    ),
    Build: st.one_of(
        st.sampled_from([Built(), Built(complete=False), BuildFailed(), LeaseLost()]),
        st.builds(Unchanged, versions, st.booleans()),
    ),
    Commit: st.sampled_from([Committed(), CommitRefused(), CommitFailed()]),
    Confirm: st.sampled_from([Committed(), CommitRefused(), CommitFailed()]),
    Load: st.one_of(
        st.builds(
            Loaded, st.none() | versions, st.integers(0, 9), st.integers(0, 9), st.booleans(), st.none() | versions
        ),
        st.sampled_from([LoadFailed(), DocumentsDamaged()]),
    ),
}


@given(st.data())
@settings(max_examples=examples(100))
def test_no_sequence_of_inputs_breaks_it(data: st.DataObject):
    """Even if what the store and the others say makes no sense together."""
    jitter = data.draw(st.sampled_from([0.0, 0.5, 0.999]))
    node = Machine(jitter)
    mine = node.coordinator
    asked: list[Action] = []
    told: list[Version] = []
    odd = True  # something may have changed since our last build began that is more than solves
    for _ in range(data.draw(st.integers(1, 60))):
        if asked and data.draw(st.booleans()):
            question = asked.pop(data.draw(st.integers(0, len(asked) - 1)))
            received = data.draw(answers[type(question)])
        else:
            received = data.draw(unasked)
        leased, known = mine.lease, mine.changes
        later = node.now + data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, 70.0]))
        actions = node(received, at=max(node.now, min(later, mine.wake)))

        assert 0 <= mine.contained <= mine.covered <= mine.changes
        assert (mine.lease is not None) == (mine.phase in (Phase.BUILDING, Phase.COMMITTING, Phase.CONFIRMING))
        assert leased is None or mine.lease in (None, leased), "a second lease while it had one"
        odd |= mine.changes - known > (received == ChangeReported(SOLVE))
        for action in actions:
            match action:
                case Build(full=full):
                    assert full or not odd
                    odd = False
                case Announce(version):
                    assert version == mine.served
                    told.append(version)
                case TryLock(seen):
                    assert mine.phase is Phase.TRYING
                    assert seen == mine.served
                case CancelBuild():
                    asked = [question for question in asked if not isinstance(question, Build)]
            if type(action) in answers:
                assert type(action) not in map(type, asked), "asked twice at a time"
                asked.append(action)
        assert mine.wake > node.now, "a timer that rings for nothing would eat the loop"
    for before, after in pairwise(told):
        assert before.epoch != after.epoch or before.number < after.number
