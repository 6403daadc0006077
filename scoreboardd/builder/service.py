"""What the child does: build, load, keep, read the clock. Each is one request and one answer.

- `build` brings the scoreboard up to date with one snapshot, and stages its documents in the store under the caller's
  lease, so that only the commit, a few names, is left to the parent. If nobody said that anything changed and the
  result is what is committed already, it says so and stages nothing.
- `load` reads the committed documents from the store, `restore` the ones that are kept for a day without it.
- `keep` keeps them there.
- `clock` asks the platform's database for the time.

Documents are zstd all the way, from the scoreboard that made them to the reader that takes them so.

What takes the processor long runs in a thread: the answer to a ping does not wait for a build.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from scoreboardd.backends.base import DocumentStore, Head, Lease, SnapshotMetadata, StoredSnapshot
from scoreboardd.backends.postgres.backend import PostgresDocumentStore
from scoreboardd.builder.delta_history import DeltaHistory
from scoreboardd.builder.loader import CommittedSnapshot, IncrementalLoader, LoadRequest
from scoreboardd.builder.timings import Timings
from scoreboardd.model import Version
from scoreboardd.platforms.findings import Finding
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.clock import ClockReading


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build. `documents` is None if they are those of `unchanged`, which is committed already."""

    catalogue: SnapshotMetadata
    stages: dict[str, float]
    rows: dict[str, int]
    whole: bool
    size: int
    "Bytes of the plain documents."
    documents: Mapping[str, Document] | None = None
    staged_bytes: int = 0
    unchanged: Version | None = None
    findings: list[Finding] = field(default_factory=list)
    "What is odd about the rows that were read."


class BuilderService:
    """Holds what survives between requests: the connections, and the scoreboard."""

    def __init__(self, source: PostgresSource, vault: DocumentStore, archive: PostgresDocumentStore | None) -> None:
        self._source = source
        self._follower = IncrementalLoader(source)
        self._vault = vault
        self._chain = DeltaHistory(vault)
        self._archive = archive

    async def build(
        self,
        lease: Lease,
        *,
        quiet: bool,
        whole: bool,
        solves: int = 0,
        announced: bool = False,
        again: bool = False,
    ) -> BuildResult:
        stages = Timings()
        with stages.timed("commit"):
            # It stays so until we commit: nobody else can while we have the lease.
            head = await self._vault.head()
        is_same_epoch = head.version is not None and head.version.epoch == lease.version.epoch
        committed = head.catalogue if is_same_epoch else None
        asked = LoadRequest(
            lease.version,
            whole,
            solves,
            announced,
            again,
            CommittedSnapshot(committed.digest, committed.whole) if committed else None,
        )
        followed = await self._follower.follow(stages, asked)
        scoreboard = followed.scoreboard
        catalogue = SnapshotMetadata(
            followed.digest,
            followed.as_of,
            scoreboard.roster.division_ids,
            whole=followed.whole,
            complete=followed.complete,
        )
        work = BuildResult(
            catalogue,
            stages.seconds,
            followed.rows,
            followed.news is None,
            scoreboard.size,
            findings=followed.findings,
        )
        with stages.timed("commit"):
            if quiet and head.version and _same(lease.version, catalogue, head):
                self._chain.renew(head.version, followed)
                return replace(work, unchanged=head.version)
            rings = await self._chain.rings(lease.version, followed, head.version)
            documents = {**scoreboard.documents, **rings}
            staged, values = await self._vault.stage(lease, documents)
        return replace(work, catalogue=replace(catalogue, documents=values), documents=documents, staged_bytes=staged)

    async def load(self, have: Version | None) -> StoredSnapshot:
        return await self._vault.load(have)

    async def restore(self) -> StoredSnapshot:
        assert self._archive is not None
        return await self._archive.load(None)

    async def keep(
        self, version: Version, catalogue: SnapshotMetadata, kept: Iterable[tuple[str, bytes]], *, quiet: float
    ) -> bool:
        """True if what is kept is this version now, or a newer one."""
        assert self._archive is not None
        return await self._archive.keep(version, catalogue, kept, quiet=quiet)

    async def clock(self) -> ClockReading:
        return await self._source.clock()

    async def aclose(self) -> None:
        await self._source.aclose()
        await self._vault.aclose()
        if self._archive is not None:
            await self._archive.aclose()


def _same(version: Version, catalogue: SnapshotMetadata, head: Head) -> bool:
    """Whether the committed documents are these. Those of another epoch will not do: its numbers may come after ones
    that the nodes had seen and the store has lost."""
    committed, its = head.version, head.catalogue
    return (
        committed is not None
        and its is not None
        and its.digest == catalogue.digest
        and committed.epoch == version.epoch
    )
