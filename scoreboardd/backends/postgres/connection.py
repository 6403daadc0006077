"""What both halves of the Postgres backend share: a connection, its deadlines, and the statements that both run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Protocol

import asyncpg
import orjson

from scoreboardd.backends.base import (
    MAX_METADATA_BYTES,
    Head,
    Lease,
    SnapshotMetadata,
    Unavailable,
    head_of,
    removed_documents,
)
from scoreboardd.backends.names import Names
from scoreboardd.board import document_names
from scoreboardd.model import Version
from scoreboardd.postgres import connection as session
from scoreboardd.postgres.connection import FAILURES, connect

COMMAND_TIMEOUT_SECONDS = 5.0
"Seconds within which the server must answer a statement, or say or answer something on a subscription."
TRANSFER_TIMEOUT_SECONDS = 20.0
"Seconds within which the server must take or give one document."
HEAD = f"""
WITH ours AS (
    -- A text may not even be text, in a database without an encoding.
    SELECT cache_key, epoch || '-' || version AS version, payload, generated_at FROM leaderboard_cache
    WHERE cache_key IN ($1, $2) AND epoch ~ '^[0-9a-z]{{1,32}}$'
)
SELECT committed.version,
       CASE WHEN octet_length(committed.payload) <= {MAX_METADATA_BYTES} THEN committed.payload END, lock.version,
       -- No node writes infinity, or a time in the far future.
       CASE WHEN isfinite(committed.generated_at) AND committed.generated_at <= now() + interval '1 day'
            THEN extract(epoch FROM committed.generated_at)::float8 END,
       written.xmin::text
FROM (VALUES (1)) AS always
LEFT JOIN ours AS committed ON committed.cache_key = $1
LEFT JOIN ours AS lock ON lock.cache_key = $2
LEFT JOIN leaderboard_cache AS written ON written.cache_key = $1
"""  # noqa: S608  the number is ours
READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"


def channel(names: Names, name: str) -> str:
    """Returns the Postgres channel: `scoreboard.events` is `scoreboard_events` here (protocol §7)."""
    return names.channel(name.replace(".", "_"))


def load_sql(name: str) -> str:
    return (files(__package__) / f"{name}.sql").read_text()


def _explain(error: BaseException, dsn: str) -> str:
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return session.error_line(error, "run `scoreboardd migrate`", dsn)
        case asyncpg.InsufficientPrivilegeError():
            return session.error_line(error, "run `scoreboardd check`, as the role in postgres.dsn", dsn)
        case asyncpg.QueryCanceledError():
            return session.error_line(
                error, "see what holds a lock on leaderboard_cache, or keeps the server busy", dsn
            )
        case _:
            return session.explain(error, dsn)


@asynccontextmanager
async def deadline(dsn: str, within: float = COMMAND_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Raises `Unavailable` if the block fails on the way to Postgres or takes longer than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            yield
    except FAILURES as error:
        raise Unavailable(_explain(error, dsn)) from error


class Session(Protocol):
    """What the backend uses of `asyncpg.Connection`, which has no type stubs."""

    async def execute(self, query: str, *args: Any) -> str: ...
    async def fetch(self, query: str, *args: Any) -> list[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    async def add_listener(self, channel: str, callback: Callable[..., object]) -> None: ...
    def add_termination_listener(self, callback: Callable[..., object]) -> None: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...


class Connection:
    """One connection: opened on first use, used by one caller at a time, closed after any failure."""

    def __init__(self, dsn: str, *, statement_timeout: float) -> None:
        self._dsn = dsn
        self._timeout = statement_timeout
        self._turn = asyncio.Lock()
        self._connection: Session | None = None

    async def run(self, query: str, *args: Any) -> list[Any]:
        """Returns the rows of one statement. It is a transaction of its own, and may run twice."""
        async with deadline(self._dsn, self._timeout), self._turn:
            while True:
                async with self._connected() as connection:
                    try:
                        rows = await connection.fetch(query, *args)
                    except asyncpg.SerializationError:
                        continue  # another node committed first: run the statement again
                    return rows

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        """The connection, in a transaction that reads one state of the database."""
        async with deadline(self._dsn, self._timeout), self._turn, self._connected() as connection:
            # Not `connection.transaction()`: on a link that is half open it would wait for its ROLLBACK.
            await connection.execute("BEGIN READ ONLY")
            yield connection
            await connection.execute("COMMIT")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Session]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._dsn,
                statement_timeout=self._timeout,
                default_transaction_isolation="repeatable read",
                # A number that was given out must not be forgotten, whatever the platform's own data is worth.
                synchronous_commit="on",
                idle_in_transaction_session_timeout=f"{self._timeout:.0f}s",
            )
        try:
            yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()  # a graceful close may hang on a link that is half open


def parse_head(rows: list[Any]) -> Head:
    """Parses the row of `HEAD`, whether or not the documents exist."""
    ((version, payload, given, as_of, _),) = rows
    try:
        fields = orjson.loads(payload or b"null")
    except orjson.JSONDecodeError:
        fields = None
    if b"\\u0000" in (payload or b""):
        fields = None  # not ours: jsonb does not take it, so that no build could be confirmed
    fields = fields | {"as_of": as_of} if isinstance(fields, dict) else None
    return head_of(Version.parse(version or ""), fields, Version.parse(given or ""))


def snapshot_arguments(
    names: Names, lease: Lease, metadata: SnapshotMetadata, before: SnapshotMetadata | None
) -> tuple[Any, ...]:
    """Returns what `commit.sql` and `persist.sql` take of the snapshot: from the staged keys to as_of."""
    fresh = document_names.document_names(metadata.divisions)
    return (
        [names.staged(lease.token, name) for name in fresh],
        [names.document(name) for name in fresh],
        [names.document(name) for name in removed_documents(before, fresh)],
        orjson.dumps(
            {
                "digest": metadata.digest,
                "divisions": metadata.divisions,
                "full": metadata.full,
                "complete": metadata.complete,
                "documents": metadata.documents,
                "confirmed": lease.version.number,
            }
        ),
        metadata.as_of,
    )
