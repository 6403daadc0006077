"""Serves the four documents (protocol §5) from memory: no request reads from Redis or PostgreSQL.

A timeline cut to a `window` also depends on the time. So `windows` cuts it on demand, from the documents that this node
serves.
"""

import asyncio
import math
import re

from aiohttp import web
from multidict import CIMultiDict

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.times import micros
from scoreboardd.cache.document_cache import DocumentCache, EncodedDocument
from scoreboardd.model import Snapshot
from scoreboardd.render.text import first_bucket
from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.web import errors, negotiation
from scoreboardd.web.windows import CutFailed, TooManyCuts, Windows

PATHS = {
    "/api/leaderboard": (leaderboard_key, ParticipantKind.USERS),
    "/api/leaderboard/teams": (leaderboard_key, ParticipantKind.TEAMS),
    "/api/timeline": (timeline_key, ParticipantKind.USERS),
    "/api/timeline/teams": (timeline_key, ParticipantKind.TEAMS),
}

RETRY_AFTER_SECONDS = 2
"Seconds after which a client should ask a node again that has no document yet."
WRITE_BYTES = 256 * 1024
"Bytes of a large document that are written at once. Our buffers hold no more for a slow reader."
MIN_READ_BYTES_PER_SECOND = 16 * 1024
"A reader of a large document that takes fewer bytes a second is disconnected."
MAX_WINDOW_MINUTES = 60 * 24 * 365 * 100
"A longer window is cut to this length, a century."

_POSITIVE = re.compile(r"0*[1-9][0-9]{0,18}", re.ASCII)


class DocumentEndpoint:
    """Answers requests for the documents."""

    def __init__(self, cache: DocumentCache, metrics: Metrics, *, write_timeout: float) -> None:
        self._cache = cache
        self.windows = Windows(metrics)
        self._write_timeout = write_timeout
        self._common_headers: tuple[Snapshot | None, CIMultiDict[str]] = (None, CIMultiDict())
        "A snapshot, and the header fields that its documents have in common."

    async def get(self, request: web.Request) -> web.StreamResponse:
        make_key, owner = PATHS[errors.path_of(request)]
        division_id = window = None
        if request.rel_url.raw_query_string:
            division_id, division_ok = parse_positive_int(request, "division_id")
            window, window_ok = parse_positive_int(request, "window") if make_key is timeline_key else (None, True)
            if not (division_ok and window_ok):
                wrong = {"division_id": division_ok, "window": window_ok}
                return errors.invalid([field for field, ok in wrong.items() if not ok])
        snapshot = self._cache.snapshot
        if snapshot is None:
            return errors.unavailable("no scoreboard yet", RETRY_AFTER_SECONDS)
        if not self._cache.is_public:
            return errors.not_public()
        try:
            division_id = snapshot.division(division_id)
        except LookupError:
            return errors.error(404, "no such division")
        headers = self._headers(snapshot)
        name = make_key(owner, division_id)
        since = None if window is None else self._since(name, window)
        if window is None or since is None:
            # There is no await before this, so the body belongs to the snapshot that the headers describe.
            return await self.send(request, snapshot, self._cache.encoded_document(name))
        coding = negotiation.coding(request.headers.get("Accept-Encoding", ""))
        try:
            async with self.windows.cut(
                snapshot, owner, division_id, minutes=window, since=since, coding=coding
            ) as windowed:
                headers["ETag"] = f'W/"{snapshot.version}-{window}-{windowed.checksum:08x}"'
                if negotiation.matches(request.headers.get("If-None-Match"), headers["ETag"]):
                    return web.Response(status=304, headers=headers)
                return await self._answer(request, headers, coding, windowed.payload)
        except TooManyCuts:
            return errors.unavailable("too many windows are being cut", RETRY_AFTER_SECONDS)
        except CutFailed:
            return errors.unavailable("the timeline cannot be cut right now", RETRY_AFTER_SECONDS)

    async def send(self, request: web.Request, snapshot: Snapshot, document: EncodedDocument) -> web.StreamResponse:
        """Answer with a document made of `snapshot`, which is served now."""
        headers = self._headers(snapshot)
        if negotiation.matches(request.headers.get("If-None-Match"), headers["ETag"]):
            return web.Response(status=304, headers=headers)
        coding = negotiation.coding(request.headers.get("Accept-Encoding", ""))
        return await self._answer(request, headers, coding, await document.encode(coding))

    def _since(self, name: str, window: int) -> int | None:
        """Return the time, in microseconds, at which a window of `window` minutes begins. None if the window contains
        the whole timeline `name`."""
        since = (math.floor(self._cache.clock.now()) - min(window, MAX_WINDOW_MINUTES) * 60) * 1_000_000
        first = first_bucket(self._cache.encoded_document(name).beginning)
        return None if first is None or since <= micros(first) else since

    def _headers(self, snapshot: Snapshot) -> CIMultiDict[str]:
        described, headers = self._common_headers
        if described is not snapshot:
            headers = CIMultiDict(
                {
                    "ETag": f'W/"{snapshot.version}"',
                    "Cache-Control": "no-cache",
                    "Vary": "Accept-Encoding",
                    "X-Scoreboard-Version": str(snapshot.version),
                }
            )
            self._common_headers = snapshot, headers
        headers = headers.copy()
        headers["X-Scoreboard-Cache"] = f"stale-{self._cache.tier}" if self._cache.stale else self._cache.tier
        headers["Age"] = str(math.floor(self._cache.age))
        return headers

    async def _answer(
        self, request: web.Request, headers: CIMultiDict[str], coding: str, payload: bytes
    ) -> web.StreamResponse:
        headers["Content-Type"] = "application/json; charset=utf-8"
        if coding != "identity":
            headers["Content-Encoding"] = coding
        if len(payload) <= WRITE_BYTES:
            return web.Response(headers=headers, body=payload)
        return await self._streamed(request, headers, payload)

    async def _streamed(self, request: web.Request, headers: CIMultiDict[str], payload: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.content_length = len(payload)
        await response.prepare(request)
        view = memoryview(payload if request.method == "GET" else b"")
        try:
            async with asyncio.timeout(self._write_timeout + len(view) / MIN_READ_BYTES_PER_SECOND):
                for start in range(0, len(view), WRITE_BYTES):
                    async with asyncio.timeout(self._write_timeout):
                        await response.write(view[start : start + WRITE_BYTES])
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # the client has stopped reading
        return response


def parse_positive_int(request: web.Request, field: str) -> tuple[int | None, bool]:
    """Return the parameter, None if absent, and whether it is well formed."""
    values = request.query.getall(field, [])
    if not values:
        return None, True
    if len(values) > 1 or not _POSITIVE.fullmatch(values[0]):
        return None, False
    return int(values[0]), True
