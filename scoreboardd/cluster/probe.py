"""Notices changes of a platform that announces none: asks its database, and waits for moments known beforehand.

Only the node that took the lock last does so. A difference, or such a moment, is published like a request for a
rebuild, so that all nodes know of it and one of them builds.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from scoreboardd.backends.base import Unavailable
from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.system.backoff import Backoff
from scoreboardd.telemetry.logs import LogThrottle

RETRY = Backoff(0.5, 5.0)
MARGIN_SECONDS = 0.05
"How long after such a moment to rebuild: the database's clock may be a little slower than ours."
IDLE_SECONDS = 60.0
"The longest wait between two looks at whether there is anything to wait for."

log = structlog.stdlib.get_logger("scoreboardd.cluster")


class Probe:
    """`poll` is the number of seconds between two questions; 0 for none. `is_builder` says whether this node took the
    lock last; `publish` publishes a request for a rebuild, and raises `Unavailable`."""

    def __init__(
        self,
        builder: BuilderProcess,
        *,
        poll: float,
        is_builder: Callable[[], bool],
        publish: Callable[[], Awaitable[object]],
    ) -> None:
        self._builder = builder
        self._poll = poll
        self._is_builder = is_builder
        self._publish = publish
        self._built = asyncio.Event()
        self._due_at: float | None = None
        "When the board changes by itself, by the loop's clock."
        self._throttle = LogThrottle()

    def built(self, changes_in: float | None) -> None:
        """A build of this node has found that the board changes by itself in so many seconds."""
        now = asyncio.get_running_loop().time()
        self._due_at = None if changes_in is None else now + changes_in + MARGIN_SECONDS
        self._built.set()

    async def run(self) -> None:
        """Ask and wait until cancelled."""
        while True:
            self._built.clear()
            try:
                async with asyncio.timeout(self._wait_seconds()):
                    await self._built.wait()
                continue
            except TimeoutError:
                pass
            if self._is_builder() and (self._is_due() or (self._poll and await self._is_changed())):
                self._due_at = None
                await self._publish_until_done()

    def _wait_seconds(self) -> float:
        wait = self._poll or IDLE_SECONDS
        if self._due_at is not None:
            wait = min(wait, max(0.0, self._due_at - asyncio.get_running_loop().time()))
        return wait

    def _is_due(self) -> bool:
        return self._due_at is not None and asyncio.get_running_loop().time() >= self._due_at

    async def _is_changed(self) -> bool:
        try:
            return await self._builder.is_changed()
        except BuilderError as error:
            if self._throttle("probe"):
                log.warning("cannot ask the platform's database whether anything changed, retrying", error=str(error))
            return False

    async def _publish_until_done(self) -> None:
        failures = 0
        while True:
            try:
                await self._publish()
            except Unavailable as error:
                failures += 1
                if self._throttle("publish"):
                    log.warning("cannot announce a change of the platform's database, retrying", error=str(error))
                await asyncio.sleep(RETRY.delay(failures, random.random()))
            else:
                return
