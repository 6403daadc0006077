"""A document as a sequence of compressed pieces, of which a change replaces the few that it touches.

- The lines of a document are in the order of their keys, (major, rank). A *change* adds to a line: one is there while
  its `count` is above zero, and a change of nothing at all says that the line looks different now. So a document that
  is made whole is one that is changed from nothing: there is no second way to make one.
- The lines are cut into chunks where their keys say so (`RowRenderer.chunk_boundaries`), about every so many lines.
  Whatever the way to a document was, it is cut alike: equal documents are equal chunk for chunk, and nothing has to be
  balanced.
- A chunk is immutable, and shared by all versions of the document that have it. What it keeps of its text is a zstd
  frame; zstd frames one behind the other are the zstd form of the whole (RFC 8878 §3).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import zstandard
from numpy.typing import NDArray

from scoreboardd.board.contest import Bools, Ints, grouped
from scoreboardd.system.compression import DIGEST_BYTES, LEVEL, digest_of_digests, frame_digest

ROW = np.dtype([("sort_key", np.int64), ("index", np.int64), ("points", np.int64), ("count", np.int64)])
Rows = NDArray[Any]
"An array of `ROW`, in order where they are those of a chunk."

CHUNKS_PER_RENDER = 32
"Chunks printed at once: enough to make numpy worth its calls, few enough to stay in the processor's cache."


class Segment:
    """A stretch of a document's text. Immutable."""

    __slots__ = ("digest", "frame", "size")

    def __init__(self, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        self.size = len(text)
        "Bytes of the text."
        # A copy: what comes from the compressor keeps room for a text that would not compress at all.
        self.frame = bytes(memoryview(compressor.compress(text)))
        self.digest = frame_digest(self.frame)


class Chunk(Segment):
    """A piece made of lines."""

    __slots__ = ("first", "rows")

    def __init__(self, rows: Rows, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        super().__init__(text, compressor)
        # As bytes: numpy takes ten times as long to copy and to join arrays of records.
        self.rows = rows.tobytes()
        self.first = _key(rows)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of one version, in pieces. Versions share what they have in common."""

    opening: Segment
    chunks: Sequence[Segment]
    closing: Segment
    digests: bytes
    "Those of the chunks, one behind the other."

    @classmethod
    def of(cls, text: bytes) -> Self:
        """A small one, in one piece."""
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        return cls(Segment(text, compressor), (), Segment(b"", compressor), b"")

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def segments(self) -> list[Segment]:
        return [self.opening, *self.chunks, self.closing]

    @property
    def segment_digests(self) -> bytes:
        """Those of all pieces, one behind the other."""
        return self.opening.digest + self.digests + self.closing.digest

    @property
    def zstd_digest(self) -> str:
        """Of a value that holds the document as zstd: see `compression.digest_of`."""
        return digest_of_digests(self.segment_digests)

    def __len__(self) -> int:
        """Pieces."""
        return 2 + len(self.chunks)

    @property
    def size(self) -> int:
        """Bytes of the plain text."""
        return sum(segment.size for segment in self)

    def text(self) -> Iterator[bytes]:
        """The plain text, piece by piece."""
        decompressor = zstandard.ZstdDecompressor()
        return (decompressor.decompress(segment.frame) for segment in self)

    def frames(self) -> list[bytes]:
        """The document as zstd, piece by piece."""
        return [segment.frame for segment in self]


class RowRenderer(Protocol):
    """What a sheet needs to know of its document."""

    def chunk_boundaries(self, rows: Rows) -> Bools:
        """Which lines begin a chunk: a matter of each line's own key alone."""

    def texts(self, rows: Rows, starts: list[int]) -> list[bytes]:
        """The text of each stretch of lines; `starts` says where each begins. A line's text begins with a comma."""


def row_changes(sort_key: Ints, index: Ints, points: Any = 0, count: Any = 0) -> Rows:
    """Changes to as many lines, given as columns."""
    made = np.empty(len(index), ROW)
    made["sort_key"], made["index"], made["points"], made["count"] = sort_key, index, points, count
    return made


class ChunkedDocument:
    """The lines of one document, as chunks."""

    def __init__(self, renderer: RowRenderer, compressor: zstandard.ZstdCompressor) -> None:
        self._renderer = renderer
        self._compressor = compressor
        # Both are replaced by a change, never changed: documents keep them.
        self.chunks: list[Chunk] = []
        self._digests = b""

    def document(self, opening: Segment, closing: Segment) -> Document:
        """As it is now."""
        return Document(opening, self.chunks, closing, self._digests)

    def change(self, *changed: Rows) -> None:
        """Add these changes to the lines, and print again the chunks they touch."""
        change = _summed(*changed)
        stretches = self._touched(change)
        if not stretches:
            return
        rows = _present(_summed(_joined(self.chunks[start:end] for start, end in stretches), change))
        start, end = stretches[0]
        if start == 0 < end < len(self.chunks) and not (len(rows) and _key(rows) < self.chunks[end].first):
            # The one after has become the first, and has a comma too many.
            stretches[0] = start, end + 1
            rows = np.concatenate([_joined([self.chunks[end : end + 1]]), rows])
        # All at once, wherever they belong: numpy is not worth its calls for the few chunks of a stretch.
        made = [*self._rendered(rows, first=start == 0)]

        chunks: list[Chunk] = []
        digests: list[bytes] = []  # of thousands of chunks: copied in stretches, not gathered one by one
        kept = put = 0
        for start, end in stretches:
            upto = bisect_left(made, self.chunks[end].first, key=_first) if end < len(self.chunks) else len(made)
            chunks += self.chunks[kept:start] + made[put:upto]
            digests += (
                self._digests[kept * DIGEST_BYTES : start * DIGEST_BYTES],
                *(chunk.digest for chunk in made[put:upto]),
            )
            kept, put = end, upto
        chunks += self.chunks[kept:]
        digests.append(self._digests[kept * DIGEST_BYTES :])
        self.chunks, self._digests = chunks, b"".join(digests)

    def _touched(self, changed: Rows) -> list[tuple[int, int]]:
        """The chunks that these changes are for, neighbours together, as (start, end)."""
        if len(self.chunks) <= 1:
            return [(0, len(self.chunks))] if len(changed) else []
        keys = list(zip(changed["sort_key"].tolist(), changed["index"].tolist(), strict=True))
        stretches: list[tuple[int, int]] = []
        taken = 0
        while taken < len(keys):
            start = self._place(keys[taken])
            end = start + 1
            if start and keys[taken] == self.chunks[start].first and changed["count"][taken] < 0:
                start -= 1  # where that one ends there may be a cut no more
            if stretches and start <= stretches[-1][1]:
                start, _ = stretches.pop()
            stretches.append((start, end))
            taken = bisect_left(keys, self.chunks[end].first) if end < len(self.chunks) else len(keys)
        return stretches

    def _place(self, key: tuple[int, int]) -> int:
        """Of the chunk that has, or would have, the line of this key."""
        return bisect_right(self.chunks, key, lo=1, key=_first) - 1

    def _rendered(self, rows: Rows, *, first: bool) -> Iterator[Chunk]:
        if not len(rows):
            return
        chunk_boundaries = self._renderer.chunk_boundaries(rows)
        chunk_boundaries[0] = True
        starts = np.flatnonzero(chunk_boundaries).tolist()
        for i in range(0, len(starts), CHUNKS_PER_RENDER):
            begin = starts[i]
            batch = rows[begin : starts[i + CHUNKS_PER_RENDER] if i + CHUNKS_PER_RENDER < len(starts) else None]
            within = [start - begin for start in starts[i : i + CHUNKS_PER_RENDER]]
            texts = self._renderer.texts(batch, within)
            for start, end, text in zip(within, [*within[1:], len(batch)], texts, strict=True):
                yield Chunk(batch[start:end], text[1:] if first else text, self._compressor)
                first = False


def _first(chunk: Chunk) -> tuple[int, int]:
    return chunk.first


def _key(rows: Rows) -> tuple[int, int]:
    sort_key, index, *_ = rows.item(0)
    return sort_key, index


def _joined(stretches: Iterable[list[Chunk]]) -> Rows:
    return np.frombuffer(b"".join([chunk.rows for chunks in stretches for chunk in chunks]), ROW)


def _summed(*changed: Rows) -> Rows:
    """One line for each key, in order."""
    some = [rows for rows in changed if len(rows)] or changed[:1]
    rows = np.concatenate(some) if len(some) > 1 else some[0]
    if not len(rows):
        return rows
    keys = _numbered(rows)
    if (keys[1:] > keys[:-1]).all():
        return rows
    first, again, of = grouped(keys)
    summed = rows.take(first)  # which numpy does seven times as fast as lines[first]
    for name in ("points", "count"):
        np.add.at(summed[name], of, rows[name].take(again))
    return summed


def _numbered(rows: Rows) -> Ints:
    """One number for both parts of each line's key, in the same order; not negative."""
    sort_key, index = rows["sort_key"], rows["index"]
    low, indexes = int(sort_key.min()), int(index.max()) + 1
    if (int(sort_key.max()) - low + 1) * indexes >= 2**63:
        low, sort_key = 0, np.unique(sort_key, return_inverse=True)[1]
    return np.asarray((sort_key - low) * indexes + index)


def _present(rows: Rows) -> Rows:
    there = rows["count"] > 0
    return rows if there.all() else rows.compress(there)
