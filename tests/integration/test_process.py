"""The daemon as a process: how it stops, what it leaves behind, how it treats mistakes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from contextlib import suppress

import aiohttp
import psutil
import pytest

from scoreboardd.demo.servers import free_port
from tests.nodes import DEADLINE, listening, metric, nodes, until


async def test_sigterm_with_two_thousand_streams(platform, session, settings):
    async with nodes(1, server__drain=2, **settings) as (node,):
        host, port = node.url.removeprefix("http://").split(":")
        streams = [await _open(host, int(port)) for _ in range(2000)]
        loop = asyncio.get_running_loop()
        start = loop.time()
        node.process.send_signal(signal.SIGTERM)
        ends = await asyncio.gather(*(_ended(reader, loop) for reader, _ in streams))
        async with asyncio.timeout(DEADLINE):
            assert await node.process.wait() == 0
        last = max(ends) - start
        assert last < 2 + 0.5
        assert last - (min(ends) - start) > 1, "they ended spread over the time, not at once"
        for _, writer in streams:
            writer.close()
        assert not psutil.pid_exists(node.process.pid)


async def _open(host: str, port: int):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /api/scoreboard/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"event: ready\n")
    return reader, writer


async def _ended(reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> float:
    await reader.read()
    return loop.time()


async def test_the_child_goes_with_a_daemon_that_is_killed(platform, session, settings):
    async with nodes(1, **settings) as (node,), listening(session, node.url) as (listener,):
        await until(lambda: listener.version, "it serves")
        child = psutil.Process(node.builder_pid)
        await node.end(signal.SIGKILL)
        await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child is gone")


async def test_a_dead_child_is_replaced(platform, session, settings):
    async with nodes(1, **settings) as (node,), listening(session, node.url) as (listener,):
        await until(lambda: listener.version, "it serves")
        before = listener.version
        os.kill(node.builder_pid, signal.SIGKILL)
        await platform.solve(1, 1)
        await until(lambda: listener.version > before, "another child has built")


async def test_a_stopped_child_shows_and_is_replaced_in_seconds(platform, session, settings):
    async with nodes(1, **settings) as (node,), listening(session, node.url) as (listener,):
        await until(lambda: listener.version, "it serves")

        async def part(name: str) -> str:
            async with session.get(f"{node.admin_url}/readyz") as response:
                return (await response.json())[name]

        assert [await part(name) for name in ("builder", "rebuild", "redis", "postgres")] == ["ok"] * 4
        before = listener.version
        os.kill(node.builder_pid, signal.SIGSTOP)
        await platform.solve(1, 1)
        shows = asyncio.create_task(until(lambda: _is_not_ok(part("builder")), "/readyz says so"))
        await until(lambda: listener.version > before, "another child has built")
        await shows
        await until(lambda: _is_ok(part("builder")), "all is well again")
        assert await metric(session, node, 'scoreboardd_builder_restarts_total{cause="unresponsive"}') == 1


async def _is_ok(part: Awaitable[str]) -> bool:
    return await part == "ok"


async def _is_not_ok(part: Awaitable[str]) -> bool:
    return not await _is_ok(part)


async def test_what_systemd_is_told(platform, settings, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.setblocking(False)
        told: list[str] = []

        def has_been_told(what: str) -> bool:
            with suppress(BlockingIOError):
                while True:
                    told.append(notify.recv(4096).decode())
            return what in told

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            async with nodes(1, **settings) as (node,):
                await until(lambda: has_been_told("READY=1"), "it is up")
                told.clear()
                await until(lambda: has_been_told("WATCHDOG=1"), "its loop turns")
                node.process.send_signal(signal.SIGTERM)
                assert await node.end() == 0
                assert has_been_told("STOPPING=1")


async def test_config_mistakes_end_it_with_one_line_each():
    environ = {
        "SCOREBOARDD_CONFIG": os.devnull,
        "SCOREBOARDD_SERVER__PORT": "x",
        "SCOREBOARDD_REBUILD__MAX_WAIT": "0.1",
    }
    code, said = await _command("serve", environ=environ)
    assert code == 2
    assert len(said.splitlines()) == 2
    assert "Traceback" not in said


async def test_a_port_in_use_ends_it_with_one_line(settings):
    port = free_port()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    async with server:
        code, said = await _command("serve", environ=_environ(settings) | {"SCOREBOARDD_SERVER__PORT": str(port)})
    assert code == 1
    assert (
        said.strip()
        == f"server: cannot listen on 127.0.0.1:{port}: Address already in use; see server.host and server.port"
    )


async def test_check_finds_everything_in_one_run(platform, settings):
    await platform.connection.execute(
        "ALTER TABLE teams RENAME COLUMN name TO title; DROP INDEX scoreboardd_submissions_correct"
    )
    code, said = await _command("check", environ=_environ(settings))
    assert code == 1
    assert [line.split(":")[1].split(" is")[0] for line in said.splitlines()] == [
        " column teams.name",
        " no index on submissions (user_id, challenge_id) WHERE correct",
    ]


async def test_check_has_nothing_to_say_when_all_is_well(platform, settings):
    assert await _command("check", environ=_environ(settings)) == (0, "all is well\n")


async def test_check_finds_listeners_that_serve_cannot_bind(platform, settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = _environ(settings) | {
            "SCOREBOARDD_SERVER__PORT": str(port),
            "SCOREBOARDD_ADMIN__HOST": "203.0.113.7",
        }
        _, of_serve = await _command("serve", environ=environ)
        code, of_check = await _command("check", environ=environ)
    assert code == 1
    assert of_check.splitlines() == [
        of_serve.strip(),
        "admin: cannot listen on 203.0.113.7:0: Cannot assign requested address; see admin.host and admin.port",
    ]


async def test_check_accepts_addresses_that_the_running_daemon_uses(platform, settings):
    async with nodes(1, **settings) as (node,):
        ports = {
            f"SCOREBOARDD_{section}__PORT": url.rpartition(":")[2]
            for section, url in (("SERVER", node.url), ("ADMIN", node.admin_url))
        }
        assert await _command("check", environ=_environ(settings) | ports) == (0, "all is well\n")


async def test_publish_and_rebuild_by_hand(platform, session, settings):
    async with nodes(1, **settings) as (node,), listening(session, node.url) as (listener,):
        await until(lambda: listener.version, "it serves")
        assert await _command("publish", "--reason", "by_hand", environ=_environ(settings)) == (0, "")
        await until(lambda: listener.last.data.get("reason") == "by_hand", "clients are told")
        before = listener.version
        code, said = await _command("rebuild", "--wait", environ=_environ(settings))
        assert code == 0
        assert int(said.removeprefix("version ")) > before


def _environ(settings: dict[str, str]) -> dict[str, str]:
    ports = {"SCOREBOARDD_SERVER__PORT": "0", "SCOREBOARDD_ADMIN__PORT": "0"}
    return (
        {"SCOREBOARDD_CONFIG": os.devnull}
        | ports
        | {f"SCOREBOARDD_{key.upper()}": value for key, value in settings.items()}
    )


async def _command(*arguments: str, environ: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoreboardd", *arguments),
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_demo_leaves_nothing_behind(tmp_path):
    ports = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoreboardd", "demo", "--nodes", "2", "--port", str(ports), "--rate", "20"),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    async with asyncio.timeout(40):
        while b"Ctrl-C stops everything" not in await process.stdout.readline():
            assert process.returncode is None
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 5
    async with aiohttp.ClientSession() as session, listening(session, f"http://127.0.0.1:{ports + 1}") as (listener,):
        await until(
            lambda: len([n for n in listener.heard if n.event == "scoreboard"]) > 1, "the contest moves the board"
        )
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        await process.communicate()
    assert process.returncode == 0
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not list(tmp_path.iterdir())
