"""A TCP proxy that misbehaves on demand: it delays, swallows everything without a word, or resets."""

import asyncio
import random
import socket
import struct
from types import TracebackType
from typing import Self

RST_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = 64 * 1024


class Proxy:
    """Forwards a port of its own to `upstream`."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = True
        "Whether a connection that is made now gets through."
        self._delay = 0.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def slow(self, seconds: float) -> None:
        """Hold every chunk back for so long."""
        self._delay = seconds
        for connection in self._connections:
            connection.delay = seconds

    def swallow(self) -> None:
        """From now on nothing comes through, on old connections and new, and nobody is told (no FIN, no RST)."""
        self._passing = False
        for connection in self._connections:
            connection.passing.clear()

    def swallow_some(self, rng: random.Random) -> None:
        """The same for each present connection with an even chance; new ones are well."""
        for connection in self._connections:
            if rng.random() < 0.5:
                connection.passing.clear()

    def heal(self) -> None:
        """What was held back goes on its way."""
        self._passing = True
        self.slow(0.0)
        for connection in self._connections:
            connection.passing.set()

    def reset(self) -> None:
        """Break every connection with a RST."""
        for connection in self._connections:
            connection.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(reader, writer, passing=self._passing, delay=self._delay)
        self._tasks.add(task)
        self._connections.add(connection)
        try:
            await connection.forward(self._upstream)
        finally:
            self._connections.discard(connection)
            self._tasks.discard(task)


class _Connection:
    """One client's, and the one to the server that was made for it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, passing: bool, delay: float
    ) -> None:
        self._reader, self._writers = reader, [writer]
        self.passing = asyncio.Event()
        if passing:
            self.passing.set()
        self.delay = delay
        "Seconds that every chunk is held back."

    def reset(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            writer.transport.abort()

    async def forward(self, upstream: tuple[str, int]) -> None:
        """Until one side is gone, and so the other goes."""
        (here,) = self._writers
        try:
            await self.passing.wait()
            reader, there = await asyncio.open_connection(*upstream)
            self._writers.append(there)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(self._reader, there))
                both.create_task(self._pump(reader, here))
        except* OSError:
            pass
        finally:
            for writer in self._writers:
                writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            await asyncio.sleep(self.delay)
            await self.passing.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionError("closed")
