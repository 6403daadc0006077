"""The delta log of the version that is being built: how clients that have an earlier version get there.

- The committed version is read while we hold the lock. It cannot change as long as our own commit could be accepted. So
  a log never contains a delta from a version that was not the one before.
- Two versions are remembered: the last one built here, and the one before it in case its commit fails. If another node
  built the committed version, its documents are read from the store.
- If the committed documents are those that the increment was added to, the increment is the delta. Otherwise, after a
  full build or another node's version, the documents are compared. Documents that cannot be read leave an empty log.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from zstandard import ZstdError

from scoreboardd.backends.base import DocumentStore, StoredSnapshot
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.delta_log import DeltaLog
from scoreboardd.board.document_names import ParticipantKind, delta_log_key, leaderboard_key
from scoreboardd.builder.loader import LoadResult
from scoreboardd.model import Version
from scoreboardd.render.board_diff import Boards, between
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import plain

Division = int | None
UNREADABLE = (ZstdError, AttributeError, KeyError, TypeError, ValueError)
"Raised by reading documents that are not as we write them."


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """What the next version needs of a version; by division."""

    digest: str
    boards: Mapping[Division, Boards]
    delta_logs: Mapping[Division, DeltaLog]


class WholeDocument(NamedTuple):
    """A document as the store returns it: in one part."""

    digest: bytes
    frame: bytes


class DeltaHistory:
    """The delta logs of the versions that are built here. For one task at a time."""

    def __init__(self, document_store: DocumentStore) -> None:
        self._document_store = document_store
        self._known: dict[Version, KnownVersion] = {}

    async def delta_logs(self, version: Version, loaded: LoadResult, committed: Version | None) -> dict[str, Document]:
        """The delta logs of `version`, which is being built and will follow `committed`, by document name."""
        before = committed if committed and committed.epoch == version.epoch else None
        known = await self._find(before) if before else None
        boards = _boards(loaded)
        delta_logs = dict.fromkeys(boards, DeltaLog())
        if before and known:
            delta_logs |= await asyncio.to_thread(_extended, known, before.number, version.number, loaded, boards)
        self._known = ({before: known} if before and known else {}) | {
            version: KnownVersion(loaded.digest, boards, delta_logs)
        }
        return {delta_log_key(division): Document.of(delta_log.text()) for division, delta_log in delta_logs.items()}

    def renew(self, version: Version, loaded: LoadResult) -> None:
        """`version` was built again with equal documents: keep the new segments and release the old ones."""
        if version in self._known:
            self._known = {version: replace(self._known[version], boards=_boards(loaded))}

    async def _find(self, version: Version) -> KnownVersion | None:
        """The committed version, if it is `version`."""
        if version in self._known:
            return self._known[version]
        stored = await self._document_store.load(None)
        return _read(stored) if stored.head.version == version else None


def _extended(
    known: KnownVersion, since: int, number: int, loaded: LoadResult, boards: Mapping[Division, Boards]
) -> dict[Division, DeltaLog]:
    """The delta logs with the delta from version number `since`, which is `known`, to `number`."""
    change_set = loaded.change_set
    if change_set and change_set.since != known.digest:
        change_set = None
    made = {}
    for division in boards.keys() & known.delta_logs.keys():
        try:
            delta = change_set.deltas[division] if change_set else between(known.boards[division], boards[division])
        except UNREADABLE:
            continue
        made[division] = known.delta_logs[division].then(since, VersionedDelta(since, number, delta).data())
    return made


def _boards(loaded: LoadResult) -> dict[Division, Boards]:
    documents = loaded.documents
    return {
        division: {owner: documents[leaderboard_key(owner, division)].segments for owner in ParticipantKind}
        for division in (None, *loaded.divisions)
    }


def _read(stored: StoredSnapshot) -> KnownVersion | None:
    version, metadata = stored.head.version, stored.head.metadata
    if version is None or metadata is None or stored.documents is None:
        return None
    documents = dict(stored.documents)
    divisions = (None, *metadata.divisions)
    try:
        delta_logs = {division: DeltaLog.parse(plain(documents[delta_log_key(division)])) for division in divisions}
    except UNREADABLE:
        return None
    # A log that ends at another version is of no use.
    number = version.number
    delta_logs = {
        id: delta_log if delta_log.entries and delta_log.entries[-1].number == number else DeltaLog()
        for id, delta_log in delta_logs.items()
    }
    boards = {
        division: {
            owner: [WholeDocument(b"", documents[leaderboard_key(owner, division)])] for owner in ParticipantKind
        }
        for division in divisions
    }
    return KnownVersion(metadata.digest, boards, delta_logs)
