"""Responses in JSON, and errors as `{"error": …}`, some with `details`."""

from functools import wraps
from traceback import extract_tb
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from scoreboardd.telemetry.logs import LogThrottle

LIVE_PREFIX = "/live"
"What the paths of the live board begin with, on the admin listener."

log = structlog.stdlib.get_logger("scoreboardd.web")


def answer(status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json", charset="utf-8", headers=headers
    )


def error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return answer(status, {"error": text}, headers)


def invalid(fields: list[str]) -> web.Response:
    details = [{"field": field, "reason": "invalid"} for field in fields]
    return answer(400, {"error": "invalid input", "details": details})


def unavailable(text: str, retry_after: int) -> web.Response:
    return error(503, text, {"Retry-After": str(retry_after), "Cache-Control": "no-store"})


def not_public() -> web.Response:
    return error(403, "the organisers do not show the scoreboard to everybody", {"Cache-Control": "no-store"})


def path_of(request: web.Request) -> str:
    """Return the path of the route that matched, without `LIVE_PREFIX`. The request may encode it differently:
    `/api/%6Ceaderboard`."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical.removeprefix(LIVE_PREFIX)


def as_json(handler: Handler) -> Handler:
    """Wrap `handler`, so that the errors of aiohttp (413, …) and our own faults become responses in JSON.

    This is not a middleware, because a middleware takes a tenth of the time of a 304.
    """

    @wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as refusal:
            if refusal.status < 400:
                raise
            kept = {name: value for name, value in refusal.headers.items() if name in ("Allow", "Retry-After")}
            return error(refusal.status, refusal.reason.lower(), kept)
        except ConnectionError:
            raise  # the client has left
        except Exception as fault:
            if _may_log(_place(fault)):
                log.exception("a request failed", path=request.path)
            if request.writer.output_size and request.transport is not None:
                request.transport.close()  # part of a response has been sent
            return error(500, "internal error")

    return answered


_may_log = LogThrottle()
"Allows one line a minute for each fault: anybody may repeat a request that fails."


def _place(fault: Exception) -> str:
    """Return the class of the exception, and the file and line that raised it."""
    (*_, last) = extract_tb(fault.__traceback__, limit=-1)
    return f"{type(fault).__name__} {last.filename}:{last.lineno}"


def refuse_all_else(app: web.Application) -> None:
    """Add routes after all others: 405 for other methods of known paths, 404 for other paths."""
    for resource in list(app.router.resources()):
        methods = {route.method for route in resource}

        async def not_allowed(request: web.Request, methods: set[str] = methods) -> web.StreamResponse:
            raise web.HTTPMethodNotAllowed(request.method, methods)

        app.router.add_route("*", resource.canonical, as_json(not_allowed))
    app.router.add_route("*", "/{anything:.*}", as_json(_not_found))


async def _not_found(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound
