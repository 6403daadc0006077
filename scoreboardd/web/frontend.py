"""Serves the page (`GET /`) and `scoreboard.js`: files of the package, read and compressed once at the start.

The path of the page's parts contains their digest, so a browser may store them for ever and never mixes two versions.
`scoreboard.js`, the modules that it imports and its types also have fixed paths, for pages of other sites.
"""

import gzip
import hashlib
import html
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import zstandard
from aiohttp import web

from scoreboardd.web import errors, negotiation

MODULES = ("scoreboard.js", "board.js", "election.js", "events.js", "sync_state.js")
"`scoreboard.js` and the modules that it imports."
PARTS = (
    "icon.svg",
    "style.css",
    "main.js",
    "table.js",
    "chart.js",
    "format.js",
    "worker.js",
    "view.js",
    *MODULES,
)
LIBRARY = (*MODULES, "scoreboard.d.ts")

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # No inline script or style, no other host, and no string that becomes markup (`require-trusted-types-for`).
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect", "worker")),
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'self'",
            "require-trusted-types-for 'script'",
            "trusted-types scoreboardd",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, in every content coding."""

    content_type: str
    etag: str
    bodies: dict[str, bytes]


class Frontend:
    """The page and the library. `name` is the name of the contest, which the page shows."""

    def __init__(self, name: str) -> None:
        folder = files("scoreboardd") / "frontend"
        contents = {part: (folder / part).read_bytes() for part in {*PARTS, *LIBRARY}}
        self._digest = _digest(b"".join(contents[part] for part in PARTS))
        self._assets = {part: _asset(part, content) for part, content in contents.items()}
        template = (folder / "index.html").read_text()
        page = template.replace("{{parts}}", f"page/{self._digest}").replace("{{name}}", html.escape(name))
        self._index = _asset("index.html", page.encode())

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/", errors.as_json(self._get_index))
        app.router.add_get("/page/{digest}/{part}", errors.as_json(self._get_part))
        for name in LIBRARY:
            app.router.add_get(f"/{name}", errors.as_json(self._get_library))

    async def _get_index(self, request: web.Request) -> web.StreamResponse:
        return _answer(request, self._index, "no-cache")

    async def _get_part(self, request: web.Request) -> web.StreamResponse:
        part = request.match_info["part"]
        if part not in PARTS:
            return errors.error(404, "not found")
        # During an upgrade a page of one node may request its parts from a node of another version. That node sends its
        # own parts, which is better than an error.
        is_ours = request.match_info["digest"] == self._digest
        return _answer(request, self._assets[part], FOR_EVER if is_ours else "no-store")

    async def _get_library(self, request: web.Request) -> web.StreamResponse:
        answer = _answer(request, self._assets[errors.path_of(request)[1:]], "no-cache")
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return answer


def _asset(name: str, content: bytes) -> Asset:
    return Asset(
        content_type=CONTENT_TYPES[Path(name).suffix],
        etag=f'W/"{_digest(content)}"',
        bodies={
            "identity": content,
            "gzip": gzip.compress(content, 9, mtime=0),
            "zstd": zstandard.compress(content, 19),
        },
    )


def _answer(request: web.Request, asset: Asset, cache_control: str) -> web.Response:
    headers = HEADERS | {"ETag": asset.etag, "Cache-Control": cache_control, "Vary": "Accept-Encoding"}
    if negotiation.matches(request.headers.get("If-None-Match"), asset.etag):
        return web.Response(status=304, headers=headers)
    coding = negotiation.coding(request.headers.get("Accept-Encoding", ""))
    headers["Content-Type"] = asset.content_type
    if coding != "identity":
        headers["Content-Encoding"] = coding
    return web.Response(headers=headers, body=asset.bodies[coding])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
