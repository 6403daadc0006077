"""The metrics of protocol §7. Each `Metrics` has its own registry, so that a process may hold several daemons."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from scoreboardd import __version__

REASONS = frozenset(
    {
        "submission_correct",
        "user_registered",
        "user_profile_update",
        "user_team_moved",
        "user_blocked",
        "user_unblocked",
        "challenge_created",
        "challenge_updated",
        "challenge_deleted",
        "team_created",
    }
)
"""The reasons of change events that have a series of their own. All others share the label `other`, so that events
cannot create an unbounded number of series."""

_DURATION_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LAG_BUCKETS_SECONDS = (0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

# A creation time for each counter doubles the number of series, and `process_start_time` has the same information.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Every metric as an attribute. Every series with a fixed set of labels exists from the start, at zero."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge("scoreboardd_build_info", "1; the version is a label.", ["version"], registry=registry).labels(
            __version__
        ).set(1)
        self.events = Counter(
            "scoreboardd_events_total", "Change events received on the bus.", ["reason"], registry=registry
        )
        self.rebuilds = Counter(
            "scoreboardd_rebuilds_total", "Rebuilds of this node by outcome.", ["result"], registry=registry
        )
        self.rebuild_duration = Histogram(
            "scoreboardd_rebuild_duration_seconds",
            "Time spent in each stage of a rebuild.",
            ["stage"],
            buckets=_DURATION_BUCKETS_SECONDS,
            registry=registry,
        )
        self.lock_attempts = Counter(
            "scoreboardd_lock_attempts_total", "Attempts to take the rebuild lock.", ["result"], registry=registry
        )
        self.clients = Gauge("scoreboardd_sse_clients", "Open event streams.", registry=registry)
        self.events_sent = Counter(
            "scoreboardd_sse_events_sent_total", "Events written to clients, heartbeats not counted.", registry=registry
        )
        self.dropped = Counter(
            "scoreboardd_sse_dropped_total",
            "Events coalesced, and clients closed or refused.",
            ["cause"],
            registry=registry,
        )
        self.document_age = Gauge(
            "scoreboardd_document_age_seconds",
            "Time since the database snapshot that the served documents show.",
            registry=registry,
        )
        self.document_version = Gauge(
            "scoreboardd_document_version", "Version served, within its epoch.", registry=registry
        )
        self.loop_lag = Histogram(
            "scoreboardd_event_loop_lag_seconds",
            "How late the event loop runs due callbacks.",
            buckets=_LAG_BUCKETS_SECONDS,
            registry=registry,
        )
        self.bus_connected = Gauge("scoreboardd_bus_connected", "1 while subscribed to the bus.", registry=registry)
        self.bus_reconnects = Counter(
            "scoreboardd_bus_reconnects_total", "Times that the bus subscription was re-established.", registry=registry
        )
        self.event_source_connected = Gauge(
            "scoreboardd_event_source_connected",
            "1 while connected to where the platform publishes, beside the bus.",
            ["source"],
            registry=registry,
        )
        self.bad_rows = Gauge(
            "scoreboardd_source_bad_rows",
            "Rows of the platform that the last whole read left out, or whose values it replaced.",
            ["table"],
            registry=registry,
        )
        self.waiting = Gauge(
            "scoreboardd_change_waiting_seconds",
            "Time without progress while a change waits to be rebuilt; 0 if no change waits.",
            registry=registry,
        )
        self.clock_ahead = Gauge(
            "scoreboardd_clock_ahead_seconds",
            "Time by which this machine's clock is ahead of the database's.",
            registry=registry,
        )
        self.clients_limit = Gauge(
            "scoreboardd_sse_clients_limit",
            "Event streams that the node accepts: sse.max_clients, or fewer if the descriptor limit is too low.",
            registry=registry,
        )
        self.descriptors_exhausted = Counter(
            "scoreboardd_descriptors_exhausted_total",
            "Times that an open failed because no descriptor was left.",
            registry=registry,
        )
        self.windows = Counter(
            "scoreboardd_windows_total",
            "Cuts of a timeline to a window, by outcome.",
            ["result"],
            registry=registry,
        )
        self.damaged = Counter(
            "scoreboardd_documents_damaged_total",
            "Documents in the store that differ from what was committed.",
            registry=registry,
        )
        self.builder_restarts = Counter(
            "scoreboardd_builder_restarts_total",
            "Builder processes that ended, by cause.",
            ["cause"],
            registry=registry,
        )
        for cause in ("died", "unresponsive"):
            self.builder_restarts.labels(cause)
        for result in ("begun", "abandoned", "refused"):
            self.windows.labels(result)
        for reason in (*REASONS, "other"):
            self.events.labels(reason)
        for table in ("submissions", "users", "teams", "challenges", "divisions"):
            self.bad_rows.labels(table)
        for result in ("committed", "failed", "superseded"):
            self.rebuilds.labels(result)
        for stage in ("read", "build", "render", "commit"):
            self.rebuild_duration.labels(stage)
        for result in ("acquired", "busy", "error"):
            self.lock_attempts.labels(result)
        for cause in ("coalesced", "stalled", "limit"):
            self.dropped.labels(cause)

    def event(self, reason: str) -> None:
        """Count a change event with this reason."""
        self.events.labels(reason if reason in REASONS else "other").inc()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)
