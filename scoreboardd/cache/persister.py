"""The copy of the documents that outlives Redis: the last snapshot, persisted in PostgreSQL (`cache.persist`).

- A node that starts with nothing reads the copy and serves it as stale until the store has answered.
- Every node offers its snapshot once an interval. The first one writes for all; the others find that the copy is new
  enough, or was written recently. If a node dies, another one persists newer documents an interval later.
- An older snapshot never replaces a newer one: `backends/postgres/persist.sql` compares them in the database.

The builder process moves all the bytes.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.model import Snapshot, Version
from scoreboardd.system.backoff import Backoff
from scoreboardd.telemetry.logs import LogThrottle

RETRY = Backoff(0.2, 5.0)
FLUSH_TIMEOUT_SECONDS = 5.0
"A node that ends waits no longer for its documents to be persisted."

log = structlog.stdlib.get_logger("scoreboardd.cache")


class SnapshotPersister:
    """`interval` is in seconds. `restored(snapshot)` is called with the copy, if the node has no documents by then."""

    def __init__(
        self, cache: DocumentCache, builder: BuilderProcess, *, interval: float, restored: Callable[[Snapshot], None]
    ) -> None:
        self._cache = cache
        self._builder = builder
        self._interval = interval
        self._restored = restored
        self._persisted_version: Version | None = None
        "Our last version that is known to be persisted, or to be older than the copy."
        self._throttle = LogThrottle()

    async def run(self) -> None:
        """Read the copy, then persist what is served, until cancelled."""
        await self._restore()
        while True:
            await asyncio.sleep(self._interval * random.uniform(1, 1.1))
            await self._persist(quiet=self._interval)

    async def flush(self) -> None:
        """Persist what is served at once: the node is about to end."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                await self._persist(quiet=0)
        except TimeoutError:
            log.warning("the documents were not persisted in time", seconds=FLUSH_TIMEOUT_SECONDS)

    async def _restore(self) -> None:
        failures = 0
        while self._cache.snapshot is None:
            try:
                snapshot = await self._builder.restore()
            except BuilderError as error:
                if self._throttle(str(error)):
                    log.warning("cannot read the persisted copy, retrying", error=str(error))
                failures += 1
                await asyncio.sleep(RETRY.delay(failures, random.random()))
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
            if self._throttle(str(error)):
                log.warning("cannot persist the documents, retrying", version=str(snapshot.version), error=str(error))
