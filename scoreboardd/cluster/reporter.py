"""Tells operators what a node does: in the log, in metrics and in its health."""

import structlog

from scoreboardd.backends.base import Busy, Lease, Unavailable
from scoreboardd.builder.messages import Build, BuildResult
from scoreboardd.builder.process import BuilderError
from scoreboardd.cluster.health import Health
from scoreboardd.model import ChangeEvent, Version
from scoreboardd.telemetry.findings import FindingsReporter
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger("scoreboardd.cluster")


class Reporter:
    def __init__(self, metrics: Metrics, health: Health) -> None:
        self._metrics = metrics
        self._health = health
        self._throttle = LogThrottle()
        self._findings = FindingsReporter(metrics)

    def event_received(self, event: ChangeEvent, *, readable: bool) -> None:
        self._metrics.event(event.reason if readable else "other")
        if not readable and self._throttle("unreadable"):
            log.warning("an event could not be read and counts as a change; at most one such line a minute")

    def lock_acquired(self) -> None:
        self._health.lock = None
        self._metrics.lock_attempts.labels("acquired").inc()

    def lock_busy(self, answer: Busy) -> None:
        self._health.lock = None
        self._metrics.lock_attempts.labels("busy").inc()
        if answer.overlong:
            self._health.lock = "the lock had no end, or a late one; it ends within rebuild.lock_ttl now"
            if self._throttle("overlong"):
                log.warning(self._health.lock)

    def lock_failed(self, error: Unavailable, *, connected: bool) -> None:
        self._metrics.lock_attempts.labels("error").inc()
        self._health.lock = str(error)
        if connected and self._throttle("lock"):
            log.error("cannot take the lock, retrying", error=str(error))

    def lock_uncertain(self, error: Unavailable) -> None:
        """It is unknown whether the lock was renewed or released. The commit will show, or the lock ends by itself."""
        self._health.lock = str(error)

    def lock_lost(self, version: Version | None) -> None:
        log.warning("lost the lock while building, leaving it to the next holder", version=str(version))
        self._metrics.rebuilds.labels("superseded").inc()

    def build_failed(self, request: Build, error: BuilderError) -> None:
        self._metrics.rebuilds.labels("failed").inc()
        part = {"source": "source", "store": "stage"}.get(error.part, "build")
        setattr(self._health, part, str(error))
        if self._throttle(str(error)):
            log.error("rebuild failed, retrying", version=str(request.version), error=str(error))

    def built(self, result: BuildResult) -> None:
        if self._health.source is not None:
            log.info("the database can be read again")
        self._health.source = self._health.stage = self._health.build = None
        for stage in ("read", "build", "render"):
            self._metrics.rebuild_duration.labels(stage).observe(result.timings[stage])
        self._findings.report(result.findings, full=result.full)

    def committed(
        self, lease: Lease, result: BuildResult, event: ChangeEvent, *, changes: int, commit_seconds: float
    ) -> None:
        timings = result.timings | {"commit": result.timings["commit"] + commit_seconds}
        self._metrics.rebuild_duration.labels("commit").observe(timings["commit"])
        self._health.commit = None
        self._metrics.rebuilds.labels("committed").inc()
        log.info(
            "rebuilt",
            version=str(lease.version),
            reason=event.reason,
            changes=changes,
            seconds={stage: round(seconds, 4) for stage, seconds in timings.items()},
            rows=result.rows,
            full=result.full,
            bytes=result.size,
            staged_bytes=result.staged_bytes,
        )

    def confirmed(self, lease: Lease, result: BuildResult) -> None:
        self._health.commit = None
        log.debug("nothing changed", version=str(lease.version), seconds=result.timings)

    def commit_refused(self, lease: Lease) -> None:
        log.warning("too late to commit: another node has the lock", version=str(lease.version))
        self._metrics.rebuilds.labels("superseded").inc()

    def commit_uncertain(self, lease: Lease, error: Unavailable) -> None:
        log.error("unknown whether a version was committed, checking", version=str(lease.version), error=str(error))
        self._metrics.rebuilds.labels("failed").inc()
        self._health.commit = str(error)

    def load_failed(self, error: BuilderError) -> None:
        self._health.load = str(error)
        if self._throttle(str(error)):
            log.error("cannot load the documents, retrying", error=str(error))
        if error.part == "damaged":
            self._metrics.damaged.inc()

    def loaded(self, version: Version | None) -> None:
        """`version` is served from now on; None if nothing new was loaded."""
        self._health.load = None
        if version is not None:
            log.info("loaded", version=str(version))
