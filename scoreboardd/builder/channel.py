"""The socket pair between parent and child: whole JSON messages, each with at most one descriptor."""

import asyncio
import os
import socket
from typing import Any

import orjson

MAX_MESSAGE_BYTES = 1 << 20
"A message is a few numbers and a manifest of 70 bytes a document."


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE_BYTES)
    return ends


class Channel:
    """One end of the pair. Only one task at a time may receive."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._sending = asyncio.Lock()

    async def receive(self) -> tuple[bytes, int | None] | None:
        """A message, and the descriptor that came with it and now is the caller's. None if the other end is gone."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
            except BlockingIOError:
                await self._ready(reading=True)
                continue
            except ConnectionError:
                return None
            if not data:
                return None
            return data, descriptors[0] if descriptors else None

    async def send(self, message: Any, descriptor: int | None = None) -> None:
        """Send `message` as JSON. Raises `OSError` if the other end is gone. The descriptor stays the caller's."""
        data = orjson.dumps(message)
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._socket, [data], [] if descriptor is None else [descriptor])
                    return
                except BlockingIOError:
                    await self._ready(reading=False)

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


def close_descriptor(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
