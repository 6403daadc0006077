"""`POST /api/leaderboard/rebuild` (protocol §7): a scheduler or an organiser asks for a rebuild.

The node publishes the request on the bus as a change, so any node may rebuild. Requests at the same time share one
rebuild.

An address that sends wrong tokens is limited, and then refused even with the right token; otherwise it could go on
guessing. A request without a token does not count as a guess: a page could make its visitors' browsers send such
requests, and so lock out a scheduler behind the same address.
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
MAX_WRONG_TOKENS = 10
"Wrong tokens that an address may send at once."
REFILL_SECONDS = 6.0
"Seconds after which it may send one more."


class RebuildEndpoint:
    """Answers the request. With `?wait=1` it waits for at most `timeout` seconds."""

    def __init__(
        self, runner: Runner, cache: DocumentCache, addresses: ClientAddressResolver, *, token: str, timeout: float
    ) -> None:
        self._runner = runner
        self._request = CoalescedCall(runner.request)
        self._cache = cache
        self._addresses = addresses
        self._failures = FailureRateLimiter(burst=MAX_WRONG_TOKENS, refill_seconds=REFILL_SECONDS)
        self._token = token.encode()
        self._timeout = timeout

    async def post(self, request: web.Request) -> web.StreamResponse:
        if not self._token:
            return errors.error(404, "not found")
        address, now = self._addresses.of(request), asyncio.get_running_loop().time()
        if seconds := self._failures.wait(address, now):
            return errors.error(429, "too many attempts", {"Retry-After": str(math.ceil(seconds))})
        token = _token_of(request)
        if not hmac.compare_digest(token, self._token):
            if token:
                self._failures.failed(address, now)
            return errors.error(401, "unauthorized", {"WWW-Authenticate": "Bearer"})
        wait = request.query.get("wait", "0")
        if wait not in ("0", "1"):
            return errors.invalid(["wait"])
        try:
            change = await self._request()
        except Unavailable:
            return errors.unavailable("the bus cannot be reached, nothing was queued", 5)
        if wait == "0":
            return errors.answer(202, {"ok": True, "version": self._version_number})
        try:
            async with asyncio.timeout(self._timeout):
                await self._runner.contained(change)
        except TimeoutError:
            return errors.error(504, f"not rebuilt within {self._timeout:g} s")
        generated_at = rfc3339(round(self._cache.as_of * 1e6))
        return errors.answer(200, {"ok": True, "version": self._version_number, "generated_at": generated_at})

    @property
    def _version_number(self) -> int:
        version = self._cache.version
        return version.number if version else 0


def _token_of(request: web.Request) -> bytes:
    """Return the token in `request`; empty if it has none."""
    token = request.headers.get(HEADER)
    if token is None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
    return token.encode(errors="surrogateescape")
