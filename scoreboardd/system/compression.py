"""Documents as zstd: one frame, or several in a row, which is as good (RFC 8878 §3)."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import zstandard

LEVEL = 1
"On JSON of this kind the higher ones take longer and give next to nothing."
DIGEST_BYTES = 16
"Of a frame, and of a value."

Frames = Iterable[bytes | memoryview]
"A document in stretches, each of whole frames; to go through as often as one likes."

_PART_BYTES = 1 << 20
_END = b"scoreboardd: the end"
_END_FRAME = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(_END)
"Does not end with its text, as the checksum is behind: one that is taken for a part of another frame does not count."
_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
"The lowest of sixteen magic numbers of frames that hold no text (RFC 8878 §3.1.2)."


def compressed(text: bytes | memoryview) -> bytes:
    return zstandard.compress(text, LEVEL)


def plain(frames: bytes | memoryview | Frames) -> bytes:
    """Raises `zstandard.ZstdError` if it is not zstd, or ends early."""
    stretches = [frames] if isinstance(frames, bytes | memoryview) else frames
    # The library takes a frame that ends early for a whole one; then it reads no frame that follows.
    parts = [*texts([*stretches, _END_FRAME], _PART_BYTES)]
    parts[-2:] = [b"".join(parts[-2:])]
    if not parts[-1].endswith(_END):
        raise zstandard.ZstdError("zstd that ends early")
    parts[-1] = parts[-1].removesuffix(_END)
    return b"".join(parts)


def beginning(frames: bytes | memoryview | Frames, length: int) -> bytes:
    """The first `length` bytes of the text, or all of it if there are fewer."""
    return _reader(frames).read(length)


def texts(frames: Frames, size: int) -> Iterator[bytes]:
    """The text in chunks of at most `size` bytes."""
    reader = _reader(frames)
    while chunk := reader.read(size):
        yield chunk


def is_zstd(value: bytes | memoryview) -> bool:
    """True if it begins like one of our frames."""
    return int.from_bytes(value[:4], "little") == _MAGIC


def frames_of(value: bytes | memoryview) -> Iterator[memoryview]:
    """The frames in `value`, without those that hold no text. Raises ValueError if it is anything but whole frames."""
    view = memoryview(value)
    start = 0
    while start < len(view):
        magic = int.from_bytes(view[start : start + 4], "little")
        if magic == _MAGIC:
            end = _end_of_frame(view, start + 4)
            if end <= len(view):
                yield view[start:end]
        elif magic & ~0xF == _SKIPPABLE:
            end = start + 8 + int.from_bytes(view[start + 4 : start + 8], "little")
        else:
            raise ValueError("not zstd")
        if end > len(view):
            raise ValueError("zstd that ends early")
        start = end


def digest_of_digests(digests: bytes) -> str:
    """Of a value in frames, from `frame_digest` of each, one after the other."""
    return blake2b(digests, digest_size=DIGEST_BYTES).hexdigest()


def frame_digest(frame: bytes | memoryview) -> bytes:
    return blake2b(frame, digest_size=DIGEST_BYTES).digest()


def digest_of(value: bytes | memoryview) -> str:
    """Of a stored value; of its frames if it is zstd, wherever they are. Raises ValueError if one is not whole."""
    if is_zstd(value):
        return digest_of_digests(b"".join(map(frame_digest, frames_of(value))))
    return blake2b(value, digest_size=DIGEST_BYTES).hexdigest()


def _end_of_frame(view: memoryview, position: int) -> int:
    """Where the frame ends whose header is at `position` (RFC 8878 §3.1.1)."""
    descriptor = view[position] if position < len(view) else 0
    single_segment, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    position += 1 + (not single_segment)
    position += (0, 1, 2, 4)[descriptor & 3]  # the number of a dictionary
    position += (single_segment, 2, 4, 8)[descriptor >> 6]  # the size of the content
    is_last = 0
    while not is_last:
        header = int.from_bytes(view[position : position + 3], "little")
        is_last = header & 1 or position + 3 > len(view)
        size = 1 if header >> 1 & 3 == 1 else header >> 3  # a run of one byte is that byte
        position += 3 + size
    return position + 4 * has_checksum


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
