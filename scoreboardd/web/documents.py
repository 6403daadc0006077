"""The four documents (contract §5), from memory: no request reaches Redis or Postgres.

A timeline cut to a `window` depends on the time as well, so it is made on demand by the builder process, from the
leaderboard this node serves; the same second's cut serves everyone who asks for it.
"""

import asyncio
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict

from scoreboardd.board.documents import Owner, leaderboard_key, timeline_key
from scoreboardd.board.times import Micros, micros
from scoreboardd.builder.process import BuilderError, BuilderProcess
from scoreboardd.edition import Edition, Version
from scoreboardd.memory import Memory, Representations
from scoreboardd.web import errors, negotiation

PATHS = {
    "/api/leaderboard": (leaderboard_key, Owner.USERS),
    "/api/leaderboard/teams": (leaderboard_key, Owner.TEAMS),
    "/api/timeline": (timeline_key, Owner.USERS),
    "/api/timeline/teams": (timeline_key, Owner.TEAMS),
}

RETRY_AFTER = 2
"Seconds after which to ask again a node that has no document yet."
PART = 256 * 1024
"Bytes written at a time: a reader that is slow holds no more than that of a large document in our buffers."
CUTS = 16
"Windows kept, of the version served."
SLOWEST = 16 * 1024
"Bytes a second that a reader of a large document has to take at least."
LONGEST = 60 * 24 * 365 * 100
"Minutes; a longer window is a century all the same."

_POSITIVE = re.compile(r"0*[1-9][0-9]{0,18}", re.ASCII)
_FIRST_BUCKET = re.compile(rb'\{"submissions":\[\{"timestamp":"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Cut:
    """A timeline from `since` on, made or being made."""

    since: Micros
    made: "asyncio.Future[Representations]"


class Documents:
    """Answers for the documents. `stale()` says whether what is served is known to be out of date."""

    def __init__(
        self, memory: Memory, builder: BuilderProcess, *, stale: Callable[[], bool], write_timeout: float
    ) -> None:
        self._memory = memory
        self._builder = builder
        self._stale = stale
        self._write_timeout = write_timeout
        self._described: tuple[Edition | None, CIMultiDict[str]] = (None, CIMultiDict())
        "The header fields that all documents of an edition have."
        self._cuts: OrderedDict[tuple[Version, Owner, int | None, int], Cut] = OrderedDict()
        # Strangers choose the windows: one is cut at a time, whatever they ask for.
        self._cutting = asyncio.Lock()

    async def get(self, request: web.Request) -> web.StreamResponse:
        make_key, owner = PATHS[errors.path_of(request)]
        division_id = window = None
        if request.rel_url.raw_query_string:
            division_id, division_ok = positive(request, "division_id")
            window, window_ok = positive(request, "window") if make_key is timeline_key else (None, True)
            if not (division_ok and window_ok):
                wrong = {"division_id": division_ok, "window": window_ok}
                return errors.invalid([field for field, ok in wrong.items() if not ok])
        edition = self._memory.edition
        if edition is None:
            return errors.unavailable("no scoreboard yet", RETRY_AFTER)
        try:
            division_id = edition.division(division_id)
        except LookupError:
            return errors.error(404, "no such division")
        headers = self._headers(edition)
        body = None
        if window is not None:
            whole = self._memory.representations(make_key(owner, division_id))
            try:
                body = await self._windowed(edition, whole, owner, division_id, window)
            except BuilderError:
                return errors.unavailable("the timeline cannot be cut right now", RETRY_AFTER)
            if body is not whole:
                headers["ETag"] = f'W/"{edition.version}-{window}-{body.checksum:08x}"'
        if negotiation.matches(request.headers.get("If-None-Match"), headers["ETag"]):
            return web.Response(status=304, headers=headers)
        if body is None:
            body = self._memory.representations(make_key(owner, division_id))
        return await self._answer(request, headers, body)

    def _headers(self, edition: Edition) -> CIMultiDict[str]:
        described, headers = self._described
        if described is not edition:
            headers = CIMultiDict(
                {
                    "ETag": f'W/"{edition.version}"',
                    "Cache-Control": "no-cache",
                    "Vary": "Accept-Encoding",
                    "X-Scoreboard-Version": str(edition.version),
                }
            )
            self._described = edition, headers
        headers = headers.copy()
        headers["X-Scoreboard-Cache"] = f"stale-{self._memory.tier}" if self._stale() else self._memory.tier
        headers["Age"] = str(math.floor(self._memory.age))
        return headers

    async def _answer(
        self, request: web.Request, headers: CIMultiDict[str], body: Representations
    ) -> web.StreamResponse:
        coding = negotiation.coding(request.headers.get("Accept-Encoding", ""))
        payload = await body.coded(coding)
        headers["Content-Type"] = "application/json; charset=utf-8"
        if coding != "identity":
            headers["Content-Encoding"] = coding
        if len(payload) <= PART:
            return web.Response(headers=headers, body=bytes(payload))
        return await self._in_parts(request, headers, payload)

    async def _in_parts(
        self, request: web.Request, headers: CIMultiDict[str], payload: bytes | memoryview
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.content_length = len(payload)
        await response.prepare(request)
        view = memoryview(payload if request.method == "GET" else b"")
        try:
            async with asyncio.timeout(self._write_timeout + len(view) / SLOWEST):
                for start in range(0, len(view), PART):
                    async with asyncio.timeout(self._write_timeout):
                        await response.write(view[start : start + PART])
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # a reader that stopped
        return response

    async def _windowed(
        self, edition: Edition, whole: Representations, owner: Owner, division_id: int | None, window: int
    ) -> Representations:
        since = (math.floor(time.time()) - min(window, LONGEST) * 60) * 1_000_000
        first = _FIRST_BUCKET.match(whole.beginning)
        if first is None or since <= micros(first[1].decode()):
            return whole  # nothing to cut off
        key = (edition.version, owner, division_id, window)
        kept = self._cuts.get(key)
        if kept is None or (kept.made.done() and (kept.since != since or _failed(kept.made))):
            kept = Cut(since, asyncio.ensure_future(self._cut(edition, owner, division_id, since)))
            for old in [old for old in self._cuts if old[0] != edition.version]:
                del self._cuts[old]
            self._cuts[key] = kept
            self._cuts.move_to_end(key)
            if len(self._cuts) > CUTS:
                self._cuts.popitem(last=False)
        # Shielded: a client that leaves must not take the work from the others who wait for it.
        return await asyncio.shield(kept.made)

    async def _cut(self, edition: Edition, owner: Owner, division_id: int | None, since: Micros) -> Representations:
        async with self._cutting:
            try:
                document = await self._builder.cut(edition, owner, division_id, since)
            except BuilderError:
                # A rebuild that is given up takes the builder process with it; the next one can do it.
                document = await self._builder.cut(edition, owner, division_id, since)
            cut = Representations(document)
            await asyncio.to_thread(getattr, cut, "checksum")  # it is kept
            return cut


def _failed(made: "asyncio.Future[Representations]") -> bool:
    return made.cancelled() or made.exception() is not None


def positive(request: web.Request, field: str) -> tuple[int | None, bool]:
    """The parameter, None if absent, and whether it is well formed."""
    said = request.query.getall(field, [])
    if not said:
        return None, True
    if len(said) > 1 or not _POSITIVE.fullmatch(said[0]):
        return None, False
    return int(said[0]), True
