"""Documents as zstd: one frame, or several one behind the other, which is as good (RFC 8878 §3)."""

import zstandard

LEVEL = 1
"On JSON of this kind the higher ones take longer and give next to nothing."


def compressed(text: bytes | memoryview) -> bytes:
    return zstandard.compress(text, LEVEL)


def plain(frames: bytes | memoryview) -> bytes:
    """Raises `zstandard.ZstdError` if it is none of ours."""
    return _reader(frames).readall()


def beginning(frames: bytes | memoryview, length: int) -> bytes:
    """The first `length` bytes of the text, or all of it if there are fewer."""
    return _reader(frames).read(length)


def _reader(frames: bytes | memoryview) -> zstandard.ZstdDecompressionReader:
    return zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True)
