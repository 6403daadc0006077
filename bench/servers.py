"""What is measured: each server a real process of its own on a free port, with its processor time and its memory."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Self

import psutil
import redis

from bench import machine
from scoreboardd.demo.servers import free_port, tied_to_owner

DATA = '{"scope":"all","reason":"submission_correct","ts":"2026-02-27T18:00:00Z","version":42}'
"The data of an event, as the daemon's; framed it is about 130 bytes."
START = 60.0
"Seconds a server may take to answer."


class Server(ABC):
    """From `__enter__` to `__exit__` it runs. `ready` and `event` are the lines by which a client knows what it got."""

    name: ClassVar[str]
    path: ClassVar[str] = "/stream"
    ready: ClassVar[str] = "event: ready"
    event: ClassVar[str] = "event: scoreboard"

    def __init__(self) -> None:
        self.port = free_port()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="scoreboardd-bench-")))
            log = stack.enter_context((self.folder / "log").open("wb"))
            self._process = subprocess.Popen(
                [*tied_to_owner("KILL"), *self._command()],
                env=os.environ | self._environ(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(self._end)
            self._await_answer()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environ(self) -> dict[str, str]:
        return {}

    def publish(self) -> None:
        """Have one event sent to everyone; may return before it is."""
        self._post("/publish")

    def _post(self, path: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", DATA.encode(), self._publish_headers())
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def _publish_headers(self) -> dict[str, str]:
        return {"Content-Type": "text/plain"}

    def _probe(self) -> str:
        return f"http://127.0.0.1:{self.port}/nothing"

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self._probe(), timeout=1).close()
        except urllib.error.HTTPError as error:
            return error.code == 404
        except OSError:
            return False
        return True

    def _await_answer(self) -> None:
        end = time.monotonic() + START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _end(self) -> None:
        # Nobody is to be ended politely: ten thousand clients have been dropped already.
        with suppress(psutil.NoSuchProcess):
            for process in self.processes():
                process.kill()
        self._process.wait()

    # What it costs

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds of processor time, user and system, of all its processes."""
        return sum(cpu_of(process) for process in self.processes())

    def main_cpu(self) -> float:
        """As `cpu`, without processes that do other work than serving."""
        return self.cpu()

    def waited(self) -> float:
        """Seconds that its main thread could have run and had no processor."""
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[1]) / 1e9

    def memory(self) -> int:
        """Resident bytes of all its processes; what they share counts once (PSS)."""
        return sum(process.memory_full_info().pss for process in self.processes())


def cpu_of(process: psutil.Process) -> float:
    """Seconds of processor time of its threads."""
    # To the nanosecond, where utime and stime count in ticks of 10 ms.
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


class Floor(Server):
    """send() in a C loop."""

    name = "bare send()"

    def _command(self) -> list[str]:
        return [machine.compiled("floor"), str(self.port)]

    def _post(self, path: str) -> None:
        # In one piece, as it is read.
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\n\r\nid: 7f3a-42\nevent: scoreboard\ndata: {DATA}\n\n".encode())
            connection.recv(1024)

    def _answers(self) -> bool:
        with suppress(OSError):
            self._post("/publish")
            return True
        return False


class Nchan(Server):
    """nginx with nchan; it serves the files of its folder as well."""

    name = "nchan"
    ready = ": hi"

    def _command(self) -> list[str]:
        template = (machine.HERE / "nginx.conf").read_text()
        files, _ = machine.resource.getrlimit(machine.resource.RLIMIT_NOFILE)
        text = template.format(folder=self.folder, port=self.port, module=machine.nchan(), files=files)
        config = self.folder / "nginx.conf"
        config.write_text(text)
        self.folder.chmod(0o755)
        return [machine.nginx(), "-e", "stderr", "-p", str(self.folder), "-c", str(config)]

    def _publish_headers(self) -> dict[str, str]:
        return super()._publish_headers() | {"X-EventSource-Event": "scoreboard"}


class PythonPeer(Server):
    """An application of `bench/peers`, run by `$BENCH_PYTHON`."""

    app: ClassVar[str]

    def _command(self) -> list[str]:
        return [os.environ.get("BENCH_PYTHON", sys.executable), str(machine.HERE / "peers" / self.app), str(self.port)]


class AiohttpSse(PythonPeer):
    name = "aiohttp-sse"
    app = "aiohttp_sse_app.py"


class SseStarlette(PythonPeer):
    name = "sse-starlette"
    app = "sse_starlette_app.py"


class Empty(Server):
    """The emptiest aiohttp handler, on the daemon's own interpreter and packages."""

    name = "empty aiohttp handler"

    def _command(self) -> list[str]:
        return [sys.executable, str(machine.HERE / "peers" / "empty_app.py"), str(self.port)]


@dataclass(frozen=True)
class Platform:
    """The servers behind the daemon: where it reads, and where a platform publishes."""

    dsn: str
    redis_url: str


class Scoreboardd(Server):
    """The daemon as an organiser runs it."""

    name = "scoreboardd"
    path = "/api/scoreboard/stream"

    def __init__(self, platform: Platform, **settings: object) -> None:
        """`settings` are `section__key=value`."""
        super().__init__()
        self.admin_port = free_port()
        self.prefix = f"bench-{self.port}:"
        self._platform = platform
        self._settings = settings
        self._redis = redis.Redis.from_url(platform.redis_url)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "scoreboardd", "serve"]

    def _environ(self) -> dict[str, str]:
        settings = {
            "server__port": self.port,
            "admin__port": self.admin_port,
            "redis__url": self._platform.redis_url,
            "redis__key_prefix": self.prefix,
            "postgres__dsn": self._platform.dsn,
            "log__level": "warning",
            # An event is sent as soon as its rebuild allows: waiting for more of them is not what is measured.
            "rebuild__debounce": 0.01,
            "rebuild__max_wait": 0.01,
            # And nothing of its own accord.
            "rebuild__reconcile": 3600,
        } | self._settings
        environ = {f"SCOREBOARDD_{key.upper()}": str(value) for key, value in settings.items()}
        return environ | {"SCOREBOARDD_CONFIG": os.devnull}

    def _probe(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}/readyz"

    def publish(self) -> None:
        self._redis.publish(f"{self.prefix}scoreboard.events", DATA)

    def publish_bulky(self) -> None:
        """An event of some 3 KB, so that it takes tens and not thousands to fill the buffers of who never reads."""
        data = json.dumps({"scope": "s" * 1000, "reason": "r" * 1000, "ts": "t" * 1000})
        self._redis.publish(f"{self.prefix}scoreboard.events", data)

    def main_cpu(self) -> float:
        # Without the builder process.
        return cpu_of(self.processes()[0])

    def metrics(self) -> dict[str, float]:
        """Every series, by its name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
