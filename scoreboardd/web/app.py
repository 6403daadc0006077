"""The public listener's routes."""

from collections.abc import Collection

from aiohttp import web

from scoreboardd.stream import endpoint
from scoreboardd.web import cors, documents, errors, feeds, info, rebuild
from scoreboardd.web.frontend import Frontend


def make(
    reads: documents.DocumentEndpoint,
    streams: endpoint.StreamEndpoint,
    rebuilds: rebuild.RebuildEndpoint | None,
    abouts: info.InfoEndpoint,
    page: Frontend | None,
    shapes: feeds.Feeds | None = None,
    enabled: Collection[str] = (),
) -> web.Application:
    """`page` is None where it is switched off; `enabled` are the feeds that are served."""
    app = web.Application()
    if streams.origins:
        app.middlewares.append(cors.middleware(streams.origins, but=rebuild.PATH))
        app.on_response_prepare.append(cors.add)
    for path in documents.PATHS:
        app.router.add_get(path, errors.as_json(reads.get))
    app.router.add_get(endpoint.PATH, errors.as_json(streams.get))
    if rebuilds is not None:
        app.router.add_post(rebuild.PATH, errors.as_json(rebuilds.post))
    app.router.add_get(info.PATH, errors.as_json(abouts.get))
    if shapes is not None and "ctftime" in enabled:
        app.router.add_get(feeds.CTFTIME, errors.as_json(shapes.ctftime))
    if shapes is not None and "ctfd" in enabled:
        app.router.add_get(feeds.CTFD, errors.as_json(shapes.ctfd))
        app.router.add_get(feeds.CTFD_TOP, errors.as_json(shapes.ctfd_top))
    if page is not None:
        page.add_to(app)
    errors.refuse_all_else(app)
    return app
