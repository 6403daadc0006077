"""Cross-origin reads, for the origins the organiser lists (`server.cors_origins`); none by default."""

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = web.RequestKey("cors", dict[str, str])
"What the response to a request says of this; `add` sees to it for all that aiohttp sends."

EXPOSED = "ETag, Age, Retry-After, X-Scoreboard-Version, X-Scoreboard-Cache"


class Origins:
    """The origins that may read, "*" among them if anyone may."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed = frozenset(origins)
        self._anyone = "*" in self._allowed

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def permit(self, origin: str | None) -> bool:
        return origin is not None and (self._anyone or origin in self._allowed)

    def headers(self, origin: str | None) -> dict[str, str]:
        """What a response to a request from `origin` says; None is a request that names none."""
        headers = {"Vary": "Origin"} if self._allowed and not self._anyone else {}
        if origin is not None and self.permit(origin):
            headers["Access-Control-Allow-Origin"] = "*" if self._anyone else origin
            headers["Access-Control-Expose-Headers"] = EXPOSED
        return headers


def middleware(origins: Origins) -> Middleware:
    """A middleware that answers preflights and leaves `HEADERS` with the request."""

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        request[HEADERS] = origins.headers(origin)
        if (
            request.method == "OPTIONS"
            and "Access-Control-Request-Method" in request.headers
            and origins.permit(origin)
        ):
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
