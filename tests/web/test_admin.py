"""What a monitor sees."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from scoreboardd import __version__
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster.health import Health
from scoreboardd.model import ChangeEvent
from scoreboardd.telemetry.metrics import REASONS, Metrics
from scoreboardd.web.admin import Admin
from tests.external_tools import require
from tests.snapshots import snapshot
from tests.web.server import Listener, listening, version


@dataclass
class Runner:
    """The part of a runner that a monitor asks about."""

    health: Health = field(default_factory=lambda: Health(bus=None))
    bus: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(connected=True))


@dataclass
class Builder:
    """The part of a builder that a monitor asks about."""

    problem: str | None = None
    source_problem: str | None = None


@dataclass
class Monitored:
    listener: Listener
    runner: Runner
    builder: Builder
    cache: DocumentCache
    metrics: Metrics
    draining: bool = False


@asynccontextmanager
async def monitored(*, age: float | None = 0.0) -> AsyncIterator[Monitored]:
    """An admin listener of a node whose documents were true `age` seconds ago; None: that has none yet."""
    runner, builder, cache, metrics = Runner(), Builder(), DocumentCache(), Metrics()
    if age is not None:
        fresh = snapshot(version(41))
        cache.install(snapshot(version(41), as_of=fresh.as_of - age))
    node: Monitored
    admin = Admin(
        runner,  # type: ignore[arg-type]
        builder,  # type: ignore[arg-type]
        cache,
        metrics,
        store="redis",
        draining=lambda: node.draining,
        statistics=lambda: {"cache": cache.statistics()},
    )
    async with listening(admin.app()) as listener:
        node = Monitored(listener, runner, builder, cache, metrics)
        yield node


async def ready(node: Monitored) -> tuple[int, dict]:
    answer = await node.listener.ask("/readyz")
    assert isinstance(answer.json, dict)
    return answer.status, answer.json


async def test_healthz() -> None:
    async with monitored(age=None) as node:
        answer = await node.listener.ask("/healthz")
        assert (answer.status, answer.json) == (200, {"ok": True})


async def test_debug_state_shows_what_is_inside() -> None:
    async with monitored(age=3.0) as node:
        answer = await node.listener.ask("/debug/state")
        assert answer.status == 200
        state = answer.json["cache"]
        assert 3.0 <= state.pop("age") < 60
        assert state == {
            "version": "7f3a-41",
            "tier": "memory",
            "stale": False,
            "documents": {name: [] for name in node.cache.snapshot.documents},
        }


async def test_a_node_that_is_well_is_ready() -> None:
    async with monitored(age=3.0) as node:
        status, body = await ready(node)
        assert status == 200
        assert 3.0 <= body.pop("age") < 10.0
        assert body == {
            "ready": True,
            "redis": "ok",
            "postgres": "ok",
            "builder": "ok",
            "rebuild": "ok",
            "documents": "ok",
            "draining": False,
            "version": "7f3a-41",
        }


async def test_an_event_source_that_fails_is_shown_and_the_node_stays_ready() -> None:
    async with monitored(age=3.0) as node:
        node.runner.health.events = {"redis": "redis: gone", "postgres": "postgres: gone"}
        status, body = await ready(node)
        assert (status, body["redis"], body["postgres"]) == (200, "redis: gone", "postgres: gone")
        node.builder.source_problem = "postgres: cannot be read"
        node.runner.health.events["redis"] = None
        _, body = await ready(node)
        assert (body["redis"], body["postgres"]) == ("ok", "postgres: cannot be read")


async def test_a_node_without_documents_is_not_ready() -> None:
    async with monitored(age=None) as node:
        status, body = await ready(node)
        assert status == 503
        assert not body["ready"]
        assert body["documents"] != "ok"
        assert body["version"] is body["age"] is None


async def test_a_node_without_the_bus_is_not_ready() -> None:
    async with monitored() as node:
        node.runner.bus.connected = False
        node.runner.health.bus = "redis: connection refused"
        status, body = await ready(node)
        assert status == 503
        assert not body["ready"]
        assert body["redis"] == "redis: connection refused"
        assert body["postgres"] == body["documents"] == "ok"


async def test_a_node_without_its_database_is_ready_and_says_so() -> None:
    async with monitored() as node:
        node.runner.health.source = "postgres: connection refused"
        status, body = await ready(node)
        assert status == 200
        assert body["ready"]
        assert body["postgres"] == "postgres: connection refused"


@pytest.mark.parametrize("what", ["lock", "stage", "commit", "load"])
async def test_what_fails_in_the_store_shows_whatever_else_works(what: str) -> None:
    async with monitored() as node:
        setattr(node.runner.health, what, "redis: WRONGTYPE")
        status, body = await ready(node)
        assert (status, body["redis"], body["postgres"]) == (200, "redis: WRONGTYPE", "ok")


async def test_a_builder_that_does_not_answer_shows() -> None:
    async with monitored() as node:
        node.runner.health.build = "MemoryError"
        assert (await ready(node))[1]["builder"] == "MemoryError"
        node.builder.problem = "the builder process did not answer, starting another"
        status, body = await ready(node)
        assert (status, body["builder"]) == (200, "the builder process did not answer, starting another")


async def test_what_was_never_tried_is_not_ok() -> None:
    async with monitored() as node:
        node.builder.problem, node.builder.source_problem = "not started yet", "not tried yet"
        _, body = await ready(node)
        assert (body["builder"], body["postgres"]) == ("not started yet", "not tried yet")


async def test_a_change_that_waits_too_long_shows() -> None:
    async with monitored() as node:
        now = asyncio.get_running_loop().time()
        node.runner.health.waiting_since = now - 5
        assert (await ready(node))[1]["rebuild"] == "ok"
        node.runner.health.waiting_since = now - 100
        status, body = await ready(node)
        assert status == 200
        assert body["rebuild"].startswith("a change waits, without progress for 100 s")
        text = (await node.listener.ask("/metrics")).body.decode()
        assert "scoreboardd_change_waiting_seconds 10" in text


async def test_metrics_tell_of_the_process_and_the_version() -> None:
    async with monitored() as node:
        text = (await node.listener.ask("/metrics")).body.decode()
        for name in ("open_fds", "max_fds", "resident_memory_bytes", "cpu_seconds_total"):
            assert f"\nprocess_{name} " in text
        assert f'scoreboardd_build_info{{version="{__version__}"}} 1.0' in text


async def test_a_node_that_drains_is_not_ready() -> None:
    async with monitored() as node:
        node.draining = True
        status, body = await ready(node)
        assert status == 503
        assert not body["ready"]
        assert body["draining"] is True


async def test_the_metrics_are_the_contract_s_and_there_from_the_start() -> None:
    async with monitored(age=None) as node:
        answer = await node.listener.ask("/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = answer.body.decode().splitlines()
    labelled = {
        "scoreboardd_events_total": ("reason", [*REASONS, "other"]),
        "scoreboardd_rebuilds_total": ("result", ["committed", "failed", "superseded"]),
        "scoreboardd_rebuild_duration_seconds_count": ("stage", ["read", "build", "render", "commit"]),
        "scoreboardd_lock_attempts_total": ("result", ["acquired", "busy", "error"]),
        "scoreboardd_sse_dropped_total": ("cause", ["coalesced", "stalled", "limit"]),
    }
    for name, (label, values) in labelled.items():
        for value in values:
            assert f'{name}{{{label}="{value}"}} 0.0' in lines
        assert sum(line.startswith(f"{name}{{") for line in lines) == len(values)
    for name in (
        "scoreboardd_sse_clients",
        "scoreboardd_sse_events_sent_total",
        "scoreboardd_document_age_seconds",
        "scoreboardd_document_version",
        "scoreboardd_event_loop_lag_seconds_count",
        "scoreboardd_bus_connected",
        "scoreboardd_bus_reconnects_total",
    ):
        assert f"{name} 0.0" in lines
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name for name in families if not name.startswith("process_")} == {
        "scoreboardd_build_info",
        "scoreboardd_builder_restarts_total",
        "scoreboardd_documents_damaged_total",
        "scoreboardd_event_source_connected",
        "scoreboardd_change_waiting_seconds",
        "scoreboardd_clock_ahead_seconds",
        "scoreboardd_descriptors_exhausted_total",
        "scoreboardd_sse_clients_limit",
        "scoreboardd_windows_total",
        "scoreboardd_events_total",
        "scoreboardd_rebuilds_total",
        "scoreboardd_rebuild_duration_seconds",
        "scoreboardd_lock_attempts_total",
        "scoreboardd_sse_clients",
        "scoreboardd_sse_events_sent_total",
        "scoreboardd_sse_dropped_total",
        "scoreboardd_document_age_seconds",
        "scoreboardd_document_version",
        "scoreboardd_event_loop_lag_seconds",
        "scoreboardd_bus_connected",
        "scoreboardd_bus_reconnects_total",
        "scoreboardd_source_bad_rows",
    }


async def test_the_metrics_tell_of_the_documents_served() -> None:
    async with monitored(age=120.0) as node:
        lines = (await node.listener.ask("/metrics")).body.decode().splitlines()
        assert "scoreboardd_document_version 41.0" in lines
        (age,) = [line for line in lines if line.startswith("scoreboardd_document_age_seconds ")]
        assert 120.0 <= float(age.split()[1]) < 130.0


async def test_unknown_reasons_share_a_label() -> None:
    async with monitored() as node:
        for reason in ("submission_correct", "x" * 1000, 'a"b\n', ""):
            node.metrics.event(ChangeEvent("all", reason, "").reason)
        lines = (await node.listener.ask("/metrics")).body.decode().splitlines()
        assert 'scoreboardd_events_total{reason="submission_correct"} 1.0' in lines
        assert 'scoreboardd_events_total{reason="other"} 3.0' in lines


@pytest.mark.parametrize("age", [None, 3.0])
async def test_promtool_has_no_complaint(age: float | None) -> None:
    promtool = require("promtool")
    async with monitored(age=age) as node:
        node.metrics.rebuild_duration.labels("read").observe(0.1)
        node.metrics.loop_lag.observe(0.001)
        metrics = (await node.listener.ask("/metrics")).body
    checking = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(20):
        said, _ = await checking.communicate(metrics)
    assert (checking.returncode, said) == (0, b"")


async def test_nothing_of_the_public_listener_is_here() -> None:
    async with monitored() as node:
        for path in ("/", "/api/leaderboard", "/api/scoreboard/stream"):
            answer = await node.listener.ask(path)
            assert (answer.status, answer.json) == (404, {"error": "not found"})
