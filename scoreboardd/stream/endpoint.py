"""`GET /api/scoreboard/stream` (protocol §6): greets a client, sends what it missed, and passes it to the broadcaster.

With `?deltas=1` a client receives the changes of the boards of everyone, or of a division; without it, notices that the
boards have changed.
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
from scoreboardd.web.documents import RETRY_AFTER_SECONDS, parse_positive_int

PATH = "/api/scoreboard/stream"

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # tells nginx not to buffer
    "Connection": "close",  # on HTTP/1.0 the end of the connection is the end of the body
}
LAST_ID_PARAMETERS = ("last_event_id", "lastEventId")
"Query parameters with the last event id: ours, and the one that polyfills of EventSource send."


class StreamRequest(NamedTuple):
    """What a client asks for."""

    deltas: bool = False
    "The client asks for deltas, not for notices."
    division_id: int | None = None
    "The division of the deltas; None stands for everyone."
    last: Version | None = None
    "The last version that the client received, by its own account; None if it names none."
    chunked: bool = False
    "The body is in chunks (HTTP/1.1)."


@dataclass(frozen=True)
class Notice:
    """An event that announces a version and what changed.

    It names divisions only to clients that were sent `previous`, the version announced before. Other clients may have
    missed changes in other divisions.
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
    """Answers requests for the stream. A browser waits `retry_min` to `retry_max` seconds before it reconnects."""

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
        self._delta_updates: DeltaUpdates | None = None
        self._version: Version | None = None
        "The version that clients were sent last, by a notice or a greeting, and the version before it:"
        self._previous: Version | None = None

    def publish(self, version: Version, event: ChangeEvent) -> None:
        """Announce the served `version` with the event that caused it. Return at once.

        If the boards are not public any more, end all streams and send nothing.
        """
        if not self._cache.is_public:
            self._broadcaster.close()
            return
        update_for = self._deltas().update_for
        self._set_version(version)
        notice = Notice(version, event, self._previous)
        self._broadcaster.publish(notice, lambda id: update_for(id) if self._has(id) else None)

    def _set_version(self, version: Version | None) -> None:
        if version != self._version:
            self._previous, self._version = self._version, version

    async def get(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        if isinstance(asked, web.Response):
            return asked
        if request.method == "HEAD":
            response = web.Response(headers=HEADERS)
            response.force_close()  # as in its headers
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
        """Return what a request asks for, or the response that refuses it."""
        chunked = request.version >= HttpVersion11
        last = Version.parse(request.headers.get("Last-Event-ID", ""))
        if not request.rel_url.raw_query_string:
            return StreamRequest(last=last, chunked=chunked)
        deltas = request.query.getall("deltas", [])
        division_id, division_ok = parse_positive_int(request, "division_id")
        valid = {"deltas": deltas in ([], ["0"], ["1"]), "division_id": division_ok}
        if not all(valid.values()):
            return errors.invalid([field for field, ok in valid.items() if not ok])
        if division_id is not None:
            snapshot = self._cache.snapshot
            if snapshot is None:
                return errors.unavailable("no scoreboard yet", RETRY_AFTER_SECONDS)
            try:
                division_id = snapshot.division(division_id)
            except LookupError:
                return errors.error(404, "no such division")
        return StreamRequest(deltas == ["1"], division_id, last or _last_event_id(request.query), chunked)

    def accept(self, transport: asyncio.Transport, asked: StreamRequest, fields: Mapping[str, str]) -> bool:
        """Turn a connection into a stream, if its request has only these header fields.

        Return False and do nothing if the limit of clients is reached, the division does not exist or the boards are
        not public; `get` refuses such requests.
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
        """Return the updates of the served snapshot, which must exist."""
        snapshot = self._cache.snapshot
        assert snapshot is not None
        if self._delta_updates is None or self._delta_updates.snapshot is not snapshot:
            self._delta_updates = DeltaUpdates(
                snapshot, max_deltas=self._broadcaster.queue, count_clients=lambda: self._broadcaster.following
            )
        return self._delta_updates

    def _join(self, subscriber: Subscriber, asked: StreamRequest, head: bytes = b"") -> None:
        # There is no await between reading the version and joining, so the client receives every later version.
        version, last = self._cache.version, asked.last
        self._set_version(version)
        greeted = last_sent = version
        missed = None
        if last is not None and last != version:
            if version is None:
                # The first update leads from that version.
                last_sent = last if asked.deltas else None
            elif asked.deltas:
                missed = self._deltas().update_for(asked.division_id).since(last)
                # Until it receives `missed`, it has `last`: if the connection ends now, it must resume from there.
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
    # One block, because some clients deliver a block with only `retry` as an empty event.
    return b"retry: %d\n%sevent: ready\ndata: {}\n\n" % (retry_ms, id_line)


@lru_cache(maxsize=2)
def _resume(version: Version) -> Frame:
    """Return the notice for a client that reconnects and has missed versions. It is the same for all such clients."""
    return scoreboard_frame(version, ChangeEvent("all", "resume", now_rfc3339()))


def _last_event_id(query: MultiMapping[str]) -> Version | None:
    """Return the last event id in the query. A parameter that occurs twice is ignored."""
    values = [values[0] for name in LAST_ID_PARAMETERS if len(values := query.getall(name, [])) == 1]
    return next(filter(None, map(Version.parse, values)), None)


@lru_cache(maxsize=64)
def _head(chunked: bool, *more: tuple[str, str]) -> bytes:
    """Return the head of the response, with the additional header fields `more`."""
    framing = {"Transfer-Encoding": "chunked"} if chunked else {}
    lines = [f"{name}: {value}\r\n" for name, value in (*HEADERS.items(), *framing.items(), *more)]
    return ("HTTP/1.1 200 OK\r\n" + "".join(lines) + "\r\n").encode()
