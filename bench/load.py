"""Who asks: `clients.c` holds the streams, `requests.c` repeats a request; both are driven by lines of JSON."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from bench import machine
from bench.servers import Server

ROUND = 120.0
"Seconds within which everyone has to have an event."


@dataclass(frozen=True)
class Storm:
    """All connected at once: seconds until half of them, and all of them, were ready."""

    ready: int
    refused: int
    median: float
    seconds: float


@dataclass(frozen=True)
class Round:
    """One event to everyone: seconds after the first who got it."""

    told: int
    deliveries: int
    lost: int
    first: float
    "On this machine's monotonic clock."
    p50: float
    p99: float
    last: float


class Clients:
    """Stream clients of `server`, in one process of their own."""

    def __init__(self, server: Server) -> None:
        self._command = [machine.compiled("clients"), str(server.port), server.path, server.ready, server.event]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def connect(self, number: int, *, stalled_every: int = 0) -> Storm:
        said = self._ask(f"connect {number} {stalled_every}")
        return Storm(said["ready"], said["refused"], said["p50"] / 1e6, said["last"] / 1e6)

    def round(self, publish: Callable[[], object]) -> Round:
        """Publish, and wait until every client that reads has the event."""
        return self._listen(f"round {ROUND * 1000:.0f}", publish)

    def listen(self, seconds: float, publish: Callable[[], object]) -> Round:
        """Take whatever comes for so long, while `publish` runs."""
        return self._listen(f"listen {seconds * 1000:.0f}", publish)

    def close(self) -> None:
        self._ask("close")

    def _listen(self, command: str, publish: Callable[[], object]) -> Round:
        self._ask(command)
        publish()
        said = self._answer()
        micros = {name: said[name] / 1e6 for name in ("first", "p50", "p99", "last")}
        return Round(said["told"], said["deliveries"], said["lost"], **micros)

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with code {self._process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said


@dataclass(frozen=True)
class Requests:
    """So many answers, all of `status`, of `body` bytes each, in `seconds`."""

    answers: int
    status: int
    body: int
    seconds: float


def request(port: int, path: str, headers: dict[str, str], *, connections: int, count: int) -> Requests:
    """`count` requests over `connections` kept alive, on each one after the other."""
    lines = [f"GET {path} HTTP/1.1", "Host: scoreboard.example.org", *(f"{k}: {v}" for k, v in headers.items())]
    head = "".join(f"{line}\r\n" for line in [*lines, ""])
    command = [machine.compiled("requests"), str(port), str(connections), str(count), head]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    said = json.loads(done.stdout)
    return Requests(said["answers"], said["status"], said["body"], said["micros"] / 1e6)
