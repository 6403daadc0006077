"""`POST /api/leaderboard/rebuild` (protocol §7): a scheduler or an organiser asks for a rebuild.

The request travels over the bus like any change, so any node may be the one that rebuilds, and all who ask at the same
time share one rebuild.

Who guesses at the token is slowed down by address, and then refused whatever it says, or it could go on guessing. To
send no token is no guess: a page that makes its visitors' browsers post here, which cannot set a header, must not be
able to lock out the scheduler behind the same address.
"""

import asyncio
import hmac
import math

from aiohttp import web

from scoreboardd.backends.base import Unavailable
from scoreboardd.board.times import rfc3339
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster.runner import Runner
from scoreboardd.web import errors
from scoreboardd.web.address import ClientAddressResolver
from scoreboardd.web.coalesced_call import CoalescedCall
from scoreboardd.web.failure_limiter import FailureRateLimiter

PATH = "/api/leaderboard/rebuild"
HEADER = "X-Scoreboard-Rebuild-Token"
BURST = 10
"Wrong tokens that an address may send at once."
REFILL = 6.0
"Seconds after which it may send another."


class RebuildEndpoint:
    """`timeout` (seconds) bounds the wait of `?wait=1`."""

    def __init__(
        self, runner: Runner, cache: DocumentCache, addresses: ClientAddressResolver, *, token: str, timeout: float
    ) -> None:
        self._runner = runner
        self._request = CoalescedCall(runner.request)
        self._cache = cache
        self._addresses = addresses
        self._attempts = FailureRateLimiter(burst=BURST, refill=REFILL)
        self._token = token.encode()
        self._timeout = timeout

    async def post(self, request: web.Request) -> web.StreamResponse:
        if not self._token:
            return errors.error(404, "not found")
        address, now = self._addresses.of(request), asyncio.get_running_loop().time()
        if seconds := self._attempts.wait(address, now):
            return errors.error(429, "too many attempts", {"Retry-After": str(math.ceil(seconds))})
        said = _said(request)
        if not hmac.compare_digest(said, self._token):
            if said:
                self._attempts.failed(address, now)
            return errors.error(401, "unauthorized", {"WWW-Authenticate": "Bearer"})
        wait = request.query.get("wait", "0")
        if wait not in ("0", "1"):
            return errors.invalid(["wait"])
        try:
            change = await self._request()
        except Unavailable:
            return errors.unavailable("the bus cannot be reached, nothing was queued", 5)
        if wait == "0":
            return errors.answer(202, {"ok": True, "version": self._number})
        try:
            async with asyncio.timeout(self._timeout):
                await self._runner.contained(change)
        except TimeoutError:
            return errors.error(504, f"not rebuilt within {self._timeout:g} s")
        generated_at = rfc3339(round(self._cache.as_of * 1e6))
        return errors.answer(200, {"ok": True, "version": self._number, "generated_at": generated_at})

    @property
    def _number(self) -> int:
        version = self._cache.version
        return version.number if version else 0


def _said(request: web.Request) -> bytes:
    """The token that came with `request`; empty if none did."""
    said = request.headers.get(HEADER)
    if said is None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        said = credentials.strip() if scheme.lower() == "bearer" else ""
    return said.encode(errors="surrogateescape")
