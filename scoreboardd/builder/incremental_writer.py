"""Writes the documents of each version behind those of the version before, in one file: only what is new is written.

- What a version uses is never overwritten. So a process that has it may read it as long as it likes, without telling
  the writer.
- Old parts are not freed one by one. Once most of a file is garbage, the next version begins another file and is
  written completely. The old file disappears with the last process that maps it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.contest import Ints
from scoreboardd.builder.shared_documents import Extent, Manifest, MemfdFile
from scoreboardd.render.chunk_diff import differing
from scoreboardd.render.chunked_document import Document, Segment

MAX_GARBAGE_RATIO = 2
"A file that has more than so many times the bytes of the last version gets no more versions."

EXTENT = np.dtype([("offset", np.int64), ("length", np.int64)])
Extents = NDArray[Any]
"An array of `EXTENT`: where each segment of a document is in the file."


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """Where a document is in the file."""

    digests: bytes
    segments: Extents
    index: Extent


NOTHING = WrittenDocument(b"", np.empty(0, EXTENT), (0, 0))


class IncrementalWriter:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._memfd = MemfdFile()
        self._packed: dict[str, WrittenDocument] = {}
        "The documents of the last version."

    def pack(self, documents: Mapping[str, Document]) -> tuple[MemfdFile, Manifest]:
        """Returns the file, which is only ever appended to, and what is where in it. Raises `OSError` if there is not
        enough memory; the next version may succeed."""
        before, self._packed = self._packed, {}
        if self._memfd.size > MAX_GARBAGE_RATIO * sum(
            int(packed.segments["length"].sum()) for packed in before.values()
        ):
            self._memfd, before = MemfdFile(), {}
        for name, document in documents.items():
            self._packed[name] = self._pack(document, before.get(name, NOTHING))
        return self._memfd, [(name, *packed.index) for name, packed in self._packed.items()]

    def _pack(self, document: Document, before: WrittenDocument) -> WrittenDocument:
        segments, digests = document.segments, document.segment_digests
        extents: list[Extents] = []
        persisted = 0
        for start, end, first, last in differing(before.digests, digests):
            extents += [before.segments[persisted:start], self._append(segments[first:last])]
            persisted = end
        if not extents:
            return before
        packed = np.concatenate([*extents, before.segments[persisted:]])
        return WrittenDocument(digests, packed, self._memfd.index(_extents(packed)))

    def _append(self, segments: Sequence[Segment]) -> Extents:
        frames = [segment.frame for segment in segments]
        start, _ = self._memfd.append(frames)
        extents = np.empty(len(frames), EXTENT)
        extents["length"] = [len(frame) for frame in frames]
        extents["offset"] = start + np.cumsum(extents["length"]) - extents["length"]
        return extents


def _extents(extents: Extents) -> Ints:
    """The extents with neighbours joined that follow each other in the file: a row (offset, length) each."""
    starts, ends = extents["offset"], extents["offset"] + extents["length"]
    first = np.flatnonzero(np.append(True, starts[1:] != ends[:-1]))
    last = np.append(first[1:], len(extents)) - 1
    return np.column_stack([starts[first], ends[last] - starts[first]])
