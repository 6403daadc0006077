"""The public listener's routes."""

from collections.abc import Iterable

from aiohttp import web

from scoreboardd.web import about, cors, documents, errors, rebuild, stream
from scoreboardd.web.page import Page


def make(
    reads: documents.Documents,
    streams: stream.Streams,
    rebuilds: rebuild.Rebuild,
    abouts: about.About,
    page: Page | None,
    *,
    cors_origins: Iterable[str],
) -> web.Application:
    """`page` is None where it is switched off."""
    app = web.Application(middlewares=[cors.middleware(cors_origins), errors.as_json])
    app.on_response_prepare.append(cors.add)
    for path in documents.PATHS:
        app.router.add_get(path, reads.get)
    app.router.add_get(stream.PATH, streams.get)
    app.router.add_post(rebuild.PATH, rebuilds.post)
    app.router.add_get(about.PATH, abouts.get)
    if page is not None:
        page.add_to(app)
    return app
