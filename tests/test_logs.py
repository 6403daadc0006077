"""What strangers can have logged."""

import subprocess
import sys

PROGRAM = """
import logging
from scoreboardd.telemetry import logs

logs.configure("info", "json")
for number in range(1000):
    logging.getLogger("aiohttp.server").error("Error handling request from %s", f"203.0.{number // 256}.{number % 256}")
"""


def test_requests_that_cannot_be_parsed_are_one_line_whoever_sends_them() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr.count("Error handling request") == 1
