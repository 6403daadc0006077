"""What a challenge is worth, by hand and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.board.rules.smctf import challenge_points
from tests import oracle
from tests.contests import MOST_POINTS

initials = st.integers(0, MOST_POINTS)
minimums = st.integers(-1000, MOST_POINTS)
teams = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("initial", "minimum", "decay", "solves", "worth"),
    [
        (500, 100, 10, 0, 500),  # nobody has it
        (500, 100, 10, 1, 496),  # 500 − 400/100
        (500, 100, 10, 5, 400),  # 500 − 400/4
        (500, 100, 10, 10, 100),  # everybody has it
        (500, 100, 3, 1, 456),  # 500 − 44.4: up, to the whole point
        (500, 100, 3, 2, 323),  # 500 − 177.7
        (500, 100, 7, 7, 100),  # whole but for rounding
        (500, 100, 1, 1, 100),
        (500, 100, 0, 0, 500),  # nobody competes
        (500, 100, 0, 3, 500),
        (500, 500, 10, 10, 500),  # not dynamic
        (100, 500, 10, 10, 100),  # a minimum above the initial value is the initial value
        (500, 0, 10, 10, 0),
        (500, -100, 10, 10, -100),
        (0, 0, 10, 5, 0),
    ],
)
def test_by_hand(initial: int, minimum: int, decay: int, solves: int, worth: int):
    assert challenge_points(initial, minimum, decay=decay, solves=solves) == worth


@given(initials, minimums, st.data())
def test_is_what_exact_arithmetic_says(initial: int, minimum: int, data: st.DataObject):
    decay = data.draw(st.integers(0, 10_000))
    solves = data.draw(st.integers(0, decay))
    expected = oracle.current_points(initial, minimum, decay, solves)
    assert challenge_points(initial, minimum, decay=decay, solves=solves) == expected


@given(initials, minimums, teams, st.data())
def test_never_rises_when_another_team_has_it(initial: int, minimum: int, decay: int, data: st.DataObject):
    solves = data.draw(st.integers(0, decay - 1))
    fewer, more = (challenge_points(initial, minimum, decay=decay, solves=n) for n in (solves, solves + 1))
    assert more <= fewer


@given(initials, minimums, teams, st.data())
def test_stays_between_minimum_and_initial(initial: int, minimum: int, decay: int, data: st.DataObject):
    solves = data.draw(st.integers(0, decay))
    worth = challenge_points(initial, minimum, decay=decay, solves=solves)
    assert isinstance(worth, int)
    assert min(minimum, initial) <= worth <= initial


@given(initials, minimums, teams)
def test_begins_at_initial_and_ends_at_minimum(initial: int, minimum: int, decay: int):
    assert challenge_points(initial, minimum, decay=decay, solves=0) == initial
    assert challenge_points(initial, minimum, decay=decay, solves=decay) == min(minimum, initial)
