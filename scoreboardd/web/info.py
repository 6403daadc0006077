"""`GET /api/scoreboard`: the name of the contest, the version and the divisions, for a page that starts."""

import orjson
from aiohttp import web

from scoreboardd.board.document_names import DIVISIONS
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.web import errors

PATH = "/api/scoreboard"


class InfoEndpoint:
    """Answers the request. `name` is the name of the contest."""

    def __init__(self, cache: DocumentCache, *, name: str) -> None:
        self._cache = cache
        self._name = name

    async def get(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._cache.snapshot
        divisions = await self._cache.encoded_document(DIVISIONS).encode("identity") if snapshot else b"[]"
        return errors.answer(
            200,
            {
                "name": self._name,
                "version": str(snapshot.version) if snapshot else None,
                "divisions": orjson.loads(divisions),
            },
            {"Cache-Control": "no-cache"},
        )
