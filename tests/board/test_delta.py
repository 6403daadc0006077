"""Deltas: from any version of a contest to any other, exactly."""

from functools import reduce

import orjson
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.board import delta
from scoreboardd.board.delta import Challenges, Delta, Owners, VersionedDelta
from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.leaderboards import NOTHING, Challenge, Entry, Leaderboards, Solve
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from tests import oracle
from tests.board.expected import rendered
from tests.board.histories import histories
from tests.contests import contests, to_rows

MOST = 400
"Bytes that one solve may take on the wire."


def leaderboards(tables: oracle.Tables) -> tuple[bytes, bytes]:
    """The real documents of users and of teams."""
    documents = rendered(to_rows(tables))
    return documents[leaderboard_key(ParticipantKind.USERS)], documents[leaderboard_key(ParticipantKind.TEAMS)]


def view_of(tables: oracle.Tables) -> Leaderboards:
    return document_text.parse_leaderboards(*leaderboards(tables))


@given(contests())
def test_a_view_is_the_documents_to_the_byte(tables: oracle.Tables):
    documents = leaderboards(tables)
    assert document_text.leaderboards(document_text.parse_leaderboards(*documents)) == documents


@given(histories())
def test_applied_it_gives_the_next_documents_to_the_byte(history: list[oracle.Tables]):
    view = view_of(history[0])
    for tables in history[1:]:
        view = delta.apply(delta.diff(view, view_of(tables)), view)
        assert view == view_of(tables)
        assert document_text.leaderboards(view) == leaderboards(tables)


@given(histories())
def test_between_equals_it_is_nothing(history: list[oracle.Tables]):
    assert delta.diff(view_of(history[0]), view_of(history[0])).as_dict() == {}


@given(histories(length=5))
def test_composed_with_the_next_it_is_a_delta(history: list[oracle.Tables]):
    views = [view_of(tables) for tables in history]
    whole = reduce(delta.compose, map(delta.diff, views, views[1:]))
    assert delta.apply(whole, views[0]) == views[-1]


@given(histories(length=5), st.data())
def test_it_does_not_matter_which_are_composed_first(history: list[oracle.Tables], data: st.DataObject):
    views = [view_of(tables) for tables in history]
    deltas = list(map(delta.diff, views, views[1:]))
    in_order = reduce(delta.compose, deltas)
    while len(deltas) > 1:
        at = data.draw(st.integers(0, len(deltas) - 2))
        deltas[at : at + 2] = [delta.compose(*deltas[at : at + 2])]
    assert deltas == [in_order]


@given(histories(length=5), st.data())
def test_composed_it_may_be_taken_anywhere_on_the_way(history: list[oracle.Tables], data: st.DataObject):
    views = [view_of(tables) for tables in history]
    whole = reduce(delta.compose, map(delta.diff, views, views[1:]))
    held = data.draw(st.sampled_from(views))
    assert delta.apply(whole, held) == views[-1]


@given(histories())
def test_json_says_all_of_it(history: list[oracle.Tables]):
    views = [view_of(tables) for tables in history]
    for one in map(delta.diff, views, views[1:]):
        step = VersionedDelta(41, 42, one)
        assert VersionedDelta.parse(step.data()) == step
        assert Delta.from_dict(orjson.loads(orjson.dumps(one.as_dict()))) == one


class TestSteps:
    def test_two_are_one_that_says_both(self):
        first = VersionedDelta(41, 42, Delta(Challenges(points={1: 9})))
        second = VersionedDelta(42, 47, Delta(teams=Owners(drop={3})))
        assert first.then(second) == VersionedDelta(41, 47, Delta(Challenges(points={1: 9}), teams=Owners(drop={3})))

    def test_empty_parts_are_left_out(self):
        step = VersionedDelta(41, 42, Delta(teams=Owners(drop={3})))
        assert orjson.loads(step.data()) == {"from": 41, "version": 42, "teams": {"drop": [3]}}


class TestAway:
    """Whoever is dropped and comes back comes back with nothing but what the delta says."""

    before = Leaderboards({1: Challenge("c", "web", 5)}, {}, {7: Entry("t", {1: Solve("2026-02-27T18:00:00Z", False)})})

    def test_an_owner(self):
        after = Leaderboards(self.before.challenges, {}, {7: Entry("t", {})})
        whole = delta.compose(delta.diff(self.before, NOTHING), delta.diff(NOTHING, after))
        assert delta.apply(whole, self.before) == after

    def test_a_challenge(self):
        without = Leaderboards({}, {}, {7: Entry("t", {})})
        after = Leaderboards(self.before.challenges, {}, {7: Entry("t", {})})
        whole = delta.compose(delta.diff(self.before, without), delta.diff(without, after))
        assert delta.apply(whole, self.before) == after
        assert "unsolves" not in delta.diff(self.before, without).as_dict().get("teams", {})


def test_one_solve_among_ten_thousand_teams_is_small():
    def entries(prefix: str) -> dict[int, Entry]:
        return {id: Entry(f"{prefix} {id}", {}) for id in range(2_000_000_000, 2_000_010_000)}

    before = Leaderboards(
        {id: Challenge(f"challenge {id}", "web", 500) for id in range(1000, 1100)}, entries("u"), entries("t")
    )
    solve = Solve("2026-02-27T18:00:00.123456Z", True)
    after = Leaderboards(
        before.challenges | {1007: Challenge("challenge 1007", "web", 499)},
        before.users | {2_000_000_003: Entry("u 2000000003", {1007: solve})},
        before.teams | {2_000_000_003: Entry("t 2000000003", {1007: solve})},
    )
    # A version as long as they get: after a restart of Redis numbers go on from the time in milliseconds.
    version = Version("7f3a9c02", 1_772_215_200_123)
    step = VersionedDelta(version.number - 1, version.number, delta.diff(before, after))
    frame = b"id: %s\nevent: delta\ndata: %s\n\n" % (str(version).encode(), step.data())
    assert len(frame) <= MOST
