"""Rings: the last steps, and what whoever has missed some of them takes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.board import delta_log
from scoreboardd.board.delta import Delta, Owners, VersionedDelta
from scoreboardd.board.delta_log import DeltaLog


def step(since: int, number: int, name: str = "") -> bytes:
    return VersionedDelta(since, number, Delta(teams=Owners(put={1: name}))).data()


def ring_of(*numbers: int) -> DeltaLog:
    """With steps from each of these to the next."""
    made = DeltaLog()
    for since, number in pairwise(numbers):
        made = made.then(since, step(since, number))
    return made


@given(st.sets(st.integers(1, 60), min_size=1), st.integers(0, 61))
def test_whoever_has_missed_some_takes_just_those(numbers: set[int], held: int):
    versions = sorted(numbers)
    missed = ring_of(*versions).after(held)
    if len(versions) == 1 or (held < versions[-1] and held not in numbers):
        assert missed is None
    else:
        assert missed is not None
        assert [entry.number for entry in missed] == [number for number in versions if number > held]
        assert all(entry.data == step(entry.since, entry.number) for entry in missed)


@given(st.lists(st.text(), max_size=5))
def test_as_text_it_is_the_same(names: list[str]):
    made = DeltaLog()
    for number, name in enumerate(names):
        made = made.then(number, step(number, number + 1, name))
    assert DeltaLog.parse(made.text()) == made


def test_it_holds_so_many_steps():
    made = ring_of(*range(delta_log.MAX_ENTRIES + 10))
    assert [entry.since for entry in made.entries] == list(range(9, delta_log.MAX_ENTRIES + 9))


def test_it_holds_so_many_bytes():
    made = DeltaLog()
    for number in range(20):
        made = made.then(number, step(number, number + 1, "x" * (delta_log.MAX_DELTA_BYTES - 100)))
    assert [entry.number for entry in made.entries] == [19, 20]
    assert len(made.text()) <= delta_log.MAX_BYTES


def test_a_step_too_large_leaves_nothing_that_could_be_taken():
    made = ring_of(1, 2, 3).then(3, step(3, 4, "x" * delta_log.MAX_DELTA_BYTES))
    assert made == DeltaLog()
    assert made.after(3) is None


def test_garbage_is_no_ring():
    with pytest.raises(ValueError, match="not a delta"):
        DeltaLog.parse(b'{"version":3}\n')
