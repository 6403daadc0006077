"""The documents in Postgres."""

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from scoreboardd.backends.base import Damaged, Head, Lease, SnapshotMetadata, StoredSnapshot, Value, Values, verified
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.connection import (
    HEAD,
    TRANSFER_TIMEOUT_SECONDS,
    Connection,
    Session,
    load_sql,
    parse_head,
    snapshot_arguments,
)
from scoreboardd.board import document_names
from scoreboardd.model import Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import digest_of

STAGE = """
INSERT INTO leaderboard_cache (cache_key, payload, encoding, epoch, version, building_until, building_token)
VALUES ($1, $2, 'zstd', $3, $4, now() + make_interval(secs => $5), $6)
ON CONFLICT (cache_key) DO UPDATE
SET payload = excluded.payload, building_until = excluded.building_until
"""
FORGET = "DELETE FROM leaderboard_cache WHERE starts_with(cache_key, $1) AND building_until < now()"
FORGET_VERSION = "DELETE FROM leaderboard_cache WHERE cache_key = $1 AND epoch = $2 AND version = $3"
LENGTHS = "SELECT cache_key, octet_length(payload) FROM leaderboard_cache WHERE cache_key = ANY ($1)"
# At most one byte more than the expected length: another program may have written a far longer value.
DOCUMENT = "SELECT substr(payload, 1, $2::int + 1) FROM leaderboard_cache WHERE cache_key = $1"
KEPT_LATELY = """
SELECT FROM leaderboard_cache
WHERE cache_key = $1 AND building_until > now() AND building_until <= now() + make_interval(secs => $2)
"""


class PostgresDocumentStore:
    """The documents. See `base.DocumentStore`; `persist` makes Postgres the tier that outlives Redis."""

    def __init__(self, dsn: str, *, prefix: str, stage_ttl: float) -> None:
        self._names = Names(prefix)
        self._link = Connection(dsn, statement_timeout=TRANSFER_TIMEOUT_SECONDS)
        self._stage_ttl = stage_ttl
        self._persist = load_sql("persist")

    async def head(self) -> Head:
        async with self._link.snapshot() as connection:
            head = await self._read_head(connection)
            if head.metadata is None:
                return head
            keys, lengths = self._lengths(head)
            found = await connection.fetch(LENGTHS, keys)
        return head if dict(found) == lengths else Head(None, None, given=head.given)

    def _lengths(self, head: Head) -> tuple[list[str], dict[str, int]]:
        """Returns the documents' keys, and each value's length in bytes by key."""
        values = head.metadata.documents if head.metadata else {}
        lengths = {self._names.document(name): value.length for name, value in values.items()}
        return [*lengths], lengths

    async def stage(self, lease: Lease, documents: Mapping[str, Document]) -> tuple[int, Values]:
        values = await self._put(
            lease,
            ((name, b"".join(document.frames()), document.zstd_digest) for name, document in documents.items()),
        )
        return sum(value.length for value in values.values()), values

    async def _put(self, lease: Lease, documents: Iterable[tuple[str, bytes, str]]) -> Values:
        """Stages each document, given as its name, value and digest. Returns what was staged."""
        # Delete what builders that died left behind.
        await self._link.run(FORGET, self._names.staged("", "").removesuffix(":"))
        values: dict[str, Value] = {}
        for name, document, digest in documents:
            await self._link.run(
                STAGE,
                self._names.staged(lease.token, name),
                document,
                lease.version.epoch,
                lease.version.number,
                self._stage_ttl,
                lease.token,
            )
            values[name] = Value(len(document), digest)
        return values

    async def load(self, have: Version | None) -> StoredSnapshot:
        head, found = await self._committed(have)
        try:
            intact = [(name, await self._verified(name, value, wanted)) for name, value, wanted in found]
        except Damaged:
            if head.version is not None:
                await self._forget(head.version)
            raise
        return StoredSnapshot(head, intact or None)

    async def verify(self) -> None:
        _, found = await self._committed(None)
        for each in found:
            await self._verified(*each)

    async def _committed(self, have: Version | None) -> tuple[Head, list[tuple[str, Any, Value]]]:
        """Returns the head and each document's name, row and expected value; no documents if the version is `have`."""
        async with self._link.snapshot() as connection:
            head = await self._read_head(connection)
            if head.metadata is None or head.version == have:
                return head, []
            found = []
            for name in document_names.document_names(head.metadata.divisions):
                expected = head.metadata.documents[name]
                value = await connection.fetchval(DOCUMENT, self._names.document(name), expected.length)
                found.append((name, value, expected))
        return head, found

    async def _verified(self, name: str, value: Any, wanted: Value) -> bytes:
        return await asyncio.to_thread(
            verified, f"postgres: leaderboard_cache {self._names.document(name)}", value, wanted
        )

    async def _forget(self, version: Version) -> None:
        await self._link.run(FORGET_VERSION, self._names.version, version.epoch, version.number)

    async def persist(
        self, version: Version, metadata: SnapshotMetadata, kept: Iterable[tuple[str, bytes]], *, quiet: float
    ) -> bool:
        """Stores these documents, unless the stored ones are newer or another node stored some within its `quiet`
        seconds. Returns True if the stored documents are these or newer. With `quiet` 0 it does not wait."""
        names = self._names
        rows = await self._link.run(HEAD, names.version, names.lock)
        held, (*_, useless) = parse_head(rows), rows[0]
        keys, lengths = self._lengths(held)
        if held.version and held.metadata and dict(await self._link.run(LENGTHS, keys)) == lengths:
            useless = None
            is_newer = held.metadata.as_of >= metadata.as_of
            if held.version.includes(version) if held.version.epoch == version.epoch else is_newer:
                return True
            if quiet and await self._link.run(KEPT_LATELY, names.version, quiet):
                return False
        lease = Lease(secrets.token_hex(16), version)
        digests = [(name, value, await asyncio.to_thread(digest_of, value)) for name, value in kept]
        metadata = replace(metadata, documents=await self._put(lease, digests))
        rows = await self._link.run(
            self._persist,
            names.version,
            version.epoch,
            version.number,
            *snapshot_arguments(names, lease, metadata, held.metadata),
            quiet,
            useless,
        )
        return bool(rows)  # False if another node was first: the next call finds out

    async def _read_head(self, connection: Session) -> Head:
        return parse_head(await connection.fetch(HEAD, self._names.version, self._names.lock))

    async def aclose(self) -> None:
        self._link.close()
