"""Runs one node's coordinator: performs its actions, gives it their results as inputs, and keeps its clock.

Everything runs on the event loop, so an input is handled at once and completely. An action that takes time is a task of
one task group, and its result comes back as an input.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from scoreboardd.backends.base import Begun, Busy, Changed, ClusterBackend, Lease, Message, Subscribed, Unavailable
from scoreboardd.builder.messages import Build, BuildResult
from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster import coordinator as c
from scoreboardd.cluster.bus import Bus
from scoreboardd.cluster.echoes import Echoes
from scoreboardd.cluster.health import Health
from scoreboardd.cluster.probe import Probe
from scoreboardd.cluster.reporter import Reporter
from scoreboardd.model import ChangeEvent, Snapshot, Version
from scoreboardd.system.compression import Frames
from scoreboardd.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger("scoreboardd.cluster")


class Runner:
    """`announce(version, event)` is called with every version that `cache` serves from now on. `build_timeout` is in
    seconds, and so is `poll` (see `Probe`)."""

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
        poll: float = 0.0,
    ) -> None:
        self.coordinator = coordinator
        self.health = Health()
        self.bus = Bus(backend, self._receive, self._update_cache, self.health, metrics)
        self._backend = backend
        self._builder = builder
        self._cache = cache
        self._announce = announce
        self._build_timeout = build_timeout
        self._reporter = Reporter(metrics, self.health)
        self._echoes = Echoes(backend)

        self.is_builder = False
        "No other node has taken the lock since this one did."
        self.probe = Probe(builder, poll=poll, is_builder=lambda: self.is_builder, publish=self.request)
        self._tasks = asyncio.TaskGroup()
        self._timer: asyncio.TimerHandle | None = None
        self._token = secrets.token_hex(16)
        "For the next lease. Kept while it is unknown whether the store has given us a lease with it."
        self._lease: Lease | None = None
        self._building: asyncio.Task[None] | None = None
        self._built: tuple[BuildResult, Mapping[str, Frames] | None] | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        "Futures to resolve when the change of that number is contained."
        self._progress: tuple[int, Version | None] = (0, None)
        "The last contained change, and the version served."

    async def run(self) -> None:
        """Take part in the cluster until cancelled."""
        try:
            async with self._tasks:
                try:
                    await self.bus.run()
                finally:
                    if self._timer is not None:
                        self._timer.cancel()
        finally:
            if self.coordinator.lease is not None:
                await self._abandon()  # so that no node has to wait until the lock expires

    async def request(self) -> int:
        """Ask the cluster for a rebuild. Returns the number of the change, for `contained`. Raises `Unavailable`."""
        try:
            return await self._echoes.publish(ChangeEvent.updated())
        except Unavailable as error:
            self.health.lock = str(error)  # until the lock is taken, or found taken, again
            raise

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

    def restored(self, snapshot: Snapshot) -> None:
        """Serve a persisted snapshot as long as there is nothing better."""
        if self._cache.restore(snapshot):
            self._feed(c.Restored(snapshot.version))

    def statistics(self) -> dict[str, Any]:
        """For a person who looks inside a running node."""
        return {
            "connected": self.bus.connected,
            "lease": str(self._lease.version) if self._lease and self.coordinator.lease else None,
            "waiting": len(self._waiting),
            "tasks": len(self._tasks._tasks),  # noqa: SLF001  there is no public count
            "health": {name: getattr(self.health, name) for name in Health.__slots__},
            "coordinator": self.coordinator.statistics(),
        }

    # Inputs

    def _receive(self, message: Message) -> None:
        match message:
            case Subscribed(given):
                self._feed(c.SubscriptionStarted(given))
            case Changed(event, id, readable):
                self._reporter.event_received(event, readable=readable)
                self._feed(c.ChangeReported(event, requested=id is not None))
                self._echoes.received(message, self.coordinator.changes)
            case _:
                if isinstance(message, Begun) and (self._lease is None or message.version != self._lease.version):
                    self.is_builder = False
                self._feed(c.MessageReceived(message))

    def _feed(self, received: c.Input) -> None:
        coordinator, loop = self.coordinator, asyncio.get_running_loop()
        actions = coordinator.handle(received, loop.time())
        if logging.getLogger("scoreboardd.cluster").isEnabledFor(logging.DEBUG):
            log.debug("coordinator", input=repr(received), actions=list(map(repr, actions)))
        for action in actions:
            self._perform(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if coordinator.wake < c.NEVER:
            self._timer = loop.call_at(coordinator.wake, lambda: self._start(self._tick()))
        self._note_progress(loop.time())
        self._update_cache()

    def _update_cache(self) -> None:
        coordinator = self.coordinator
        self._cache.update(
            confirmed=coordinator.contained > 0,
            outdated=coordinator.stale,
            in_doubt=coordinator.failing or not self.bus.connected,
        )

    def _note_progress(self, now: float) -> None:
        contained = self.coordinator.contained
        progress = contained, self._cache.version
        if not self.coordinator.stale:
            if self.health.waiting_since is not None:
                self.health.progressed()
        elif self.health.waiting_since is None or progress != self._progress:
            self.health.waiting_since = now
        self._progress = progress
        for change, waiting in self._waiting:
            if change <= contained and not waiting.done():
                waiting.set_result(None)

    async def _tick(self) -> None:
        # A task, so that a fault in what follows ends the daemon like any other.
        self._feed(c.Tick())

    # Actions

    def _perform(self, action: c.Action) -> None:
        match action:
            case c.TryLock(seen):
                self._start(self._try_lock(seen))
            case Build():
                self._building = self._start(self._build(action))
            case c.CancelBuild():
                self._reporter.lock_lost(self._lease.version if self._lease else None)
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

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    async def _try_lock(self, seen: Version | None) -> None:
        try:
            answer = await self._backend.acquire(self._token, seen)
        except Unavailable as error:
            self._reporter.lock_failed(error, connected=self.bus.connected)
            self._feed(c.LockFailed())
            return
        if isinstance(answer, Busy):
            self._reporter.lock_busy(answer)
            self._feed(c.LockBusy(answer.remaining))
            return
        self._reporter.lock_acquired()
        self._token = secrets.token_hex(16)
        self._lease = answer
        self.is_builder = True
        self._feed(c.LockAcquired(answer.version))

    async def _build(self, request: Build) -> None:
        assert self._lease is not None
        try:
            self._built = await self._builder.build(request, self._lease.token, timeout=self._build_timeout)
        except BuilderError as error:
            self._reporter.build_failed(request, error)
            self._feed(c.BuildFailed())
            return
        result, _ = self._built
        self._reporter.built(result)
        self.probe.built(result.changes_in)
        complete = result.metadata.complete
        self._feed(c.Built(complete) if result.unchanged is None else c.Unchanged(result.unchanged, complete))

    async def _renew(self) -> None:
        lease = self._lease
        assert lease is not None
        try:
            is_ours = await self._backend.renew(lease)
        except Unavailable as error:
            self._reporter.lock_uncertain(error)
            return
        if not is_ours and lease is self._lease:  # a slow answer may be about an earlier lease
            self._feed(c.LeaseLost())

    async def _commit(self, event: ChangeEvent, changes: int) -> None:
        lease, served = self._lease, self._cache.version
        assert lease is not None and self._built is not None
        result, documents = self._built
        assert documents is not None
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            committed = await self._backend.commit(lease, result.metadata, event)
        except Unavailable as error:
            self._reporter.commit_uncertain(lease, error)
            self._feed(c.CommitFailed())
            return
        self._built = None
        if not committed:
            self._reporter.commit_refused(lease)
            self._feed(c.CommitRefused())
            return
        self._cache.replace(result.metadata.snapshot(lease.version, documents), served)
        self._reporter.committed(lease, result, event, changes=changes, commit_seconds=loop.time() - start)
        self._feed(c.Committed())

    async def _confirm(self) -> None:
        lease = self._lease
        assert lease is not None and self._built is not None
        (result, _), self._built = self._built, None
        metadata = result.metadata
        try:
            confirmed = await self._backend.confirm(lease, metadata.as_of, full=result.full, complete=metadata.complete)
        except Unavailable as error:
            self._reporter.commit_uncertain(lease, error)
            self._feed(c.CommitFailed())
            return
        if not confirmed:
            self._reporter.commit_refused(lease)
            self._feed(c.CommitRefused())
            return
        self._reporter.confirmed(lease, result)
        if result.unchanged == self._cache.version:
            self._cache.confirm(metadata.as_of)
        self._feed(c.Committed())

    async def _abandon(self) -> None:
        assert self._lease is not None
        try:
            await self._backend.abandon(self._lease)
        except Unavailable as error:
            self._reporter.lock_uncertain(error)

    async def _load(self) -> None:
        served = self._cache.version
        try:
            head, snapshot = await self._builder.load(served)
        except BuilderError as error:
            self._reporter.load_failed(error)
            self._feed(c.DocumentsDamaged() if error.part == "damaged" else c.LoadFailed())
            return
        version, metadata = head.version, head.metadata
        if version is None or metadata is None:
            self._reporter.loaded(None)
            self._feed(c.Loaded(None, given=head.given))
            return
        is_new = self._cache.load(version, snapshot, metadata.as_of, served)
        self._reporter.loaded(version if is_new else None)
        self._feed(c.Loaded(version, head.confirmed, metadata.full, metadata.complete, head.given))
