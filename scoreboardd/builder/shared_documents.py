"""Documents in an anonymous memory file (memfd), which goes to another process as a descriptor. Linux only.

- Nothing is copied: both processes map the same pages, which exist as long as a process holds a slice of them.
- A file is only appended to, so its content never changes: see `incremental_writer`.
- The frames of a document may be anywhere in the file. An index in the same file says where.
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
"Buffers in one system call; the kernel accepts no more."


class MemfdFile:
    """A memory file to append to. Owns `descriptor`."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("scoreboardd-documents", os.MFD_CLOEXEC)
        self.size = 0

    def append(self, parts: Sequence[bytes]) -> Extent:
        """Append `parts` and return where they are. Raises `OSError` if there is not enough memory; then a part of them
        may be at the end of the file."""
        start = self.size
        for i in range(0, len(parts), _VECTOR):
            batch = parts[i : i + _VECTOR]
            written = os.pwritev(self.descriptor, batch, self.size)
            self.size += written
            if written != sum(map(len, batch)):
                raise OSError("no room in memory for the documents")
        return start, self.size - start

    def index(self, extents: Ints) -> Extent:
        """Append the index of a document whose frames are in these extents, and return where the index is. Raises as
        `append`."""
        return self.append([extents.tobytes()])

    def __del__(self) -> None:
        os.close(self.descriptor)


def pack(documents: Iterable[tuple[str, Sequence[bytes]]]) -> tuple[MemfdFile, Manifest]:
    """Write documents, given as (name, frames), to a new file. Returns the file and what is where in it."""
    memfd = MemfdFile()
    return memfd, [(name, *memfd.index(np.array([memfd.append(frames)]))) for name, frames in documents]


class DocumentFrames:
    """The frames of one document. Immutable; may be iterated more than once."""

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
