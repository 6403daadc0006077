"""The public listener's routes."""

from aiohttp import web

from scoreboardd.web import cors, documents, errors, rebuild, stream


def make(reads: documents.Documents, streams: stream.Streams, rebuilds: rebuild.Rebuild) -> web.Application:
    app = web.Application(middlewares=[errors.as_json])
    if streams.origins:
        app.middlewares.insert(0, cors.middleware(streams.origins))
        app.on_response_prepare.append(cors.add)
    for path in documents.PATHS:
        app.router.add_get(path, reads.get)
    app.router.add_get(stream.PATH, streams.get)
    app.router.add_post(rebuild.PATH, rebuilds.post)
    return app
