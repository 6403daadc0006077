"""Cross-origin reads, for the origins the organiser lists (`server.cors_origins`); none by default."""

from collections.abc import Iterable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

EXPOSED = "ETag, Age, Retry-After, X-Scoreboard-Version, X-Scoreboard-Cache"


def middleware(origins: Iterable[str]) -> Middleware:
    """A middleware that answers preflights and leaves the headers for a permitted origin in `request["cors"]`."""
    allowed = frozenset(origins)

    def headers_for(request: web.Request) -> dict[str, str]:
        origin = request.headers.get("Origin")
        if origin is None or not ("*" in allowed or origin in allowed):
            return {}
        return {
            "Access-Control-Allow-Origin": "*" if "*" in allowed else origin,
            "Access-Control-Expose-Headers": EXPOSED,
        }

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = headers_for(request)
        request["cors"] = headers
        if headers and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(
                status=204,
                headers=headers
                | {
                    "Access-Control-Allow-Methods": "GET, HEAD",
                    "Access-Control-Allow-Headers": "If-None-Match, Last-Event-ID, Cache-Control",
                    "Access-Control-Max-Age": "3600",
                },
            )
        response = await handler(request)
        if not response.prepared:
            response.headers.update(headers)
        if allowed and "*" not in allowed:
            _vary_by_origin(response)
        return response

    return cors


def _vary_by_origin(response: Any) -> None:
    if not response.prepared:
        vary = response.headers.get("Vary")
        response.headers["Vary"] = f"{vary}, Origin" if vary else "Origin"
