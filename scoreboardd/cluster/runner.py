"""The coordinator's hands: performs its actions, feeds it what comes of them, and keeps its clock.

Everything runs on the event loop, so an input is handled at once and to the end; what takes time is a task of one task
group. A task's result comes back as an input, never as state of its own.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from scoreboardd.backends.base import (
    Abandoned,
    Begun,
    Busy,
    Changed,
    ClusterBackend,
    Confirmed,
    Lease,
    Message,
    Rebuilt,
    Subscribed,
    Unavailable,
)
from scoreboardd.builder.process import BuilderError, BuilderProcess, FinishedBuild
from scoreboardd.cache.document_cache import CacheTier, DocumentCache
from scoreboardd.cluster import coordinator as c
from scoreboardd.model import ChangeEvent, Snapshot, Version
from scoreboardd.telemetry.findings import FindingsReporter
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

RECONNECT_MIN, RECONNECT_MAX = 0.1, 5.0
"Seconds between attempts to subscribe."
ECHO = 5.0
"Seconds within which the bus brings back what we published."
BREATH = 64
"Messages handled before the loop gets a turn, however many are waiting."

log = structlog.stdlib.get_logger("scoreboardd.cluster")


@dataclass(slots=True)
class Health:
    """How each thing that this node does went the last time: None is well, else what is wrong. One that works does not
    hide another that fails."""

    bus: str | None = "not connected yet"
    lock: str | None = None
    stage: str | None = None
    commit: str | None = None
    load: str | None = None
    source: str | None = None
    "Reading the platform's database."
    build: str | None = None
    "Whatever else a build may fail at."
    waiting_since: float | None = None
    "Monotonic time since when a change waits without progress."

    @property
    def store(self) -> str | None:
        """What is wrong with the shared store."""
        return self.bus or self.lock or self.stage or self.commit or self.load


class Runner:
    """Runs one node's coordinator. `announce(version, event)` announces a version that `cache` already serves; `tier`
    is what the store is to those who read."""

    def __init__(
        self,
        coordinator: c.Coordinator,
        *,
        backend: ClusterBackend,
        builder: BuilderProcess,
        cache: DocumentCache,
        announce: Callable[[Version, ChangeEvent], None],
        metrics: Metrics,
        build_timeout: float,
        tier: CacheTier,
    ) -> None:
        self.coordinator = coordinator
        self.health = Health()
        self.connected = False
        "Subscribed to the bus."
        self._backend = backend
        self._builder = builder
        self._cache = cache
        self._announce = announce
        self._metrics = metrics
        self._build_timeout = build_timeout
        self._tier = tier

        self._tasks = asyncio.TaskGroup()
        self._timer: asyncio.TimerHandle | None = None
        self._token = secrets.token_hex(16)
        "For the next lease. Kept while it is unknown whether the store has given us one under it."
        self._lease: Lease | None = None
        self._building: asyncio.Task[None] | None = None
        self._built: FinishedBuild | None = None
        self._echoes: dict[str, asyncio.Future[int]] = {}
        "What we published and wait to hear again, by id → the number of the change it was."
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        "Who waits until the change of that number is contained."
        self._progress: tuple[int, Version | None] = (0, None)
        "What is contained, and the version served."
        self._subscriptions = 0
        self._seldom = LogThrottle()
        self._findings = FindingsReporter(metrics)

    async def run(self) -> None:
        """Take part in the cluster until cancelled."""
        try:
            async with self._tasks:
                try:
                    await self._listen()
                finally:
                    if self._timer is not None:
                        self._timer.cancel()
        finally:
            if self.coordinator.lease is not None:
                await self._abandon()  # so that nobody has to wait for the lock to run out

    async def request(self) -> int:
        """Say that something changed. Returns the number of the change, for `contained`; raises `Unavailable`.

        By way of the bus, even from ourselves to ourselves: that gives the change its place in the order of things, and
        every node a chance to be the one that rebuilds.
        """
        id = secrets.token_hex(8)
        echo: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._echoes[id] = echo
        try:
            async with asyncio.timeout(ECHO):
                await self._backend.publish(ChangeEvent.updated(), id)
                return await echo
        except TimeoutError as error:
            raise Unavailable("what was published did not come back; try again") from error
        finally:
            del self._echoes[id]

    def restored(self, snapshot: Snapshot) -> None:
        """Serve what was kept outside the store, as long as there is nothing better."""
        if self._cache.snapshot is None and self._cache.install(snapshot, CacheTier.POSTGRES):
            self._feed(c.Restored(snapshot.version))

    async def contained(self, change: int) -> None:
        """Wait until what this node serves contains the change of that number."""
        if self.coordinator.contained < change:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (change, waiting)
            self._waiting.append(entry)
            try:
                await waiting
            finally:
                if entry in self._waiting:
                    self._waiting.remove(entry)

    # The bus

    async def _listen(self) -> None:
        attempts = 0
        while True:
            try:
                async with self._backend.subscribe() as messages:
                    heard = 0
                    async for message in messages:
                        attempts = 0
                        self._receive(message)
                        heard += 1
                        if heard % BREATH == 0:
                            await asyncio.sleep(0)
            except Unavailable as error:
                if self.connected:
                    log.warning("lost the bus", error=str(error))
                elif self._seldom("bus"):
                    log.warning("cannot reach the bus, retrying", error=str(error))
                self.health.bus = str(error)
                self.connected = False
                self._metrics.bus_connected.set(0)
            attempts += 1
            longest = min(RECONNECT_MAX, RECONNECT_MIN * 2 ** min(attempts, 10))
            await asyncio.sleep(longest * random.uniform(0.5, 1))

    def _receive(self, message: Message) -> None:
        match message:
            case Subscribed(given):
                self._subscribed()
                self._feed(c.SubscriptionStarted(given))
            case Changed(event, id, readable):
                self._metrics.event(event.reason if readable else "other")
                if not readable and self._seldom("unreadable"):
                    log.warning("an event could not be read and counts as a change; at most one such line a minute")
                self._feed(c.ChangeReported(event, requested=id is not None))
                if id in self._echoes and not self._echoes[id].done():
                    self._echoes[id].set_result(self.coordinator.changes)
            case Begun() | Confirmed() | Abandoned() | Rebuilt():
                self._feed(c.MessageReceived(message))

    def _subscribed(self) -> None:
        log.info("connected to the bus")
        if self._subscriptions:
            self._metrics.bus_reconnects.inc()
        self._subscriptions += 1
        self.connected = True
        self.health.bus = None
        self._metrics.bus_connected.set(1)

    # The coordinator

    def _feed(self, received: c.Input) -> None:
        loop = asyncio.get_running_loop()
        for action in self.coordinator.handle(received, loop.time()):
            self._perform(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.coordinator.wake < c.NEVER:
            self._timer = loop.call_at(self.coordinator.wake, lambda: self._start(self._tick()))
        contained = self.coordinator.contained
        progress = contained, self._cache.version
        if not self.coordinator.stale:
            if self.health.waiting_since is not None:  # some node has got through, so the store is well
                self.health = Health(bus=self.health.bus, load=self.health.load)
        elif self.health.waiting_since is None or progress != self._progress:
            self.health.waiting_since = loop.time()
        self._progress = progress
        if contained:
            self._cache.tier = CacheTier.MEMORY  # a build that began after we joined made it, or found it true
        for change, waiting in self._waiting:
            if change <= contained and not waiting.done():
                waiting.set_result(None)

    def _perform(self, action: c.Action) -> None:
        match action:
            case c.TryLock(seen):
                self._start(self._try_lock(seen))
            case c.Build():
                self._building = self._start(self._build(action))
            case c.CancelBuild():
                log.warning("lost the lock while building, leaving it to the next holder", version=str(self._version))
                self._metrics.rebuilds.labels("superseded").inc()
                if self._building is not None:
                    self._building.cancel()
            case c.Renew():
                self._start(self._renew())
            case c.Commit(event, changes):
                self._start(self._commit(event or ChangeEvent.updated(), changes))
            case c.Confirm():
                self._start(self._confirm())
            case c.Abandon():
                self._start(self._abandon())
            case c.Load():
                self._start(self._load())
            case c.Announce(version, event):
                self._announce(version, event or ChangeEvent.updated())

    async def _tick(self) -> None:
        # A task, so that a fault in what it leads to ends the daemon like any other.
        self._feed(c.Tick())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    @property
    def _version(self) -> Version | None:
        return self._lease.version if self._lease else None

    async def _try_lock(self, seen: Version | None) -> None:
        try:
            answer = await self._backend.acquire(self._token, seen)
        except Unavailable as error:
            self._metrics.lock_attempts.labels("error").inc()
            self.health.lock = str(error)
            if self.connected and self._seldom("lock"):
                log.error("cannot take the lock, retrying", error=str(error))
            self._feed(c.LockFailed())
            return
        self.health.lock = None
        if isinstance(answer, Busy):
            self._metrics.lock_attempts.labels("busy").inc()
            if answer.overlong:
                self.health.lock = "the lock had no end, or a late one; it ends within rebuild.lock_ttl now"
                if self._seldom("overlong"):
                    log.warning(self.health.lock)
            self._feed(c.LockBusy(answer.remaining))
            return
        self._metrics.lock_attempts.labels("acquired").inc()
        self._token = secrets.token_hex(16)
        self._lease = answer
        self._feed(c.LockAcquired(answer.version))

    async def _build(self, asked: c.Build) -> None:
        assert self._lease is not None
        try:
            built = await self._builder.build(
                self._lease,
                quiet=asked.quiet,
                full=asked.full,
                solves=asked.solves,
                announced=asked.announced,
                again=asked.again,
                timeout=self._build_timeout,
            )
        except BuilderError as error:
            self._metrics.rebuilds.labels("failed").inc()
            part = {"source": "source", "store": "stage"}.get(error.part, "build")
            setattr(self.health, part, str(error))
            if self._seldom(str(error)):
                log.error("rebuild failed, retrying", version=str(asked.version), error=str(error))
            self._feed(c.BuildFailed())
            return
        if self.health.source is not None:
            log.info("the database can be read")
        self.health.source = self.health.stage = self.health.build = None
        for stage in ("read", "build", "render"):
            self._metrics.rebuild_duration.labels(stage).observe(built.timings[stage])
        self._findings.report(built.findings, full=built.full)
        self._built = built
        complete = built.complete
        self._feed(c.Built(complete) if built.unchanged is None else c.Unchanged(built.unchanged, complete))

    async def _renew(self) -> None:
        lease = self._lease
        assert lease is not None
        try:
            ours = await self._backend.renew(lease)
        except Unavailable as error:
            self.health.lock = str(error)  # the lock may well outlive this, and the commit will tell
            return
        if not ours and lease is self._lease:  # a slow answer may be about a lease before this one
            self._feed(c.LeaseLost())

    async def _commit(self, event: ChangeEvent, changes: int) -> None:
        lease, built, asked = self._lease, self._built, self._cache.version
        assert lease is not None and built is not None and built.documents is not None
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            committed = await self._backend.commit(lease, built.metadata, event)
        except Unavailable as error:
            self._unfinished(lease, error)
            return
        timings = built.timings | {"commit": built.timings["commit"] + loop.time() - start}
        self._metrics.rebuild_duration.labels("commit").observe(timings["commit"])
        self._built = None
        if not committed:
            self._superseded(lease)
            return
        self.health.commit = None
        self._metrics.rebuilds.labels("committed").inc()
        self._serve(built.snapshot(lease.version, built.documents), asked)
        log.info(
            "rebuilt",
            version=str(lease.version),
            reason=event.reason,
            changes=changes,
            seconds={stage: round(seconds, 4) for stage, seconds in timings.items()},
            rows=built.rows,
            full=built.full,
            bytes=built.size,
            staged_bytes=built.staged_bytes,
        )
        self._feed(c.Committed())

    async def _confirm(self) -> None:
        lease, built = self._lease, self._built
        assert lease is not None and built is not None
        self._built = None
        try:
            metadata = built.metadata
            confirmed = await self._backend.confirm(lease, metadata.as_of, full=built.full, complete=metadata.complete)
        except Unavailable as error:
            self._unfinished(lease, error)
            return
        if not confirmed:
            self._superseded(lease)
            return
        self.health.commit = None
        log.debug("nothing changed", version=str(lease.version), seconds=built.timings)
        if built.unchanged == self._cache.version:
            self._cache.confirm(built.metadata.as_of)
        self._feed(c.Committed())

    def _superseded(self, lease: Lease) -> None:
        log.warning("too late to commit: the lock had passed on", version=str(lease.version))
        self._metrics.rebuilds.labels("superseded").inc()
        self._feed(c.CommitRefused())

    def _unfinished(self, lease: Lease, error: Unavailable) -> None:
        log.error("unknown whether a version was committed, looking", version=str(lease.version), error=str(error))
        self._metrics.rebuilds.labels("failed").inc()
        self.health.commit = str(error)
        self._feed(c.CommitFailed())

    async def _abandon(self) -> None:
        assert self._lease is not None
        try:
            await self._backend.abandon(self._lease)
        except Unavailable as error:
            self.health.lock = str(error)  # the lock then ends by itself

    async def _load(self) -> None:
        asked = self._cache.version
        try:
            head, snapshot = await self._builder.load(asked)
        except BuilderError as error:
            self.health.load = str(error)
            if self._seldom(str(error)):
                log.error("cannot load the documents, retrying", error=str(error))
            if error.part == "damaged":
                self._metrics.damaged.inc()
            self._feed(c.DocumentsDamaged() if error.part == "damaged" else c.LoadFailed())
            return
        self.health.load = None
        version, metadata = head.version, head.metadata
        if version is None or metadata is None:
            self._feed(c.Loaded(None, given=head.given))
            return
        # The first that the store has for us is what it had; from then on its news are the cluster's own word.
        first = asked is None or self._cache.tier not in (CacheTier.MEMORY, self._tier)
        tier = self._tier if first else CacheTier.MEMORY
        if snapshot is not None and self._serve(snapshot, asked, tier):
            log.info("loaded", version=str(version))
        elif version == self._cache.version:
            if first:
                self._cache.tier = tier
            self._cache.confirm(metadata.as_of)
        self._feed(c.Loaded(version, head.confirmed, metadata.full, metadata.complete, head.given))

    def _serve(self, snapshot: Snapshot, asked: Version | None, tier: CacheTier = CacheTier.MEMORY) -> bool:
        return snapshot.version.replaces(self._cache.version, asked) and self._cache.install(snapshot, tier)
