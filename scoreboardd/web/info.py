"""`GET /api/scoreboard`: the name of the contest, the version and the divisions, for a page that starts."""

import orjson
from aiohttp import web

from scoreboardd.board.document_names import DIVISIONS
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.web import errors

PATH = "/api/scoreboard"


FIELDS = ("order", "mode", "starts_at", "ends_at", "frozen_at", "visibility")
"What clients have to know beside the boards: how to order equal scores, whose board counts, and when."
DEFAULT_NAME = "Scoreboard"


class InfoEndpoint:
    """Answers the request. `name` is the name of the contest; if it is empty, the platform's name of it is used."""

    def __init__(self, cache: DocumentCache, *, name: str) -> None:
        self._cache = cache
        self._name = name

    async def get(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._cache.snapshot
        settings = self._cache.settings
        divisions = await self._cache.encoded_document(DIVISIONS).encode("identity") if snapshot else b"[]"
        return errors.answer(
            200,
            {
                "name": self._name or settings.get("platform_name") or DEFAULT_NAME,
                "version": str(snapshot.version) if snapshot else None,
                "divisions": orjson.loads(divisions),
                **{name: settings[name] for name in FIELDS if name in settings},
            },
            {"Cache-Control": "no-cache"},
        )
