"""The fast path of the public listener: a plain request for the stream becomes a stream without aiohttp.

When ten thousand browsers return at once, most of the cost of a stream is what aiohttp creates before a handler runs: a
parser, a task, a request, the way through middlewares and the router. So a connection whose first bytes are one plain
request for the stream, of notices or of deltas, becomes a stream at once. This is a short cut and no second HTTP
server: a request that is in any way more complex, or that is refused, goes to aiohttp unread, which answers it.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from aiohttp.web_protocol import RequestHandler

from scoreboardd.model import Version
from scoreboardd.stream.endpoint import LAST_ID_PARAMETERS, PATH, StreamEndpoint, StreamRequest

MAX_REQUEST_HEAD_BYTES = 8 * 1024
"A longer request goes to aiohttp."

BEGINNING = b"GET %s" % PATH.encode()

# The whole head, at once, and nothing after it.
_PLAIN = re.compile(
    rb"GET %s(?:\?([A-Za-z0-9_=&-]+))? HTTP/1\.([01])((?:\r\n[A-Za-z0-9-]+:[\t\x20-\x7e]*){0,100})\r\n\r\n"
    % re.escape(PATH).encode(),
    re.ASCII,
)
_FIELD = re.compile(
    rb"\r\n(Host|Last-Event-ID|X-Forwarded-For|Origin|User-Agent"
    # Fields that speak of a body or of another protocol, and those of which there may be only one.
    rb"|Content-[A-Za-z-]+|Transfer-Encoding|Expect|Upgrade|ETag|Max-Forwards|Server):[\t ]*([^\r]*)",
    re.ASCII | re.IGNORECASE,
)
_OF_A_STREAM = frozenset({"host", "last-event-id", "x-forwarded-for", "origin", "user-agent"})
_PARAMETERS = {
    "deltas": re.compile("1"),
    "division_id": re.compile("[1-9][0-9]{0,17}"),
    **{name: re.compile("[0-9a-z]{1,32}-[0-9]{1,18}") for name in LAST_ID_PARAMETERS},
}


class FastAcceptFactory:
    """Makes the protocol of each new connection. A connection may send nothing for `idle_timeout` seconds."""

    def __init__(self, streams: StreamEndpoint, aiohttp: Callable[[], RequestHandler], *, idle_timeout: float) -> None:
        self.streams = streams
        self.aiohttp = aiohttp
        self._idle_timeout = idle_timeout
        self.silent: dict[FastAcceptProtocol, float] = {}
        "Connections that have sent nothing, and until when they may."
        self._watching = False

    def __call__(self) -> "FastAcceptProtocol":
        return FastAcceptProtocol(self)

    def watch(self, door: "FastAcceptProtocol") -> None:
        self.silent[door] = asyncio.get_running_loop().time() + self._idle_timeout
        if not self._watching:
            self._look()

    def end_oldest(self) -> bool:
        """Close the connection that has sent nothing for the longest time. Returns False if there is none."""
        while self.silent:
            door = next(iter(self.silent))
            del self.silent[door]
            if door.transport.get_protocol() is door:
                door.transport.abort()
                return True
        return False

    def _look(self) -> None:
        # One timer for all: a timer each would cost more than accepting the clients that do send.
        loop = asyncio.get_running_loop()
        now = loop.time()
        for door in [door for door, deadline in self.silent.items() if deadline <= now]:
            del self.silent[door]
            if door.transport.get_protocol() is door:
                door.transport.abort()
        self._watching = bool(self.silent)
        if self._watching:
            loop.call_later(self._idle_timeout / 8, self._look)


class FastAcceptProtocol(asyncio.Protocol):
    """A connection that has sent nothing yet, or one that aiohttp serves and that asked for a stream."""

    __slots__ = ("_doorway", "_handler", "transport")

    def __init__(self, doorway: FastAcceptFactory) -> None:
        self._doorway = doorway
        self._handler: RequestHandler | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._doorway.watch(self)

    def data_received(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.data_received(data)
            return
        doorway, transport = self._doorway, self.transport
        doorway.silent.pop(self, None)
        request = _parse_plain_request(data)
        if request is not None and doorway.streams.accept(transport, *request):
            return
        handler = doorway.aiohttp()
        if data[: len(BEGINNING)] == BEGINNING[: len(data)]:
            self._handler = handler
        else:
            transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)

    def eof_received(self) -> bool:
        # aiohttp would take this for the end of the connection. If there is no stream after all, that comes later.
        if self._handler is None:
            return False
        self._handler.close()
        self._doorway.watch(self)
        return True

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._doorway.silent.pop(self, None)
        if self._handler is not None:
            self._handler.connection_lost(exc)


def _parse_plain_request(data: bytes) -> tuple[StreamRequest, dict[str, str]] | None:
    """What a plain request asks for, and its header fields that matter to a stream, by name in lower case. None if the
    request is not plain."""
    match = _PLAIN.fullmatch(data) if len(data) <= MAX_REQUEST_HEAD_BYTES else None
    if match is None:
        return None
    query, minor, lines = match.groups()
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(lines):
        field = name.decode().lower()
        if field in fields or field not in _OF_A_STREAM:
            return None
        fields[field] = value.decode().rstrip("\t ")
    if minor == b"1" and "host" not in fields:
        return None  # RFC 9112 §3.2: an error
    parameters = _parameters(query.decode()) if query is not None else {}
    if parameters is None:
        return None
    last_ids = [fields.get("last-event-id", ""), *(parameters.get(name, "") for name in LAST_ID_PARAMETERS)]
    asked = StreamRequest(
        deltas="deltas" in parameters,
        division_id=int(parameters["division_id"]) if "division_id" in parameters else None,
        last=next(filter(None, map(Version.parse, last_ids)), None),
        chunked=minor == b"1",
    )
    return asked, fields


def _parameters(query: str) -> dict[str, str] | None:
    """The parameters of the query. None if one is unknown, malformed or repeated."""
    said: dict[str, str] = {}
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if name in said or name not in _PARAMETERS or not _PARAMETERS[name].fullmatch(value):
            return None
        said[name] = value
    return said
