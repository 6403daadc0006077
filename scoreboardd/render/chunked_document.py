"""A document as a sequence of compressed pieces, of which a change replaces the few that it touches.

- The lines of a document are in the order of their keys, (major, rank). A *change* adds to a line: one is there while
  its `count` is above zero, and a change of nothing at all says that the line looks different now. So a document that
  is made whole is one that is changed from nothing: there is no second way to make one.
- The lines are cut into chunks where their keys say so (`Printer.cuts`), about every so many lines. Whatever the way to
  a document was, it is cut alike: equal documents are equal chunk for chunk, and nothing has to be balanced.
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

LINE = np.dtype([("major", np.int64), ("rank", np.int64), ("points", np.int64), ("count", np.int64)])
Lines = NDArray[Any]
"An array of `LINE`, in order where they are those of a chunk."

DIGEST = DIGEST_BYTES
"Bytes of a piece's."
BATCH = 32
"Chunks printed at once: enough to make numpy worth its calls, few enough to stay in the processor's cache."


class Piece:
    """A stretch of a document's text. Immutable."""

    __slots__ = ("digest", "frame", "size")

    def __init__(self, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        self.size = len(text)
        "Bytes of the text."
        # A copy: what comes from the compressor keeps room for a text that would not compress at all.
        self.frame = bytes(memoryview(compressor.compress(text)))
        self.digest = frame_digest(self.frame)


class Chunk(Piece):
    """A piece made of lines."""

    __slots__ = ("first", "lines")

    def __init__(self, lines: Lines, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        super().__init__(text, compressor)
        # As bytes: numpy takes ten times as long to copy and to join arrays of records.
        self.lines = lines.tobytes()
        self.first = _key(lines)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of one version, in pieces. Versions share what they have in common."""

    opening: Piece
    chunks: Sequence[Piece]
    closing: Piece
    digests: bytes
    "Those of the chunks, one behind the other."

    @classmethod
    def of(cls, text: bytes) -> Self:
        """A small one, in one piece."""
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        return cls(Piece(text, compressor), (), Piece(b"", compressor), b"")

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    @property
    def pieces(self) -> list[Piece]:
        return [self.opening, *self.chunks, self.closing]

    @property
    def all_digests(self) -> bytes:
        """Those of all pieces, one behind the other."""
        return self.opening.digest + self.digests + self.closing.digest

    @property
    def zstd_digest(self) -> str:
        """Of a value that holds the document as zstd: see `compression.digest_of`."""
        return digest_of_digests(self.all_digests)

    def __len__(self) -> int:
        """Pieces."""
        return 2 + len(self.chunks)

    @property
    def size(self) -> int:
        """Bytes of the plain text."""
        return sum(piece.size for piece in self)

    def text(self) -> Iterator[bytes]:
        """The plain text, piece by piece."""
        decompressor = zstandard.ZstdDecompressor()
        return (decompressor.decompress(piece.frame) for piece in self)

    def frames(self) -> list[bytes]:
        """The document as zstd, piece by piece."""
        return [piece.frame for piece in self]


class Printer(Protocol):
    """What a sheet needs to know of its document."""

    def cuts(self, lines: Lines) -> Bools:
        """Which lines begin a chunk: a matter of each line's own key alone."""

    def texts(self, lines: Lines, starts: list[int]) -> list[bytes]:
        """The text of each stretch of lines; `starts` says where each begins. A line's text begins with a comma."""


def changes(major: Ints, rank: Ints, points: Any = 0, count: Any = 0) -> Lines:
    """Changes to as many lines, given as columns."""
    made = np.empty(len(rank), LINE)
    made["major"], made["rank"], made["points"], made["count"] = major, rank, points, count
    return made


class Sheet:
    """The lines of one document, as chunks."""

    def __init__(self, printer: Printer, compressor: zstandard.ZstdCompressor) -> None:
        self._printer = printer
        self._compressor = compressor
        # Both are replaced by a change, never changed: documents keep them.
        self.chunks: list[Chunk] = []
        self._digests = b""

    def document(self, opening: Piece, closing: Piece) -> Document:
        """As it is now."""
        return Document(opening, self.chunks, closing, self._digests)

    def change(self, *changed: Lines) -> None:
        """Add these changes to the lines, and print again the chunks they touch."""
        change = _summed(*changed)
        stretches = self._touched(change)
        if not stretches:
            return
        lines = _present(_summed(_joined(self.chunks[start:end] for start, end in stretches), change))
        start, end = stretches[0]
        if start == 0 < end < len(self.chunks) and not (len(lines) and _key(lines) < self.chunks[end].first):
            # The one after has become the first, and has a comma too many.
            stretches[0] = start, end + 1
            lines = np.concatenate([_joined([self.chunks[end : end + 1]]), lines])
        # All at once, wherever they belong: numpy is not worth its calls for the few chunks of a stretch.
        made = [*self._printed(lines, first=start == 0)]

        chunks: list[Chunk] = []
        digests: list[bytes] = []  # of thousands of chunks: copied in stretches, not gathered one by one
        kept = put = 0
        for start, end in stretches:
            upto = bisect_left(made, self.chunks[end].first, key=_first) if end < len(self.chunks) else len(made)
            chunks += self.chunks[kept:start] + made[put:upto]
            digests += self._digests[kept * DIGEST : start * DIGEST], *(chunk.digest for chunk in made[put:upto])
            kept, put = end, upto
        chunks += self.chunks[kept:]
        digests.append(self._digests[kept * DIGEST :])
        self.chunks, self._digests = chunks, b"".join(digests)

    def _touched(self, changed: Lines) -> list[tuple[int, int]]:
        """The chunks that these changes are for, neighbours together, as (start, end)."""
        if len(self.chunks) <= 1:
            return [(0, len(self.chunks))] if len(changed) else []
        keys = list(zip(changed["major"].tolist(), changed["rank"].tolist(), strict=True))
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

    def _printed(self, lines: Lines, *, first: bool) -> Iterator[Chunk]:
        if not len(lines):
            return
        cuts = self._printer.cuts(lines)
        cuts[0] = True
        starts = np.flatnonzero(cuts).tolist()
        for i in range(0, len(starts), BATCH):
            begin = starts[i]
            batch = lines[begin : starts[i + BATCH] if i + BATCH < len(starts) else None]
            within = [start - begin for start in starts[i : i + BATCH]]
            texts = self._printer.texts(batch, within)
            for start, end, text in zip(within, [*within[1:], len(batch)], texts, strict=True):
                yield Chunk(batch[start:end], text[1:] if first else text, self._compressor)
                first = False


def _first(chunk: Chunk) -> tuple[int, int]:
    return chunk.first


def _key(lines: Lines) -> tuple[int, int]:
    major, rank, *_ = lines.item(0)
    return major, rank


def _joined(stretches: Iterable[list[Chunk]]) -> Lines:
    return np.frombuffer(b"".join([chunk.lines for chunks in stretches for chunk in chunks]), LINE)


def _summed(*changed: Lines) -> Lines:
    """One line for each key, in order."""
    some = [lines for lines in changed if len(lines)] or changed[:1]
    lines = np.concatenate(some) if len(some) > 1 else some[0]
    if not len(lines):
        return lines
    keys = _numbered(lines)
    if (keys[1:] > keys[:-1]).all():
        return lines
    first, again, of = grouped(keys)
    summed = lines.take(first)  # which numpy does seven times as fast as lines[first]
    for name in ("points", "count"):
        np.add.at(summed[name], of, lines[name].take(again))
    return summed


def _numbered(lines: Lines) -> Ints:
    """One number for both parts of each line's key, in the same order; not negative."""
    major, rank = lines["major"], lines["rank"]
    low, ranks = int(major.min()), int(rank.max()) + 1
    if (int(major.max()) - low + 1) * ranks >= 2**63:
        low, major = 0, np.unique(major, return_inverse=True)[1]
    return np.asarray((major - low) * ranks + rank)


def _present(lines: Lines) -> Lines:
    there = lines["count"] > 0
    return lines if there.all() else lines.compress(there)
