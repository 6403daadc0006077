"""`GET /api/scoreboard`: what a page has to know before it asks for a board."""

import orjson
from aiohttp import web

from scoreboardd.board.document_names import DIVISIONS
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.web import errors

PATH = "/api/scoreboard"


class InfoEndpoint:
    """`name` is the contest's."""

    def __init__(self, memory: DocumentCache, *, name: str) -> None:
        self._memory = memory
        self._name = name

    async def get(self, request: web.Request) -> web.StreamResponse:
        edition = self._memory.edition
        divisions = await self._memory.representations(DIVISIONS).coded("identity") if edition else b"[]"
        return errors.answer(
            200,
            {
                "name": self._name,
                "version": str(edition.version) if edition else None,
                "divisions": orjson.loads(divisions),
            },
            {"Cache-Control": "no-cache"},
        )
