"""`GET /api/scoreboard/stream` (contract §6): greet a client, tell it what it missed, hand it to the broadcaster.

With `?deltas=1` it is told what changes in the boards of everyone, or of a division, and without it that they changed.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import structlog
from aiohttp import web

from scoreboardd.backend import wire
from scoreboardd.edition import Event, Version, now_rfc3339
from scoreboardd.memory import Memory
from scoreboardd.web import cors, errors, handover, plain
from scoreboardd.web.address import Addresses
from scoreboardd.web.broadcaster import Broadcaster, Full
from scoreboardd.web.deltas import Deltas
from scoreboardd.web.documents import RETRY_AFTER, positive
from scoreboardd.web.feed import Client, Feed, Frame

PATH = "/api/scoreboard/stream"

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx: pass every event on at once
    "Connection": "close",  # the body has no length and no chunks: it ends with the connection, on HTTP/1.0 too
}

log = structlog.stdlib.get_logger("scoreboardd.web")


class Asked(NamedTuple):
    """What a stream is asked for."""

    deltas: bool = False
    "Rather than notices."
    division_id: int | None = None
    "Whose deltas; None is everyone."


@dataclass(frozen=True, slots=True)
class Notice(Frame):
    """An event that says the same to everyone: that there is a version."""

    lossless = False

    def since(self, told: Version | None) -> Frame:
        return self


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
        self._told: Deltas | None = None

    def tell(self, version: Version, event: Event) -> None:
        """Tell everyone of `version`, which is served, and of what it was made for; returns at once."""
        news = self._deltas().news
        self._broadcaster.tell(scoreboard_frame(version, event), lambda id: news(id) if self._has(id) else None)

    async def get(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        if isinstance(asked, web.Response):
            return asked
        if request.method == "HEAD":
            response = web.Response(headers=HEADERS)
            response.force_close()  # as its headers say
            return response
        address = self._addresses.of(request)
        try:
            self._broadcaster.admit(address)
        except Full:
            return errors.unavailable("too many streams", math.ceil(self._retry[1]))

        def make_client(transport: asyncio.Transport) -> Client:
            return Client(self._feed(asked), transport, address)

        if self.plainly:
            return await plain.stream(
                request, HEADERS, make_client, lambda client: self._join(client, asked, _last_id(request))
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
        self._join(client, asked, _last_id(request), _head(*request.get(cors.HEADERS, {}).items()))
        return handover.HandedOver()

    def _asked(self, request: web.Request) -> Asked | web.Response:
        """What a request asks for, or the answer if that cannot be had."""
        if not request.rel_url.raw_query_string:
            return Asked()
        said = request.query.getall("deltas", [])
        division_id, division_ok = positive(request, "division_id")
        right = {"deltas": said in ([], ["0"], ["1"]), "division_id": division_ok}
        if not all(right.values()):
            return errors.invalid([field for field, ok in right.items() if not ok])
        if division_id is not None:
            edition = self._memory.edition
            if edition is None:
                return errors.unavailable("no scoreboard yet", RETRY_AFTER)
            try:
                division_id = edition.division(division_id)
            except LookupError:
                return errors.error(404, "no such division")
        return Asked(said == ["1"], division_id)

    def let_in(self, transport: asyncio.Transport, asked: Asked, fields: Mapping[str, str]) -> bool:
        """Make a stream of a connection that asked for one with these header fields, and for nothing else.

        False, and nothing done, if there is no room or no such division: `get` knows how to refuse.
        """
        address = self._addresses.nearest(transport, fields.get("x-forwarded-for", ""))
        if self.plainly or not self._broadcaster.has_room(address) or not self._has(asked.division_id):
            return False
        client = Client(self._feed(asked), transport, address)
        transport.set_protocol(client)
        head = _head(*self.origins.headers(fields.get("origin")).items())
        self._join(client, asked, Version.parse(fields.get("last-event-id", "")), head)
        return True

    def _has(self, division_id: int | None) -> bool:
        edition = self._memory.edition
        return division_id is None or (edition is not None and division_id in edition.divisions)

    def _feed(self, asked: Asked) -> Feed:
        return self._broadcaster.deltas(asked.division_id) if asked.deltas else self._broadcaster.notices

    def _deltas(self) -> Deltas:
        """Of the edition served; there has to be one."""
        edition = self._memory.edition
        assert edition is not None
        if self._told is None or self._told.edition is not edition:
            self._told = Deltas(edition, most=self._broadcaster.queue, clients=lambda: self._broadcaster.following)
        return self._told

    def _join(self, client: Client, asked: Asked, last: Version | None, head: bytes = b"") -> None:
        # No await between reading the version and joining: whatever comes after it, the client is told of.
        version = self._memory.version
        retry = head + b"retry: %d\n\n" % round(random.uniform(*self._retry) * 1000)
        greeting = retry + ready_payload(version)
        if not asked.deltas:
            missed = b"" if version is None or last is None or last == version else _resume(version)
            self._broadcaster.join(client, greeting + missed, version)
        elif last is None:
            self._broadcaster.join(client, greeting, version)
        elif version is not None and version.follows(last):
            missed = self._deltas().news(asked.division_id).since(last).payload
            # It has nothing newer than `last` yet: cut off here, it has to come back with that.
            self._broadcaster.join(client, retry + ready_payload(last), version, missed)
        else:
            # It has what this node has, or more: the first version it does not have leads from there.
            self._broadcaster.join(client, greeting, last)


def scoreboard_frame(version: Version, event: Event) -> Notice:
    data = wire.announcement(version, event)
    return Notice(version, b"id: %s\nevent: scoreboard\ndata: %s\n\n" % (str(version).encode(), data))


def ready_payload(version: Version | None) -> bytes:
    id_line = b"" if version is None else b"id: %s\n" % str(version).encode()
    return id_line + b"event: ready\ndata: {}\n\n"


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
