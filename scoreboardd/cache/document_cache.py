"""What this node answers with: the latest edition it knows, held in memory, and its compressed forms.

An edition is replaced whole, never backwards within an epoch. Its documents are frames of zstd; each is put into a
coding at most once per version, when first asked for, in a thread: zlib and zstd let go of Python's lock meanwhile.
"""

import asyncio
import gzip
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property

from scoreboardd.model import Snapshot, Version
from scoreboardd.system.clock import Clock, bounded
from scoreboardd.system.compression import Frames, beginning, compressed, plain

CONTENT_ENCODINGS = ("zstd", "gzip")
"Content codings served, most wanted first."

_MADE: dict[str, Callable[[Frames], bytes]] = {
    # One frame, though several are as good: there are clients that read only the first, and say nothing.
    "zstd": lambda frames: compressed(plain(frames)),
    "gzip": lambda frames: gzip.compress(plain(frames), 6, mtime=0),
    "identity": plain,
}


class EncodedDocument:
    """One document, in each coding that somebody asked for."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._coded: dict[str, asyncio.Task[bytes]] = {}

    @cached_property
    def beginning(self) -> bytes:
        """The first bytes of the text."""
        return beginning(self._frames, 128)

    async def encode(self, coding: str) -> bytes:
        task = self._coded.get(coding)
        if task is None:
            task = self._coded[coding] = asyncio.create_task(asyncio.to_thread(_MADE[coding], self._frames))
        # Shielded: a client that leaves must not take the work from the others who wait for it.
        return await asyncio.shield(task)


class CacheTier(StrEnum):
    """Where what is served was found: `MEMORY` once the cluster has said, or made, that it is what the board is."""

    MEMORY = "memory"
    REDIS = "redis"
    POSTGRES = "postgres"


class DocumentCache:
    """`snapshot` is None until this node has had its first document."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.snapshot: Snapshot | None = None
        self.tier = CacheTier.MEMORY
        self.as_of = 0.0
        "Unix time, in seconds, at which the documents were last known to be true."
        self._encoded_documents: dict[str, EncodedDocument] = {}

    @property
    def version(self) -> Version | None:
        return self.snapshot.version if self.snapshot else None

    @property
    def age(self) -> float:
        """Seconds since the documents were known to be true."""
        return max(0.0, self.clock.now() - self.as_of)

    def install(self, snapshot: Snapshot, tier: CacheTier = CacheTier.MEMORY) -> bool:
        """Serve `snapshot` from now on. False if it is no newer than what is served."""
        if not snapshot.version.follows(self.version):
            return False
        self.snapshot = snapshot
        self.tier = tier
        self.as_of = bounded(snapshot.as_of)
        self._encoded_documents = {name: EncodedDocument(body) for name, body in snapshot.documents.items()}
        return True

    def confirm(self, as_of: float) -> None:
        """What is served was true at `as_of`, says the store. One that lies ahead of the time of day counts for no more
        than now, so that it cannot make the documents look young for ever."""
        as_of = bounded(as_of)
        self.as_of = max(self.as_of, min(as_of, self.clock.now()) if self.clock.known else as_of)

    def encoded_document(self, name: str) -> EncodedDocument:
        """A document of the edition served; KeyError if it has none of that name."""
        return self._encoded_documents[name]
