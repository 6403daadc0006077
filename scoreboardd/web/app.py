"""The routes of the public listener."""

from collections.abc import Collection

from aiohttp import web

from scoreboardd.stream import endpoint
from scoreboardd.web import cors, documents, errors, feeds, info, rebuild
from scoreboardd.web.frontend import Frontend


def make(
    document_endpoint: documents.DocumentEndpoint,
    stream_endpoint: endpoint.StreamEndpoint,
    rebuild_endpoint: rebuild.RebuildEndpoint | None,
    info_endpoint: info.InfoEndpoint,
    page: Frontend | None,
    feed_endpoint: feeds.Feeds | None = None,
    enabled: Collection[str] = (),
) -> web.Application:
    """Return the application of the public listener. `page` is None if the page is disabled; `enabled` are the feeds
    that are served."""
    app = web.Application()
    if stream_endpoint.origins:
        app.middlewares.append(cors.middleware(stream_endpoint.origins, excluded_path=rebuild.PATH))
        app.on_response_prepare.append(cors.add)
    for path in documents.PATHS:
        app.router.add_get(path, errors.as_json(document_endpoint.get))
    app.router.add_get(endpoint.PATH, errors.as_json(stream_endpoint.get))
    if rebuild_endpoint is not None:
        app.router.add_post(rebuild.PATH, errors.as_json(rebuild_endpoint.post))
    app.router.add_get(info.PATH, errors.as_json(info_endpoint.get))
    if feed_endpoint is not None and "ctftime" in enabled:
        app.router.add_get(feeds.CTFTIME, errors.as_json(feed_endpoint.ctftime))
    if feed_endpoint is not None and "ctfd" in enabled:
        app.router.add_get(feeds.CTFD, errors.as_json(feed_endpoint.ctfd))
        app.router.add_get(feeds.CTFD_TOP, errors.as_json(feed_endpoint.ctfd_top))
    if page is not None:
        page.add_to(app)
    errors.refuse_all_else(app)
    return app
