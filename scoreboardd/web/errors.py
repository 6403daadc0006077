"""Errors as JSON: `{"error": …}`, with `details` where there are any."""

from typing import Any

import orjson
import structlog
from aiohttp import web

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


@web.middleware
async def as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """What aiohttp itself refuses (404, 405, 413, …) is JSON too."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            raise
        kept = {name: value for name, value in refusal.headers.items() if name in ("Allow", "Retry-After")}
        return error(refusal.status, refusal.reason.lower(), kept)
    except ConnectionError:
        raise  # the client has left: nobody to tell
    except Exception:
        log.exception("a request failed", path=request.path)
        if request.writer.output_size and request.transport is not None:
            request.transport.close()  # another answer cannot follow half of one
        return error(500, "internal error")
    return response
