"""What a bot reads."""

import random

import orjson
import pytest

from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, Solve
from scoreboardd.client import Board, Row
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from tests.client.views import view

VERSION = Version("7f3a", 41)


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_in_the_order_of_the_documents_which_are_the_servers(seed: int):
    facts = view(random.Random(seed))
    board = Board(VERSION, document_text.parse_leaderboards(*document_text.leaderboards(facts)))
    assert board.documents == document_text.leaderboards(facts)
    assert board.challenges == facts.challenges
    for document, rows, id, name in (
        (board.documents.users, board.users, "user_id", "username"),
        (board.documents.teams, board.teams, "team_id", "team_name"),
    ):
        entries = orjson.loads(document)["entries"]
        assert [(row.id, row.name, row.score, [*row.solves]) for row in rows] == [
            (entry[id], entry[name], entry["score"], [solve["challenge_id"] for solve in entry["solves"]])
            for entry in entries
        ]
        assert [row.rank for row in rows] == [*range(1, len(entries) + 1)]


def test_a_row():
    solve = Solve("2026-02-27T18:00:00Z", True)
    board = Board(VERSION, Leaderboards({7: Challenge("baby rop", "pwn", 490)}, {}, {3: Entry("one", {7: solve})}))
    assert board.teams == (Row(rank=1, id=3, name="one", score=490, solves={7: solve}),)
    assert board.challenges[7].points == 490


def test_documents_with_a_score_beyond_64_bits():
    most = 2**63 - 1
    solve = Solve("2026-02-27T18:00:00Z", False)
    names = '"\\\x00\x1f\x7f\u2028é\U0001f3c1'
    entry = Entry(names, {1: solve, 2: solve, 3: solve})
    challenges = {id: Challenge(names, "", most) for id in entry.solves}
    documents = Board(VERSION, Leaderboards(challenges, {5: entry}, {})).documents
    assert b'"score":%d,' % (3 * most) in documents.users
    # Apart from the number, the text is that of a score which fits.
    smaller = {id: Challenge(names, "", 0) for id in entry.solves}
    expected = Board(VERSION, Leaderboards(smaller, {5: entry}, {})).documents.users
    assert documents.users == expected.replace(b'"points":0}', b'"points":%d}' % most).replace(
        b'"score":0,', b'"score":%d,' % (3 * most)
    )
