"""How long to wait."""

from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.client.backoff import LONGEST, MOST_ASKED, backoff

chances = st.floats(0, 1, exclude_max=True)


@given(st.floats(0.1, MOST_ASKED), chances)
def test_the_first_wait_is_what_the_server_asked_for(asked: float, chance: float):
    assert backoff(0, asked, chance) == asked


@given(st.integers(0, 10**6), st.floats(0.1, MOST_ASKED), chances)
def test_later_ones_are_random_from_there_to_a_bound_that_doubles(attempt: int, asked: float, chance: float):
    longest = max(asked, min(LONGEST, asked * 2 ** min(attempt, 10)))
    assert asked <= backoff(attempt, asked, chance) <= longest


@given(st.integers(0, 10**6), st.floats(0), chances)
def test_whatever_a_server_asks_for_it_is_neither_hammered_nor_left(attempt: int, asked: float, chance: float):
    assert 0.1 <= backoff(attempt, asked, chance) <= MOST_ASKED
