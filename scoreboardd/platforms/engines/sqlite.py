"""Reads a platform's queries from an SQLite file, which the platform may be writing at the same time.

SQLite's Python driver blocks, so each read is in a thread. The connection is read-only. A file in WAL mode can be read
while it is written, if this process may write the files beside it that end in -shm and -wal.
"""

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from scoreboardd.board.source_rows import NO_ID
from scoreboardd.platforms.engines import EngineError, EngineRead, Packed, Query
from scoreboardd.system.clock import ClockReading

BUSY_TIMEOUT_SECONDS = 5.0
"How long a read waits for a writer that has locked the file."
STEPS_PER_CHECK = 10_000
"Instructions of SQLite's virtual machine between two checks of the deadline."


class SqliteEngine:
    """`dsn` is a sqlite:// URL with an absolute path: sqlite:////var/lib/ctfd/ctfd.db."""

    def __init__(self, dsn: str, *, statement_timeout_seconds: float) -> None:
        self.path = path_of(dsn)
        self._timeout = statement_timeout_seconds

    async def read(self, queries: Mapping[str, Query]) -> EngineRead:
        """Run all queries in one read transaction. Raises `EngineError`."""
        return await asyncio.to_thread(self._read, queries)

    async def clock(self) -> ClockReading:
        """Measure this machine's clock: a file has none of its own."""
        return ClockReading(offset=time.time() - time.monotonic(), error=0.0)

    def _read(self, queries: Mapping[str, Query]) -> EngineRead:
        rows: dict[str, list[tuple[Any, ...]]] = {}
        packed: dict[str, Packed] = {}
        name = ""
        try:
            with closing(self._connect()) as connection:
                deadline = time.monotonic() + self._timeout
                connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_CHECK)
                as_of = time.time()
                connection.execute("BEGIN")
                for name, query in queries.items():
                    found = connection.execute(query.sql).fetchall()
                    if query.is_packed:
                        packed[name] = _packed(found, len(query.columns))
                    else:
                        rows[name] = found
        except (sqlite3.Error, OSError, TypeError, ValueError, OverflowError) as error:
            raise EngineError(self._explain(error, name)) from error
        return EngineRead(as_of, rows, packed)

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():  # else SQLite says only that it cannot open the file
            raise FileNotFoundError("there is no such file")
        uri = f"file:{quote(str(self.path))}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        return connection

    def _explain(self, error: Exception, query: str) -> str:
        text = str(error)
        if "no such table" in text or "no such column" in text:
            fix = f"{query}.sql needs it: check that source.dsn names the platform's file, and the platform's version"
        elif "interrupted" in text:
            fix = f"{query}.sql took too long; raise postgres.statement_timeout"
        elif "locked" in text:
            fix = "a writer held it for too long; find out which, or set journal_mode=WAL in the platform"
        elif "unable to open" in text or "readonly" in text or isinstance(error, PermissionError):
            fix = (
                "let the daemon's user read the file and, in WAL mode, write the files beside it that end in -shm and "
                "-wal"
            )
        elif isinstance(error, TypeError | ValueError | OverflowError):
            text, fix = f"{query}.sql returned what is not an integer: {text}", "correct the query, or the row"
        else:
            fix = "check that source.dsn names the platform's file"
        return f"sqlite: {text} ({self.path}); {fix}"


def path_of(dsn: str) -> Path:
    """Return the path in a sqlite:// URL."""
    return Path(unquote(urlsplit(dsn).path)[1:] or "/")


def _packed(rows: list[tuple[Any, ...]], columns: int) -> Packed:
    ordered = sorted(rows, key=lambda row: row[0])
    values = [NO_ID if value is None else value for row in ordered for value in row]
    if not all(type(value) is int for value in values):
        raise TypeError(f"{next(value for value in values if type(value) is not int)!r}"[:60])
    return np.array(values, np.int64).reshape(-1, columns)
