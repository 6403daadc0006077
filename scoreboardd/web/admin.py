"""The admin listener: is it alive, can it serve, how is it doing. For monitors, not for the public."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from scoreboardd.builder.process import BuilderProcess
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster.runner import Runner
from scoreboardd.live import LiveBoard
from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.web import errors

SLOW_REBUILD_SECONDS = 30.0
"A change that waits longer, with no new version meanwhile, is a fault and no ordinary wait."


class Admin:
    """`store` is the part that is the store: `redis`, `postgres` or `local`. `draining()` is true once the daemon has
    been told to stop. `statistics()` is what `/debug/state` shows. `live` is the board for organisers, if the platform
    has a freeze."""

    def __init__(
        self,
        runner: Runner,
        builder: BuilderProcess,
        cache: DocumentCache,
        metrics: Metrics,
        *,
        store: str,
        draining: Callable[[], bool],
        statistics: Callable[[], dict[str, Any]],
        live: LiveBoard | None = None,
    ) -> None:
        self._runner = runner
        self._builder = builder
        self._store = store
        self._cache = cache
        self._metrics = metrics
        self._draining = draining
        self._statistics = statistics
        self._live = live

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", errors.as_json(self.healthz))
        app.router.add_get("/readyz", errors.as_json(self.readyz))
        app.router.add_get("/metrics", errors.as_json(self.metrics))
        app.router.add_get("/debug/state", errors.as_json(self.state))
        if self._live is not None:
            app.add_subapp(errors.LIVE_PREFIX, self._live.app())
        errors.refuse_all_else(app)
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        return errors.answer(200, {"ok": True})

    async def readyz(self, request: web.Request) -> web.Response:
        """Ready is who can answer and hears of changes. All else is reported, but does not decide: a node that cannot
        read the platform's database, or rebuild, still answers (I6)."""
        health, version, draining = self._runner.health, self._cache.version, self._draining()
        ready = version is not None and self._runner.bus.connected and not draining
        body = {
            "ready": ready,
            **self._servers(),
            "builder": self._builder.problem or health.build or "ok",
            "rebuild": self._rebuild(),
            "documents": "ok" if version else "none yet: waiting for the first rebuild",
            "draining": draining,
            "version": str(version) if version else None,
            "age": round(self._cache.age, 3) if version else None,
        }
        return errors.answer(200 if ready else 503, body)

    def _servers(self) -> dict[str, str]:
        """Returns the state of Redis and of Postgres, which the source uses whatever the backend is, and of the store.

        An event source that fails is shown, and the node stays ready: `rebuild.reconcile` finds the changes, too."""
        health = self._runner.health
        events = {name: problem or "ok" for name, problem in health.events.items()}
        servers = {"redis": "not used", self._store: "ok", "postgres": "ok"} | events
        if source := health.source or self._builder.source_problem:
            servers["postgres"] = source
        return servers | ({self._store: health.store} if health.store else {})

    def _rebuild(self) -> str:
        waiting_seconds = self._waiting_seconds()
        if waiting_seconds < SLOW_REBUILD_SECONDS:
            return "ok"
        return f"a change waits, without progress for {waiting_seconds:.0f} s; see the other parts, and the log"

    def _waiting_seconds(self) -> float:
        since = self._runner.health.waiting_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def state(self, request: web.Request) -> web.Response:
        """What is inside this node now. Its form may change with every release."""
        return errors.answer(200, self._statistics())

    async def metrics(self, request: web.Request) -> web.Response:
        version = self._cache.version
        self._metrics.waiting.set(self._waiting_seconds())
        if version is not None:
            self._metrics.document_age.set(self._cache.age)
            self._metrics.document_version.set(version.number)
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
