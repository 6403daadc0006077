"""Documents as zstd: one frame, or several one behind the other, which is as good (RFC 8878 §3)."""

from collections.abc import Iterable, Iterator
from typing import Any

import zstandard

LEVEL = 1
"On JSON of this kind the higher ones take longer and give next to nothing."

Frames = Iterable[bytes | memoryview]
"A document in stretches, each of whole frames; to go through as often as one likes."


def compressed(text: bytes | memoryview) -> bytes:
    return zstandard.compress(text, LEVEL)


def plain(frames: bytes | memoryview | Frames) -> bytes:
    """Raises `zstandard.ZstdError` if it is none of ours."""
    return _reader(frames).readall()


def beginning(frames: bytes | memoryview | Frames, length: int) -> bytes:
    """The first `length` bytes of the text, or all of it if there are fewer."""
    return _reader(frames).read(length)


def texts(frames: Frames, size: int) -> Iterator[bytes]:
    """The text in chunks of at most `size` bytes."""
    reader = _reader(frames)
    while chunk := reader.read(size):
        yield chunk


def _reader(frames: bytes | memoryview | Frames) -> zstandard.ZstdDecompressionReader:
    source: Any = frames if isinstance(frames, bytes | memoryview) else _Chain(frames)
    return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)


class _Chain:
    """Stretches as one file to read from, so that nobody has to join them."""

    def __init__(self, frames: Frames) -> None:
        self._stretches = (memoryview(stretch) for stretch in frames if stretch)
        self._rest = memoryview(b"")

    def read(self, size: int) -> memoryview:
        self._rest = self._rest or next(self._stretches, self._rest)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
