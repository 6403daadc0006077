"""The documents in Redis."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from scoreboardd.backends.base import Damaged, Head, Lease, StoredSnapshot, Value, Values, verified
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis import value_layout
from scoreboardd.backends.redis.connection import (
    TRANSFER_TIMEOUT_SECONDS,
    connect,
    deadline,
    load_script,
    read_head,
    read_previous,
)
from scoreboardd.board import document_names
from scoreboardd.model import Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import compressed, digest_of, is_zstd


class RedisDocumentStore:
    """The documents. See `base.DocumentStore`.

    A commit leaves the documents it replaced. If this store staged them, it writes the next version over them where it
    differs (`value_layout`), so that the time does not grow with the documents. Otherwise, and without zstd, it writes
    documents whole.
    """

    def __init__(self, url: str, *, prefix: str, encoding: str, stage_ttl: float) -> None:
        self._names = Names(prefix)
        self._redis = connect(url)
        self._head = load_script(self._redis, "head")
        self._forget_script = load_script(self._redis, "forget")
        self._compress = encoding == "zstd"
        self._stage_ttl_ms = round(stage_ttl * 1000)
        self._layouts: OrderedDict[Version, dict[str, value_layout.Layout]] = OrderedDict()
        "How the documents of the last two versions staged lie in their values."

    async def head(self) -> Head:
        head = await self._read_head()
        if head.metadata is None:
            return head
        names = document_names.document_names(head.metadata.divisions)
        async with deadline(), self._redis.pipeline(transaction=False) as lengths:
            for name in names:
                lengths.strlen(self._names.document(name))
            found = await lengths.execute(raise_on_error=False)
        wanted = [head.metadata.documents[name].length for name in names]
        return head if found == wanted else Head(None, None, given=head.given)

    async def _read_head(self) -> Head:
        """What is committed, whether or not the documents are there."""
        async with deadline():
            return await read_head(self._head, self._names)

    async def stage(self, lease: Lease, documents: Mapping[str, Document]) -> tuple[int, Values]:
        values: dict[str, Value] = {}
        if not self._compress:
            for name, document in documents.items():
                text = await asyncio.to_thread(b"".join, document.text())
                values[name] = Value(await self._set(lease, name, text), await asyncio.to_thread(digest_of, text))
            return sum(value.length for value in values.values()), values
        # While we hold the lock nobody replaces it; and if we do not, our commit will be refused.
        async with deadline():
            previous = await read_previous(self._head, self._names)
        known = self._layouts.get(previous, {}) if previous else {}
        self._layouts.pop(lease.version, None)  # staged before, and not to be known until all is staged again
        layouts: dict[str, value_layout.Layout] = {}
        written = 0
        for name, document in documents.items():
            patch = await asyncio.to_thread(value_layout.patch, known[name], document) if name in known else None
            if patch is not None and await self._patch(lease, name, value_layout.size(known[name]), patch[1]):
                layouts[name], writes = patch
                written += sum(len(part) for _, part in writes)
            else:
                layouts[name] = value_layout.new_layout(document)
                written += await self._set(
                    lease, name, await asyncio.to_thread(value_layout.value, layouts[name], document)
                )
            values[name] = Value(value_layout.size(layouts[name]), document.zstd_digest)
        self._layouts[lease.version] = layouts
        if len(self._layouts) > 2:
            self._layouts.popitem(last=False)
        return written, values

    async def _set(self, lease: Lease, name: str, payload: bytes) -> int:
        async with deadline(TRANSFER_TIMEOUT_SECONDS):
            await self._redis.set(self._names.staged(lease.token, name), payload, px=self._stage_ttl_ms)
        return len(payload)

    async def _patch(self, lease: Lease, name: str, size: int, writes: list[value_layout.Write]) -> bool:
        """Stage a document by these writes over the previous one. False if that is gone, or not as we left it; then
        there is nothing of use under the staged name."""
        staged = self._names.staged(lease.token, name)
        async with deadline(TRANSFER_TIMEOUT_SECONDS), self._redis.pipeline(transaction=True) as steps:
            steps.rename(self._names.previous(name), staged)
            steps.strlen(staged)
            for offset, part in writes:
                steps.setrange(staged, offset, part)
            steps.pexpire(staged, self._stage_ttl_ms)
            answers = await steps.execute(raise_on_error=False)
        return answers == [True, *[size] * (1 + len(writes)), True]

    async def load(self, have: Version | None) -> StoredSnapshot:
        head, found = await self._committed(have)
        try:
            intact = [(name, await self._verified(name, value, wanted)) for name, value, wanted in found]
        except Damaged:
            if head.version is not None:
                await self._forget(head.version)
            raise
        return StoredSnapshot(head, [(name, await _zstd(value)) for name, value in intact] or None)

    async def verify(self) -> None:
        _, found = await self._committed(None)
        for each in found:
            await self._verified(*each)

    async def _committed(self, have: Version | None) -> tuple[Head, list[tuple[str, Any, Value]]]:
        """What is committed, and what is under the names of the documents, unless it is the version `have`."""
        while True:
            run = await self._run()
            head = await self._read_head()
            if head.metadata is None or head.version == have:
                return head, []
            values = head.metadata.documents
            found = [
                (name, await self._document(name, values[name].length), values[name])
                for name in document_names.document_names(head.metadata.divisions)
            ]
            if (await self._read_head()).version == head.version and await self._run() == run:
                return head, found
            # A commit came between, the next is seconds away; or another server, which may be behind.

    async def _verified(self, name: str, value: Any, wanted: Value) -> bytes:
        return await asyncio.to_thread(verified, f"redis: {self._names.document(name)}", value, wanted)

    async def _forget(self, version: Version) -> None:
        names = self._names
        async with deadline():
            await self._forget_script(keys=[names.version, names.metadata], args=[str(version)])

    async def _run(self) -> str | None:
        """Which run of which server answers; None if we may not ask."""
        async with deadline():
            return await self._redis.primary()

    async def _document(self, name: str, length: int) -> Any:
        """Return at most `length` + 1 bytes of a document's value: another program may have written a far longer one.
        Return None if there is no value and `length` is not 0."""
        async with deadline(TRANSFER_TIMEOUT_SECONDS):
            try:
                value = await self._redis.getrange(self._names.document(name), 0, length)
            except ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return None
        return value if value or not length else None

    async def aclose(self) -> None:
        await self._redis.aclose()


async def _zstd(value: bytes) -> bytes:
    return value if is_zstd(value) else await asyncio.to_thread(compressed, value)
