"""`POST /api/leaderboard/rebuild` (contract §7): a scheduler or an organiser asks for a rebuild.

The request travels over the bus like any change, so any node may be the one that rebuilds, and all who ask at the same
time share one rebuild.
"""

import asyncio
import hmac

from aiohttp import web

from scoreboardd.backend.base import Unavailable
from scoreboardd.board.documents import rfc3339
from scoreboardd.coordination.runner import Runner
from scoreboardd.memory import Memory
from scoreboardd.web import errors

PATH = "/api/leaderboard/rebuild"
HEADER = "X-Scoreboard-Rebuild-Token"


class Rebuild:
    """`timeout` (seconds) bounds the wait of `?wait=1`."""

    def __init__(self, runner: Runner, memory: Memory, *, token: str, timeout: float) -> None:
        self._runner = runner
        self._memory = memory
        self._token = token.encode()
        self._timeout = timeout

    async def post(self, request: web.Request) -> web.StreamResponse:
        if not self._token:
            return errors.error(404, "not found")
        if not self._permits(request):
            return errors.error(401, "unauthorized", {"WWW-Authenticate": "Bearer"})
        wait = request.query.get("wait", "0")
        if wait not in ("0", "1"):
            return errors.invalid(["wait"])
        try:
            change = await self._runner.request()
        except Unavailable:
            return errors.unavailable("the bus cannot be reached, nothing was queued", 5)
        if wait == "0":
            return errors.answer(202, {"ok": True, "version": self._number})
        try:
            async with asyncio.timeout(self._timeout):
                await self._runner.contained(change)
        except TimeoutError:
            return errors.error(504, f"not rebuilt within {self._timeout:g} s")
        generated_at = rfc3339(round(self._memory.as_of * 1e6))
        return errors.answer(200, {"ok": True, "version": self._number, "generated_at": generated_at})

    @property
    def _number(self) -> int:
        version = self._memory.version
        return version.number if version else 0

    def _permits(self, request: web.Request) -> bool:
        said = request.headers.get(HEADER)
        if said is None:
            scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
            said = credentials.strip() if scheme.lower() == "bearer" else ""
        return hmac.compare_digest(said.encode(errors="surrogateescape"), self._token)
