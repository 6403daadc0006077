"""Allows cross-origin reads for the origins in `server.cors_origins`, by default for none."""

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from scoreboardd.web import errors

HEADERS = web.RequestKey("cors", dict[str, str])
"The CORS fields of the response to a request. `add` adds them to all responses that aiohttp sends."

EXPOSED_FIELDS = "ETag, Age, Retry-After, X-Scoreboard-Version, X-Scoreboard-Cache"
METHODS = ("GET", "HEAD")
REQUEST_HEADERS = "Authorization, Cache-Control, If-None-Match, Last-Event-ID, Pragma"
"Fields that pages may send besides those that need no permission. No response to a read depends on the sender."
ALL_ORIGINS = "*"


class Origins:
    """The origins that may read. "*" stands for all origins.

    Pages of an origin that is listed by name may send credentials (`fetch(…, {credentials: "include"})`), because some
    always do. "*" does not allow credentials, because browsers refuse the two together.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        allowed = frozenset(origins)
        self._named = allowed - {ALL_ORIGINS}
        self._allows_all = ALL_ORIGINS in allowed

    def __bool__(self) -> bool:
        return self._allows_all or bool(self._named)

    def permit(self, origin: str | None) -> bool:
        return origin is not None and (self._allows_all or origin in self._named)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return the CORS fields of a response to a request from `origin`; None stands for no origin."""
        headers = {"Vary": "Origin"} if self._named else {}
        if origin is not None and origin in self._named:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Credentials"] = "true"
            headers["Access-Control-Expose-Headers"] = EXPOSED_FIELDS
        elif origin is not None and self._allows_all:
            headers["Access-Control-Allow-Origin"] = ALL_ORIGINS
            headers["Access-Control-Expose-Headers"] = EXPOSED_FIELDS
        return headers


def middleware(origins: Origins, *, excluded_path: str) -> Middleware:
    """Return a middleware that stores `HEADERS` in each request, and answers preflights for all paths but
    `excluded_path`.

    A browser sends a preflight before a request with a header field that could carry a token.
    """

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        request[HEADERS] = origins.headers(origin)
        if (
            request.method == "OPTIONS"
            and request.headers.get("Access-Control-Request-Method") in METHODS
            and origins.permit(origin)
            and errors.path_of(request) != excluded_path
        ):
            return web.Response(
                status=204,
                headers={
                    "Access-Control-Allow-Methods": ", ".join(METHODS),
                    "Access-Control-Allow-Headers": REQUEST_HEADERS,
                    "Access-Control-Max-Age": "3600",
                },
            )
        return await handler(request)

    return cors


async def add(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the CORS fields to a response. For `Application.on_response_prepare`, which also runs for streamed bodies."""
    headers = dict(request.get(HEADERS, {}))
    if "Vary" in headers and "Vary" in response.headers:
        headers["Vary"] = f"{response.headers['Vary']}, {headers['Vary']}"
    response.headers.update(headers)
