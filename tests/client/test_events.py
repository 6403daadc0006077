"""Bytes of a stream to events."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.client.events import MOST, Parser, StreamEvent, TooLong

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("event_streams.json").read_text())
"""From the parsing algorithm of the standard; scoreboard.js is tested with them too. `stream` has a character for each
byte, `retry` is in milliseconds."""


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_streams_are_interpreted_as_the_standard_says_wherever_they_are_split(case: dict[str, Any]):
    stream = case["stream"].encode("latin-1")
    expected = [StreamEvent(event["id"], event["event"], event["data"].encode()) for event in case["events"]]
    retry = None if case["retry"] is None else case["retry"] / 1000
    splits = [[stream], [stream[at : at + 1] for at in range(len(stream))]]
    splits += [[stream[:at], b"", stream[at:]] for at in range(len(stream) + 1)]
    for chunks in splits:
        parser = Parser()
        assert [event for chunk in chunks for event in parser.feed(chunk)] == expected, chunks
        assert parser.retry == retry, chunks


ALL = b"".join(case["stream"].encode("latin-1") + b"\n\n" for case in CASES)


@given(st.lists(st.integers(0, len(ALL))))
def test_events_do_not_depend_on_how_the_bytes_come(cuts: list[int]):
    parser = Parser()
    ends = [0, *sorted(cuts), len(ALL)]
    assert [e for a, b in pairwise(ends) for e in parser.feed(ALL[a:b])] == Parser().feed(ALL)


def test_an_event_is_dispatched_by_a_cr_without_waiting_for_the_byte_after_it():
    parser = Parser()
    assert parser.feed(b"data: a\r\n\r") == [StreamEvent("", "message", b"a")]
    assert parser.feed(b"\ndata: b\r\r") == [StreamEvent("", "message", b"b")]


@given(st.binary())
def test_no_bytes_are_too_odd(garbage: bytes):
    parser = Parser()
    parser.feed(garbage)
    assert parser.feed(b"\n\nevent: ready\ndata: {}\n\n")[-1][1:] == ("ready", b"{}")


@pytest.mark.parametrize("digits", [100, 5000])
def test_a_retry_of_very_many_digits_is_a_very_long_time(digits: int):
    parser = Parser()
    parser.feed(b"retry: %s\n" % (b"9" * digits))
    assert parser.retry is not None and parser.retry > 1e9


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: %s\n" % (b"x" * 65536), b"data\n" * 65536, b":" * 65536])
def test_an_event_without_end_is_too_long(piece: bytes):
    parser = Parser()
    for _ in range(MOST // 65536 - 1):
        assert parser.feed(piece) == []
    with pytest.raises(TooLong, match=f"of more than {MOST} bytes"):
        parser.feed(2 * piece)


@pytest.mark.parametrize("stream", [b"data: %s\n\n", b"%s\n", b": %s\n\n"])
def test_one_that_is_too_long_is_so_in_one_piece_too(stream: bytes):
    with pytest.raises(TooLong):
        Parser().feed(stream % (b"x" * (MOST + 1)))


def test_heartbeats_are_not_added_up():
    parser = Parser()
    for _ in range(MOST // 65536 + 1):
        assert parser.feed(b": ping\n" * 10_000) == []
