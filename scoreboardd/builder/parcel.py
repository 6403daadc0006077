"""A parcel: documents packed one behind the other in an anonymous memory file, sent to another process as a descriptor.

Nobody copies them: both processes map the same pages, which live as long as anyone holds a slice. Linux only (memfd).
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping

Manifest = list[tuple[str, int, int]]
"(name, offset, length) of each document."


def pack(documents: Iterable[tuple[str, Iterable[bytes]]]) -> tuple[int, Manifest]:
    """Takes each document's name and parts. Returns a descriptor, which the caller closes, and what is where in it."""
    descriptor = os.memfd_create("scoreboardd-parcel", os.MFD_CLOEXEC)
    manifest: Manifest = []
    offset = 0
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        for name, parts in documents:
            file.writelines(parts)
            manifest.append((name, offset, file.tell() - offset))
            offset = file.tell()
    return descriptor, manifest


class Parcel(Mapping[str, memoryview]):
    """The documents by name, mapped read-only. Owns `descriptor`."""

    def __init__(self, descriptor: int, manifest: Iterable[tuple[str, int, int]]) -> None:
        self.descriptor = descriptor
        self.places = {name: (offset, length) for name, offset, length in manifest}
        size = os.fstat(descriptor).st_size
        self._view = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")

    def __getitem__(self, name: str) -> memoryview:
        offset, length = self.places[name]
        return self._view[offset : offset + length]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __del__(self) -> None:
        os.close(self.descriptor)
