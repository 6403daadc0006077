"""A bot has little use for the daemon."""

import subprocess
import sys


def test_the_client_loads_no_heavy_part_of_the_daemon():
    heavy = {"asyncpg", "click", "numpy", "prometheus_client", "pydantic", "redis", "sdnotify", "structlog", "uvloop"}
    loaded = subprocess.check_output(
        [sys.executable, "-c", "import scoreboardd.client, sys; print(*sys.modules)"], text=True, timeout=60
    )
    assert heavy.isdisjoint(loaded.split())
