"""The live board for organisers, on the admin listener below `/live`: what the public sees once a freeze is over.

It never goes through the cluster's store. Each node reads it from the platform's database while somebody looks at it,
at most once every few seconds, and serves it with the same parts as the public board.
"""

import asyncio

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.model import ChangeEvent, Version
from scoreboardd.stream.broadcaster import Broadcaster
from scoreboardd.stream.endpoint import StreamEndpoint
from scoreboardd.system.clock import Clock
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.web import app as public
from scoreboardd.web import errors
from scoreboardd.web.address import ClientAddressResolver
from scoreboardd.web.documents import DocumentEndpoint
from scoreboardd.web.frontend import Frontend
from scoreboardd.web.info import InfoEndpoint

PREFIX = errors.LIVE_PREFIX
EPOCH = "live"
REFRESH_SECONDS = 2.0
"The time between two reads while somebody looks."
INTEREST_SECONDS = 30.0
"Somebody looks as long as the last request is no older, or a stream is open."
MAX_STREAMS = 8

log = structlog.stdlib.get_logger("scoreboardd.live")


class LiveBoard:
    """`name` is the contest's, as for the public board."""

    def __init__(self, builder: BuilderProcess, clock: Clock, *, name: str, stall_timeout: float) -> None:
        self._builder = builder
        self._cache = DocumentCache(clock)
        metrics = Metrics()  # not exposed: these are no players
        self._broadcaster = Broadcaster(
            metrics,
            max_clients=MAX_STREAMS,
            max_clients_per_ip=0,
            queue=16,
            heartbeat=15.0,
            stall_timeout=stall_timeout,
        )
        self._streams = StreamEndpoint(
            self._cache, self._broadcaster, ClientAddressResolver(()), retry_min=1.0, retry_max=5.0
        )
        self._documents = DocumentEndpoint(self._cache, metrics, write_timeout=stall_timeout)
        self._name = name
        self._asked_at = float("-inf")
        self._asked = asyncio.Event()
        self._number = 0
        self._digest = ""
        self._throttle = LogThrottle()

    def app(self) -> web.Application:
        """The routes, to be added below `PREFIX`."""
        app = public.make(
            self._documents,
            self._streams,
            None,
            InfoEndpoint(self._cache, name=self._name),
            Frontend(self._name or "Scoreboard"),
        )
        app.middlewares.append(self._note)
        return app

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._asked_at = asyncio.get_running_loop().time()
        self._asked.set()
        return await handler(request)

    async def run(self) -> None:
        """Read the board while somebody looks, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._broadcaster.run())
            while True:
                await self._asked.wait()
                await self._refresh()
                await asyncio.sleep(REFRESH_SECONDS)
                if not self._is_watched():
                    self._asked.clear()

    def _is_watched(self) -> bool:
        return bool(len(self._broadcaster)) or asyncio.get_running_loop().time() - self._asked_at < INTEREST_SECONDS

    async def _refresh(self) -> None:
        try:
            metadata, documents = await self._builder.live()
        except BuilderError as error:
            if self._throttle("live"):
                log.warning("cannot read the live board, retrying", error=str(error))
            return
        if metadata.digest == self._digest:
            self._cache.confirm(metadata.as_of)
            return
        self._digest = metadata.digest
        self._number += 1
        version = Version(EPOCH, self._number)
        if self._cache.install(metadata.snapshot(version, documents)):
            self._cache.update(confirmed=True, outdated=False, in_doubt=False)
            self._streams.publish(version, ChangeEvent.updated())
