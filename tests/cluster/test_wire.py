"""What is said on the bus, and that nothing said there can do harm."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.backends.base import Abandoned, Begun, Confirmed, Rebuilt
from scoreboardd.cluster import wire
from scoreboardd.model import UPDATED, ChangeEvent, Version

TS = "2026-02-27T18:00:00Z"
SOLVE = ChangeEvent("all", "submission_correct", TS)


def dumps(fields: Any) -> bytes:
    return json.dumps(fields).encode()


#: What is no JSON object, or none that we look into.
UNREADABLE = {
    "nothing": b"",
    "text": b"hello",
    "cut short": b'{"scope":"all"',
    "two objects": b"{}{}",
    "binary": bytes(range(256)),
    "not UTF-8": b'{"reason":"\xff\xfe"}',
    "half a surrogate pair": b'{"reason":"\xed\xa0\x80"}',
    "half an escaped surrogate pair": b'{"reason":"\\ud800"}',
    "NaN": b'{"version":NaN}',
    "a megabyte": dumps({"reason": "x" * 1024 * 1024}),
    "a byte too long": dumps({"reason": "x" * (wire.MAX_PAYLOAD - len(dumps({"reason": ""})) + 1)}),
    "nested deeply": b"[" * 8000 + b"]" * 8000,
    "an object nested deeply": b'{"a":' * 3000 + b"1" + b"}" * 3000,
    "null": b"null",
    "a number": b"42",
    "a list": b'[{"reason":"submission_correct"}]',
    "a string": b'"submission_correct"',
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
class TestUnreadable:
    def test_is_a_change(self, payload: bytes):
        changed = wire.changed(payload)
        assert not changed.readable
        assert changed.id is None
        assert (changed.event.scope, changed.event.reason) == ("all", UPDATED)

    def test_says_nothing_on_the_other_channels(self, payload: bytes):
        assert wire.building(payload) is None
        assert wire.rebuilt(payload) is None


class TestChanged:
    def test_as_the_platform_said_it(self):
        changed = wire.changed(b'{"scope":"all","reason":"submission_correct","ts":"2026-02-27T18:00:00Z"}')
        assert changed.event == SOLVE
        assert changed.readable
        assert changed.id is None

    def test_a_reason_that_nobody_knows_is_passed_on(self):
        assert wire.changed(dumps({"reason": "moon_landing"})).event.reason == "moon_landing"

    @pytest.mark.parametrize("text", ["<script>", 'a"b\\c', "line\nbreak", "\x00", "ü😀", "\u202e", "x" * 256])
    def test_text_is_passed_on_exactly(self, text: str):
        assert wire.changed(dumps({"scope": text, "reason": text, "ts": text})).event == ChangeEvent(text, text, text)

    @pytest.mark.parametrize("field", ["scope", "reason", "ts"])
    @pytest.mark.parametrize("value", [None, 5, 5.5, True, [], {}, ["x"], {"x": "y"}, "", "x" * 1025])
    def test_a_field_that_is_not_a_short_text_counts_as_missing(self, field: str, value: Any):
        fields = {"scope": "all", "reason": "submission_correct", "ts": TS}
        event = wire.changed(dumps(fields | {field: value})).event
        given = event.as_dict()
        missing = given.pop(field)
        assert given == {name: text for name, text in fields.items() if name != field}
        assert {"scope": missing == "all", "reason": missing == UPDATED, "ts": missing > TS}[field]

    def test_every_field_may_be_missing(self):
        changed = wire.changed(b"{}")
        assert changed.readable
        assert (changed.event.scope, changed.event.reason) == ("all", UPDATED)
        assert changed.event.ts.endswith("Z")

    def test_more_fields_do_not_matter(self):
        fields = SOLVE.as_dict() | {"id": "evt-1", "contest": {"id": 7}, "list": [1, 2], "version": 3}
        assert wire.changed(dumps(fields)).event == SOLVE

    @pytest.mark.parametrize(
        ("said", "ids"),
        [
            ([1], (1,)),
            ([3, 1, 2, 3], (1, 2, 3)),
            ([2**53 - 1], (2**53 - 1,)),
            (list(range(1, 101)), tuple(range(1, 101))),
        ],
    )
    def test_divisions_are_passed_on(self, said: list[int], ids: tuple[int, ...]):
        event = wire.changed(dumps({"scope": "division", "division_ids": said})).event
        assert (event.scope, event.division_ids) == ("division", ids)
        rebuilt = wire.rebuilt(wire.announcement(Version("7f3a", 42), event))
        assert rebuilt is not None and rebuilt.event == event
        assert wire.changed(wire.change(event, "f00")).event == event

    @pytest.mark.parametrize(
        "said",
        [
            None,
            [],
            1,
            "1",
            {"1": 1},
            [0],
            [-1],
            [1, 0],
            ["1"],
            [1.0],
            [True],
            [None],
            [[1]],
            [2**53],
            [2**80],
            list(range(1, 102)),
            [1] * 101,
        ],
        ids=lambda said: repr(said)[:20],
    )
    def test_divisions_that_are_not_a_short_list_of_ids_are_all(self, said: Any):
        event = wire.changed(dumps({"scope": "division", "division_ids": said})).event
        assert (event.scope, event.division_ids) == ("division", None)
        assert "division_ids" not in json.loads(wire.announcement(Version("7f3a", 42), event))

    def test_what_we_say_we_hear(self):
        changed = wire.changed(wire.change(SOLVE, "f00"))
        assert (changed.event, changed.id) == (SOLVE, "f00")

    def test_without_an_id_it_is_what_a_platform_says(self):
        assert json.loads(wire.change(SOLVE, None)) == {"scope": "all", "reason": "submission_correct", "ts": TS}


class TestRebuilt:
    def test_what_we_say_we_hear(self):
        said = wire.announcement(Version("7f3a", 42), SOLVE)
        assert wire.rebuilt(said) == Rebuilt(42, SOLVE)

    def test_is_the_event_with_its_version(self):
        said = json.loads(wire.announcement(Version("7f3a", 42), SOLVE))
        assert said == {"scope": "all", "reason": "submission_correct", "ts": TS, "version": 42}

    @pytest.mark.parametrize("version", [None, "42", 42.0, True, 0, -1, 2**80, [42], {}])
    def test_without_a_version_is_nothing(self, version: Any):
        assert wire.rebuilt(dumps(SOLVE.as_dict() | {"version": version})) is None

    def test_with_nothing_but_a_version_is_enough(self):
        rebuilt = wire.rebuilt(b'{"version":42}')
        assert rebuilt is not None
        assert (rebuilt.number, rebuilt.event.scope, rebuilt.event.reason) == (42, "all", UPDATED)


class TestBuilding:
    def test_begun(self):
        assert wire.building(b'{"state":"begun","epoch":"7f3a","version":42}') == Begun(Version("7f3a", 42))

    def test_abandoned(self):
        assert wire.building(b'{"state":"abandoned","epoch":"7f3a","version":42}') == Abandoned(Version("7f3a", 42))

    @pytest.mark.parametrize("as_of", ["1772215200.25", "1772215200"])
    def test_confirmed(self, as_of: str):
        said = f'{{"state":"confirmed","epoch":"7f3a","version":42,"committed":"7f3a-40","as_of":{as_of}}}'
        expected = Confirmed(Version("7f3a", 42), Version("7f3a", 40), float(as_of))
        assert wire.building(said.encode()) == expected

    @pytest.mark.parametrize(
        "wrong",
        [
            {"state": "done"},
            {"state": None},
            {"state": ["begun"]},
            {"epoch": None},
            {"epoch": 7},
            {"epoch": ""},
            {"epoch": "7f3a-41"},
            {"epoch": "x" * 33},
            {"epoch": "ÄÖ"},
            {"version": None},
            {"version": "42"},
            {"version": True},
            {"version": 42.0},
            {"version": 0},
            {"version": -42},
        ],
    )
    @pytest.mark.parametrize("state", ["begun", "confirmed", "abandoned"])
    def test_anything_else_is_nothing(self, state: str, wrong: dict[str, Any]):
        right = {"state": state, "epoch": "7f3a", "version": 42, "committed": "7f3a-40", "as_of": 1.5}
        assert wire.building(dumps(right)) is not None
        assert wire.building(dumps(right | wrong)) is None

    @pytest.mark.parametrize("wrong", [{"committed": None}, {"committed": "40"}, {"as_of": "now"}, {"as_of": None}])
    def test_confirmed_without_what_and_when_is_nothing(self, wrong: dict[str, Any]):
        right = {"state": "confirmed", "epoch": "7f3a", "version": 42, "committed": "7f3a-40", "as_of": 1.5}
        assert wire.building(dumps(right | wrong)) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(
    st.sampled_from(
        ["state", "epoch", "version", "as_of", "committed", "scope", "reason", "ts", wire.REQUEST_ID, "division_ids"]
    )
    | st.text(),
    st.sampled_from(["begun", "confirmed", "abandoned"]) | json_values,
)


@given(st.binary() | json_values.map(dumps) | objects.map(dumps))
def test_nothing_that_arrives_raises(payload: bytes):
    changed = wire.changed(payload)
    texts = (changed.event.scope, changed.event.reason, changed.event.ts)
    assert all(isinstance(text, str) and 0 < len(text) <= wire.MAX_FIELD for text in texts)
    # And what is passed on to nodes and clients can be said.
    json.loads(wire.announcement(Version("e", 1), changed.event))
    wire.building(payload)
    wire.rebuilt(payload)
