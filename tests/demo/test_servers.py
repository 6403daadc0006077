"""The embedded servers: the same port and data over a restart, and nothing left when they end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from scoreboardd.demo.servers import HOST, Postgres, ServerError, Valkey

Server = Postgres | Valkey


async def sql(server: Postgres, query: str) -> object:
    connection = await asyncpg.connect(server.dsn(), timeout=10, command_timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def redis(server: Valkey, *command: str) -> object:
    async with Redis.from_url(server.url(), socket_timeout=10, decode_responses=True) as client:
        return await client.execute_command(*command)


def family(server: Server) -> list[psutil.Process]:
    main = psutil.Process(server.pid)
    return [main, *main.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    """Waits for it. A zombie counts: it is for init to reap what its parent cannot."""

    def over(process: psutil.Process) -> bool:
        try:
            process.wait(0.01)
        except psutil.TimeoutExpired:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            pass
        return True

    return any(all(map(over, processes)) for _ in range(500))


def segments() -> set[str]:
    """Ids of the System V shared memory segments there are."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def segment(folder: Path) -> str:
    [pidfile] = folder.glob("*/data/postmaster.pid")
    return pidfile.read_text().splitlines()[6].split()[1]


async def test_postgres_keeps_port_and_data_over_a_restart(tmp_path: Path) -> None:
    with Postgres(tmp_path) as server:
        port, pid = server.port, server.pid
        await sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        server.restart()
        assert server.port == port
        assert server.pid != pid
        assert await sql(server, "SELECT answer FROM kept") == 42


async def test_postgres_recovers_what_was_committed_before_a_kill(tmp_path: Path) -> None:
    with Postgres(tmp_path) as server:
        await sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        processes = family(server)
        assert len(processes) > 1
        server.kill()
        assert gone(processes)
        server.start()
        assert await sql(server, "SELECT answer FROM kept") == 42


async def test_postgres_takes_settings(tmp_path: Path) -> None:
    with Postgres(tmp_path, settings={"fsync": "on", "max_connections": "7"}) as server:
        assert await sql(server, "SHOW fsync") == "on"
        assert await sql(server, "SHOW max_connections") == "7"


async def test_postgres_wants_the_password(tmp_path: Path) -> None:
    with Postgres(tmp_path) as server:
        dsn = f"postgresql://postgres:guessed@{HOST}:{server.port}/postgres"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn, timeout=10)


def test_a_bad_setting_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"log ends: .*fsink") as error, Postgres(tmp_path, {"fsink": "off"}):
        pass
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep_data", [True, False])
async def test_valkey_keeps_its_port_and_the_data_as_asked(tmp_path: Path, keep_data: bool) -> None:
    with Valkey(tmp_path) as server:
        port = server.port
        await redis(server, "SET", "answer", "42")
        server.restart(keep_data=keep_data)
        assert server.port == port
        assert await redis(server, "GET", "answer") == ("42" if keep_data else None)


async def test_a_killed_valkey_comes_back_empty(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        await redis(server, "SET", "answer", "42")
        server.restart(keep_data=True)
        server.kill()
        server.start()
        assert await redis(server, "DBSIZE") == 0


@pytest.mark.parametrize("kind", [Postgres, Valkey])
@pytest.mark.parametrize("end", ["running", "stopped", "killed", "frozen"])
def test_nothing_is_left_behind(tmp_path: Path, kind: type[Server], end: str) -> None:
    with kind(tmp_path) as server:
        processes = family(server)
        segment_id = segment(tmp_path) if kind is Postgres else None
        if end == "stopped":
            server.stop()
        elif end == "killed":
            server.kill()
        elif end == "frozen":
            os.kill(server.pid, signal.SIGSTOP)
    assert gone(processes)
    assert not list(tmp_path.iterdir())
    assert segment_id not in segments()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, server.port))


@pytest.mark.parametrize("kind", [Postgres, Valkey])
def test_a_server_does_not_get_the_ctrl_c_of_its_owner(tmp_path: Path, kind: type[Server]) -> None:
    with kind(tmp_path) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert os.getpgid(server.pid) != os.getpgid(0)


OWNER = """
import sys, time
from pathlib import Path
from scoreboardd.demo.servers import Postgres, Valkey
with Postgres(Path(sys.argv[1])) as postgres, Valkey(Path(sys.argv[1])) as valkey:
    print(postgres.pid, valkey.pid, flush=True)
    time.sleep(60)
"""


def test_the_servers_die_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        mains = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        processes = [*mains, *mains[0].children(recursive=True)]
        segment_id = segment(tmp_path)
        owner.kill()
    assert gone(processes)
    assert segment_id not in segments()
