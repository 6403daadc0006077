"""Take a connection away from aiohttp after it has parsed a request, for a stream that will live for hours.

aiohttp keeps a parser, a task, a request and a response for an open handler, some 10 KB; a transport with a protocol of
our own needs a tenth. It leans on three facts of aiohttp's `RequestHandler`, which `tests/web/test_handover.py` pins:
`transport` is where it finds its transport, `connection_lost` makes it forget the connection, and a handler whose
connection is lost ends without writing.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

P = TypeVar("P", bound=asyncio.Protocol)


class HandedOver(web.StreamResponse):
    """What a handler returns after `take`: aiohttp finds nothing left to do."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def take(request: web.Request, make_protocol: Callable[[asyncio.Transport], P]) -> P:
    """Give the request's transport a new protocol. Raises `ConnectionResetError` if the client has left already."""
    handler = request.protocol
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    protocol = make_protocol(transport)
    try:
        handler.transport = None  # so that it cannot close what is no longer its own
        transport.set_protocol(protocol)
        handler.connection_lost(None)
        if not transport.is_reading():
            transport.resume_reading()  # aiohttp may have paused it; unread, a leaving client would go unnoticed
    except Exception:
        transport.abort()  # given up halfway it would be nobody's, and the client would wait for ever
        raise
    return protocol
