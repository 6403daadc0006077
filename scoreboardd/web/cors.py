"""Cross-origin reads, for the origins the organiser lists (`server.cors_origins`); none by default."""

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = web.RequestKey("cors", dict[str, str])
"What the response to a request says of this; `add` sees to it for all that aiohttp sends."

EXPOSED = "ETag, Age, Retry-After, X-Scoreboard-Version, X-Scoreboard-Cache"


def middleware(origins: Iterable[str]) -> Middleware:
    """A middleware that answers preflights and leaves `HEADERS` with the request."""
    allowed = frozenset(origins)
    anyone = "*" in allowed

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = {"Vary": "Origin"} if allowed and not anyone else {}
        request[HEADERS] = headers
        origin = request.headers.get("Origin")
        if origin is None or not (anyone or origin in allowed):
            return await handler(request)
        headers["Access-Control-Allow-Origin"] = "*" if anyone else origin
        headers["Access-Control-Expose-Headers"] = EXPOSED
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(
                status=204,
                headers={
                    "Access-Control-Allow-Methods": "GET, HEAD",
                    "Access-Control-Allow-Headers": "If-None-Match, Last-Event-ID, Cache-Control",
                    "Access-Control-Max-Age": "3600",
                },
            )
        return await handler(request)

    return cors


async def add(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """For `Application.on_response_prepare`: a large document, sent in parts, says it as well as a small one."""
    headers = dict(request.get(HEADERS, {}))
    if "Vary" in headers and "Vary" in response.headers:
        headers["Vary"] = f"{response.headers['Vary']}, {headers['Vary']}"
    response.headers.update(headers)
