"""Bytes of a stream to events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.client.events import MOST, Event, Parser, TooLong

STREAM = (
    b"retry: 2714\n\n"
    b'id: 7f3a-41\nevent: ready\ndata: {}\n\n: ping\n\nid: 7f3a-42\r\nevent: delta\r\ndata: {"from":41}\r\n\r\n'
    b"data: two\ndata:lines \xc3\xa9\nunknown: x\n\nevent: nothing\n\ndata\n\ndata: cut"
)
EVENTS = [
    Event("7f3a-41", "ready", b"{}"),
    Event("7f3a-42", "delta", b'{"from":41}'),
    Event("", "message", "two\nlines é".encode()),
    Event("", "message", b""),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_how_the_bytes_come(cuts: list[int]):
    parser = Parser()
    ends = [0, *sorted(cuts), len(STREAM)]
    assert [e for a, b in pairwise(ends) for e in parser.feed(STREAM[a:b])] == EVENTS
    assert parser.retry == 2.714


@given(st.binary())
def test_no_bytes_are_too_odd(garbage: bytes):
    parser = Parser()
    parser.feed(garbage)
    assert parser.feed(b"\n\nevent: ready\ndata: {}\n\n")[-1] == Event("", "ready", b"{}")


@pytest.mark.parametrize("retry", [b"-1", b"soon", b"1e3", b"", b"9" * 100])
def test_a_retry_that_is_none_is_ignored(retry: bytes):
    parser = Parser()
    parser.feed(b"retry: %s\n" % retry)
    assert parser.retry is None


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: %s\n" % (b"x" * 65536)])
def test_an_event_without_end_is_too_long(piece: bytes):
    parser = Parser()
    for _ in range(MOST // 65536 - 1):
        assert parser.feed(piece) == []
    with pytest.raises(TooLong):
        parser.feed(2 * piece)
