"""The socket pair between the daemon and its builder process: JSON messages, each with at most one descriptor.

A message is its length in 8 bytes and then its text. A descriptor travels with the first byte.
"""

import asyncio
import os
import socket
from typing import Any

import orjson

MAX_MESSAGE_BYTES = 64 << 20
"A message is a few numbers, and 200 bytes for each document of each division."
_LENGTH_BYTES = 8


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Channel:
    """One end of the pair. Only one task at a time may receive."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._sending = asyncio.Lock()

    async def receive(self) -> tuple[bytes, int | None] | None:
        """A message, and the descriptor that came with it and now is the caller's. None if the other end is gone.
        Raises `ValueError` for a length that `send` does not send."""
        descriptors: list[int] = []
        length = await self._read(_LENGTH_BYTES, descriptors)
        if length is None:
            return None
        size = int.from_bytes(length)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {size} bytes")
        data = await self._read(size, descriptors)
        if data is None:
            close_descriptor(*descriptors)
            return None
        return data, descriptors[0] if descriptors else None

    async def send(self, message: Any, descriptor: int | None = None) -> None:
        """Send `message` as JSON. The descriptor stays the caller's. Raises `OSError` if the other end is gone, and
        `ValueError` if the message is too long."""
        data = orjson.dumps(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data)} bytes")
        rest = memoryview(len(data).to_bytes(_LENGTH_BYTES) + data)
        descriptors = [] if descriptor is None else [descriptor]
        async with self._sending:
            while rest:
                try:
                    sent = socket.send_fds(self._socket, [rest], descriptors)
                except BlockingIOError:
                    await self._ready(reading=False)
                    continue
                rest, descriptors = rest[sent:], []

    async def _read(self, size: int, descriptors: list[int]) -> bytes | None:
        """`size` bytes; None if the other end is gone. Adds descriptors that come with them to `descriptors`."""
        data = bytearray()
        while len(data) < size:
            try:
                part, received, _, _ = socket.recv_fds(self._socket, min(size - len(data), 1 << 20), 1)
            except BlockingIOError:
                await self._ready(reading=True)
                continue
            except ConnectionError:
                return None
            descriptors += received
            if not part:
                return None
            data += part
        return bytes(data)

    async def _ready(self, *, reading: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        add, remove = (loop.add_reader, loop.remove_reader) if reading else (loop.add_writer, loop.remove_writer)
        add(self._socket, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            remove(self._socket)

    def close(self) -> None:
        self._socket.close()


def close_descriptor(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)
