"""A document as a sequence of compressed segments. A change replaces only the segments that it touches.

- The rows of a document are in the order of their keys: the fields of their dtype up to `index`. A *change* adds to the
  fields behind it: the row exists while its `count` is above zero. A change by nothing means that the row's text
  differs now. So a new document is made by changing an empty one; there is no second way to make one.
- Rows are split into chunks at boundaries that depend only on their own keys (`RowRenderer.chunk_boundaries`): this is
  content-defined chunking. So equal documents have equal chunks, whatever happened before, and nothing is rebalanced.
- A chunk is immutable and shared by all versions that contain it. Its text is kept as a zstd frame. The concatenation
  of zstd frames is the zstd form of the whole document (RFC 8878 §3).
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
TIED_ROW = np.dtype(
    [
        ("sort_key", np.int64),
        ("last_at", np.int64),
        ("last_sequence", np.int64),
        ("index", np.int64),
        ("points", np.int64),
        ("count", np.int64),
    ]
)
"A row of a leaderboard on which equal scores are ordered by time."
ADJUSTED_ROW = np.dtype([*((name, np.int64) for name in (*(ROW.names or ()), "solves"))])
"A row of a timeline in which not all points are of solves."
Rows = NDArray[Any]
"An array of one of these dtypes; the rows of a chunk are in order."
Key = tuple[int, ...]

CHUNKS_PER_RENDER = 32
"Enough to make calls of numpy worthwhile, few enough to stay in the processor's cache."


class Segment:
    """A part of a document's text, compressed. Immutable."""

    __slots__ = ("digest", "frame", "size")

    def __init__(self, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        self.size = len(text)
        "Bytes of the text."
        # A copy: the compressor's own buffer is as large as incompressible text would need.
        self.frame = bytes(memoryview(compressor.compress(text)))
        self.digest = frame_digest(self.frame)


class Chunk(Segment):
    """A segment made of rows."""

    __slots__ = ("first", "rows")

    def __init__(self, rows: Rows, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        super().__init__(text, compressor)
        # As bytes: copying and joining arrays of records takes numpy ten times as long.
        self.rows = rows.tobytes()
        self.first = _first_key(rows)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of one version, in segments. Versions share the segments that they have in common."""

    opening: Segment
    chunks: Sequence[Segment]
    closing: Segment
    digests: bytes
    "The digests of the chunks, concatenated."

    @classmethod
    def of(cls, text: bytes) -> Self:
        """A small document, of one segment."""
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        return cls(Segment(text, compressor), (), Segment(b"", compressor), b"")

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def segments(self) -> list[Segment]:
        return [self.opening, *self.chunks, self.closing]

    @property
    def segment_digests(self) -> bytes:
        """The digests of all segments, concatenated."""
        return self.opening.digest + self.digests + self.closing.digest

    @property
    def zstd_digest(self) -> str:
        """The digest of the document as zstd, as `compression.digest_of` computes it."""
        return digest_of_digests(self.segment_digests)

    def __len__(self) -> int:
        """Number of segments."""
        return 2 + len(self.chunks)

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return sum(segment.size for segment in self)

    def text(self) -> Iterator[bytes]:
        """The text, segment by segment."""
        decompressor = zstandard.ZstdDecompressor()
        return (decompressor.decompress(segment.frame) for segment in self)

    def frames(self) -> list[bytes]:
        """The document as zstd, segment by segment."""
        return [segment.frame for segment in self]


class RowRenderer(Protocol):
    """How the rows of one document are split and rendered."""

    def chunk_boundaries(self, rows: Rows) -> Bools:
        """Marks the rows that begin a chunk. That depends on each row's own key alone."""

    def texts(self, rows: Rows, starts: list[int]) -> list[bytes]:
        """The text of each run of rows; `starts` says where each run begins. The text of a row begins with a comma."""


def row_changes(dtype: "np.dtype[np.void]", index: Ints, **columns: Any) -> Rows:
    """Changes to as many rows as `index` has. Columns that are not given are 0."""
    made = np.zeros(len(index), dtype)
    made["index"] = index
    for name, values in columns.items():
        made[name] = values
    return made


class ChunkedDocument:
    """The rows of one document, as chunks; all rows have the dtype `row`."""

    def __init__(
        self, renderer: RowRenderer, compressor: zstandard.ZstdCompressor, row: "np.dtype[np.void]" = ROW
    ) -> None:
        self._renderer = renderer
        self._row = row
        self._key = key_fields(row)
        self._compressor = compressor
        # A change replaces both and never modifies them, because documents keep them.
        self.chunks: list[Chunk] = []
        self._digests = b""

    def document(self, opening: Segment, closing: Segment) -> Document:
        """The document as it is now."""
        return Document(opening, self.chunks, closing, self._digests)

    def change(self, *changed: Rows) -> None:
        """Add these changes to the rows, and render the chunks that they touch again."""
        change = _summed(*changed)
        runs = self._touched(change)
        if not runs:
            return
        rows = _present(_summed(self._joined(self.chunks[start:end] for start, end in runs), change))
        start, end = runs[0]
        if start == 0 < end < len(self.chunks) and not (len(rows) and _first_key(rows) < self.chunks[end].first):
            # The next chunk has become the first of the document, and its text has a comma too many.
            runs[0] = start, end + 1
            rows = np.concatenate([self._joined([self.chunks[end : end + 1]]), rows])
        # All at once, wherever they belong: the few chunks of one run are too few for numpy.
        made = [*self._rendered(rows, first=start == 0)]

        chunks: list[Chunk] = []
        digests: list[bytes] = []  # copied in runs: there may be thousands of chunks
        kept = put = 0
        for start, end in runs:
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
        """The runs of neighbouring chunks that these changes touch, as (start, end)."""
        if len(self.chunks) <= 1:
            return [(0, len(self.chunks))] if len(changed) else []
        keys: list[Key] = list(zip(*(changed[name].tolist() for name in self._key), strict=True))
        runs: list[tuple[int, int]] = []
        taken = 0
        while taken < len(keys):
            start = self._place(keys[taken])
            end = start + 1
            if start and keys[taken] == self.chunks[start].first and changed["count"][taken] < 0:
                start -= 1  # the boundary at the end of that chunk may disappear
            if runs and start <= runs[-1][1]:
                start, _ = runs.pop()
            runs.append((start, end))
            taken = bisect_left(keys, self.chunks[end].first) if end < len(self.chunks) else len(keys)
        return runs

    def _joined(self, runs: Iterable[list[Chunk]]) -> Rows:
        return np.frombuffer(b"".join([chunk.rows for chunks in runs for chunk in chunks]), self._row)

    def _place(self, key: Key) -> int:
        """The position of the chunk that has, or would have, the row of this key."""
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


def key_fields(row: "np.dtype[np.void]") -> tuple[str, ...]:
    """The names of the fields that order such rows."""
    names = row.names or ()
    return names[: names.index("index") + 1]


def _first(chunk: Chunk) -> Key:
    return chunk.first


def _first_key(rows: Rows) -> Key:
    return tuple(rows.item(0)[: len(key_fields(rows.dtype))])


def _summed(*changed: Rows) -> Rows:
    """One row for each key, in order."""
    some = [rows for rows in changed if len(rows)] or changed[:1]
    rows = np.concatenate(some) if len(some) > 1 else some[0]
    if not len(rows):
        return rows
    keys = _numbered(rows)
    if (keys[1:] > keys[:-1]).all():
        return rows
    first, again, of = grouped(keys)
    summed = rows.take(first)  # seven times as fast as rows[first]
    for name in (rows.dtype.names or ())[len(key_fields(rows.dtype)) :]:
        np.add.at(summed[name], of, rows[name].take(again))
    return summed


def _numbered(rows: Rows) -> Ints:
    """One number for each row's key, in the same order; not negative."""
    first, *others = key_fields(rows.dtype)
    number: Ints = rows[first] - rows[first].min()
    for name in others:
        values: Ints = rows[name] - rows[name].min()
        if (int(number.max()) + 1) * (int(values.max()) + 1) >= 2**63:
            number, values = (np.unique(each, return_inverse=True)[1] for each in (number, values))
        number = number * (values.max() + 1) + values
    return number


def _present(rows: Rows) -> Rows:
    there = rows["count"] > 0
    return rows if there.all() else rows.compress(there)
