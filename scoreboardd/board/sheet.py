"""A document as a sequence of compressed pieces, of which a change replaces the few that it touches.

- The rows of a document are in the order of their keys, (major, rank). A *change* adds to a row: a row is there while
  its `count` is above zero, and a change of nothing at all says that the row looks different now. So a document that is
  made whole is one that is changed from nothing: there is no second way to make one.
- The rows are cut into chunks where their content says so (`Printer.cuts`), about every so many rows. Whatever the way
  to a document was, it is cut alike: equal documents are equal chunk for chunk, and nothing has to be balanced.
- A chunk is immutable, and shared by all versions of the document that have it. What it keeps of its text is a zstd
  frame; zstd frames one behind the other are the zstd form of the whole (RFC 8878 §3).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from scoreboardd.board.contest import Bools, Ints

ROW = np.dtype([("major", np.int64), ("rank", np.int64), ("points", np.int64), ("count", np.int64)])
Rows = NDArray[Any]
"An array of `ROW`."

LEVEL = 1
"Of zstd: on JSON of this kind the higher ones take longer and give no less."
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
    """A piece made of rows."""

    __slots__ = ("first", "rows")

    def __init__(self, rows: Rows, text: bytes, compressor: zstandard.ZstdCompressor) -> None:
        super().__init__(text, compressor)
        self.rows = rows
        self.first = _key(rows)


class Printer(Protocol):
    """What a sheet needs to know of its document."""

    def cuts(self, rows: Rows) -> Bools:
        """Which rows begin a chunk: a matter of each row's own key alone."""

    def texts(self, rows: Rows, starts: list[int]) -> list[bytes]:
        """The text of each stretch of rows; `starts` says where each begins. A row's text begins with a comma."""


def changes(major: Ints, rank: Ints, points: Any = 0, count: Any = 0) -> Rows:
    """Changes to as many rows, given as columns."""
    made = np.empty(len(rank), ROW)
    made["major"], made["rank"], made["points"], made["count"] = major, rank, points, count
    return made


class Sheet:
    """The rows of one document, as chunks."""

    def __init__(self, printer: Printer, compressor: zstandard.ZstdCompressor) -> None:
        self._printer = printer
        self._compressor = compressor
        self.chunks: list[Chunk] = []
        "Replaced by a change, never changed."
        self.digests = b""
        "Those of the chunks, one behind the other: not to be gathered from thousands each time."

    def change(self, *changed: Rows) -> None:
        """Add these changes to the rows, and print again the chunks they touch."""
        old, done = self.chunks, 0
        new: list[Chunk] = []
        digests: list[bytes] = []

        def keep(start: int, end: int | None) -> None:
            kept = old[start:end]
            if start > 0 and kept and not new:
                # It has become the document's first: that has a comma too many.
                put([*self._printed(kept[0].rows, first=True)])
                start += 1
                kept = kept[1:]
            new.extend(kept)
            digests.append(self.digests[start * DIGEST : None if end is None else end * DIGEST])

        def put(made: list[Chunk]) -> None:
            new.extend(made)
            digests.extend([chunk.digest for chunk in made])

        for start, end, rows in self._stretches(_summed(*changed)):
            keep(done, start)
            put([*self._printed(rows, first=not new)])
            done = end
        keep(done, None)
        self.chunks, self.digests = new, b"".join(digests)

    def _stretches(self, changed: Rows) -> Iterator[tuple[int, int, Rows]]:
        """The chunks to replace, as (start, end), neighbours together, and the rows to replace them with."""
        start = end = 0
        parts: list[Rows] = []
        for place, part in self._touched(changed):
            rows = _present(_summed(self.chunks[place].rows, part) if self.chunks else part)
            if parts and place > end:
                yield start, end, np.concatenate(parts)
                parts = []
            if not parts:
                start = place
                if place > 0 and (not len(rows) or _key(rows) != self.chunks[place].first):
                    # Where one chunk ended and this began there is a cut no more.
                    start -= 1
                    parts.append(self.chunks[start].rows)
            parts.append(rows)
            end = min(place + 1, len(self.chunks))
        if parts:
            yield start, end, np.concatenate(parts)

    def _touched(self, changed: Rows) -> Iterator[tuple[int, Rows]]:
        """Which chunks these changes are for, in order, and the changes that are for each."""
        if len(self.chunks) <= 1:
            if len(changed):
                yield 0, changed
            return
        keys = list(zip(changed["major"].tolist(), changed["rank"].tolist(), strict=True))
        start = 0
        while start < len(keys):
            after = bisect_right(self.chunks, keys[start], lo=1, key=_first)
            end = bisect_left(keys, self.chunks[after].first, lo=start) if after < len(self.chunks) else len(keys)
            yield after - 1, changed[start:end]
            start = end

    def _printed(self, rows: Rows, *, first: bool) -> Iterator[Chunk]:
        if not len(rows):
            return
        cuts = self._printer.cuts(rows)
        cuts[0] = True
        starts = np.flatnonzero(cuts).tolist()
        for i in range(0, len(starts), BATCH):
            begin = starts[i]
            batch = rows[begin : starts[i + BATCH] if i + BATCH < len(starts) else None]
            within = [start - begin for start in starts[i : i + BATCH]]
            texts = self._printer.texts(batch, within)
            for start, end, text in zip(within, [*within[1:], len(batch)], texts, strict=True):
                yield Chunk(batch[start:end].copy(), text[1:] if first else text, self._compressor)
                first = False


def _first(chunk: Chunk) -> tuple[int, int]:
    return chunk.first


def _key(rows: Rows) -> tuple[int, int]:
    return int(rows["major"][0]), int(rows["rank"][0])


def _summed(*changed: Rows) -> Rows:
    """One row for each key, in order."""
    rows = np.concatenate(changed)
    if not len(rows):
        return rows
    major, rank = rows["major"], rows["rank"]
    low, ranks = int(major.min()), int(rank.max()) + 1
    if (int(major.max()) - low + 1) * ranks < 2**63:
        # One number for both, where it fits: sorted five times as fast.
        order = np.argsort((major - low) * ranks + rank)
    else:
        order = np.lexsort((rank, major))
    rows = rows.take(order)  # which numpy does seven times as fast as rows[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows["major"][1:] != rows["major"][:-1]) | (rows["rank"][1:] != rows["rank"][:-1])
    if new.all():
        return rows
    starts = np.flatnonzero(new)
    summed = rows.take(starts)
    summed["points"] = np.add.reduceat(rows["points"], starts)
    summed["count"] = np.add.reduceat(rows["count"], starts)
    return summed


def _present(rows: Rows) -> Rows:
    there = rows["count"] > 0
    return rows if there.all() else rows.compress(there)
