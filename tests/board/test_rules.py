"""Boards with teams of the time of solving, adjustments, sequence numbers and each order: beside a naive oracle."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.board import delta
from scoreboardd.board.document_names import ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.leaderboards import Leaderboards
from scoreboardd.board.order import Listing, Order
from scoreboardd.board.rules import Rules
from scoreboardd.board.rules.ctfd import DynamicPoints
from scoreboardd.board.scoreboard import Addition, ScoreboardState
from scoreboardd.board.source_rows import (
    ADJUSTMENT,
    NO_ID,
    OWNED_SOLVE,
    ChallengeRow,
    DivisionRow,
    Roster,
    SourceRows,
    TeamRow,
    UserRow,
)
from scoreboardd.board.times import rfc3339
from scoreboardd.render import window
from scoreboardd.render.text import leaderboards, parse_leaderboards
from tests.effort import examples

MINUTE = 60_000_000
RULES = st.builds(Rules, st.just("given"), st.sampled_from(Order), st.sampled_from(Listing))


@st.composite
def contests(draw: st.DrawFn) -> SourceRows:
    """Few owners and few different times, so that many scores and times are equal."""
    divisions = [DivisionRow(1, "one"), DivisionRow(2, "two")]
    some_division = st.sampled_from([None, 1, 2])
    names = st.sampled_from(["b", "a", "", "é", '],"adjustments":[{"at":"'])
    teams = [TeamRow(id, draw(names), draw(some_division)) for id in range(1, draw(st.integers(0, 5)) + 1)]
    team_ids = [team.id for team in teams]
    users = [
        UserRow(id, draw(names), draw(st.sampled_from([None, *team_ids])), draw(some_division))
        for id in range(1, draw(st.integers(0, 6)) + 1)
    ]
    challenges = [
        ChallengeRow(id, f"c{id}", "misc", draw(st.sampled_from([0, 100, 100, 50, -20])), 0)
        for id in range(1, draw(st.integers(0, 4)) + 1)
    ]
    some_user = st.sampled_from([1, 2, 3, 4, 5, 6, 99, NO_ID])
    some_team = st.sampled_from([1, 2, 3, 4, 5, 99, NO_ID])
    times = st.sampled_from([0, 1, MINUTE, 10 * MINUTE, 15 * MINUTE])
    solves = draw(
        st.lists(
            st.tuples(some_team, some_user, st.integers(1, 5), times, st.booleans()),
            max_size=14,
            unique_by=lambda solve: (solve[1], solve[2]),
        )
    )
    adjustments = draw(st.lists(st.tuples(some_user, some_team, times, st.sampled_from([0, 100, -50, 7])), max_size=6))
    sequences = draw(st.permutations(range(1, 31)))
    owned = [(sequences[n], *solve) for n, solve in enumerate(solves)]
    adjusted = [(sequences[n], *adjustment) for n, adjustment in enumerate(adjustments)]
    return SourceRows(
        Roster(challenges, teams, users, divisions), np.array(owned, OWNED_SOLVE), np.array(adjusted, ADJUSTMENT)
    )


def expected(rows: SourceRows, rules: Rules, division: int | None, kind: ParticipantKind) -> tuple[dict, dict]:
    """The leaderboard and the timeline, by the words of `Order` and `Listing`."""
    roster = rows.roster
    points = {challenge.id: challenge.initial for challenge in roster.challenges}
    division_of_team = {team.id: team.division_id for team in roster.teams}
    if kind is ParticipantKind.TEAMS:
        owners = [(team.id, team.name, {team.division_id}) for team in roster.teams]
    else:
        owners = [(u.id, u.name, {u.division_id, division_of_team.get(u.team_id)}) for u in roster.users]
    entries, buckets = [], []
    for id, name, divisions in owners:
        if division is not None and division not in divisions:
            continue
        held: dict[int, dict] = {}
        for row in sorted(rows.solves, key=lambda row: (row["at"], row["sequence"])):
            if row[kind.id_field] == id and row["challenge_id"] in points:
                mine = held.setdefault(int(row["challenge_id"]), {"at": int(row["at"]), "n": int(row["sequence"])})
                mine["blood"] = mine.get("blood", False) or bool(row["first_blood"])
        given = sorted(
            (int(row["at"]), int(row["sequence"]), int(row["points"]))
            for row in rows.adjustments
            if row[kind.id_field] == id
        )
        rows_of = [(solve["at"], solve["n"], points[challenge], "solve") for challenge, solve in held.items()]
        rows_of += [(*adjustment, "adjustment") for adjustment in given]
        counted = [row for row in rows_of if row[2] != 0]
        for at in {row[0] // (10 * MINUTE) for row in rows_of}:
            mine = [row for row in rows_of if row[0] // (10 * MINUTE) == at]
            buckets.append((at, id, name, sum(row[2] for row in mine), sum(row[3] == "solve" for row in mine)))
        if (rules.listing is Listing.COUNTED and not counted) or (rules.listing is Listing.SOLVED and not held):
            continue
        score = sum(row[2] for row in rows_of)
        entry = {kind.id_field: id, kind.name_field: name, "score": score}
        entry["solves"] = [
            {
                "challenge_id": challenge,
                "solved_at": rfc3339(solve["at"]),
                "is_first_blood": solve["blood"],
                "sequence": solve["n"],
            }
            for challenge, solve in sorted(held.items())
        ]
        if given:
            entry["adjustments"] = [{"at": rfc3339(at), "points": p, "sequence": n} for at, n, p in given]
        if rules.order is Order.LAST_SOLVE:
            counted = [row for row in counted if row[3] == "solve"]
        last = (max((r[0] for r in counted), default=-(10**18)), max((r[1] for r in counted), default=-(10**18)))
        by_name = name if kind is ParticipantKind.TEAMS and rules.order is not Order.LAST_ROW else ""
        tie = {Order.STATIC: (), Order.LAST_SOLVE: last[:1], Order.LAST_ROW: last}[rules.order]
        entries.append(((-score, *tie, by_name, id), entry))
    order = {owner[0]: place for place, owner in enumerate(_static(owners, kind, rules))}
    leaderboard = {
        "challenges": [
            {"id": c.id, "title": c.title, "category": "misc", "points": c.initial} for c in roster.challenges
        ],
        **({} if rules.order is Order.STATIC else {"order": rules.order}),
        "entries": [entry for _, entry in sorted(entries, key=lambda entry: entry[0])],
    }
    timeline = [
        {
            "timestamp": rfc3339(at * 10 * MINUTE),
            kind.id_field: id,
            kind.name_field: name,
            "points": total,
            "challenge_count": count,
        }
        for at, id, name, total, count in sorted(buckets, key=lambda bucket: (bucket[0], order[bucket[1]]))
    ]
    return leaderboard, {"submissions": timeline}


def _static(owners: list, kind: ParticipantKind, rules: Rules) -> list:
    by_name = kind is ParticipantKind.TEAMS and rules.order is not Order.LAST_ROW
    return sorted(owners, key=lambda owner: (owner[1] if by_name else "", owner[0]))


def text(scoreboard: ScoreboardState, name: str) -> bytes:
    return b"".join(scoreboard.documents[name].text())


def parsed(scoreboard: ScoreboardState, division: int | None, order: Order) -> Leaderboards:
    users, teams = (text(scoreboard, leaderboard_key(kind, division)) for kind in ParticipantKind)
    boards = parse_leaderboards(users, teams)
    assert boards.order is order
    return boards


@given(contests(), RULES)
@settings(max_examples=examples(60))
def test_documents_are_the_oracle_s(rows: SourceRows, rules: Rules):
    scoreboard = ScoreboardState(rows, rules)
    for division in (None, 1, 2):
        for kind in ParticipantKind:
            found = tuple(
                orjson.loads(text(scoreboard, key(kind, division))) for key in (leaderboard_key, timeline_key)
            )
            assert found == expected(rows, rules, division, kind)


@given(contests(), RULES, st.data())
@settings(max_examples=examples(60))
def test_what_is_added_makes_the_documents_of_all(rows: SourceRows, rules: Rules, data: st.DataObject):
    """The same holds for the deltas: they lead to the facts, the scores and the order of the documents."""
    solves, adjustments = (data.draw(st.integers(0, len(array))) for array in (rows.solves, rows.adjustments))
    other_points = data.draw(st.booleans())
    challenges = [
        challenge._replace(initial=data.draw(st.sampled_from([0, 100, 30]))) if other_points else challenge
        for challenge in rows.roster.challenges
    ]
    before = SourceRows(
        replace(rows.roster, challenges=challenges), rows.solves[:solves], rows.adjustments[:adjustments]
    )
    scoreboard = ScoreboardState(before, rules)
    views = {division: parsed(scoreboard, division, rules.order) for division in (None, 1, 2)}
    addition = Addition(
        rows.solves[solves:], rows.adjustments[adjustments:], rows.roster.challenges if other_points else None
    )
    deltas = scoreboard.add(addition)
    assert scoreboard.digest == ScoreboardState(rows, rules).digest
    for division, view in views.items():
        wire = delta.VersionedDelta(1, 2, deltas[division]).data()
        received = delta.VersionedDelta.parse(wire).delta
        after = delta.apply(received, view)
        assert after == parsed(scoreboard, division, rules.order)
        assert leaderboards(after) == tuple(
            text(scoreboard, leaderboard_key(kind, division)) for kind in ParticipantKind
        )


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("linear", {0: 500, 1: 500, 2: 480, 21: 100, 99: 100}),
        ("logarithmic", {0: 500, 1: 500, 2: 499, 11: 400, 21: 100, 40: 100}),
    ],
)
def test_dynamic_challenges_of_ctfd_fall_as_documented(function: str, expected: dict[int, int]):
    rule = DynamicPoints(function, initial=500, minimum=100, decay=20)
    assert {n: rule.after(n) for n in expected} == expected
    assert rule._replace(decay=0).after(2) == (500 if function == "linear" else 100)


@given(contests(), st.sampled_from(ParticipantKind), st.sampled_from([1, MINUTE, 5 * MINUTE, 12 * MINUTE]))
@settings(max_examples=examples(40))
def test_a_window_counts_the_adjustments_in_it(rows: SourceRows, kind: ParticipantKind, since: int):
    scoreboard = ScoreboardState(rows, Rules("given"))
    leaderboard, timeline = (text(scoreboard, key(kind)) for key in (leaderboard_key, timeline_key))
    in_bucket = window.rows_in(window.bucket_of(since), kind, [leaderboard])
    found = b"".join(window.timeline(since, kind, [timeline], in_bucket))
    # Only rows that are old enough are left out; what is left was each participant's first solve of a challenge before.
    recent = ScoreboardState(
        SourceRows(rows.roster, _first_solves(rows, kind, since), rows.adjustments[rows.adjustments["at"] >= since]),
        Rules("given"),
    )
    assert orjson.loads(found) == orjson.loads(text(recent, timeline_key(kind)))


def _first_solves(rows: SourceRows, kind: ParticipantKind, since: int) -> np.ndarray:
    """The solves at or after `since` that are the first of their owner and challenge."""
    first: dict[tuple[int, int], int] = {}
    for place in np.lexsort((rows.solves["sequence"], rows.solves["at"])).tolist():
        row = rows.solves[place]
        first.setdefault((int(row[kind.id_field]), int(row["challenge_id"])), place)
    kept = rows.solves[sorted(first.values())]
    return kept[kept["at"] >= since]
