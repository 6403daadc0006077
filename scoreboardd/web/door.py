"""The public listener's door: a browser that asks for the stream is let in here, everybody else is shown to aiohttp.

When ten thousand browsers come back at once, what aiohttp makes before a handler is asked (a parser, a task, a request,
the way through middlewares and router) is most of what it costs to let one in. So a connection whose first words are a
plain request for the stream becomes a stream at once. This is a short cut and no second HTTP server: a request that is
in any way more than plain, or that is to be refused, goes to aiohttp unread, and the answer is aiohttp's.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from scoreboardd.web.stream import PATH, Streams

LONGEST = 8 * 1024
"Bytes of a request that are looked at."

# The whole head, at once, and nothing after it.
_PLAIN = re.compile(
    rb"GET %s HTTP/1\.[01]\r\n(?:[A-Za-z0-9-]+:[\t\x20-\x7e]*\r\n)*\r\n" % re.escape(PATH).encode(), re.ASCII
)
_FIELD = re.compile(
    rb"\r\n(Last-Event-ID|X-Forwarded-For|Origin|Content-Length|Transfer-Encoding|Expect|Upgrade):[\t ]*([^\r]*)",
    re.ASCII | re.IGNORECASE,
)
_OF_A_STREAM = frozenset({"last-event-id", "x-forwarded-for", "origin"})


class Door(asyncio.Protocol):
    """A connection that has said nothing yet. `patience` is how many seconds it may go on doing so."""

    __slots__ = ("_aiohttp", "_deadline", "_patience", "_streams", "_transport")

    def __init__(self, streams: Streams, aiohttp: Callable[[], asyncio.Protocol], *, patience: float) -> None:
        self._streams = streams
        self._aiohttp = aiohttp
        self._patience = patience

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(self._patience, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._deadline.cancel()
        fields = _fields(data)
        if fields is not None and self._streams.let_in(self._transport, fields):
            return
        handler = self._aiohttp()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()


def _fields(data: bytes) -> dict[str, str] | None:
    """The header fields that concern a stream, by name in lower case; None if the request is not plain."""
    if len(data) > LONGEST or _PLAIN.fullmatch(data) is None:
        return None
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(data):
        field = name.decode().lower()
        if field in fields or field not in _OF_A_STREAM:
            return None
        fields[field] = value.decode().rstrip("\t ")
    return fields
