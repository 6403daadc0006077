"""A client that sees the very bytes, and reads only when it is told to. Every wait has a deadline."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import orjson

DEADLINE = 10.0
"Seconds; nothing here takes a tenth of it."


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names in lower case, repeated ones joined as HTTP joins them."""

    protocol: str
    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> object:
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        return orjson.loads(self.body)


class Connection:
    """One TCP connection to a listener."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._read = bytearray()

    @classmethod
    async def open(cls, address: tuple[str, int], *, local: str = "127.0.0.1", receive_buffer: int = 0) -> Self:
        """`receive_buffer`, in bytes, is how much the kernel takes for a client that does not read."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((local, 0))
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_connect(sock, address)
        return cls(sock)

    def close(self) -> None:
        self._socket.close()

    def finish(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave as a crashed machine does: the server hears of it at once, and not politely."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    # Sending

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def request(
        self,
        target: str,
        headers: dict[str, str | bytes] | None = None,
        *,
        method: str = "GET",
        protocol: str = "HTTP/1.1",
    ) -> None:
        await self.send(head_of_request(target, headers, method=method, protocol=protocol))

    # Receiving

    async def more(self) -> bool:
        """Read what is there; False at the end."""
        async with asyncio.timeout(DEADLINE):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        self._read += data
        return bool(data)

    async def until(self, end: bytes) -> bytes:
        """The bytes up to and including `end`."""
        while end not in self._read:
            if not await self.more():
                raise EOFError(bytes(self._read))
        return self._take(self._read.index(end) + len(end))

    async def exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            if not await self.more():
                raise EOFError(bytes(self._read))
        return self._take(size)

    async def rest(self) -> bytes:
        """All until the server ends the connection, or resets it."""
        try:
            while await self.more():
                pass
        except ConnectionResetError:
            pass
        return self._take(len(self._read))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    async def head(self) -> Answer:
        lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        protocol, status, _ = lines[0].split(" ", 2)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(protocol, int(status), headers)

    async def answer(self, *, to: str = "GET") -> Answer:
        """A whole response, the connection left as it is afterwards."""
        head = await self.head()
        if to == "HEAD" or head.status in (204, 304):
            return head
        if "content-length" in head.headers:
            body = await self.exactly(int(head.headers["content-length"]))
        else:
            body = await self.rest()
        return Answer(head.protocol, head.status, head.headers, body)


class Stream(Connection):
    """A connection whose answer is a stream."""

    opening: Answer

    async def greet(self) -> Self:
        """Read the head of the answer."""
        self.opening = await self.head()
        assert self.opening.status == 200, await self.rest()
        self._chunked = self.opening.headers.get("transfer-encoding") == "chunked"
        self._body = bytearray()
        return self

    async def frame(self) -> bytes:
        """The next event or comment, with the blank line that ends it. Raises `EOFError` at the end."""
        while b"\n\n" not in self._body:
            await self._part()
        size = self._body.index(b"\n\n") + 2
        frame = bytes(self._body[:size])
        del self._body[:size]
        return frame

    async def greeting(self) -> bytes:
        """The first block of the stream, without what it says of `retry`."""
        retry, _, ready = (await self.frame()).partition(b"\n")
        assert retry.startswith(b"retry: ")
        return ready

    async def event(self) -> bytes:
        """The next that is no heartbeat."""
        while (frame := await self.frame()).startswith(b":"):
            pass
        return frame

    async def end(self) -> list[bytes]:
        """All until the end, which comes between events and, in chunks, as HTTP wants it."""
        frames = []
        try:
            while True:
                frames.append(await self.frame())
        except EOFError:
            assert not self._body
            return frames

    def there(self, size: int) -> list[bytes]:
        """The events and comments that are complete with what has arrived by now, and `size` bytes of it at most.

        Of a body that comes without chunks.
        """
        assert not self._chunked
        with suppress(BlockingIOError):
            self._read += self._socket.recv(size)
        self._body += self._take(len(self._read))
        *frames, rest = self._body.split(b"\n\n")
        self._body = rest
        return [bytes(frame) + b"\n\n" for frame in frames]

    async def _part(self) -> None:
        if self._chunked:
            size = int(await self.until(b"\r\n"), 16)
            self._body += (await self.exactly(size + 2))[:-2]
            if size == 0:
                assert await self.rest() == b""
                raise EOFError
        else:
            if not self._read and not await self.more():
                raise EOFError
            self._body += self._take(len(self._read))


def head_of_request(
    target: str, headers: dict[str, str | bytes] | None = None, *, method: str = "GET", protocol: str = "HTTP/1.1"
) -> bytes:
    lines = [f"{method} {target} {protocol}\r\nHost: test\r\n".encode()]
    for name, value in (headers or {}).items():
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(lines) + b"\r\n"
