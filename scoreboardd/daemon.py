"""The composition root: builds all parts, starts them and stops them.

Start: first the listeners (a node without documents answers 503), then all other parts at once. systemd receives READY
as soon as both listeners are bound, because a daemon that waits for Redis or PostgreSQL works as intended. Stop: accept
no new streams, end the open streams over `drain` seconds while reads go on, persist the documents, leave the cluster,
close the listeners.
"""

import asyncio
import errno
import gc
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

import structlog
from aiohttp import web

from scoreboardd import __version__
from scoreboardd.backends.factory import PERSISTER, backend_of, document_store_options, open_cluster_backend
from scoreboardd.builder.process import BuilderProcess
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cache.persister import SnapshotPersister
from scoreboardd.cluster.coordinator import Coordinator, Timing
from scoreboardd.cluster.runner import Runner
from scoreboardd.config import Settings
from scoreboardd.events.factory import event_relays
from scoreboardd.live import LiveBoard
from scoreboardd.platforms.factory import SourceOptions
from scoreboardd.platforms.platform import load_platform
from scoreboardd.stream import hijack
from scoreboardd.stream.accept import FastAcceptFactory
from scoreboardd.stream.broadcaster import Broadcaster
from scoreboardd.stream.endpoint import StreamEndpoint
from scoreboardd.system import descriptors
from scoreboardd.system.clock import Clock
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.telemetry.systemd import Systemd
from scoreboardd.web import app as public
from scoreboardd.web.address import ClientAddressResolver
from scoreboardd.web.admin import Admin
from scoreboardd.web.connection_limit import ConnectionLimit
from scoreboardd.web.documents import DocumentEndpoint
from scoreboardd.web.feeds import Feeds
from scoreboardd.web.frontend import Frontend
from scoreboardd.web.info import DEFAULT_NAME, InfoEndpoint
from scoreboardd.web.listener import BACKLOG_CONNECTIONS, listen
from scoreboardd.web.rebuild import RebuildEndpoint

IDLE_TIMEOUT_SECONDS = 15.0
"""The daemon closes an HTTP connection that is idle for this time, or takes it to send the head of a request. A proxy
must close its idle connections earlier, because a request on a connection that is being closed fails."""
PUBLIC_SOCKETS = 4
"""Sockets that listen on the public port. The kernel distributes new connections among them, so that together they have
a larger backlog than `net.core.somaxconn` allows for one."""
GC_THRESHOLD_OBJECTS = 50_000
"""New objects after which the garbage collector looks for cycles. With the default, 700, it takes a tenth of the time
in which thousands of clients connect, and finds nothing."""
MAX_ADMIN_CONNECTIONS = 16
LAG_PERIOD_SECONDS = 0.1
"Seconds between two measurements of the lag of the event loop."
STATUS_PERIOD_SECONDS = 5.0
"Seconds between two status lines for systemd."

log = structlog.stdlib.get_logger("scoreboardd")


class Daemon:
    """One node. `public_address` and `admin_address` are None until `run` has bound the listeners."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._draining = False
        self._systemd = Systemd()
        self.ready = asyncio.Event()
        "Set once the listeners are bound."
        self.public_address: tuple[str, int] | None = None
        self.admin_address: tuple[str, int] | None = None

        rebuild, sse = settings.rebuild, settings.sse
        backend = backend_of(settings)
        # With the PostgreSQL and the local backend the documents are kept anyway.
        persist = settings.cache.persist and backend.persisted
        self.metrics = Metrics()
        self.shares = descriptors.shares(sse.max_clients)
        self.metrics.clients_limit.set(self.shares.streams)
        self.clock = Clock()
        self.cache = DocumentCache(self.clock, store=backend.tier, stale_after=settings.cache.stale_after)
        self.metrics.clock_ahead.set_function(lambda: self.clock.ahead)
        self.backend = open_cluster_backend(settings)
        self.builder = BuilderProcess(
            source=asdict(SourceOptions.of(settings)),
            document_store=document_store_options(settings),
            persister=PERSISTER.document_store_options(settings) if persist else None,
            clock=self.clock,
            metrics=self.metrics,
            log_level=settings.log.level,
            log_format=settings.log.format,
        )
        self.broadcaster = Broadcaster(
            self.metrics,
            max_clients=self.shares.streams,
            max_clients_per_ip=sse.max_clients_per_ip,
            queue=sse.queue,
            heartbeat=sse.heartbeat,
            stall_timeout=sse.stall_timeout,
        )
        self.addresses = ClientAddressResolver(settings.server.trusted_proxies)
        self.streams = StreamEndpoint(
            self.cache,
            self.broadcaster,
            self.addresses,
            retry_min=sse.retry_min,
            retry_max=sse.retry_max,
            cors_origins=settings.server.cors_origins,
        )
        self.runner = Runner(
            Coordinator(
                Timing(
                    debounce=rebuild.debounce,
                    max_wait=rebuild.max_wait,
                    lock_ttl=rebuild.lock_ttl,
                    reconcile=rebuild.reconcile,
                ),
                jitter=random.random,
            ),
            backend=self.backend,
            builder=self.builder,
            cache=self.cache,
            announce=self.streams.publish,
            metrics=self.metrics,
            build_timeout=rebuild.timeout,
            poll=settings.source.poll if load_platform(settings.source.kind).reader == "snapshots" else 0.0,
        )
        name = "" if settings.server.name == DEFAULT_NAME else settings.server.name
        self.live = (
            LiveBoard(self.builder, self.clock, name=name, stall_timeout=sse.stall_timeout)
            if load_platform(settings.source.kind).reader == "snapshots"
            else None
        )
        self.persister = (
            SnapshotPersister(
                self.cache, self.builder, interval=settings.cache.persist_interval, restored=self.runner.restored
            )
            if persist
            else None
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain. Raises `listener.CannotListen` or `hijack.Incompatible`; any other
        exception is a fault of ours."""
        await hijack.check()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.backend.aclose)
            server, admin = self._settings.server, self._settings.admin
            self.public_address = await stack.enter_async_context(
                self._listening("server", self._public_app(), server.host, server.port, streams=self.streams)
            )
            self.admin_address = await stack.enter_async_context(
                self._listening("admin", self._admin_app(), admin.host, admin.port)
            )
            self._watch_descriptors()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD_OBJECTS)
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(work)
                    for work in (
                        self.builder.run(),
                        self.runner.run(),
                        self.runner.probe.run(),
                        *([self.live.run()] if self.live else []),
                        *event_relays(self._settings, self.backend, self.runner.health, self.metrics),
                        *([self.persister.run()] if self.persister else []),
                        self.broadcaster.run(),
                        self._measure_lag(),
                        self._report_status(),
                        self._systemd.feed_watchdog(),
                    )
                ]
                log.info(
                    "listening",
                    version=__version__,
                    public=self.public_address,
                    admin=self.admin_address,
                    max_clients=self.shares.streams,
                    descriptors=self.shares.limit,
                )
                self._systemd.ready()
                self.ready.set()
                await stop.wait()
                self._draining = True
                self._systemd.stopping()
                log.info("stopping", streams=len(self.broadcaster))
                await self.broadcaster.drain(self._settings.server.drain)
                if self.persister:
                    await self.persister.flush()
                for task in running:
                    task.cancel()
        log.info("stopped")

    def _watch_descriptors(self) -> None:
        for problem in descriptors.problems(self._settings.sse.max_clients):
            log.warning(problem)
        may_log = LogThrottle()

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
                loop.default_exception_handler(context)
                return
            self.metrics.descriptors_exhausted.inc()
            if may_log("descriptors"):
                log.error("out of descriptors, retrying; raise LimitNOFILE", error=str(error))

        asyncio.get_running_loop().set_exception_handler(handle)

    def statistics(self) -> dict[str, Any]:
        """Return the state of this node for `/debug/state`."""
        return {
            "runner": self.runner.statistics(),
            "cache": self.cache.statistics(),
            "streams": self.broadcaster.statistics(),
            "builder": {"pid": self.builder.pid, "problem": self.builder.problem},
        }

    def _public_app(self) -> web.Application:
        settings = self._settings
        documents = DocumentEndpoint(self.cache, self.metrics, write_timeout=settings.sse.stall_timeout)
        return public.make(
            documents,
            self.streams,
            RebuildEndpoint(
                self.runner,
                self.cache,
                self.addresses,
                token=settings.rebuild.token.get_secret_value(),
                timeout=settings.rebuild.timeout,
            ),
            InfoEndpoint(self.cache, name="" if settings.server.name == DEFAULT_NAME else settings.server.name),
            Frontend(settings.server.name) if settings.server.page else None,
            Feeds(self.cache, documents),
            settings.server.feeds,
        )

    def _admin_app(self) -> web.Application:
        return Admin(
            self.runner,
            self.builder,
            self.cache,
            self.metrics,
            store=self._settings.coordination.backend,
            draining=lambda: self._draining,
            statistics=self.statistics,
            live=self.live,
        ).app()

    @asynccontextmanager
    async def _listening(
        self, section: str, app: web.Application, host: str, port: int, *, streams: StreamEndpoint | None = None
    ) -> AsyncIterator[tuple[str, int]]:
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_TIMEOUT_SECONDS,
            shutdown_timeout=1.0,
            handler_cancellation=True,
        )
        await runner.setup()
        assert runner.server is not None
        make_protocol = self._connection_limit(runner.server, streams)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(runner.cleanup)
            count = 1 if streams is None else PUBLIC_SOCKETS
            listeners = listen(section, host, port, count, user_timeout=self._settings.sse.stall_timeout)
            address = listeners[0].getsockname()[:2]
            for listener in listeners:
                server = await asyncio.get_running_loop().create_server(
                    make_protocol, sock=listener, backlog=BACKLOG_CONNECTIONS
                )
                stack.callback(server.close)
            yield address

    def _connection_limit(self, http: web.Server, streams: StreamEndpoint | None) -> ConnectionLimit:
        if streams is None:
            return ConnectionLimit(http, http, self.metrics, max_connections=MAX_ADMIN_CONNECTIONS)
        fast_accept = FastAcceptFactory(streams, http, idle_timeout=IDLE_TIMEOUT_SECONDS)
        return ConnectionLimit(
            fast_accept,
            http,
            self.metrics,
            max_connections=self.shares.connections,
            count_others=lambda: len(fast_accept.silent) + len(self.broadcaster),
            end_silent=fast_accept.end_oldest,
        )

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_SECONDS
            await asyncio.sleep(LAG_PERIOD_SECONDS)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))

    async def _report_status(self) -> None:
        while True:
            version = self.cache.version
            self._systemd.status(f"version {version or 'none yet'}, {len(self.broadcaster)} streams")
            await asyncio.sleep(STATUS_PERIOD_SECONDS)
