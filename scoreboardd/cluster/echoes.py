"""Publishes events and recognises them when the bus brings them back.

A node that wants a rebuild publishes an event like any platform, even to itself. The bus gives the change its place
among all messages, and every node has the chance to be the one that rebuilds.
"""

import asyncio
import secrets

from scoreboardd.backends.base import Changed, ClusterBackend, Unavailable
from scoreboardd.model import ChangeEvent

ECHO_TIMEOUT_SECONDS = 5.0


class Echoes:
    def __init__(self, backend: ClusterBackend) -> None:
        self._backend = backend
        self._waiting: dict[str, asyncio.Future[int]] = {}
        "By the id of the event."

    async def send(self, event: ChangeEvent) -> "asyncio.Future[int]":
        """Publish `event`. The future gets the number given to `received` when it comes back. Raises `Unavailable`."""
        id = secrets.token_hex(8)
        echo: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[id] = echo
        echo.add_done_callback(lambda _: self._waiting.pop(id))
        try:
            await self._backend.publish(event, id)
        except BaseException:
            echo.cancel()
            raise
        return echo

    async def publish(self, event: ChangeEvent) -> int:
        """Publish `event`, wait until it comes back, and return the number given to `received`. Raises
        `Unavailable`."""
        try:
            async with asyncio.timeout(ECHO_TIMEOUT_SECONDS):
                return await (await self.send(event))
        except TimeoutError as error:
            raise Unavailable("the published event did not come back over the bus; try again") from error

    def received(self, message: Changed, change: int = 0) -> bool:
        """Whether `message` is an event that this object published. `change` is the number of the change."""
        echo = self._waiting.get(message.id) if message.id is not None else None
        if echo is None:
            return False
        if not echo.done():
            echo.set_result(change)
        return True
