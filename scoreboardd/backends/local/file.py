"""The SQLite file, and each operation on it as one transaction.

The daemon and its builder process use the file at the same time. Every operation opens it anew, so that a file which is
moved or deleted meanwhile is noticed at once. SQLite makes an operation visible as a whole or not at all, whatever ends
the process or the machine.

A file that is gone, or is no intact database, is replaced by an empty one: its lost numbers begin a new epoch, and the
next build commits the documents again.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

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
_ANOTHER_FORM = sqlite3.SQLITE_ERROR
"What SQLite answers to our statements if the table is not ours."
_WHERE = "create it for the daemon's user, or set cache.directory; the unit of systemd creates it when it starts"
_FIXES = {
    sqlite3.SQLITE_BUSY: "see what else uses it",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "see its disk, and the log of the kernel",
    sqlite3.SQLITE_CANTOPEN: "let the daemon's user read and write the folder and the file, or set cache.directory",
    sqlite3.SQLITE_READONLY: "let the daemon's user read and write the folder and the file, or set cache.directory",
}
Result = TypeVar("Result")

log = structlog.stdlib.get_logger("scoreboardd.backend")


class LocalFile:
    """The file in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._was_there = False

    def run(self, operation: Callable[[sqlite3.Connection, float], Result]) -> Result:
        """Return what `operation` returns. It gets a connection with a write transaction, and the Unix time.

        Raises `Unavailable` if the file cannot be used. It blocks, so call it in a thread.
        """
        try:
            found = self._identity()
            if self._was_there and found is None:
                log.warning("the local file is gone, beginning another", file=str(self.path))
            try:
                return self._run_once(operation)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside(found, error)
                return self._run_once(operation)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(self._explain(error)) from error

    def _run_once(self, operation: Callable[[sqlite3.Connection, float], Result]) -> Result:
        with self._transaction() as connection:
            result = operation(connection, time.time())
        self._was_there = True
        return result

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(_connect(self.path)) as connection:
            # A committed version that the power failure takes back would be given out twice: the folder is synced too.
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA)
            yield connection
            connection.execute("COMMIT")

    def read(self, operation: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """Return what `operation` returns, or None if there is nothing to read yet. Nothing is changed, repaired or
        created, so any user may call it beside a daemon. Raises `Unavailable`. It blocks."""
        try:
            if self._identity() is None:
                return None
            with closing(_connect(f"file:{quote(str(self.path))}?mode=ro", uri=True)) as connection:
                connection.execute("BEGIN")
                is_begun = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone()
                return operation(connection) if is_begun else None
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
                return None  # a process died in an operation: the next one of a daemon takes that back
            raise Unavailable(self._explain(error)) from error

    def problems(self) -> list[str]:
        """What keeps a daemon of this user from using the file, one line each. Nothing is changed. It blocks."""
        directory = self.path.parent
        if not directory.is_dir():
            return [f"local: there is no such folder ({directory}); {_WHERE}"]
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return [f"local: this user may not write there ({directory}); {_FIXES[sqlite3.SQLITE_READONLY]}"]
        found = self.read(lambda connection: connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found in (None, "ok"):
            return []
        text = " ".join(found.split())
        return [f"local: {text} ({self.path}); a running daemon begins another file when it finds the damage"]

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _set_aside(self, found: tuple[int, int] | None, error: sqlite3.DatabaseError) -> None:
        """Keep the damaged file under another name, for a person to look at. Not if it is not the one that was `found`:
        the other process has set that one aside."""
        if found is None or self._identity() != found:
            return
        aside = self.path.with_suffix(".damaged")
        log.warning(
            "the local file is damaged, beginning another", file=str(self.path), kept_as=str(aside), error=str(error)
        )
        # First: the journal is not to be applied to the next file.
        self.path.with_name(f"{NAME}-journal").unlink(missing_ok=True)
        self.path.replace(aside)

    def _explain(self, error: Exception) -> str:
        if not self.path.parent.is_dir():
            return f"local: there is no such folder ({self.path.parent}); {_WHERE}"
        if isinstance(error, OSError):
            return f"local: {error.strerror} ({self.path}); {_FIXES[sqlite3.SQLITE_CANTOPEN]}"
        fix = "move the file away; the daemon begins another" if _is_damage(error) else _FIXES.get(_code(error))
        return f"local: {error} ({self.path}); {fix or 'see what else uses it'}"


def _connect(database: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, uri=uri)
    # What is no text is not what a node writes. As another text it counts as lost, and does not raise.
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


def _code(error: Exception) -> int:
    """The primary result code of SQLite; 0 if the error is of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_damage(error: Exception) -> bool:
    """Whether the file is no intact database of ours. No statement of ours breaks a constraint of one that is."""
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, _ANOTHER_FORM)
    return _code(error) in damage
