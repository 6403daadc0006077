"""The admin listener: is it alive, can it serve, how is it doing. For monitors, not for the public."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from scoreboardd.coordination.runner import Runner
from scoreboardd.memory import Memory
from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.web import errors


class Admin:
    """`store` is the part that is the store: `redis` or `postgres`. `draining()` is true once the daemon has been told
    to stop."""

    def __init__(
        self, runner: Runner, memory: Memory, metrics: Metrics, *, store: str, draining: Callable[[], bool]
    ) -> None:
        self._runner = runner
        self._store = store
        self._memory = memory
        self._metrics = metrics
        self._draining = draining

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", errors.as_json(self.healthz))
        app.router.add_get("/readyz", errors.as_json(self.readyz))
        app.router.add_get("/metrics", errors.as_json(self.metrics))
        errors.refuse_all_else(app)
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        return errors.answer(200, {"ok": True})

    async def readyz(self, request: web.Request) -> web.Response:
        """The platform's database is reported but does not decide: a node that cannot read it still answers (I6)."""
        health, version, draining = self._runner.health, self._memory.version, self._draining()
        ready = version is not None and self._runner.connected and not draining
        body = {
            "ready": ready,
            "redis": (health.store or "ok") if self._store == "redis" else "not used",
            "postgres": (self._store == "postgres" and health.store) or health.source or "ok",
            "documents": "ok" if version else "none yet: waiting for the first rebuild",
            "draining": draining,
            "version": str(version) if version else None,
            "age": round(self._memory.age, 3) if version else None,
        }
        return errors.answer(200 if ready else 503, body)

    async def metrics(self, request: web.Request) -> web.Response:
        version = self._memory.version
        if version is not None:
            self._metrics.document_age.set(self._memory.age)
            self._metrics.document_version.set(version.number)
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
