"""The tier that outlives Redis: the last edition, kept in Postgres (`cache.persist`).

- A node that starts with nothing asks for it, and serves it as stale until the store has its say.
- Every node offers what it serves once in an interval. The first to come writes, for all: who comes later finds that it
  is kept already, or has been written lately. Whatever dies, another node keeps what is newer an interval later.
- An older edition never replaces a newer one: `backends/postgres/persist.sql` compares in the database.

All the bytes move in the builder process.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.model import Snapshot, Version
from scoreboardd.telemetry.logs import LogThrottle

RETRY_MIN, RETRY_MAX = 0.2, 5.0
"Seconds between attempts to read what is kept."
FLUSH_TIMEOUT_SECONDS = 5.0
"Seconds that the end of a node may wait for its documents to be kept."

log = structlog.stdlib.get_logger("scoreboardd.cache")


class SnapshotPersister:
    """`interval` is in seconds; `restored(edition)` is told what was kept, if the node has nothing better by then."""

    def __init__(
        self, cache: DocumentCache, builder: BuilderProcess, *, interval: float, restored: Callable[[Snapshot], None]
    ) -> None:
        self._cache = cache
        self._builder = builder
        self._interval = interval
        self._restored = restored
        self._persisted_version: Version | None = None
        "The last version of ours that is known to be kept, or to be older than what is."
        self._seldom = LogThrottle()

    async def run(self) -> None:
        """Read what is kept, then keep what is served, until cancelled."""
        await self._restore()
        while True:
            await asyncio.sleep(self._interval * random.uniform(1, 1.1))
            await self._persist(quiet=self._interval)

    async def flush(self) -> None:
        """Keep what is served, now: the node is about to end."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                await self._persist(quiet=0)
        except TimeoutError:
            log.warning("the documents were not kept in time", seconds=FLUSH_TIMEOUT_SECONDS)

    async def _restore(self) -> None:
        delay = RETRY_MIN
        while self._cache.snapshot is None:
            try:
                snapshot = await self._builder.restore()
            except BuilderError as error:
                if self._seldom(str(error)):
                    log.warning("cannot read what is kept, retrying", error=str(error))
                await asyncio.sleep(delay * random.uniform(0.5, 1))
                delay = min(RETRY_MAX, delay * 2)
                continue
            if snapshot is not None and self._cache.snapshot is None:
                self._restored(snapshot)
                log.info("restored", version=str(snapshot.version), age=round(self._cache.age, 1))
                self._persisted_version = snapshot.version
            return

    async def _persist(self, *, quiet: float) -> None:
        snapshot = self._cache.snapshot
        if snapshot is None or snapshot.version == self._persisted_version:
            return
        try:
            if await self._builder.persist(snapshot, quiet=quiet):
                self._persisted_version = snapshot.version
        except BuilderError as error:
            if self._seldom(str(error)):
                log.warning("cannot keep the documents, retrying", version=str(snapshot.version), error=str(error))
