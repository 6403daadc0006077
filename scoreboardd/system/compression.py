"""zstd compression of documents. A compressed document is one frame or several concatenated frames (RFC 8878 §3)."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import zstandard

LEVEL = 1
"The zstd level. Higher levels take longer and hardly compress the documents' JSON further."
DIGEST_BYTES = 16
"The length of the BLAKE2b digest of a frame, and of a value."

Frames = Iterable[bytes | memoryview]
"A compressed document in pieces, each of which consists of whole frames. It can be iterated more than once."

_PART_BYTES = 1 << 20
"How many bytes of text `plain` decompresses at a time."
_END = b"scoreboardd: the end"
_END_FRAME = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(_END)
"""A frame that `plain` appends to detect truncation. Its last bytes are a checksum and not `_END`: if a truncated frame
takes these bytes for its own content, the text still does not end with `_END`."""
_MAGIC = 0xFD2FB528
"The magic number of a zstd frame."
_SKIPPABLE = 0x184D2A50
"The lowest of the sixteen magic numbers of skippable frames, which hold no text (RFC 8878 §3.1.2)."


def compressed(text: bytes | memoryview) -> bytes:
    """Return `text` as one zstd frame."""
    return zstandard.compress(text, LEVEL)


def plain(frames: bytes | memoryview | Frames) -> bytes:
    """Return the decompressed text. Raises `zstandard.ZstdError` if `frames` is not zstd, or is truncated."""
    pieces = [frames] if isinstance(frames, bytes | memoryview) else frames
    # The library accepts a truncated last frame without an error, but then does not decode `_END_FRAME`.
    parts = [*texts([*pieces, _END_FRAME], _PART_BYTES)]
    parts[-2:] = [b"".join(parts[-2:])]
    if not parts[-1].endswith(_END):
        raise zstandard.ZstdError("truncated zstd")
    parts[-1] = parts[-1].removesuffix(_END)
    return b"".join(parts)


def beginning(frames: bytes | memoryview | Frames, length: int) -> bytes:
    """Return the first `length` bytes of the decompressed text, or the whole text if it is shorter."""
    return _reader(frames).read(length)


def texts(frames: Frames, size: int) -> Iterator[bytes]:
    """Yield the decompressed text in chunks of at most `size` bytes."""
    reader = _reader(frames)
    while chunk := reader.read(size):
        yield chunk


def is_zstd(value: bytes | memoryview) -> bool:
    """Return whether `value` begins with the magic number of a zstd frame."""
    return int.from_bytes(value[:4], "little") == _MAGIC


def frames_of(value: bytes | memoryview) -> Iterator[memoryview]:
    """Yield the frames in `value` except skippable ones. Raises ValueError unless `value` consists of whole frames."""
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
            raise ValueError("truncated zstd")
        start = end


def digest_of_digests(digests: bytes) -> str:
    """Return the hexadecimal digest of a compressed value. `digests` is the joined `frame_digest` of its frames."""
    return blake2b(digests, digest_size=DIGEST_BYTES).hexdigest()


def frame_digest(frame: bytes | memoryview) -> bytes:
    """Return the digest of one frame, `DIGEST_BYTES` long."""
    return blake2b(frame, digest_size=DIGEST_BYTES).digest()


def digest_of(value: bytes | memoryview) -> str:
    """Return the hexadecimal digest of a stored value.

    The digest of a zstd value is computed from its frames, and does not depend on skippable frames between them. Raises
    ValueError if `value` begins as zstd but is not a sequence of whole frames.
    """
    if is_zstd(value):
        return digest_of_digests(b"".join(map(frame_digest, frames_of(value))))
    return blake2b(value, digest_size=DIGEST_BYTES).hexdigest()


def _end_of_frame(view: memoryview, position: int) -> int:
    """Return the offset of the end of the frame whose header starts at `position` (RFC 8878 §3.1.1).

    The result exceeds the length of `view` if the frame is truncated.
    """
    descriptor = view[position] if position < len(view) else 0
    single_segment, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    position += 1 + (not single_segment)
    position += (0, 1, 2, 4)[descriptor & 3]  # the dictionary id
    position += (single_segment, 2, 4, 8)[descriptor >> 6]  # the content size
    is_last = 0
    while not is_last:
        header = int.from_bytes(view[position : position + 3], "little")
        is_last = header & 1 or position + 3 > len(view)
        size = 1 if header >> 1 & 3 == 1 else header >> 3  # an RLE block stores its one byte
        position += 3 + size
    return position + 4 * has_checksum


def _reader(frames: bytes | memoryview | Frames) -> zstandard.ZstdDecompressionReader:
    source: Any = frames if isinstance(frames, bytes | memoryview) else _ConcatenatedPieces(frames)
    return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)


class _ConcatenatedPieces:
    """A file-like reader of the concatenated pieces, which does not copy them into one buffer."""

    def __init__(self, frames: Frames) -> None:
        self._pieces = (memoryview(piece) for piece in frames if piece)
        self._rest = memoryview(b"")

    def read(self, size: int) -> memoryview:
        """Return at most `size` bytes; none at the end."""
        self._rest = self._rest or next(self._pieces, self._rest)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
