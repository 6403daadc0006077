"""`GET /api/scoreboard/stream` (contract §6): greet a client, tell it what it missed, hand it to the broadcaster."""

import asyncio
import math
import random
from collections.abc import Iterable, Mapping
from functools import lru_cache

import structlog
from aiohttp import web

from scoreboardd.edition import Event, Version, now_rfc3339
from scoreboardd.memory import Memory
from scoreboardd.web import cors, handover, plain
from scoreboardd.web.address import Addresses
from scoreboardd.web.broadcaster import Broadcaster, Client, Full, ready_payload, scoreboard_frame
from scoreboardd.web.errors import unavailable

PATH = "/api/scoreboard/stream"

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx: pass every event on at once
    "Connection": "close",  # the body has no length and no chunks: it ends with the connection, on HTTP/1.0 too
}

log = structlog.stdlib.get_logger("scoreboardd.web")


class Streams:
    """`retry_min` and `retry_max`, in seconds, bound how long a browser waits before it connects again."""

    def __init__(
        self,
        memory: Memory,
        broadcaster: Broadcaster,
        addresses: Addresses,
        *,
        retry_min: float,
        retry_max: float,
        cors_origins: Iterable[str] = (),
        plainly: bool = False,
    ) -> None:
        self._memory = memory
        self._broadcaster = broadcaster
        self._addresses = addresses
        self._retry = (retry_min, retry_max)
        self.origins = cors.Origins(cors_origins)
        self.plainly = plainly
        "Leave the connections with aiohttp."

    async def get(self, request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            response = web.Response(headers=HEADERS)
            response.force_close()  # as its headers say
            return response
        address = self._addresses.of(request)
        try:
            self._broadcaster.admit(address)
        except Full:
            return unavailable("too many streams", math.ceil(self._retry[1]))

        def make_client(transport: asyncio.Transport) -> Client:
            return Client(self._broadcaster, transport, address)

        if self.plainly:
            return await plain.stream(
                request, HEADERS, make_client, lambda client: self._join(client, _last_id(request))
            )
        try:
            client = handover.take(request, make_client)
        except ConnectionResetError:
            raise
        except Exception:
            # aiohttp is not what it was when this was written. This client comes back, and is served the other way.
            log.exception("cannot take connections over from aiohttp, streams will cost more memory; please report")
            self.plainly = True
            raise
        self._join(client, _last_id(request), _head(*request.get(cors.HEADERS, {}).items()))
        return handover.HandedOver()

    def let_in(self, transport: asyncio.Transport, fields: Mapping[str, str]) -> bool:
        """Make a stream of a connection that asked for one with these header fields, and for nothing else.

        False, and nothing done, if there is no room: `get` knows how to refuse.
        """
        address = self._addresses.nearest(transport, fields.get("x-forwarded-for", ""))
        if self.plainly or not self._broadcaster.has_room(address):
            return False
        client = Client(self._broadcaster, transport, address)
        transport.set_protocol(client)
        head = _head(*self.origins.headers(fields.get("origin")).items())
        self._join(client, Version.parse(fields.get("last-event-id", "")), head)
        return True

    def _join(self, client: Client, last: Version | None, head: bytes = b"") -> None:
        # No await between reading the version and joining: whatever comes after it, the client is told of.
        version = self._memory.version
        self._broadcaster.join(client, head + self._greeting(version, last), version)

    def _greeting(self, version: Version | None, last: Version | None) -> bytes:
        retry_min, retry_max = self._retry
        retry = b"retry: %d\n\n" % round(random.uniform(retry_min, retry_max) * 1000)
        if version is None or last is None or last == version:
            return retry + ready_payload(version)
        return retry + ready_payload(version) + _resume(version)


@lru_cache(maxsize=2)
def _resume(version: Version) -> bytes:
    """What tells a client that comes back that it has missed something; the same for all of them."""
    return scoreboard_frame(version, Event("all", "resume", now_rfc3339())).payload


def _last_id(request: web.Request) -> Version | None:
    header, parameter = request.headers.get("Last-Event-ID", ""), request.query.get("last_event_id", "")
    return Version.parse(header) or Version.parse(parameter)


@lru_cache(maxsize=64)
def _head(*more: tuple[str, str]) -> bytes:
    """The head of the answer, with `more` header fields."""
    lines = [f"{name}: {value}\r\n" for name, value in (*HEADERS.items(), *more)]
    return ("HTTP/1.1 200 OK\r\n" + "".join(lines) + "\r\n").encode()
