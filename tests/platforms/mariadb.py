"""A real MariaDB server for a test, from Debian's package."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import pymysql

from scoreboardd.demo.servers import HOST, START_TIMEOUT_SECONDS, _Server, tied_to_owner
from tests.external_tools import require

PASSWORD = "secret/with:signs"
QUOTED_PASSWORD = "secret%2Fwith%3Asigns"


class Mariadb(_Server):
    """The user `root` has the password `PASSWORD`."""

    NAME: ClassVar[str] = "mariadb"
    STOP_SIGNAL = signal.SIGTERM

    def __init__(self, parent: Path | None = None, *settings: str) -> None:
        super().__init__(parent)
        self._settings = settings
        self._program = require("mariadbd")

    def dsn(self, database: str, user: str = "root") -> str:
        return f"mysql://{user}:{QUOTED_PASSWORD}@{HOST}:{self.port}/{database}"

    def connect(self, database: str | None = None) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host=HOST, port=self.port, user="root", password=PASSWORD, database=database, autocommit=True
        )

    def _prepare(self) -> None:
        (self._folder / "init.sql").write_text(
            f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody")
        install = require("mariadb-install-db")
        options = ["--no-defaults", f"--datadir={self._folder / 'data'}", "--auth-root-authentication-method=normal"]
        self._spawn([*tied_to_owner("SIGKILL", as_root=False), str(install), *options, "--skip-test-db"])
        if self._process.wait(START_TIMEOUT_SECONDS):
            raise self._error("was not made by mariadb-install-db")

    def _command(self) -> list[str]:
        return [
            *tied_to_owner("SIGKILL", as_root=False),
            str(self._program),
            "--no-defaults",
            f"--datadir={self._folder / 'data'}",
            f"--init-file={self._folder / 'init.sql'}",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--socket=socket",  # in the data folder, to which it changes: an absolute path may be too long
            f"--pid-file={self._folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=64M",
            "--skip-name-resolve",
            *self._settings,
        ]

    def _ready(self) -> bool:
        try:
            self.connect().close()
        except pymysql.MySQLError:
            return False
        return True
