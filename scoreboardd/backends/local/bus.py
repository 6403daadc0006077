"""The bus within the process: each subscription gets every message, in the order in which the file was changed."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from scoreboardd.backends.base import MESSAGES_PER_TURN, Message, Unavailable

MAX_QUEUED_MESSAGES = 100_000
"With more messages than this waiting, the subscription ends and the caller subscribes again."
_FOLDER = "create a folder on a local disk for the daemon's user, or set cache.directory"


class LocalBus:
    """While there is a subscription, the process has `directory` to itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._queues: list[asyncio.Queue[Message]] = []
        self._descriptor: int | None = None

    def send(self, message: Message) -> None:
        """Put `message` into every subscription. Call it on the event loop."""
        for queue in self._queues:
            queue.put_nowait(message)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Message]]:
        """One subscription. Raises `Unavailable` if another daemon uses the folder."""
        queue: asyncio.Queue[Message] = asyncio.Queue()
        with self._alone():
            self._queues.append(queue)
            try:
                yield self._messages(queue)
            finally:
                self._queues.remove(queue)

    async def _messages(self, queue: asyncio.Queue[Message]) -> AsyncIterator[Message]:
        received = 0
        while True:
            yield await queue.get()
            received += 1
            if received % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # so that a flood does not hold up the loop
            if queue.qsize() > MAX_QUEUED_MESSAGES:
                raise Unavailable("local: more messages than can be handled; subscribing again")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, which ends with the process."""
        if self._descriptor is not None:  # another subscription of this process holds it
            yield
            return
        try:
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"local: {error.strerror} ({self._directory}); {_FOLDER}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                fix = "stop it, or give this one another cache.directory"
                raise Unavailable(f"local: another daemon uses {self._directory}; {fix}") from error
            except OSError as error:
                raise Unavailable(f"local: cannot lock: {error.strerror} ({self._directory}); {_FOLDER}") from error
            self._descriptor = descriptor
            yield
        finally:
            self._descriptor = None
            os.close(descriptor)
