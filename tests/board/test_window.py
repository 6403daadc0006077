"""Timelines cut to a window, beside the oracle's."""

import json
from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st

from scoreboardd.board.document_names import BUCKET, ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.render import window
from tests import oracle
from tests.board.expected import rendered
from tests.contests import EPOCH, MICROSECOND, contests, to_rows
from tests.effort import examples


def chunks(text: bytes, size: int) -> Iterator[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


def cut(owner: ParticipantKind, leaderboard: bytes, timeline: bytes, since: int, size: int) -> bytes:
    solves = window.rows_in(window.bucket_of(since), owner, chunks(leaderboard, size))
    return b"".join(window.timeline(since, owner, chunks(timeline, size), solves))


@given(st.data())
@settings(max_examples=examples(40))
def test_every_window_of_every_board_is_what_the_oracle_says(data: st.DataObject):
    tables = data.draw(contests())
    mine = rendered(to_rows(tables))
    division_id = data.draw(st.sampled_from([None, *(division.id for division in tables.divisions or ())]))
    moments = [submission.submitted_at for submission in tables.submissions] or [EPOCH]
    edge = data.draw(st.sampled_from(moments)) + data.draw(st.integers(-1, 1)) * MICROSECOND
    minutes = data.draw(st.integers(1, 10_000))
    now = edge + minutes * 60 * 1_000_000 * MICROSECOND
    since = (edge - EPOCH) // MICROSECOND
    theirs = oracle.documents(tables, division_id=division_id, window=minutes, now=now)
    size = data.draw(st.sampled_from([1, 7, 100, 1 << 20]))
    for owner in ParticipantKind:
        name = timeline_key(owner, division_id)
        text = cut(owner, mine[leaderboard_key(owner, division_id)], mine[name], since, size)
        assert json.loads(text) == theirs[timeline_key(owner)]


@given(contests())
@settings(max_examples=30)
def test_at_the_edge_of_a_bucket_it_is_the_end_of_the_document_to_the_byte(tables: oracle.Tables):
    mine = rendered(to_rows(tables))
    moments = [(submission.submitted_at - EPOCH) // MICROSECOND for submission in tables.submissions] or [0]
    for owner in ParticipantKind:
        leaderboard, timeline = mine[leaderboard_key(owner)], mine[timeline_key(owner)]
        for moment in moments[:5]:
            text = cut(owner, leaderboard, timeline, window.bucket_of(moment), 100)
            assert timeline.endswith(text.removeprefix(b'{"submissions":['))
        assert cut(owner, leaderboard, timeline, min(moments) - BUCKET, 100) == timeline
        assert cut(owner, leaderboard, timeline, max(moments) + 1, 100) == b'{"submissions":[]}'


@given(st.text(), st.integers(0, BUCKET))
@example('{"timestamp":"2026-02-27T18:00:00Z","user_id":9,"points":9,"challenge_count":9}', 1)
@example('"solved_at":"2026-02-27T18:0,{"user_id":7,]},"entries":[', 1)
@example('],"entries":[{"challenge_id":5', BUCKET - 1)
def test_a_name_that_looks_like_a_field_is_a_name(name: str, after: int):
    tables = oracle.Tables(
        submissions=[
            oracle.Submission(n, n, 1, True, False, EPOCH + (2000 * BUCKET + n * BUCKET // 2) * MICROSECOND)
            for n in range(1, 5)
        ],
        users=[oracle.User(n, name, "user", None) for n in range(1, 5)],
        teams=[],
        challenges=[oracle.Challenge(1, name, name, 100, 100)],
    )
    if "\x00" in name:
        return  # PostgreSQL has none
    mine = rendered(to_rows(tables))
    since = 2000 * BUCKET + after
    now = EPOCH + (since + 60_000_000) * MICROSECOND
    theirs = oracle.documents(tables, window=1, now=now)
    for owner in ParticipantKind:
        text = cut(owner, mine[leaderboard_key(owner)], mine[timeline_key(owner)], since, 11)
        assert json.loads(text) == theirs[timeline_key(owner)]
