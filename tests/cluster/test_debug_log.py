"""At `log.level = "debug"` a node logs each input of the coordinator with the actions that follow."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster.coordinator import ChangeReported, Coordinator, Tick, Timing, TryLock
from scoreboardd.cluster.runner import Runner
from scoreboardd.model import ChangeEvent
from scoreboardd.telemetry.metrics import Metrics


def runner(backend: Any) -> Runner:
    timing = Timing(debounce=0.0, max_wait=0.0, lock_ttl=5.0, reconcile=60.0)
    return Runner(
        Coordinator(timing, jitter=lambda: 0.0),
        backend=backend,
        builder=SimpleNamespace(),  # type: ignore[arg-type]
        cache=DocumentCache(),
        announce=lambda version, event: None,
        metrics=Metrics(),
        build_timeout=1.0,
    )


async def test_each_input_is_one_line_with_its_actions(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "scoreboardd.cluster")
    never = asyncio.Event()

    async def acquire(token: str, seen: Any) -> None:
        await never.wait()

    node = runner(SimpleNamespace(acquire=acquire))
    solve = ChangeReported(ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z"))
    async with node._tasks:
        with capture_logs() as lines:
            node._feed(solve)
            node._feed(Tick())
        for task in node._tasks._tasks:
            task.cancel()
        if node._timer is not None:
            node._timer.cancel()
    assert lines == [
        {"event": "coordinator", "log_level": "debug", "input": repr(solve), "actions": [repr(TryLock(None))]},
        {"event": "coordinator", "log_level": "debug", "input": "Tick()", "actions": []},
    ]
    assert "submission_correct" in lines[0]["input"]


def test_statistics_are_what_debug_state_shows() -> None:
    statistics = runner(SimpleNamespace()).statistics()
    assert statistics["coordinator"]["phase"] == "idle"
    assert statistics["health"]["bus"] == "not connected yet"
    assert (statistics["connected"], statistics["lease"]) == (False, None)
