"""Takes a connection away from aiohttp after it has parsed a request, for a stream that lasts for hours.

aiohttp keeps a parser, a task, a request and a response for an open handler, about 10 KB; a transport with a protocol
of our own needs a tenth. This relies on three properties of aiohttp's `RequestHandler`: `transport` is the attribute
that holds its transport, `connection_lost` makes it forget the connection, and a handler whose connection is lost ends
without writing. `check` takes over one connection when the daemon starts, so the daemon does not start with a release
of aiohttp that changes any of them.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

CHECK_TIMEOUT_SECONDS = 5.0
"Seconds within which `check` must have taken over a connection."

P = TypeVar("P", bound=asyncio.Protocol)


class Incompatible(Exception):
    """The installed aiohttp does not let a connection be taken over. The text is one line with the fix."""


class Hijacked(web.StreamResponse):
    """What a handler returns after `hijack`. aiohttp sends nothing."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def hijack(request: web.BaseRequest, make_protocol: Callable[[asyncio.Transport], P]) -> P:
    """Give the request's transport a new protocol. Raises `ConnectionResetError` if the client has left already."""
    handler = request.protocol
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    protocol = make_protocol(transport)
    try:
        handler.transport = None  # so that aiohttp cannot close the connection
        transport.set_protocol(protocol)
        handler.connection_lost(None)
        if not transport.is_reading():
            transport.resume_reading()  # aiohttp may have paused it, and only a read shows that a client left
    except Exception:
        transport.abort()  # nobody owns the connection now, and its client would wait for ever
        raise
    return protocol


async def check() -> None:
    """Take over one connection inside this process. Raises `Incompatible` if that does not work."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await _take_one()
    except Exception as error:
        why = "it keeps the connection" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        raise Incompatible(
            f"aiohttp {aiohttp.__version__} does not let a stream take its connection over ({why}); install the "
            "release of aiohttp that this release of scoreboardd was tested with"
        ) from error


async def _take_one() -> None:
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[asyncio.Transport] = loop.create_future()

    def make_protocol(transport: asyncio.Transport) -> asyncio.Protocol:
        taken.set_result(transport)
        return asyncio.Protocol()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            hijack(request, make_protocol)
            return Hijacked()
        except Exception as error:
            taken.set_exception(error)
            raise

    server = web.Server(handle, access_log=None)
    server_side, client = socket.socketpair()
    client.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(server, server_side)
    try:
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: check\r\n\r\n")
        (await taken).write(b"taken")
        while server.connections:  # noqa: ASYNC110  aiohttp has no event for it
            await asyncio.sleep(0.001)
        transport.close()
        received = b""
        while chunk := await loop.sock_recv(client, 1024):
            received += chunk
        if received != b"taken":
            raise RuntimeError(f"it wrote {received!r}")
    finally:
        transport.abort()
        client.close()
        await server.shutdown(0)
