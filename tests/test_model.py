"""Versions, and what a rebuild for several events says it was for."""

import pytest

from scoreboardd.model import UPDATED, ChangeEvent, Version


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
        merged = ChangeEvent("all", reason, f"2026-02-27T18:00:0{number}Z").after(merged)
    assert merged is not None
    assert merged.reason == told
    assert merged.ts == f"2026-02-27T18:00:0{len(reasons) - 1}Z"


def test_the_scope_of_a_merged_event():
    one, other = ChangeEvent("division:1", "x", ""), ChangeEvent("division:2", "x", "")
    assert one.after(one).scope == "division:1"
    assert one.after(other).scope == "all"


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (None, None, None),
        ((1,), None, None),
        (None, (1,), None),
        ((1,), (1,), (1,)),
        ((2,), (1, 3), (1, 2, 3)),
        (tuple(range(1, 100)), (100,), tuple(range(1, 101))),
        (tuple(range(1, 101)), (101,), None),
    ],
)
def test_the_divisions_of_a_merged_event(one, other, both):
    assert ChangeEvent("division", "x", "", one).after(ChangeEvent("division", "x", "", other)).division_ids == both


def test_an_event_names_divisions_only_if_it_is_not_about_all():
    event = ChangeEvent("division", "x", "t", (1, 2))
    assert event.as_dict() == {"scope": "division", "reason": "x", "ts": "t", "division_ids": (1, 2)}
    assert event.about_all().as_dict() == {"scope": "all", "reason": "x", "ts": "t"}
