"""The real documents, beside the oracle's."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.board.document_names import DIVISIONS, FEED, SETTINGS, document_names
from scoreboardd.board.scoreboard import ScoreboardState
from scoreboardd.board.source_rows import ChallengeRow, DivisionRow, Roster, SourceRows, TeamRow, UserRow, solves_of
from scoreboardd.board.times import micros, rfc3339
from tests import oracle
from tests.board import reference
from tests.board.expected import expected, parsed, rendered
from tests.contests import EPOCH, MICROSECOND, contests, to_rows
from tests.effort import examples

NOTHING = SourceRows(Roster(challenges=[], teams=[], users=[], divisions=[]), solves_of([]))


def rows(
    challenges: list[ChallengeRow],
    teams: list[TeamRow],
    users: list[UserRow],
    solves: list[tuple],
    divisions: list[DivisionRow] = (),
) -> SourceRows:
    return SourceRows(Roster(challenges, teams, users, list(divisions)), solves_of(solves))


@given(contests())
@settings(max_examples=examples(40))
def test_for_everyone_and_every_division_they_are_the_oracle_s(tables: oracle.Tables):
    assert parsed(rendered(to_rows(tables))) == expected(tables)


@given(contests())
@settings(max_examples=examples(40))
def test_to_the_byte_they_are_the_plain_way_s(tables: oracle.Tables):
    assert rendered(to_rows(tables)) == reference.documents(to_rows(tables))


@given(st.data())
def test_the_order_in_which_rows_are_read_does_not_matter(data: st.DataObject):
    ordered = to_rows(data.draw(contests()))
    roster = ordered.roster
    shuffled = SourceRows(
        Roster(
            challenges=data.draw(st.permutations(roster.challenges)),
            teams=data.draw(st.permutations(roster.teams)),
            users=data.draw(st.permutations(roster.users)),
            divisions=roster.divisions,
        ),
        solves_of(data.draw(st.permutations(ordered.solves.tolist()))),
    )
    assert rendered(shuffled) == rendered(ordered)
    assert ScoreboardState(shuffled).digest == ScoreboardState(ordered).digest


class TestNames:
    BOARD = ("leaderboard:teams", "leaderboard:users", "scoreboard:delta_log", "timeline:teams", "timeline:users")

    def test_without_divisions(self):
        assert sorted(document_names([])) == sorted([*self.BOARD, DIVISIONS, FEED, SETTINGS])

    def test_with_divisions_there_are_as_many_more_of_each(self):
        assert sorted(document_names([3, 12])) == sorted(
            [*document_names([]), *(f"{name}:div:{division_id}" for name in self.BOARD for division_id in (3, 12))]
        )

    def test_are_those_of_the_documents(self):
        made = ScoreboardState(
            rows([], [TeamRow(1, "a", 3)], [], [], divisions=[DivisionRow(3, "x"), DivisionRow(12, "y")])
        )
        rings = {name for name in document_names([3, 12]) if name.startswith("scoreboard:delta_log")}
        assert {*made.documents, *rings, FEED, SETTINGS} == set(document_names([3, 12]))


def test_the_divisions_are_named():
    made = ScoreboardState(rows([], [], [], [], divisions=[DivisionRow(3, "students"), DivisionRow(12, "öpen")]))
    text = b"".join(made.documents[DIVISIONS].text())
    assert orjson.loads(text) == [{"id": 3, "name": "students"}, {"id": 12, "name": "öpen"}]


class TestEmptiness:
    def test_nothing_is_empty_lists(self):
        assert parsed(rendered(NOTHING)) == {
            "leaderboard:users": {"challenges": [], "entries": []},
            "leaderboard:teams": {"challenges": [], "entries": []},
            "timeline:users": {"submissions": []},
            "timeline:teams": {"submissions": []},
        }

    def test_a_team_without_anybody_is_listed_at_zero(self):
        contest = rows([], [TeamRow(1, "ghosts")], [], [])
        assert parsed(rendered(contest))["leaderboard:teams"]["entries"] == [
            {"team_id": 1, "team_name": "ghosts", "score": 0, "solves": []}
        ]

    def test_solves_of_strangers_and_of_challenges_that_are_gone_count_for_nothing(self):
        contest = rows(
            [ChallengeRow(1, "c", "web", 500, 100)],
            [TeamRow(1, "t")],
            [UserRow(1, "u", 1), UserRow(2, "no team"), UserRow(3, "a team that is gone", 99)],
            [(7, 1, 0, False), (1, 7, 0, False), (3, 1, 0, False)],
            [],
        )
        found = parsed(rendered(contest))
        assert found["leaderboard:teams"]["challenges"][0]["points"] == 500
        assert found["leaderboard:teams"]["entries"][0]["score"] == 0
        assert [entry["score"] for entry in found["leaderboard:users"]["entries"]] == [500, 0, 0]


class TestText:
    @pytest.mark.parametrize(
        "text", ["<script>alert(1)</script>", "\"'\\", "😀", "\\u0000", "\u202eמלום", "a\nb\t\x1f\x7f", "\u2028", ""]
    )
    def test_is_exact(self, text: str):
        contest = rows(
            [ChallengeRow(1, text, text, 5, 1)], [TeamRow(1, text)], [UserRow(1, text, 1)], [(1, 1, 0, False)], []
        )
        found = parsed(rendered(contest))
        assert found["leaderboard:users"]["entries"][0]["username"] == text
        assert found["leaderboard:teams"]["entries"][0]["team_name"] == text
        assert found["timeline:users"]["submissions"][0]["username"] == text
        assert found["timeline:teams"]["submissions"][0]["team_name"] == text
        assert found["leaderboard:teams"]["challenges"][0] == {"id": 1, "title": text, "category": text, "points": 1}

    def test_is_ordered_bytewise(self):
        names = ["b", "a", "B", "é", "z", "😀", "～", "10", "9", ""]
        contest = rows([], [TeamRow(id, name) for id, name in enumerate(names)], [], [], [])
        ordered = [entry["team_name"] for entry in parsed(rendered(contest))["leaderboard:teams"]["entries"]]
        assert ordered == sorted(names, key=lambda name: name.encode())


class TestTimes:
    @pytest.mark.parametrize(
        ("at", "text"),
        [
            (datetime(2026, 2, 27, 18, 0, tzinfo=UTC), "2026-02-27T18:00:00Z"),
            (datetime(2026, 2, 27, 18, 0, 0, 100_000, tzinfo=UTC), "2026-02-27T18:00:00.1Z"),
            (datetime(2026, 2, 27, 18, 0, 0, 120_300, tzinfo=UTC), "2026-02-27T18:00:00.1203Z"),
            (datetime(2026, 2, 27, 18, 0, 0, 1, tzinfo=UTC), "2026-02-27T18:00:00.000001Z"),
            (datetime(2026, 2, 27, 18, 0, 10, tzinfo=UTC), "2026-02-27T18:00:10Z"),
            (EPOCH, "1970-01-01T00:00:00Z"),
            (EPOCH - MICROSECOND, "1969-12-31T23:59:59.999999Z"),
        ],
    )
    def test_as_the_contract_has_them(self, at: datetime, text: str):
        assert rfc3339((at - EPOCH) // MICROSECOND) == text

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_there_and_back(self, at: datetime):
        exact = (at - EPOCH) // MICROSECOND
        assert rfc3339(exact) == oracle.rfc3339(at)
        assert micros(rfc3339(exact)) == exact

    def test_buckets_are_ten_minutes_of_utc(self):
        start = datetime(2026, 2, 27, 18, 0, tzinfo=UTC)
        moments = [start, start + timedelta(minutes=10) - MICROSECOND, start + timedelta(minutes=10)]
        contest = rows(
            [ChallengeRow(number, "c", "web", 100, 100) for number in range(3)],
            [],
            [UserRow(1, "u")],
            [(1, number, (at - EPOCH) // MICROSECOND, False) for number, at in enumerate(moments)],
            [],
        )
        assert parsed(rendered(contest))["timeline:users"]["submissions"] == [
            {
                "timestamp": "2026-02-27T18:00:00Z",
                "user_id": 1,
                "username": "u",
                "points": 200,
                "challenge_count": 2,
            },
            {
                "timestamp": "2026-02-27T18:10:00Z",
                "user_id": 1,
                "username": "u",
                "points": 100,
                "challenge_count": 1,
            },
        ]
