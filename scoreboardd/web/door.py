"""The public listener's door: a browser that asks for the stream is let in here, everybody else is shown to aiohttp.

When ten thousand browsers come back at once, what aiohttp makes before a handler is asked (a parser, a task, a request,
the way through middlewares and router) is most of what it costs to let one in. So a connection whose first words are a
plain request for the stream, of notices or of deltas, becomes a stream at once. This is a short cut and no second HTTP
server: a request that is in any way more than plain, or that is to be refused, goes to aiohttp unread, and the answer
is aiohttp's.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from scoreboardd.web.stream import PATH, Asked, Streams

LONGEST = 8 * 1024
"Bytes of a request that are looked at."

# The whole head, at once, and nothing after it.
_PLAIN = re.compile(
    rb"GET %s(?:\?(deltas)=1(?:&division_id=([1-9][0-9]{0,17}))?)? HTTP/1\.[01]\r\n"
    rb"(?:[A-Za-z0-9-]+:[\t\x20-\x7e]*\r\n)*\r\n" % re.escape(PATH).encode(),
    re.ASCII,
)
_FIELD = re.compile(
    rb"\r\n(Last-Event-ID|X-Forwarded-For|Origin|Content-Length|Transfer-Encoding|Expect|Upgrade):[\t ]*([^\r]*)",
    re.ASCII | re.IGNORECASE,
)
_OF_A_STREAM = frozenset({"last-event-id", "x-forwarded-for", "origin"})


class Doorway:
    """Makes the protocol of each new connection. `patience` is how many seconds one may say nothing."""

    def __init__(self, streams: Streams, aiohttp: Callable[[], asyncio.Protocol], *, patience: float) -> None:
        self.streams = streams
        self.aiohttp = aiohttp
        self._patience = patience
        self.silent: dict[Door, float] = {}
        "Who has said nothing yet, and until when it may."
        self._watching = False

    def __call__(self) -> "Door":
        return Door(self)

    def watch(self, door: "Door") -> None:
        self.silent[door] = asyncio.get_running_loop().time() + self._patience
        if not self._watching:
            self._look()

    def end_oldest(self) -> bool:
        """Close the connection that has sent nothing for the longest time. False if all have sent something."""
        while self.silent:
            door = next(iter(self.silent))
            del self.silent[door]
            if door.transport.get_protocol() is door:
                door.transport.abort()
                return True
        return False

    def _look(self) -> None:
        # Now and then for all: a timer each would cost more than to let in those who do speak.
        loop = asyncio.get_running_loop()
        now = loop.time()
        for door in [door for door, deadline in self.silent.items() if deadline <= now]:
            del self.silent[door]
            door.transport.abort()
        self._watching = bool(self.silent)
        if self._watching:
            loop.call_later(self._patience / 8, self._look)


class Door(asyncio.Protocol):
    """A connection that has said nothing yet."""

    __slots__ = ("_doorway", "transport")

    def __init__(self, doorway: Doorway) -> None:
        self._doorway = doorway

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._doorway.watch(self)

    def data_received(self, data: bytes) -> None:
        doorway, transport = self._doorway, self.transport
        doorway.silent.pop(self, None)
        request = _plain(data)
        if request is not None and doorway.streams.let_in(transport, *request):
            return
        handler = doorway.aiohttp()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._doorway.silent.pop(self, None)


def _plain(data: bytes) -> tuple[Asked, dict[str, str]] | None:
    """What a plain request asks for, and its header fields that concern a stream, by name in lower case."""
    match = _PLAIN.fullmatch(data) if len(data) <= LONGEST else None
    if match is None:
        return None
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(data):
        field = name.decode().lower()
        if field in fields or field not in _OF_A_STREAM:
            return None
        fields[field] = value.decode().rstrip("\t ")
    deltas, division_id = match.groups()
    return Asked(deltas is not None, int(division_id) if division_id else None), fields
