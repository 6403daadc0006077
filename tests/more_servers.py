"""Servers beside a real PostgreSQL: a hot standby of it, and a PgBouncer in front of it."""

import os
import shutil
import socket
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from scoreboardd.demo.servers import HOST, START_TIMEOUT_SECONDS, Postgres, _Server, tied_to_owner

PRIMARY = {"wal_level": "replica", "max_wal_senders": "4"}
"Settings of a server that standbys are made of."


class Standby(Postgres):
    """A hot standby of `primary`, which has the settings `PRIMARY`. `delay`: seconds it holds every commit back. If it
    does not stream, it has no WAL receiver."""

    def __init__(
        self, primary: Postgres, parent: Path | None = None, *, delay: float = 0, streams: bool = True
    ) -> None:
        settings = PRIMARY | {"recovery_min_apply_delay": f"{delay * 1000:.0f}ms"}
        super().__init__(parent, settings | ({} if streams else {"primary_conninfo": ""}))
        self._primary = primary
        self._password = urlsplit(primary.dsn()).password or ""

    def _prepare(self) -> None:
        command = [self._binary("pg_basebackup"), "--pgdata", str(self._data), "--write-recovery-conf"]
        command += ["--wal-method=stream", "--checkpoint=fast", "--no-sync", "--dbname", self._primary.dsn()]
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody")
        self._spawn([*tied_to_owner("SIGKILL", as_root=False), *command])
        if self._process.wait(START_TIMEOUT_SECONDS):
            raise self._error("was not made by pg_basebackup")


class PgBouncer(_Server):
    """In front of `server`, in one pool mode. Its clients need no password."""

    NAME: ClassVar[str] = "pgbouncer"
    STOP_SIGNAL = Postgres.STOP_SIGNAL

    def __init__(self, dsn: str, mode: str, parent: Path | None = None, *, ignored: str = "") -> None:
        """`ignored`: start-up parameters that it drops and does not refuse."""
        super().__init__(parent)
        self._server = urlsplit(dsn)
        self._mode = mode
        self._ignored = ignored

    def dsn(self, database: str) -> str:
        return f"postgresql://{self._server.username}@{HOST}:{self.port}/{database}"

    def _prepare(self) -> None:
        server = self._server
        users = self._folder / "users"
        users.write_text(f'"{server.username}" "{server.password}"\n')
        (self._folder / "pgbouncer.ini").write_text(f"""
[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = {HOST}
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {self._mode}
default_pool_size = 4
ignore_startup_parameters = {self._ignored}
""")

    def _command(self) -> list[str]:
        return [*tied_to_owner("SIGKILL", as_root=False), pgbouncer(), str(self._folder / "pgbouncer.ini")]

    def _ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1):
                return True
        except OSError:
            return False


def pgbouncer() -> str:
    """The program. Only on a developer's machine may it be missing."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = "pgbouncer is missing: install the package pgbouncer"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
