"""What is held, and when to fetch, whatever is told in whatever order."""

import math
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, Solve
from scoreboardd.client.board import Board
from scoreboardd.client.events import StreamEvent
from scoreboardd.client.sync_state import GRACE, JITTER, MAX_SHORT_ANSWERS, SyncState
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from tests.client.views import step, view
from tests.effort import examples

EPOCHS = ("b", "a")
"In the order of time: an epoch says nothing by itself."


def names(*names: str) -> Leaderboards:
    return Leaderboards({}, {}, {id: Entry(name, {}) for id, name in enumerate(names)})


HISTORY = [names(*"abcdefgh"[:n]) for n in range(9)]
"By the number of the version."


def board(number: int, epoch: str = "a") -> Board:
    return Board(Version(epoch, number), HISTORY[number])


def event(name: str, number: int, data: bytes = b"{}", epoch: str = "a") -> StreamEvent:
    return StreamEvent(f"{epoch}-{number}", name, data)


def delta(since: int, number: int) -> StreamEvent:
    return event("delta", number, step(HISTORY, since, number).data())


def number(keeper: SyncState) -> int | None:
    return keeper.board and keeper.board.version.number


NO_OWNERS = (
    *(
        b'{"put":%s}' % put
        for put in (b'"ab"', b"7", b"[7]", b'[["1","a"]]', b'[[1,"a",2]]', b"[[1,null]]", b'[[1.5,"a"]]')
    ),
    *(b'{"put":%s}' % put for put in (b'[[true,"a"]]', b"[[[1],[2]]]", b'[[18446744073709551616,"a"]]')),
    *(b'{"drop":%s}' % drop for drop in (b"7", b'["1"]', b"[null]", b"[1.0]", b"[[1]]", b"[true]")),
    *(b'{"solves":[[%s]]}' % solve for solve in (b'1,1,"x"', b'"1",1,"x",0', b'1,1,"x",0', b"0,1,7,0", b'0,1,"x",2')),
    *(b'{"solves":[[0,%s]]}' % solve for solve in (b'1,"x",true', b'"1","x",0', b'1,"x",null', b'1,"x",0')),
    *(b'{"unsolves":%s}' % pairs for pairs in (b"[[1]]", b'[["0",1]]', b"[[7,1]]", b"[[0,[]]]", b"[0]")),
)
"""What is no part of a delta, or no part of one for owners with one team and one user, 0, and no challenges."""
NO_CHALLENGES = (
    *(b'{"put":%s}' % put for put in (b"[{}]", b"7", b'[{"id":"1","title":"a","category":"b","points":1}]')),
    *(b'{"put":[{"id":1,"title":%s,"points":1.5}]}' % rest for rest in (b'7,"category":"b"', b'"a","category":[]')),
    *(b'{"drop":%s}' % drop for drop in (b"7", b'["1"]', b"[{}]")),
    *(b'{"points":%s}' % points for points in (b"[[1,1]]", b'[[1,"1"]]', b"[[1]]", b"[1]", b'{"1":1}')),
)


@pytest.fixture
def keeper() -> SyncState:
    """At version 1, at time 0, and unlucky: it waits as long as it may."""
    keeper = SyncState(random=lambda: 1.0)
    keeper.fetched(board(1), 0.0)
    return keeper


def test_without_a_board_it_is_due_at_once():
    assert SyncState().due == -math.inf


class TestDeltas:
    def test_one_that_leads_on_is_applied(self, keeper: SyncState):
        keeper.hear(delta(1, 2), 0.0)
        assert keeper.board.view == HISTORY[2]
        assert keeper.due == math.inf

    def test_one_that_began_before_leads_on_too(self, keeper: SyncState):
        keeper.hear(delta(0, 4), 0.0)
        assert keeper.board.view == HISTORY[4]

    def test_one_that_is_known_is_ignored(self, keeper: SyncState):
        keeper.hear(delta(0, 1), 0.0)
        assert (number(keeper), keeper.due) == (1, math.inf)

    def test_after_a_gap_the_documents_are_due_soon(self, keeper: SyncState):
        keeper.hear(delta(2, 3), 10.0)
        assert (number(keeper), keeper.due) == (1, 10.0 + JITTER)

    def test_those_that_wait_lead_on_from_what_is_fetched(self, keeper: SyncState):
        for since, to in ((2, 3), (3, 4), (4, 6)):
            keeper.hear(delta(since, to), 0.0)
        keeper.fetched(board(3), 1.0)
        assert keeper.board.view == HISTORY[6]
        assert keeper.due == math.inf

    @pytest.mark.parametrize("first", [event("delta", 3, step(HISTORY, 2, 3).data(), "old"), delta(1, 2)])
    def test_those_that_do_not_lead_on_from_each_other_do_not_wait_as_one(self, first: StreamEvent):
        keeper = SyncState()
        keeper.hear(first, 0.0)
        keeper.hear(delta(3, 4), 0.0)
        keeper.fetched(board(2), 1.0)
        assert number(keeper) == 2
        assert keeper.due < math.inf

    def test_a_gap_that_is_filled_needs_no_fetch(self, keeper: SyncState):
        """As when a stream is resumed from what is held."""
        keeper.hear(delta(2, 3), 0.0)
        keeper.hear(delta(1, 2), 0.0)
        assert keeper.board.view == HISTORY[3]
        assert keeper.due == math.inf

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"{}",
            b'{"from":1}',
            b'{"from":"1","version":2}',
            b'{"from":1,"version":3}',
            b'{"from":2,"version":2}',
            b'{"from":1,"version":2,"teams":[]}',
            b'{"from":1,"version":2,"teams":{"solves":[[99,99,"",0]]}}',
            *(b'{"from":1,"version":2,"teams":%s}' % teams for teams in NO_OWNERS),
            *(b'{"from":1,"version":2,"users":%s}' % users for users in NO_OWNERS),
            *(b'{"from":1,"version":2,"challenges":%s}' % challenges for challenges in NO_CHALLENGES),
            *(
                b'{"from":%s,"version":2}' % since
                for since in (b"null", b"true", b"1.0", b"[]", b"18446744073709551616")
            ),
        ],
    )
    def test_one_that_is_none_is_a_gap(self, keeper: SyncState, data: bytes):
        keeper.hear(event("delta", 2, data), 0.0)
        assert (number(keeper), keeper.due) == (1, JITTER)
        keeper.fetched(board(2), 1.0)
        assert keeper.due == math.inf


def test_ids_and_points_are_exact_beyond_what_a_float_holds():
    large = (2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1)
    facts = [
        Leaderboards(
            {id: Challenge(f"challenge {id}", "misc", id - solves) for id in large},
            {id: Entry(f"user {id}", {}) for id in large},
            {
                id: Entry(f"team {id}", {c: Solve("2026-02-27T18:00:00Z", False) for c in large[:solves]})
                for id in large
            },
        )
        for solves in (0, 1, 2)
    ]
    keeper = SyncState()
    keeper.fetched(Board(Version("a", 0), document_text.parse_leaderboards(*document_text.leaderboards(facts[0]))), 0.0)
    for number in (1, 2):
        keeper.hear(event("delta", number, step(facts, number - 1, number).data()), 0.0)
        assert keeper.board is not None
        assert keeper.board.view == facts[number]
        assert {row.id for row in keeper.board.teams} == set(large)
        assert {row.score for row in keeper.board.teams} == {sum(id - number for id in large[:number])}
    assert keeper.due == math.inf


class TestOtherEvents:
    def test_a_scoreboard_is_fetched_soon(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 2), 10.0)
        assert keeper.due == 10.0 + JITTER

    def test_ready_leaves_what_was_missed_the_time_to_come(self, keeper: SyncState):
        keeper.hear(event("ready", 2), 10.0)
        assert keeper.due == 10.0 + GRACE + JITTER
        keeper.hear(delta(1, 2), 10.1)
        assert keeper.due == math.inf

    def test_a_reset_says_over_which_time(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 2), 0.0)
        keeper.hear(event("reset", 3, b'{"version":3,"spread":60}'), 0.0)
        keeper.hear(event("scoreboard", 4), 0.0)
        keeper.hear(delta(4, 5), 0.0)
        assert keeper.due == 60.0

    def test_a_reset_that_comes_while_fetching_is_heeded(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 2), 0.0)
        keeper.hear(event("reset", 3, b'{"version":3,"spread":60}'), 1.0)
        keeper.fetched(board(2), 2.0)
        assert keeper.due == 61.0

    @pytest.mark.parametrize("spread", [None, -1, "long", [], {}])
    def test_a_spread_that_is_none_is_a_short_one(self, keeper: SyncState, spread: object):
        keeper.hear(event("reset", 3, orjson.dumps({"spread": spread})), 0.0)
        assert keeper.due == JITTER

    @pytest.mark.parametrize("name", ["scoreboard", "delta", "reset", "ready"])
    def test_what_is_held_needs_no_fetch(self, keeper: SyncState, name: str):
        keeper.hear(event(name, 1), 0.0)
        assert keeper.due == math.inf

    @pytest.mark.parametrize("heard", [StreamEvent("", "scoreboard", b"{}"), StreamEvent("a-9", "message", b"{}")])
    def test_what_is_none_of_ours_is_ignored(self, keeper: SyncState, heard: StreamEvent):
        keeper.hear(heard, 0.0)
        assert keeper.due == math.inf

    def test_a_new_epoch_is_fetched_however_small_its_number(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 0, epoch="b"), 0.0)
        assert keeper.due == JITTER
        keeper.fetched(board(0, "b"), 1.0)
        assert keeper.board.version == Version("b", 0)


class TestAnswers:
    def test_a_node_that_lags_is_asked_again_more_and_more_slowly(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 5), 0.0)
        for attempt, lagging in enumerate((None, board(0), board(2), board(1)), 1):
            keeper.fetched(lagging, 10.0 * attempt)
            assert keeper.due == 10.0 * attempt + attempt / 2
        assert number(keeper) == 2, "nothing goes backwards"
        keeper.fetched(board(5), 50.0)
        assert keeper.due == math.inf

    def test_one_of_an_epoch_that_is_over_is_not_shown(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 3), 0.0)
        keeper.fetched(board(8, "old"), 1.0)
        assert number(keeper) == 1

    def test_an_epoch_that_was_told_of_in_between_is_forgotten(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 7, epoch="b"), 0.0)
        keeper.hear(delta(1, 2), 0.0)
        assert (number(keeper), keeper.due) == (2, math.inf)

    def test_what_nobody_has_is_given_up(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 5), 0.0)
        for _ in range(MAX_SHORT_ANSWERS):
            keeper.fetched(board(2, "b"), 0.0)
            assert keeper.due < math.inf
        keeper.fetched(board(2, "b"), 0.0)
        assert keeper.board.version == Version("b", 2)
        assert keeper.due == math.inf

    def test_before_the_first_board_it_never_gives_up(self):
        keeper = SyncState(random=lambda: 1.0)
        for _ in range(100):
            keeper.fetched(None, 0.0)
            assert 0.0 < keeper.due <= MAX_SHORT_ANSWERS / 2

    def test_who_fails_is_left_alone_whatever_is_told(self, keeper: SyncState):
        keeper.hear(event("scoreboard", 2), 0.0)
        keeper.failed(1.0)
        assert keeper.due == 2.0
        keeper.failed(2.0, retry_after=20.0)
        keeper.hear(event("scoreboard", 3), 2.0)
        assert keeper.due == 22.0
        keeper.fetched(board(2), 22.0)
        assert keeper.due == 22.5


BOTH = {epoch: [view(random.Random(f"{epoch}{number}")) for number in range(7)] for epoch in EPOCHS}
NUMBERS = st.integers(0, 6)
HAPPENING = st.one_of(
    st.tuples(st.just("delta"), st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1])),
    st.tuples(st.sampled_from(["scoreboard", "reset", "ready"]), NUMBERS),
    st.tuples(st.just("fetched"), NUMBERS),
    st.tuples(st.sampled_from(["torn", "failed"]), st.none()),
)


@settings(max_examples=examples(100))
@given(st.tuples(*(st.lists(HAPPENING, max_size=20) for _ in EPOCHS)), st.randoms(use_true_random=False))
def test_whatever_happens_it_holds_what_was_and_reaches_what_is(happenings: tuple[list[Any], ...], chance: Any):
    """A server with two epochs, whose deltas, notices and answers come late, twice, in any order or never."""
    keeper = SyncState(chance.random)
    now, told = 0.0, None

    def fetched(epoch: str, number: int) -> None:
        keeper.fetched(Board(Version(epoch, number), BOTH[epoch][number]), now)

    for epoch, happening in [(epoch, one) for epoch, those in zip(EPOCHS, happenings, strict=True) for one in those]:
        before = keeper.board
        match happening:
            case ("delta", (since, number)):
                told = Version(epoch, number)
                keeper.hear(StreamEvent(str(told), "delta", step(BOTH[epoch], since, number).data()), now)
            case (("scoreboard" | "reset" | "ready") as name, number):
                told = Version(epoch, number)
                keeper.hear(StreamEvent(str(told), name, b"{}"), now)
            case (what, number) if keeper.due < math.inf:
                now = max(now, keeper.due)
                if what == "fetched":
                    fetched(epoch, number)
                elif what == "torn":
                    keeper.fetched(None, now)
                else:
                    keeper.failed(now)
        assert (keeper.due < math.inf) == keeper.behind
        if keeper.board is not None:
            version = keeper.board.version
            assert keeper.board.view == BOTH[version.epoch][version.number]
            if before is not None and before.version.epoch == version.epoch:
                assert version.number >= before.version.number
    if keeper.due < math.inf:
        fetched(EPOCHS[-1], 6)
    if told is not None and told.epoch == EPOCHS[-1]:
        assert keeper.board.version.includes(told)
    assert keeper.due == math.inf or told.epoch != EPOCHS[-1]
