"""`GET /api/scoreboard`: what a page has to know before it asks for a board."""

from aiohttp import web

from scoreboardd.memory import Memory
from scoreboardd.web import errors

PATH = "/api/scoreboard"


class About:
    """`name` is the contest's; `heartbeat`, in seconds, is the longest that a stream is silent."""

    def __init__(self, memory: Memory, *, name: str, heartbeat: float) -> None:
        self._memory = memory
        self._name = name
        self._heartbeat = heartbeat

    async def get(self, request: web.Request) -> web.StreamResponse:
        edition = self._memory.edition
        return errors.answer(
            200,
            {
                "name": self._name,
                "version": str(edition.version) if edition else None,
                "divisions": [{"id": id, "name": f"Division {id}"} for id in edition.divisions] if edition else [],
                "heartbeat": self._heartbeat,
            },
            {"Cache-Control": "no-cache"},
        )
