"""What this node serves: one snapshot, its version, where it came from, and whether it may be stale.

A snapshot is replaced as a whole, and never by an older one of its epoch. Its documents are zstd frames. Each document
is encoded at most once a version, when it is first asked for, in a thread: zlib and zstd release Python's lock.
"""

import asyncio
import gzip
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any

import orjson

from scoreboardd.board.document_names import SETTINGS
from scoreboardd.board.times import micros
from scoreboardd.model import Snapshot, Version
from scoreboardd.system.clock import Clock, bounded
from scoreboardd.system.compression import Frames, beginning, compressed, plain

CONTENT_ENCODINGS = ("zstd", "gzip")
"Content codings that are served, the preferred one first."
MAX_AHEAD_SECONDS = 86_400.0
"""How far a stored time may be ahead of the database's clock. The clocks of two database servers may differ, but no
node writes a later time."""

_MADE: dict[str, Callable[[Frames], bytes]] = {
    # One frame: some clients read only the first of several, and report no error.
    "zstd": lambda frames: compressed(plain(frames)),
    "gzip": lambda frames: gzip.compress(plain(frames), 6, mtime=0),
    "identity": plain,
}


class EncodedDocument:
    """One document, in each coding that a client has asked for."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._coded: dict[str, asyncio.Task[bytes]] = {}

    @property
    def encodings(self) -> list[str]:
        """The codings made so far."""
        return list(self._coded)

    @cached_property
    def beginning(self) -> bytes:
        """The first bytes of the text."""
        return beginning(self._frames, 128)

    async def encode(self, coding: str) -> bytes:
        task = self._coded.get(coding)
        if task is None:
            task = self._coded[coding] = asyncio.create_task(asyncio.to_thread(_MADE[coding], self._frames))
        # Shielded: a client that leaves must not cancel the work that others wait for.
        return await asyncio.shield(task)


class CacheTier(StrEnum):
    """Where the snapshot was found. `MEMORY`: since this node joined, the cluster has made it or found it true."""

    MEMORY = "memory"
    REDIS = "redis"
    POSTGRES = "postgres"
    LOCAL = "local"


class DocumentCache:
    """`store` is the tier that the cluster's store is. Documents older than `stale_after` seconds are stale while it is
    in doubt whether this node would learn of changes."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        store: CacheTier = CacheTier.REDIS,
        stale_after: float = float("inf"),
    ) -> None:
        self.clock = clock or Clock()
        self.snapshot: Snapshot | None = None
        "None until this node has its first documents."
        self.tier = CacheTier.MEMORY
        self._as_of = 0.0
        self._store = store
        self._stale_after = stale_after
        self._outdated = False
        "A change was announced that the snapshot does not contain."
        self._in_doubt = True
        "This node is cut off from the bus, or its builds fail."
        self._encoded_documents: dict[str, EncodedDocument] = {}
        self.settings: Mapping[str, Any] = {}
        "What clients have to know of the contest's settings."

    @property
    def version(self) -> Version | None:
        return self.snapshot.version if self.snapshot else None

    @property
    def as_of(self) -> float:
        """Unix time, in seconds, at which the documents were last known to be true."""
        return self._not_in_future(self._as_of)

    @property
    def age(self) -> float:
        """Seconds since the documents were known to be true."""
        return max(0.0, self.clock.now() - self.as_of)

    @property
    def is_public(self) -> bool:
        """Whether everybody may see the boards."""
        return bool(self.settings.get("visibility", "public") == "public")

    @property
    def _is_sealed(self) -> bool:
        """Whether the boards are those of a freeze, and nothing may tell that anything has happened since."""
        return bool(self.settings.get("sealed"))

    @property
    def stale(self) -> bool:
        """Whether the documents may be out of date. The persisted copy always may, until the store has answered."""
        is_copy = self.tier is CacheTier.POSTGRES and self._store is not CacheTier.POSTGRES
        is_outdated = self._outdated and not self._is_sealed
        return is_outdated or is_copy or (self._in_doubt and self.age > self._stale_after)

    def update(self, *, confirmed: bool, outdated: bool, in_doubt: bool) -> None:
        """What the cluster says of the snapshot. `confirmed`: a build that began after this node joined has made it, or
        found it true; `outdated`: a change was announced that it does not contain; `in_doubt`: this node might not
        learn of changes, or cannot rebuild."""
        if confirmed:
            self.tier = CacheTier.MEMORY
        self._outdated, self._in_doubt = outdated, in_doubt

    def install(self, snapshot: Snapshot, tier: CacheTier = CacheTier.MEMORY) -> bool:
        """Serve `snapshot` from now on. False if it is no newer than the one served."""
        if not snapshot.version.follows(self.version):
            return False
        self.snapshot = snapshot
        self.tier = tier
        self.settings = orjson.loads(plain(snapshot.documents[SETTINGS]))
        self._as_of = self._true_at(snapshot.as_of)
        self._encoded_documents = {name: EncodedDocument(body) for name, body in snapshot.documents.items()}
        return True

    def replace(self, snapshot: Snapshot, served: Version | None, tier: CacheTier = CacheTier.MEMORY) -> bool:
        """Serve a snapshot that the store had when it was asked, while this node served the version `served`. False if
        a newer one has been installed meanwhile."""
        return snapshot.version.replaces(self.version, served) and self.install(snapshot, tier)

    def load(self, version: Version, snapshot: Snapshot | None, as_of: float, served: Version | None) -> bool:
        """The store has `version`, known to be true at `as_of`; `snapshot` is None if that is the version `served` when
        the store was asked. Returns whether a new snapshot is served."""
        # The first snapshot from the store is what it had before. Later ones are the cluster's own news.
        is_first = served is None or self.tier not in (CacheTier.MEMORY, self._store)
        tier = self._store if is_first else CacheTier.MEMORY
        if snapshot is not None and self.replace(snapshot, served, tier):
            return True
        if version == self.version:
            if is_first:
                self.tier = tier
            self.confirm(as_of)
        return False

    def restore(self, snapshot: Snapshot) -> bool:
        """Serve the persisted copy, if there is nothing else."""
        return self.snapshot is None and self.install(snapshot, CacheTier.POSTGRES)

    def confirm(self, as_of: float) -> None:
        """The store says that the documents were true at `as_of`."""
        self._as_of = max(self.as_of, self._not_in_future(self._true_at(as_of)))

    def _not_in_future(self, as_of: float) -> float:
        """Once the database's clock is known, a time in the future counts as now, and one in the far future as 1970.
        So neither makes documents look fresh for ever."""
        if not self.clock.known:
            return as_of
        now = self.clock.now()
        return min(as_of, now) if as_of <= now + MAX_AHEAD_SECONDS else 0.0

    def _true_at(self, as_of: float) -> float:
        """`as_of` within the years that documents can express; the moment of the freeze for sealed boards."""
        frozen_at = self.settings.get("frozen_at")
        return micros(frozen_at) / 1_000_000 if self._is_sealed and frozen_at else bounded(as_of)

    def encoded_document(self, name: str) -> EncodedDocument:
        """A document of the snapshot. Raises `KeyError` if there is none of that name."""
        return self._encoded_documents[name]

    def statistics(self) -> dict[str, Any]:
        """For a person who looks inside a running node."""
        return {
            "version": str(self.version) if self.version else None,
            "tier": self.tier.value,
            "stale": self.stale,
            "age": round(self.age, 3) if self.version else None,
            "documents": {name: sorted(document.encodings) for name, document in self._encoded_documents.items()},
        }
