"""Reads of a large document, beside nginx with the same bytes as a file, and a 304 beside the emptiest handler."""

import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.load import Requests, request
from bench.servers import Empty, Nchan, Platform, Scoreboardd, Server

PATH = "/api/leaderboard"
SETTLE = 1.0
SLOW_BUFFER = 16 * 1024
SEED = """
INSERT INTO teams (id, name) SELECT n, 'team ' || n FROM generate_series(1, 20) n;
INSERT INTO users (id, username, team_id) SELECT n, 'user ' || n, 1 + n % 20 FROM generate_series(1, {users}) n;
INSERT INTO challenges (id, title, category, points, minimum_points)
    SELECT n, 'challenge ' || n, 'misc', 500, 100 FROM generate_series(1, 100) n;
INSERT INTO submissions (user_id, challenge_id, correct, submitted_at)
    SELECT u, c, true, timestamptz '2026-02-27 18:00Z' + u * interval '1.000001 second' + c * interval '1 minute'
    FROM generate_series(1, {users}) u, generate_series(1, 100) c;
"""
"A leaderboard of users of some 8.9 KB each; all other documents are small beside it."


@dataclass(frozen=True)
class Scale:
    users: int
    visits: int
    not_modified: int
    coded: int
    plain: int
    slow_readers: int


FULL = Scale(4600, visits=5, not_modified=20_000, coded=500, plain=20, slow_readers=50)
QUICK = Scale(100, visits=1, not_modified=1000, coded=20, plain=5, slow_readers=5)


@dataclass(frozen=True)
class Read:
    """Processor time of the server, and time, in seconds, for each request; `body` in bytes."""

    cpu: float
    wall: float
    body: int


@dataclass(frozen=True)
class Reads:
    """By kind (`304`, `zstd`, `plain`, `empty`) and server."""

    done: dict[tuple[str, str], list[Read]]
    slow_reader: float
    "Bytes that the daemon holds for a reader that is in the middle of the plain document."
    document: int


def _read(server: Server, path: str, headers: dict[str, str], status: int, connections: int, count: int) -> Read:
    before = server.main_cpu()
    done: Requests = request(server.port, path, headers, connections=connections, count=count)
    cpu = server.main_cpu() - before
    assert done.status == status, f"{server.name} answered {done.status} for {path}"
    return Read(cpu / count, done.seconds / count, done.body)


def compare(platform: Platform, scale: Scale, say: Callable[[str], None]) -> Reads:
    with ExitStack() as stack:
        daemon = stack.enter_context(Scoreboardd(platform, rebuild__timeout=120))
        nginx, empty = stack.enter_context(Nchan()), stack.enter_context(Empty())
        body, tag = _get(daemon, PATH, {})
        coded, _ = _get(daemon, PATH, {"Accept-Encoding": "zstd"})
        for name, content in (("board.json", body), ("board.json.zst", coded)):
            (nginx.folder / name).write_bytes(content)
        _, nginx_tag = _get(nginx, "/board.json", {})
        zstd = {"Accept-Encoding": "zstd"}
        plan: list[tuple[str, Server, str, dict[str, str], int, int, int]] = [
            ("empty", empty, "/", {}, 200, 16, scale.not_modified),
            ("304", daemon, PATH, {"If-None-Match": tag}, 304, 16, scale.not_modified),
            ("304", nginx, "/board.json", {"If-None-Match": nginx_tag}, 304, 16, scale.not_modified),
            ("zstd", daemon, PATH, zstd, 200, 4, scale.coded),
            ("zstd", nginx, "/board.json.zst", {}, 200, 4, scale.coded),
            ("plain", daemon, PATH, {}, 200, 2, scale.plain),
            ("plain", nginx, "/board.json", {}, 200, 2, scale.plain),
        ]
        done: dict[tuple[str, str], list[Read]] = {}
        for number in range(scale.visits + 1):
            for kind, server, path, headers, status, connections, count in plan[number % 2 :] + plan[: number % 2]:
                read = _read(server, path, headers, status, connections, count)
                if number:  # the first time is to warm up
                    done.setdefault((kind, server.name), []).append(read)
                    say(f"{server.name}: {kind} {read.cpu * 1e6:.0f} µs, {read.body} bytes")
        slow = _slow_reader(daemon, scale.slow_readers)
        return Reads(done, slow, len(body))


def _get(server: Server, path: str, headers: dict[str, str]) -> tuple[bytes, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.read(), answer.headers["ETag"]


def _slow_reader(daemon: Server, readers: int) -> float:
    with ExitStack() as stack:
        before = daemon.memory()
        for _ in range(readers):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
            reader.connect(("127.0.0.1", daemon.port))
            reader.sendall(f"GET {PATH} HTTP/1.1\r\nHost: scoreboard.example.org\r\n\r\n".encode())
            reader.recv(SLOW_BUFFER)
        time.sleep(SETTLE)
        return (daemon.memory() - before) / readers
