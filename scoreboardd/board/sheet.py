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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from scoreboardd.board.contest import Bools, Ints, grouped

LINE = np.dtype([("major", np.int64), ("rank", np.int64), ("points", np.int64), ("count", np.int64)])
Lines = NDArray[Any]
"An array of `LINE`, in order where they are those of a chunk."

DIGEST = 16
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
        self.digest = blake2b(self.frame, digest_size=DIGEST).digest()


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

    def __iter__(self) -> Iterator[Piece]:
        return chain((self.opening,), self.chunks, (self.closing,))

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
        chunks: list[Chunk] = []
        digests: list[bytes] = []  # of thousands of chunks: copied in stretches, not gathered one by one

        def put(lines: Lines) -> None:
            made = [*self._printed(lines, first=not chunks)]
            chunks.extend(made)
            digests.extend([chunk.digest for chunk in made])

        def keep(start: int, end: int) -> None:
            if 0 < start < end and not chunks:
                put(_joined([self.chunks[start]]))  # it has become the first, and has a comma too many
                start += 1
            chunks.extend(self.chunks[start:end])
            digests.append(self._digests[start * DIGEST : end * DIGEST])

        done = 0
        for start, end, lines in self._stretches(_summed(*changed)):
            keep(done, start)
            put(lines)
            done = end
        keep(done, len(self.chunks))
        self.chunks, self._digests = chunks, b"".join(digests)

    def _stretches(self, changed: Lines) -> Iterator[tuple[int, int, Lines]]:
        """The chunks to replace, as (start, end), in order, and the lines to replace them with."""
        for start, end, its in self._touched(changed):
            lines = _present(_summed(_joined(self.chunks[start:end]), its))
            if start == 0 or (len(lines) and _key(lines) == self.chunks[start].first):
                yield start, end, lines
            else:  # where the chunk before ends there is a cut no more
                yield start - 1, end, np.concatenate([_joined(self.chunks[start - 1 : start]), lines])

    def _touched(self, changed: Lines) -> Iterator[tuple[int, int, Lines]]:
        """The chunks that these changes are for, neighbours together, and the changes that are for them."""
        if len(self.chunks) <= 1:
            if len(changed):
                yield 0, len(self.chunks), changed
            return
        keys = list(zip(changed["major"].tolist(), changed["rank"].tolist(), strict=True))
        taken = 0
        while taken < len(keys):
            begin, start = taken, self._place(keys[taken])
            end = start
            while taken < len(keys) and self._place(keys[taken]) <= end:
                end = self._place(keys[taken]) + 1
                taken = bisect_left(keys, self.chunks[end].first) if end < len(self.chunks) else len(keys)
            yield start, end, changed[begin:taken]

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


def _joined(chunks: list[Chunk]) -> Lines:
    return np.frombuffer(b"".join([chunk.lines for chunk in chunks]), LINE)


def _summed(*changed: Lines) -> Lines:
    """One line for each key, in order."""
    some = [lines for lines in changed if len(lines)]
    lines = np.concatenate(some) if len(some) > 1 else (some or changed)[0]
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
