"""What the builder process does for each request. See `messages` for the requests.

- `build` brings the scoreboard up to date from one snapshot of the platform's database. It stages the documents in the
  store under the caller's lease, so that the daemon's loop has only to commit a few names.
- `load` reads the committed documents from the store, `restore` the persisted copy, and `persist` writes that copy.
- `clock` asks the platform's database for the time.

Documents are zstd everywhere: as they are rendered, stored, shared with the daemon and served. Work that takes the
processor long runs in a thread, so that a ping is answered during a build.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from scoreboardd.backends.base import DocumentStore, Head, Lease, SnapshotMetadata, StoredSnapshot
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.board.document_names import FEED, SETTINGS, delta_log_key
from scoreboardd.board.rules import Rules
from scoreboardd.board.scoreboard import ScoreboardState, digest_of_documents
from scoreboardd.builder.delta_history import DeltaHistory
from scoreboardd.builder.loader import CommittedSnapshot, IncrementalLoader, LoadResult
from scoreboardd.builder.messages import Build, BuildResult
from scoreboardd.builder.published_settings import settings_text
from scoreboardd.builder.seal import Seal
from scoreboardd.builder.timings import Timings
from scoreboardd.model import Version
from scoreboardd.platforms.source import Source
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.clock import ClockReading


class BuilderService:
    """Holds what survives between requests: the connections, and the scoreboard. `persister` is None where no copy is
    persisted."""

    def __init__(
        self,
        source: Source,
        rules: Rules,
        document_store: DocumentStore,
        persister: PostgresDocumentStore | None,
        *,
        seal: bool,
        feed: bool,
    ) -> None:
        """`seal`: the boards of a freeze stay as they were at its moment. `feed`: make the document of the CTFd
        feed."""
        self._source = source
        self._rules = rules
        self._loader = IncrementalLoader(source, rules=rules, feed=feed)
        self._seal = Seal(document_store, rules, feed=feed) if seal else None
        self._document_store = document_store
        self._delta_history = DeltaHistory(document_store)
        self._persister = persister

    async def build(self, token: str, request: Build) -> tuple[BuildResult, Mapping[str, Document] | None]:
        """The result, and the staged documents by name; None in place of them if they are those of
        `result.unchanged`. Raises `SourceError`, `Unavailable` or `Damaged`."""
        timings = Timings()
        with timings.timed("commit"):
            # This cannot change until we commit: no other node can commit while we have the lease.
            head = await self._document_store.head()
        is_same_epoch = head.version is not None and head.version.epoch == request.version.epoch
        committed = head.metadata if is_same_epoch else None
        loaded = await self._loader.load(
            timings, request, CommittedSnapshot(committed.digest, committed.full) if committed else None
        )
        loaded = await self._sealed(loaded, head)
        metadata = SnapshotMetadata(
            loaded.digest,
            loaded.as_of,
            loaded.divisions,
            full=loaded.full,
            complete=loaded.complete,
        )
        result = BuildResult(
            metadata,
            timings.seconds,
            loaded.rows,
            loaded.is_full,
            sum(document.size for document in loaded.documents.values()),
            findings=loaded.findings,
            changes_in=loaded.settings.changes_in,
        )
        with timings.timed("commit"):
            if (
                (request.quiet or self._source.is_exact)
                and head.version
                and _is_committed(request.version, metadata, head)
            ):
                self._delta_history.renew(head.version, loaded)
                return replace(result, unchanged=head.version), None
            logs = await self._delta_history.delta_logs(request.version, loaded, head.version)
            documents = {**loaded.documents, **logs}
            staged_bytes, values = await self._document_store.stage(Lease(token, request.version), documents)
        return replace(result, metadata=replace(metadata, documents=values), staged_bytes=staged_bytes), documents

    async def _sealed(self, loaded: LoadResult, head: Head) -> LoadResult:
        """`loaded`, or the boards of a freeze in its place."""
        if self._seal is None or not loaded.settings.is_frozen:
            return loaded
        assert loaded.full_read is not None  # a platform with a freeze is read as a whole each time
        boards = await self._seal.boards(loaded.full_read, head)
        settings = settings_text(loaded.settings, self._rules, sealed=True)
        documents = {**boards.documents, SETTINGS: Document.of(settings)}
        return replace(
            loaded,
            documents=documents,
            divisions=boards.divisions,
            digest=boards.digest(settings, documents),
            change_set=None,
            # Whether something was announced and not found would tell that something has happened.
            complete=True,
        )

    async def live(self) -> tuple[SnapshotMetadata, Mapping[str, Document]]:
        """The boards with what happened after a freeze, read now, for those who may always see them."""
        read = await self._source.read()
        rows = read.live or read.rows
        scoreboard = await asyncio.to_thread(ScoreboardState, rows, self._rules)
        settings = replace(read.settings, freezes_at=None, visibility="public")
        logs = {delta_log_key(division): Document.of(b"") for division in (None, *rows.roster.division_ids)}
        documents = {
            **scoreboard.documents,
            **logs,
            SETTINGS: Document.of(settings_text(settings, self._rules, sealed=False)),
            FEED: Document.of(b"null"),
        }
        digest = digest_of_documents(documents)
        return SnapshotMetadata(digest, read.as_of, rows.roster.division_ids), documents

    async def load(self, have: Version | None) -> StoredSnapshot:
        return await self._document_store.load(have)

    async def restore(self) -> StoredSnapshot:
        assert self._persister is not None
        return await self._persister.load(None)

    async def persist(
        self, version: Version, metadata: SnapshotMetadata, documents: Iterable[tuple[str, bytes]], *, quiet: float
    ) -> bool:
        """True if the persisted copy is now this version, or a newer one."""
        assert self._persister is not None
        return await self._persister.persist(version, metadata, documents, quiet=quiet)

    async def is_changed(self) -> bool:
        return await self._source.is_changed()

    async def clock(self) -> ClockReading:
        return await self._source.clock()

    async def aclose(self) -> None:
        await self._source.aclose()
        await self._document_store.aclose()
        if self._persister is not None:
            await self._persister.aclose()


def _is_committed(version: Version, metadata: SnapshotMetadata, head: Head) -> bool:
    """Whether the committed documents are these. Documents of another epoch do not count: their numbers may be higher
    than ones that the nodes have seen and the store has lost."""
    return (
        head.version is not None
        and head.metadata is not None
        and head.metadata.digest == metadata.digest
        and head.version.epoch == version.epoch
    )
