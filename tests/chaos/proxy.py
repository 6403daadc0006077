"""A TCP proxy that misbehaves on demand: it delays, swallows everything without a word, or resets."""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

RST_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = 64 * 1024


class Proxy:
    """Forwards a port of its own to `upstream`. Whatever it does, it does to old and new connections alike."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self.delay = 0.0
        "Seconds that every chunk is held back."

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

    def swallow(self) -> None:
        """From now on nothing comes through, and nobody is told (no FIN, no RST)."""
        self._passing.clear()

    def heal(self) -> None:
        self._passing.set()
        self.delay = 0.0

    def reset(self) -> None:
        """Break every connection with a RST."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._passing.wait()
            there_reader, there_writer = await asyncio.open_connection(*self._upstream)
            self._writers.add(there_writer)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, there_writer))
                    both.create_task(self._pump(there_reader, writer))
            finally:
                self._writers.discard(there_writer)
                there_writer.transport.abort()
        except* OSError:
            pass  # one side is gone, and so the other goes
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            await asyncio.sleep(self.delay)
            await self._passing.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionError("closed")
