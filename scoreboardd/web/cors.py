"""Cross-origin reads, for the origins the organiser lists (`server.cors_origins`); none by default."""

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from scoreboardd.web import errors

HEADERS = web.RequestKey("cors", dict[str, str])
"What the response to a request says of this; `add` sees to it for all that aiohttp sends."

EXPOSED = "ETag, Age, Retry-After, X-Scoreboard-Version, X-Scoreboard-Cache"
METHODS = ("GET", "HEAD")
REQUEST_HEADERS = "Authorization, Cache-Control, If-None-Match, Last-Event-ID, Pragma"
"That pages may send, besides those that need no permission. Nothing that is read depends on who asks."
ANYONE = "*"


class Origins:
    """The origins that may read, "*" among them if anyone may.

    Pages of an origin that is listed by name may send credentials (`fetch(…, {credentials: "include"})`), since some
    always do. To be one of anyone gives no such right, and browsers refuse the two together.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        allowed = frozenset(origins)
        self._named = allowed - {ANYONE}
        self._anyone = ANYONE in allowed

    def __bool__(self) -> bool:
        return self._anyone or bool(self._named)

    def permit(self, origin: str | None) -> bool:
        return origin is not None and (self._anyone or origin in self._named)

    def headers(self, origin: str | None) -> dict[str, str]:
        """What a response to a request from `origin` says; None is a request that names none."""
        headers = {"Vary": "Origin"} if self._named else {}
        if origin is not None and origin in self._named:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Credentials"] = "true"
            headers["Access-Control-Expose-Headers"] = EXPOSED
        elif origin is not None and self._anyone:
            headers["Access-Control-Allow-Origin"] = ANYONE
            headers["Access-Control-Expose-Headers"] = EXPOSED
        return headers


def middleware(origins: Origins, *, but: str) -> Middleware:
    """A middleware that answers preflights, but for the route at the path `but`, and leaves `HEADERS` with the request.

    A page's browser asks first if the page may send a header that is not harmless: with that it could send a token.
    """

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        request[HEADERS] = origins.headers(origin)
        if (
            request.method == "OPTIONS"
            and request.headers.get("Access-Control-Request-Method") in METHODS
            and origins.permit(origin)
            and errors.path_of(request) != but
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
    """For `Application.on_response_prepare`: a large document, sent in parts, says it as well as a small one."""
    headers = dict(request.get(HEADERS, {}))
    if "Vary" in headers and "Vary" in response.headers:
        headers["Vary"] = f"{response.headers['Vary']}, {headers['Vary']}"
    response.headers.update(headers)
