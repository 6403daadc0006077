"""The fast path of the public listener: it turns a plain request for the stream into a stream without aiohttp.

When ten thousand browsers reconnect at once, most of the cost of a stream is the work of aiohttp before a handler runs:
a parser, a task, a request, the middlewares and the router. So a connection whose first bytes are one plain request for
the stream, of notices or of deltas, becomes a stream at once. This is not a second HTTP server: aiohttp receives every
request that is more complex, or that must be refused, with all its bytes, and answers it.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from aiohttp.web_protocol import RequestHandler

from scoreboardd.model import Version
from scoreboardd.stream.endpoint import LAST_ID_PARAMETERS, PATH, StreamEndpoint, StreamRequest

MAX_REQUEST_HEAD_BYTES = 8 * 1024
"aiohttp handles a longer request."

REQUEST_PREFIX = b"GET %s" % PATH.encode()

# The whole head in one read, and nothing after it.
_PLAIN_REQUEST = re.compile(
    rb"GET %s(?:\?([A-Za-z0-9_=&-]+))? HTTP/1\.([01])((?:\r\n[A-Za-z0-9-]+:[\t\x20-\x7e]*){0,100})\r\n\r\n"
    % re.escape(PATH).encode(),
    re.ASCII,
)
_FIELD = re.compile(
    rb"\r\n(Host|Last-Event-ID|X-Forwarded-For|Origin|User-Agent"
    # Fields that announce a body or another protocol, and fields that must not occur twice.
    rb"|Content-[A-Za-z-]+|Transfer-Encoding|Expect|Upgrade|ETag|Max-Forwards|Server):[\t ]*([^\r]*)",
    re.ASCII | re.IGNORECASE,
)
_STREAM_FIELDS = frozenset({"host", "last-event-id", "x-forwarded-for", "origin", "user-agent"})
_PARAMETERS = {
    "deltas": re.compile("1"),
    "division_id": re.compile("[1-9][0-9]{0,17}"),
    **{name: re.compile("[0-9a-z]{1,32}-[0-9]{1,18}") for name in LAST_ID_PARAMETERS},
}


class FastAcceptFactory:
    """Creates the protocol of each new connection, and closes connections that send nothing for `idle_timeout` seconds.

    `aiohttp` creates the protocol of a connection that aiohttp serves.
    """

    def __init__(self, streams: StreamEndpoint, aiohttp: Callable[[], RequestHandler], *, idle_timeout: float) -> None:
        self.streams = streams
        self.aiohttp = aiohttp
        self._idle_timeout = idle_timeout
        self.silent: dict[FastAcceptProtocol, float] = {}
        "Connections that have sent nothing, with their deadlines in the time of the loop. The oldest comes first."
        self._timer_is_set = False

    def __call__(self) -> "FastAcceptProtocol":
        return FastAcceptProtocol(self)

    def watch(self, connection: "FastAcceptProtocol") -> None:
        """Close `connection` after the timeout, unless it sends something."""
        self.silent[connection] = asyncio.get_running_loop().time() + self._idle_timeout
        if not self._timer_is_set:
            self._close_expired()

    def end_oldest(self) -> bool:
        """Close the connection that has sent nothing for the longest time. Returns False if there is none."""
        while self.silent:
            connection = next(iter(self.silent))
            del self.silent[connection]
            if connection.transport.get_protocol() is connection:
                connection.transport.abort()
                return True
        return False

    def _close_expired(self) -> None:
        # One timer serves all connections: a timer for each costs more than accepting it.
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection, deadline in self.silent.items() if deadline <= now]:
            del self.silent[connection]
            if connection.transport.get_protocol() is connection:
                connection.transport.abort()
        self._timer_is_set = bool(self.silent)
        if self._timer_is_set:
            loop.call_later(self._idle_timeout / 8, self._close_expired)


class FastAcceptProtocol(asyncio.Protocol):
    """A connection that has sent nothing yet, or whose request for a stream aiohttp handles."""

    __slots__ = ("_aiohttp_handler", "_factory", "transport")

    def __init__(self, factory: FastAcceptFactory) -> None:
        self._factory = factory
        self._aiohttp_handler: RequestHandler | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._factory.watch(self)

    def data_received(self, data: bytes) -> None:
        if self._aiohttp_handler is not None:
            self._aiohttp_handler.data_received(data)
            return
        factory, transport = self._factory, self.transport
        factory.silent.pop(self, None)
        request = _parse_plain_request(data)
        if request is not None and factory.streams.accept(transport, *request):
            return
        handler = factory.aiohttp()
        if data[: len(REQUEST_PREFIX)] == REQUEST_PREFIX[: len(data)]:
            self._aiohttp_handler = handler
        else:
            transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)

    def eof_received(self) -> bool:
        # aiohttp would close the connection, but the client may only have closed its sending side. If the connection
        # does not become a stream, the timeout closes it.
        if self._aiohttp_handler is None:
            return False
        self._aiohttp_handler.close()
        self._factory.watch(self)
        return True

    def pause_writing(self) -> None:
        if self._aiohttp_handler is not None:
            self._aiohttp_handler.pause_writing()

    def resume_writing(self) -> None:
        if self._aiohttp_handler is not None:
            self._aiohttp_handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._factory.silent.pop(self, None)
        if self._aiohttp_handler is not None:
            self._aiohttp_handler.connection_lost(exc)


def _parse_plain_request(data: bytes) -> tuple[StreamRequest, dict[str, str]] | None:
    """Return what a plain request asks for, and the header fields that a stream needs, by name in lower case. None if
    the request is not plain."""
    match = _PLAIN_REQUEST.fullmatch(data) if len(data) <= MAX_REQUEST_HEAD_BYTES else None
    if match is None:
        return None
    query, minor, lines = match.groups()
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(lines):
        field = name.decode().lower()
        if field in fields or field not in _STREAM_FIELDS:
            return None
        fields[field] = value.decode().rstrip("\t ")
    if minor == b"1" and "host" not in fields:
        return None  # an error by RFC 9112 §3.2
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
    """Return the parameters of the query. None if one is unknown, malformed or repeated."""
    parameters: dict[str, str] = {}
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if name in parameters or name not in _PARAMETERS or not _PARAMETERS[name].fullmatch(value):
            return None
        parameters[name] = value
    return parameters
