"""Documents as zstd: whatever frames they are in, their text is one."""

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.system.compression import beginning, compressed, plain

parts = st.lists(st.binary(max_size=300), max_size=8)


@given(parts)
def test_frames_one_behind_the_other_are_one_text(parts: list[bytes]) -> None:
    stretches = list(map(compressed, parts))
    frames = b"".join(stretches)
    assert plain(frames) == plain(memoryview(frames)) == plain(stretches) == b"".join(parts)


@given(parts, st.integers(1, 400))
def test_the_beginning_is_as_long_as_was_asked_for_or_all(parts: list[bytes], length: int) -> None:
    stretches = list(map(compressed, parts))
    assert beginning(b"".join(stretches), length) == beginning(stretches, length) == b"".join(parts)[:length]


def test_frames_that_are_larger_than_what_is_decompressed_at_a_time() -> None:
    parts = [os.urandom(1_000_000), bytes(3_000_000), os.urandom(500_000)]
    stretches = list(map(compressed, parts))
    for frames in (b"".join(stretches), stretches):
        assert plain(frames) == b"".join(parts)
        assert beginning(frames, 1_200_000) == b"".join(parts)[:1_200_000]


def test_the_same_text_is_the_same_frame() -> None:
    text = b'{"entries":[]}' * 1000
    assert compressed(text) == compressed(memoryview(text))
    assert len(compressed(text)) < 100


def test_others_frames_are_as_good() -> None:
    # Of another level, with a checksum, without the size.
    compressor = zstandard.ZstdCompressor(level=19, write_checksum=True, write_content_size=False)
    assert plain(compressor.compress(b"one, ") + compressed(b"two")) == b"one, two"


@pytest.mark.parametrize("broken", [b'{"entries":[]}', b"\xff" * 20, compressed(b"x" * 99) + b"garbage"])
def test_what_is_no_frame_is_an_error(broken: bytes) -> None:
    for frames in (broken, [compressed(b"{"), broken]):
        with pytest.raises(zstandard.ZstdError):
            plain(frames)
