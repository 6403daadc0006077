"""A parcel: documents in an anonymous memory file, sent to another process as a descriptor.

- Nobody copies them: both processes map the same pages, which live as long as anyone holds a slice. Linux only (memfd).
- A file is only ever added to, so what is in it stays as it is, whatever comes behind: see `writer`.
- A document lies in *stretches*, wherever its frames are. Its index, which is in the file as well, says where.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from scoreboardd.board.contest import Ints

Extent = tuple[int, int]
"(offset, length) in a file."
Manifest = list[tuple[str, int, int]]
"(name, offset, length) of each document's index."

_VECTOR = 1024
"Parts written at once: more, the kernel does not take."


class MemfdFile:
    """Such a file, to add to. Owns `descriptor`."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("scoreboardd-documents", os.MFD_CLOEXEC)
        self.size = 0

    def append(self, parts: Sequence[bytes]) -> Extent:
        """Where they are now. `OSError` if there is not the memory: then there may be something of them at the end."""
        start = self.size
        for i in range(0, len(parts), _VECTOR):
            batch = parts[i : i + _VECTOR]
            written = os.pwritev(self.descriptor, batch, self.size)
            self.size += written
            if written != sum(map(len, batch)):
                raise OSError("no room in memory for the documents")
        return start, self.size - start

    def index(self, extents: Ints) -> Extent:
        """Where the index of a document is now that lies in these, a row each: offset, length. Raises as `append`."""
        return self.append([extents.tobytes()])

    def __del__(self) -> None:
        os.close(self.descriptor)


def pack(documents: Iterable[tuple[str, Sequence[bytes]]]) -> tuple[MemfdFile, Manifest]:
    """Takes each document's name and frames. Returns a log of their own, and what is where in it."""
    memfd = MemfdFile()
    return memfd, [(name, *memfd.index(np.array([memfd.append(frames)]))) for name, frames in documents]


class DocumentFrames:
    """The frames of one document; to go through as often as one likes. Immutable."""

    def __init__(self, memfd: memoryview, index: memoryview) -> None:
        self._memfd = memfd
        self._index = index

    def __iter__(self) -> Iterator[memoryview]:
        extents = np.frombuffer(self._index, np.int64).reshape(-1, 2)
        return (self._memfd[offset : offset + length] for offset, length in extents.tolist())


class SharedDocuments(Mapping[str, DocumentFrames]):
    """The documents by name, mapped read-only. Owns `descriptor`."""

    def __init__(self, descriptor: int, manifest: Manifest) -> None:
        self.descriptor = descriptor
        self.extents = {name: (offset, length) for name, offset, length in manifest}
        size = os.fstat(descriptor).st_size
        self._view = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")

    def __getitem__(self, name: str) -> DocumentFrames:
        offset, length = self.extents[name]
        return DocumentFrames(self._view, self._view[offset : offset + length])

    def __iter__(self) -> Iterator[str]:
        return iter(self.extents)

    def __len__(self) -> int:
        return len(self.extents)

    def __del__(self) -> None:
        os.close(self.descriptor)
