"""What comes solve by solve is, to the byte and chunk for chunk, what is made at once."""

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.board import delta
from scoreboardd.board.document_names import DIVISIONS, ParticipantKind, leaderboard_key
from scoreboardd.board.leaderboards import Leaderboards
from scoreboardd.board.scoreboard import Addition, ScoreboardState
from scoreboardd.board.source_rows import ChallengeRow, Roster, SourceRows, TeamRow, UserRow, solves_of
from scoreboardd.render import chunked_document, rows
from scoreboardd.render import text as document_text
from tests.board import reference
from tests.board.expected import plain
from tests.contests import contests, to_rows
from tests.effort import examples


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small contests have many: they split, merge, vanish and become the first."""
    monkeypatch.setattr(rows, "ENTRIES", 2)
    monkeypatch.setattr(rows, "BUCKETS", 2)
    monkeypatch.setattr(chunked_document, "CHUNKS_PER_RENDER", 3)


def frames(scoreboard: ScoreboardState) -> dict[str, list[bytes]]:
    return {name: [segment.frame for segment in document] for name, document in scoreboard.documents.items()}


def views(scoreboard: ScoreboardState) -> dict[int | None, Leaderboards]:
    """Of everyone's boards and each division's."""
    texts = plain(scoreboard)
    return {
        id: document_text.parse_leaderboards(*(texts[leaderboard_key(owner, id)] for owner in ParticipantKind))
        for id in (None, *scoreboard.roster.division_ids)
    }


@given(st.data())
@settings(max_examples=examples(60))
def test_solves_may_come_in_any_order_in_any_portions_and_twice(data: st.DataObject):
    rows = to_rows(data.draw(contests()))
    solves = data.draw(st.permutations(rows.solves.tolist()))
    scoreboard = ScoreboardState(SourceRows(rows.roster, solves_of([])))
    done = 0
    while done < len(solves):
        upto = done + data.draw(st.integers(1, 5))
        again = max(0, done - data.draw(st.integers(0, 5)))
        before = views(scoreboard)
        changed = scoreboard.add(Addition(solves_of(solves[again:upto])))
        assert changed == {id: delta.diff(before[id], view) for id, view in views(scoreboard).items()}
        done = upto
        known = SourceRows(rows.roster, solves_of(solves[:done]))
        assert plain(scoreboard) == reference.documents(known)
        assert frames(scoreboard) == frames(ScoreboardState(known))
    assert scoreboard.digest == ScoreboardState(rows).digest


def contest(users: int) -> Roster:
    return Roster(
        [ChallengeRow(n, f"c{n}", "web", 500, 100) for n in range(1, 6)],
        [TeamRow(n, f"t{n}") for n in range(1, users + 1)],
        [UserRow(n, f"u{n}", n) for n in range(1, users + 1)],
        [],
    )


def test_a_version_stays_as_it_is_when_there_is_a_newer_one():
    scoreboard = ScoreboardState(SourceRows(contest(30), solves_of([(n, 1, n, False) for n in range(1, 20)])))
    before, texts = scoreboard.documents, plain(scoreboard)
    for n in range(1, 31):
        scoreboard.add(Addition(solves_of([(n, 2, n * 10**9, False)])))
    assert plain(scoreboard) != texts
    assert {name: b"".join(before[name].text()) for name in texts} == texts


def test_what_a_solve_does_not_touch_is_shared(monkeypatch: pytest.MonkeyPatch):
    roster = contest(300)
    # So many that have it that one more is worth no point less.
    solves = [(n, c, n * 10**9, False) for n in range(1, 21) for c in (1, 2)]
    scoreboard = ScoreboardState(SourceRows(roster, solves_of(solves)))
    before = scoreboard.documents
    scoreboard.add(Addition(solves_of([(200, 5, 10**12, False)])))
    for name, document in scoreboard.documents.items():
        assert len(set(document) - set(before[name])) < 12, name
        assert len(document) > 8 or name == DIVISIONS


def test_frames_are_the_zstd_form_of_the_text():
    scoreboard = ScoreboardState(SourceRows(contest(50), solves_of([(n, 1, n * 10**9, False) for n in range(1, 50)])))
    for document in scoreboard.documents.values():
        whole = b"".join(segment.frame for segment in document)
        text = zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True).read()
        assert text == b"".join(document.text())
        assert len(text) == document.size


def test_equal_digests_are_equal_documents():
    solves = [(n, 1, n * 10**9, False) for n in range(1, 30)]
    one, same = (ScoreboardState(SourceRows(contest(30), solves_of(solves))) for _ in range(2))
    assert one.digest == same.digest
    same.add(Addition(solves_of([(30, 1, 0, False)])))
    assert one.digest != same.digest


@pytest.mark.parametrize("points", [2**31 - 1, 2**62])
def test_scores_that_leave_no_room_for_a_rank_beside_them(points: int):
    roster = Roster(
        [ChallengeRow(n, "c", "web", points // n, points // n) for n in (1, 2)],
        [],
        [UserRow(n, "u") for n in range(9)],
        [],
    )
    rows = SourceRows(roster, solves_of([(n, 1 + n % 2, n, False) for n in range(7)]))
    assert plain(ScoreboardState(rows)) == reference.documents(rows)


@pytest.mark.parametrize("ids", [[3, 4, 6, 7], [3, 4, 2**62, 2**63 - 1]])
def test_solves_by_or_of_what_is_not_listed_count_for_nothing(ids: list[int]):
    roster = Roster([ChallengeRow(id, "c", "web", 500, 100) for id in ids], [], [UserRow(id, "u") for id in ids], [])
    strange = [-(2**63), -1, 0, 2, 5, 8, 2**61]
    listed = [(user, challenge, 0, False) for user in ids for challenge in ids]
    others = [(user, ids[0], 0, True) for user in strange] + [(ids[0], challenge, 0, True) for challenge in strange]
    with_others = ScoreboardState(SourceRows(roster, solves_of(listed + others)))
    assert plain(with_others) == plain(ScoreboardState(SourceRows(roster, solves_of(listed))))
