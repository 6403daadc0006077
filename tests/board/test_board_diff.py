"""What is found in the documents is what differs between the views in them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.board import delta
from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.scoreboard import ScoreboardState
from scoreboardd.render import chunked_document, rows
from scoreboardd.render.board_diff import Boards, between
from scoreboardd.render.chunked_document import Document
from tests import oracle
from tests.board.histories import histories
from tests.board.test_delta import view_of
from tests.contests import to_rows
from tests.effort import examples


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small contests have many."""
    monkeypatch.setattr(rows, "ENTRIES", 2)
    monkeypatch.setattr(chunked_document, "CHUNKS_PER_RENDER", 3)


def boards(tables: oracle.Tables, *, as_one: bool) -> Boards:
    """In pieces, as one that made them has them, or `as_one`, as one that was given them has."""
    documents = ScoreboardState(to_rows(tables)).documents
    made = {owner: documents[leaderboard_key(owner)] for owner in ParticipantKind}
    if as_one:
        made = {owner: Document.of(b"".join(document.text())) for owner, document in made.items()}
    return {owner: list(document) for owner, document in made.items()}


@given(histories(length=2), st.booleans())
@settings(max_examples=examples(60))
def test_it_is_what_differs(history: list[oracle.Tables], as_one: bool):
    old, new = history[0], history[-1]
    found = between(boards(old, as_one=as_one), boards(new, as_one=False))
    assert found == delta.diff(view_of(old), view_of(new))


def test_a_name_cannot_pretend_to_be_anything_else():
    def named(name: str) -> oracle.Tables:
        team = oracle.Team(1, name)
        challenge = oracle.Challenge(1, name, name, 500, 100)
        return oracle.Tables([], [oracle.User(1, name, "user", 1)], [team], [challenge])

    evil = '"],"entries":[{"team_id":7,"team_name":"x","score":1,"solves":[]},{"user_id":7,"username":"\\'
    for old, new in ((named("x"), named(evil)), (named(evil), named(evil + "]}")), (named(evil), named("x"))):
        assert between(boards(old, as_one=False), boards(new, as_one=False)) == delta.diff(view_of(old), view_of(new))
