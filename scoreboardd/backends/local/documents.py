"""The documents of a single node, in the file. See `base.DocumentStore`."""

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from scoreboardd.backends.base import (
    Damaged,
    Head,
    Lease,
    StoredSnapshot,
    Value,
    Values,
    head_of,
    verified,
)
from scoreboardd.backends.local.file import LocalFile
from scoreboardd.backends.names import Names
from scoreboardd.board.document_names import document_names
from scoreboardd.model import Version
from scoreboardd.render.chunked_document import Document


def read_head(connection: sqlite3.Connection, names: Names) -> Head:
    """What is committed, whether or not its documents are there."""
    row = connection.execute(
        "SELECT epoch, number, payload, as_of FROM entries WHERE key = ?", (names.version,)
    ).fetchone()
    lock = connection.execute("SELECT epoch, number FROM entries WHERE key = ?", (names.lock,)).fetchone()
    given = Version.parse(f"{lock[0]}-{lock[1]}") if lock else None
    if row is None:
        return head_of(None, None, given)
    epoch, number, payload, as_of = row
    try:
        fields = orjson.loads(payload if isinstance(payload, bytes) else b"null")
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        fields["as_of"] = as_of
    return head_of(Version.parse(f"{epoch}-{number}"), fields, given)


class LocalDocumentStore:
    """`directory` holds the file; staged documents last `stage_ttl` seconds."""

    def __init__(self, directory: str, *, prefix: str, stage_ttl: float) -> None:
        self._file = LocalFile(Path(directory))
        self._names = Names(prefix)
        self._stage_ttl = stage_ttl

    async def head(self) -> Head:
        def operation(connection: sqlite3.Connection, _: float) -> Head:
            head = read_head(connection, self._names)
            if head.metadata is None:
                return head
            lengths = {
                name: connection.execute(
                    "SELECT length(payload) FROM entries WHERE key = ?", (self._names.document(name),)
                )
                for name in head.metadata.documents
            }
            found = {name: (row.fetchone() or (None,))[0] for name, row in lengths.items()}
            wanted = {name: value.length for name, value in head.metadata.documents.items()}
            return head if found == wanted else Head(None, None, given=head.given)

        return await asyncio.to_thread(self._file.run, operation)

    async def stage(self, lease: Lease, documents: Mapping[str, Document]) -> tuple[int, Values]:
        def operation(connection: sqlite3.Connection, now: float) -> Values:
            # Delete what builders that died left behind.
            connection.execute("DELETE FROM entries WHERE until < ? AND key <> ?", (now, self._names.lock))
            values = {}
            for name, document in documents.items():
                payload = b"".join(document.frames())
                connection.execute(
                    "INSERT OR REPLACE INTO entries (key, payload, until, token) VALUES (?, ?, ?, ?)",
                    (self._names.staged(lease.token, name), payload, now + self._stage_ttl, lease.token),
                )
                values[name] = Value(len(payload), document.zstd_digest)
            return values

        values = await asyncio.to_thread(self._file.run, operation)
        return sum(value.length for value in values.values()), values

    async def load(self, have: Version | None) -> StoredSnapshot:
        head, found = await asyncio.to_thread(self._file.run, lambda connection, _: self._committed(connection, have))
        try:
            intact = [(name, await self._verified(name, value, wanted)) for name, value, wanted in found]
        except Damaged:
            if head.version is not None:
                await self._forget(head.version)
            raise
        return StoredSnapshot(head, intact or None)

    async def verify(self) -> None:
        read = await asyncio.to_thread(self._file.read, lambda connection: self._committed(connection, None))
        for each in read[1] if read else []:
            await self._verified(*each)

    def _committed(
        self, connection: sqlite3.Connection, have: Version | None
    ) -> tuple[Head, list[tuple[str, Any, Value]]]:
        """The head, and each document's name, value and expected value; no documents if the version is `have`."""
        head = read_head(connection, self._names)
        if head.metadata is None or head.version == have:
            return head, []
        found = []
        for name in document_names(head.metadata.divisions):
            row = connection.execute("SELECT payload FROM entries WHERE key = ?", (self._names.document(name),))
            found.append((name, (row.fetchone() or (None,))[0], head.metadata.documents[name]))
        return head, found

    async def _verified(self, name: str, value: Any, wanted: Value) -> bytes:
        return await asyncio.to_thread(verified, f"local: {self._names.document(name)}", value, wanted)

    async def _forget(self, version: Version) -> None:
        statement = "DELETE FROM entries WHERE key = ? AND epoch = ? AND number = ?"
        values = (self._names.version, version.epoch, version.number)
        await asyncio.to_thread(self._file.run, lambda connection, _: connection.execute(statement, values).rowcount)

    async def aclose(self) -> None:
        """Each operation opens the file anew, so there is nothing to close."""
