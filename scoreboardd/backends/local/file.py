"""The SQLite file, and each operation on it as one transaction.

The daemon and its builder process use the file at the same time. Every operation opens it anew, so that a file which is
moved or deleted meanwhile is noticed at once. SQLite makes an operation visible as a whole or not at all, whatever ends
the process or the machine.

A file that is gone, or is no intact database, is replaced by an empty one: its lost numbers begin a new epoch, and the
next build commits the documents again.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from scoreboardd.backends.base import Unavailable

NAME = "scoreboard.sqlite3"
BUSY_TIMEOUT_SECONDS = 3.0
"How long an operation waits for one of the other process."

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, payload BLOB, epoch TEXT, number INTEGER, until REAL, token TEXT, as_of REAL
)
"""
Result = TypeVar("Result")

log = structlog.stdlib.get_logger("scoreboardd.backend")


class LocalFile:
    """The file in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def run(self, operation: Callable[[sqlite3.Connection, float], Result]) -> Result:
        """Return what `operation` returns. It gets a connection with a write transaction, and the Unix time.

        Raises `Unavailable` if the file cannot be used. It blocks, so call it in a thread.
        """
        try:
            try:
                with self._transaction() as connection:
                    return operation(connection, time.time())
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError | sqlite3.ProgrammingError):
                    raise
                self._set_aside(error)
                with self._transaction() as connection:
                    return operation(connection, time.time())
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(self._explain(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA)
            yield connection
            connection.execute("COMMIT")

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Keep the damaged file under another name, for a person to look at."""
        aside = self.path.with_suffix(".damaged")
        log.warning(
            "the local file is damaged, beginning another", file=str(self.path), kept_as=str(aside), error=str(error)
        )
        self.path.replace(aside)
        self.path.with_name(f"{NAME}-journal").unlink(missing_ok=True)

    def _explain(self, error: Exception) -> str:
        text = str(error)
        if not self.path.parent.is_dir():
            text, fix = "there is no such folder", "create it for the daemon's user, or set cache.directory"
        elif "full" in text:
            fix = "make room on its disk"
        elif "readonly" in text or "unable to open" in text or isinstance(error, PermissionError):
            fix = "let the daemon's user write there, or set cache.directory"
        else:
            fix = "see what else uses it"
        return f"local: {text} ({self.path}); {fix}"
