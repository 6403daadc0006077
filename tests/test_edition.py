"""Versions, and what a rebuild for several events says it was for."""

import pytest

from scoreboardd.edition import UPDATED, Event, Version


@pytest.mark.parametrize("text", ["", "a", "a-", "-1", "a-1x", "A-1", "a--1", "a-1-2", "ä-1", "a-" + "9" * 19, "a-١"])
def test_what_is_no_version(text):
    assert Version.parse(text) is None


def test_a_version_is_read_as_it_is_written():
    assert Version.parse(str(Version("7f3a", 41))) == Version("7f3a", 41)


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["submission_correct"], "submission_correct"),
        (["submission_correct", "submission_correct"], "submission_correct"),
        (["submission_correct", "user_blocked"], "batch"),
        (["submission_correct", "user_blocked", "submission_correct"], "batch"),
        ([UPDATED, "submission_correct", UPDATED], "submission_correct"),
        ([UPDATED, UPDATED], UPDATED),
    ],
)
def test_the_reason_of_a_merged_event(reasons, told):
    merged = None
    for number, reason in enumerate(reasons):
        merged = Event("all", reason, f"2026-02-27T18:00:0{number}Z").after(merged)
    assert merged is not None
    assert merged.reason == told
    assert merged.ts == f"2026-02-27T18:00:0{len(reasons) - 1}Z"


def test_the_scope_of_a_merged_event():
    one, other = Event("division:1", "x", ""), Event("division:2", "x", "")
    assert one.after(one).scope == "division:1"
    assert one.after(other).scope == "all"
