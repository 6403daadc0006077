"""Whatever is written over a value, it stays the zstd form of the document, and nothing else of it is touched."""

from itertools import accumulate, pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.backends.redis import value_layout
from scoreboardd.backends.redis.value_layout import Layout, new_layout, patch, size, value
from scoreboardd.render.chunked_document import DIGEST_BYTES, Document
from scoreboardd.system.compression import beginning, plain
from tests.documents import document_of, segments

HEADER = 8
"Bytes: the least that a skippable frame may have."


def text(seed: int, length: int = 3000) -> bytes:
    """Text that does not compress to nothing, and is like no other seed's."""
    return b",".join(b"%d" % ((seed * 7919 + n * 104729) % 999983) for n in range(length // 7))


def texts_of(numbers: range) -> list[bytes]:
    return [text(number) for number in numbers]


def patched(before: bytes, layout: Layout, after: Document) -> tuple[bytes, Layout, int] | None:
    """The value after a patch, its layout, and the bytes that were written, checked in every respect."""
    patch_made = patch(layout, after)
    if patch_made is None:
        return None
    new, writes = patch_made
    made = bytearray(before)
    end = 0
    for offset, part in writes:
        assert end <= offset, "in order, apart from each other"
        end = offset + len(part)
        assert end <= len(made), "the value does not grow"
        made[offset:end] = part
    check(bytes(made), new, after)
    return bytes(made), new, sum(len(part) for _, part in writes)


def check(made: bytes, layout: Layout, of: Document) -> None:
    assert made == value(layout, of), "a value is a matter of its layout and its pieces"
    assert len(made) == size(layout)
    assert all(room == 0 or room >= HEADER for room in layout.slots["room"])
    assert plain(made) == b"".join(plain(segment.frame) for segment in of)


class Value:
    """One document in a value, as its versions come and go."""

    def __init__(self, of: Document) -> None:
        self.anew = 0
        "How often it was made anew, the first time not counted."
        self.layout = new_layout(of)
        self.bytes = value(self.layout, of)
        check(self.bytes, self.layout, of)

    def change(self, after: Document) -> int:
        """Returns the bytes written."""
        made = patched(self.bytes, self.layout, after)
        if made is None:
            anew = self.anew + 1
            self.__init__(after)  # type: ignore[misc]
            self.anew = anew
            return len(self.bytes)
        self.bytes, self.layout, written = made
        return written


texts = st.binary(max_size=40) | st.builds(text, st.integers(0, 99), st.integers(0, 400))
contents = st.lists(texts, min_size=1, max_size=12)


@st.composite
def histories(draw: st.DrawFn) -> list[list[bytes]]:
    """Versions of a document: mostly the one before with a few stretches changed; now and then another altogether."""
    versions = [draw(contents)]
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.integers(0, 9)) == 9:
            versions.append(draw(contents))
            continue
        next_version = list(versions[-1])
        for _ in range(draw(st.integers(1, 3))):
            start = draw(st.integers(0, len(next_version)))
            end = draw(st.integers(start, min(start + 2, len(next_version))))
            next_version[start:end] = draw(st.lists(texts, max_size=2))
        versions.append(next_version or [b"{}"])
    return versions


@given(versions=histories(), most=st.sampled_from((1, 2)), room=st.sampled_from((8, 30, 160)))
def test_after_any_history_the_value_is_the_pieces(versions: list[list[bytes]], most: int, room: int):
    with pytest.MonkeyPatch.context() as constants:
        constants.setattr(value_layout, "MAX_PATCH_DIVISOR", most)
        constants.setattr(value_layout, "SPARE_BYTES_PER_SEGMENT", room)
        kept = Value(document_of(*versions[0]))
        for version in versions[1:]:
            kept.change(document_of(*version))


@given(versions=histories())
def test_every_write_begins_where_something_is_new(versions: list[list[bytes]]):
    for old, new in pairwise(
        list(dict.fromkeys((*version, b"]}"))) for version in versions
    ):  # equal pieces are mixed up
        layout = new_layout(document_of(*old))
        made = patch(layout, document_of(*new))
        if made is not None:
            before, after = at(layout), at(made[0])
            for offset, part in made[1]:
                assert part
                assert before[offset] != after[offset]


def at(layout: Layout) -> dict[int, bytes]:
    """What is where."""
    offsets = accumulate((layout.slots["used"] + layout.slots["room"]).tolist(), initial=0)
    digests = (layout.digests[at : at + DIGEST_BYTES] for at in range(0, len(layout.digests), DIGEST_BYTES))
    return dict(zip(offsets, digests, strict=False))


class TestWhatOneChangeCosts:
    def test_nothing_if_nothing_changed(self):
        kept = Value(document_of(*texts_of(range(50))))
        assert kept.change(document_of(*texts_of(range(50)))) == 0

    @pytest.mark.parametrize("at", [0, 20, 49])
    def test_a_piece_that_changes_is_all_that_is_written(self, at: int):
        before, after = texts_of(range(50)), texts_of(range(50))
        after[at] = text(1000)
        kept = Value(document_of(*before))
        (segment,) = segments(text(1000))
        assert kept.change(document_of(*after)) <= len(segment.frame) + value_layout.SPARE_BYTES_PER_SEGMENT
        assert not kept.anew

    def test_a_piece_that_does_not_fit_takes_room_from_those_behind_it(self):
        before, after = texts_of(range(50)), texts_of(range(50))
        after[20] = text(1000, 3700)
        longer = len(segments(after[20])[0].frame) - len(segments(before[20])[0].frame)
        assert longer > value_layout.SPARE_BYTES_PER_SEGMENT
        kept = Value(document_of(*before))
        behind = segments(*before[21 : 22 + longer // value_layout.SPARE_BYTES_PER_SEGMENT])
        most = sum(
            len(segment.frame) + value_layout.SPARE_BYTES_PER_SEGMENT for segment in (*segments(after[20]), *behind)
        )
        assert kept.change(document_of(*after)) <= most
        assert not kept.anew

    def test_a_piece_that_goes_leaves_its_slot_to_the_next(self):
        before = texts_of(range(50))
        kept = Value(document_of(*before))
        kept.change(document_of(*before[:20], *before[21:]))
        assert not kept.anew
        assert segments(before[20])[0].frame[10:40] not in kept.bytes

    def test_several_changes_are_as_many_writes(self):
        before, after = texts_of(range(50)), texts_of(range(50))
        for at in (3, 4, 20, 40):
            after[at] = text(1000 + at)
        made = patch(new_layout(document_of(*before)), document_of(*after))
        assert made is not None
        assert len(made[1]) == 3

    def test_a_document_that_grows_at_its_end_has_room_there(self):
        end = b"]}"
        parts = texts_of(range(200))
        kept = Value(document_of(*parts, end))
        for number in range(4):
            parts.append(text(2000 + number))
            assert kept.change(document_of(*parts, end)) < 3 * len(segments(parts[-1])[0].frame)
        assert not kept.anew

    def test_one_that_grows_all_over_is_made_anew_once_in_a_while(self):
        parts = texts_of(range(40))
        kept = Value(document_of(*parts))
        written = 0
        for number in range(400):
            parts[number * 17 % 40] += text(number, 60)
            written += kept.change(document_of(*parts))
        assert 1 <= kept.anew <= 6
        assert written / 400 < len(kept.bytes) / 8

    def test_one_of_which_most_is_new_is_made_anew(self):
        kept = Value(document_of(*texts_of(range(50))))
        kept.change(document_of(*texts_of(range(30, 80))))
        assert kept.anew


def test_what_was_in_a_document_once_does_not_stay_in_its_value():
    """A frame that compresses to itself, so that one can look for it."""
    secret = bytes(range(256)) * 2
    parts = [*texts_of(range(20)), secret[:256], *texts_of(range(20, 40)), b"]}"]
    kept = Value(document_of(*parts))
    assert secret[100:200] in kept.bytes
    parts[20] = b"{}"
    kept.change(document_of(*parts))
    assert not kept.anew
    assert secret[100:132] not in kept.bytes


def test_a_value_is_read_as_any_zstd_is():
    kept = Value(document_of(b'{"a":', b"1}"))
    assert kept.bytes.startswith(zstandard.MAGIC_NUMBER.to_bytes(4, "little"))
    assert beginning(kept.bytes, 6) == b'{"a":1'
    kept.change(document_of(b'{"a":', b"2", b"}"))
    assert plain(memoryview(kept.bytes)) == b'{"a":2}'
