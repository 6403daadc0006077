"""`GET /api/scoreboard/stream` (protocol §6): greets a client, sends what it missed, and passes it to the broadcaster.

With `?deltas=1` a client gets what changes in the boards of everyone, or of a division; without it, notices that they
changed.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from aiohttp import HttpVersion11, web
from multidict import MultiMapping

from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster import wire
from scoreboardd.model import ChangeEvent, Version, now_rfc3339
from scoreboardd.stream import hijack
from scoreboardd.stream.broadcaster import Broadcaster, Full
from scoreboardd.stream.delta_updates import DeltaUpdates
from scoreboardd.stream.topic import Frame, Subscriber, Topic
from scoreboardd.web import cors, errors
from scoreboardd.web.address import ClientAddressResolver, network
from scoreboardd.web.documents import RETRY_AFTER, parse_positive_int

PATH = "/api/scoreboard/stream"

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx: pass every event on at once
    "Connection": "close",  # on HTTP/1.0 the body has no other end
}
LAST_ID_PARAMETERS = ("last_event_id", "lastEventId")
"Parameters of the query: ours, and the one that polyfills of EventSource send."


class StreamRequest(NamedTuple):
    """What a client asks for."""

    deltas: bool = False
    "Deltas instead of notices."
    division_id: int | None = None
    "The division of the deltas; None stands for everyone."
    last: Version | None = None
    "The version that the client was sent last, as it says; None if it names none."
    chunked: bool = False
    "The client takes a body in chunks."


@dataclass(frozen=True)
class Notice:
    """An event that announces a version and what changed.

    It names divisions only to clients that were told of `previous`, the version told before. Who has missed that may
    have missed changes in other divisions.
    """

    version: Version
    event: ChangeEvent
    previous: Version | None = None

    lossless = False

    def since(self, last_sent: Version | None) -> Frame:
        in_order = last_sent is not None and last_sent == self.previous and last_sent.epoch == self.version.epoch
        return self._next if in_order or self.event.division_ids is None else self._after_a_gap

    @cached_property
    def _next(self) -> Frame:
        return scoreboard_frame(self.version, self.event)

    @cached_property
    def _after_a_gap(self) -> Frame:
        return scoreboard_frame(self.version, self.event.about_all())


class StreamEndpoint:
    """`retry_min` and `retry_max`, in seconds, bound how long a browser waits before it reconnects."""

    def __init__(
        self,
        cache: DocumentCache,
        broadcaster: Broadcaster,
        addresses: ClientAddressResolver,
        *,
        retry_min: float,
        retry_max: float,
        cors_origins: Iterable[str] = (),
    ) -> None:
        self._cache = cache
        self._broadcaster = broadcaster
        self._addresses = addresses
        self._retry = (retry_min, retry_max)
        self.origins = cors.Origins(cors_origins)
        self._last_sent: DeltaUpdates | None = None
        self._version: Version | None = None
        "The version that clients were sent last, by a notice or a greeting, and the one before:"
        self._previous: Version | None = None

    def publish(self, version: Version, event: ChangeEvent) -> None:
        """Announce `version`, which is served, with the event that caused it. Returns at once.

        If the boards are not public any more, all streams end and nothing is sent."""
        if not self._cache.is_public:
            self._broadcaster.close()
            return
        update_for = self._deltas().update_for
        self._note(version)
        notice = Notice(version, event, self._previous)
        self._broadcaster.publish(notice, lambda id: update_for(id) if self._has(id) else None)

    def _note(self, version: Version | None) -> None:
        if version != self._version:
            self._previous, self._version = self._version, version

    async def get(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        if isinstance(asked, web.Response):
            return asked
        if request.method == "HEAD":
            response = web.Response(headers=HEADERS)
            response.force_close()  # as its headers say
            return response
        if not self._cache.is_public:
            return errors.not_public()
        address = network(self._addresses.of(request))
        try:
            self._broadcaster.admit(address)
        except Full:
            return errors.unavailable("too many streams", math.ceil(self._retry[1]))

        def make_subscriber(transport: asyncio.Transport, asked: StreamRequest = asked) -> Subscriber:
            return Subscriber(self._topic(asked), transport, address)

        subscriber = hijack.hijack(request, make_subscriber)
        self._join(subscriber, asked, _head(asked.chunked, *request.get(cors.HEADERS, {}).items()))
        return hijack.Hijacked()

    def _asked(self, request: web.Request) -> StreamRequest | web.Response:
        """What a request asks for, or the answer that refuses it."""
        chunked = request.version >= HttpVersion11
        last = Version.parse(request.headers.get("Last-Event-ID", ""))
        if not request.rel_url.raw_query_string:
            return StreamRequest(last=last, chunked=chunked)
        said = request.query.getall("deltas", [])
        division_id, division_ok = parse_positive_int(request, "division_id")
        right = {"deltas": said in ([], ["0"], ["1"]), "division_id": division_ok}
        if not all(right.values()):
            return errors.invalid([field for field, ok in right.items() if not ok])
        if division_id is not None:
            snapshot = self._cache.snapshot
            if snapshot is None:
                return errors.unavailable("no scoreboard yet", RETRY_AFTER)
            try:
                division_id = snapshot.division(division_id)
            except LookupError:
                return errors.error(404, "no such division")
        return StreamRequest(said == ["1"], division_id, last or _last_of(request.query), chunked)

    def accept(self, transport: asyncio.Transport, asked: StreamRequest, fields: Mapping[str, str]) -> bool:
        """Make a stream of a connection whose request has only these header fields.

        False, and nothing done, if there is no room, no such division or no public board: `get` knows how to refuse.
        """
        address = network(self._addresses.nearest(transport, fields.get("x-forwarded-for", "")))
        if not (self._broadcaster.has_room(address) and self._has(asked.division_id) and self._cache.is_public):
            return False
        subscriber = Subscriber(self._topic(asked), transport, address)
        transport.set_protocol(subscriber)
        self._join(subscriber, asked, _head(asked.chunked, *self.origins.headers(fields.get("origin")).items()))
        return True

    def _has(self, division_id: int | None) -> bool:
        snapshot = self._cache.snapshot
        return division_id is None or (snapshot is not None and division_id in snapshot.divisions)

    def _topic(self, asked: StreamRequest) -> Topic:
        if asked.deltas:
            return self._broadcaster.deltas(asked.division_id, chunked=asked.chunked)
        return self._broadcaster.notices(chunked=asked.chunked)

    def _deltas(self) -> DeltaUpdates:
        """The updates of the snapshot served, which must exist."""
        snapshot = self._cache.snapshot
        assert snapshot is not None
        if self._last_sent is None or self._last_sent.snapshot is not snapshot:
            self._last_sent = DeltaUpdates(
                snapshot, most=self._broadcaster.queue, clients=lambda: self._broadcaster.following
            )
        return self._last_sent

    def _join(self, subscriber: Subscriber, asked: StreamRequest, head: bytes = b"") -> None:
        # No await between reading the version and joining: whatever comes after it, the client is told of.
        version, last = self._cache.version, asked.last
        self._note(version)
        greeted = last_sent = version
        missed = None
        if last is not None and last != version:
            if version is None:
                # What it is told first leads from there.
                last_sent = last if asked.deltas else None
            elif asked.deltas:
                missed = self._deltas().update_for(asked.division_id).since(last)
                # It has nothing newer than `last` yet: cut off here, it has to come back with that.
                greeted = last if version.follows(last) else version
            else:
                missed = _resume(version)
        retry_ms = round(random.uniform(*self._retry) * 1000)
        self._broadcaster.join(subscriber, head, ready_block(greeted, retry_ms), last_sent, missed)


def scoreboard_frame(version: Version, event: ChangeEvent) -> Frame:
    data = wire.announcement(version, event)
    return Frame(version, b"id: %s\nevent: scoreboard\ndata: %s\n\n" % (str(version).encode(), data))


def ready_block(version: Version | None, retry_ms: int) -> bytes:
    id_line = b"" if version is None else b"id: %s\n" % str(version).encode()
    # One block: some clients take one of `retry` alone for an empty event.
    return b"retry: %d\n%sevent: ready\ndata: {}\n\n" % (retry_ms, id_line)


@lru_cache(maxsize=2)
def _resume(version: Version) -> Frame:
    """Tells a client that returns that it has missed something; the same for all such clients."""
    return scoreboard_frame(version, ChangeEvent("all", "resume", now_rfc3339()))


def _last_of(query: MultiMapping[str]) -> Version | None:
    """The last id in the query. A parameter that occurs twice is ignored."""
    values = [values[0] for name in LAST_ID_PARAMETERS if len(values := query.getall(name, [])) == 1]
    return next(filter(None, map(Version.parse, values)), None)


@lru_cache(maxsize=64)
def _head(chunked: bool, *more: tuple[str, str]) -> bytes:
    """The head of the answer, with `more` header fields."""
    framing = {"Transfer-Encoding": "chunked"} if chunked else {}
    lines = [f"{name}: {value}\r\n" for name, value in (*HEADERS.items(), *framing.items(), *more)]
    return ("HTTP/1.1 200 OK\r\n" + "".join(lines) + "\r\n").encode()
