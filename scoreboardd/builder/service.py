"""What the child does: build, load, keep, read the clock. Each is one request and one answer.

- `build` brings the scoreboard up to date with one snapshot, and stages its documents in the store under the caller's
  lease, so that only the commit, a few names, is left to the parent. If nobody said that anything changed and the
  result is what is committed already, it says so and stages nothing.
- `load` reads the committed documents from the store, `restore` the ones that are kept for a day without it.
- `persist` keeps them there.
- `clock` asks the platform's database for the time.

Documents are zstd all the way, from the scoreboard that made them to the reader that takes them so.

What takes the processor long runs in a thread: the answer to a ping does not wait for a build.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from scoreboardd.backends.base import DocumentStore, Head, Lease, SnapshotMetadata, StoredSnapshot
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
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

    metadata: SnapshotMetadata
    timings: dict[str, float]
    rows: dict[str, int]
    full: bool
    size: int
    "Bytes of the plain documents."
    documents: Mapping[str, Document] | None = None
    staged_bytes: int = 0
    unchanged: Version | None = None
    findings: list[Finding] = field(default_factory=list)
    "What is odd about the rows that were read."


class BuilderService:
    """Holds what survives between requests: the connections, and the scoreboard."""

    def __init__(
        self, source: PostgresSource, document_store: DocumentStore, persister: PostgresDocumentStore | None
    ) -> None:
        self._source = source
        self._loader = IncrementalLoader(source)
        self._document_store = document_store
        self._delta_history = DeltaHistory(document_store)
        self._persister = persister

    async def build(
        self,
        lease: Lease,
        *,
        quiet: bool,
        full: bool,
        solves: int = 0,
        announced: bool = False,
        again: bool = False,
    ) -> BuildResult:
        timings = Timings()
        with timings.timed("commit"):
            # It stays so until we commit: nobody else can while we have the lease.
            head = await self._document_store.head()
        is_same_epoch = head.version is not None and head.version.epoch == lease.version.epoch
        committed = head.metadata if is_same_epoch else None
        request = LoadRequest(
            lease.version,
            full,
            solves,
            announced,
            again,
            CommittedSnapshot(committed.digest, committed.full) if committed else None,
        )
        loaded = await self._loader.load(timings, request)
        scoreboard = loaded.scoreboard
        metadata = SnapshotMetadata(
            loaded.digest,
            loaded.as_of,
            scoreboard.roster.division_ids,
            full=loaded.full,
            complete=loaded.complete,
        )
        work = BuildResult(
            metadata,
            timings.seconds,
            loaded.rows,
            loaded.news is None,
            scoreboard.size,
            findings=loaded.findings,
        )
        with timings.timed("commit"):
            if quiet and head.version and _same(lease.version, metadata, head):
                self._delta_history.renew(head.version, loaded)
                return replace(work, unchanged=head.version)
            rings = await self._delta_history.delta_logs(lease.version, loaded, head.version)
            documents = {**scoreboard.documents, **rings}
            staged, values = await self._document_store.stage(lease, documents)
        return replace(work, metadata=replace(metadata, documents=values), documents=documents, staged_bytes=staged)

    async def load(self, have: Version | None) -> StoredSnapshot:
        return await self._document_store.load(have)

    async def restore(self) -> StoredSnapshot:
        assert self._persister is not None
        return await self._persister.load(None)

    async def persist(
        self, version: Version, metadata: SnapshotMetadata, persisted: Iterable[tuple[str, bytes]], *, quiet: float
    ) -> bool:
        """True if what is kept is this version now, or a newer one."""
        assert self._persister is not None
        return await self._persister.persist(version, metadata, persisted, quiet=quiet)

    async def clock(self) -> ClockReading:
        return await self._source.clock()

    async def aclose(self) -> None:
        await self._source.aclose()
        await self._document_store.aclose()
        if self._persister is not None:
            await self._persister.aclose()


def _same(version: Version, metadata: SnapshotMetadata, head: Head) -> bool:
    """Whether the committed documents are these. Those of another epoch will not do: its numbers may come after ones
    that the nodes had seen and the store has lost."""
    committed, its = head.version, head.metadata
    return (
        committed is not None and its is not None and its.digest == metadata.digest and committed.epoch == version.epoch
    )
