"""Read a contest from the platform's PostgreSQL, all of it from one snapshot (I5).

One connection, kept between reads, in a read-only repeatable-read transaction for each; every await has a deadline.
"""

import asyncio
import time
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import TracebackType
from typing import Any, Self

import asyncpg

from scoreboardd.board.rows import Challenge, Rows, Solve, Team, User

CONNECT = 5.0
"Seconds to reach the database."

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg, surprised by a connection that was cut in the middle of a message
    OSError,
    RuntimeError,  # uvloop, asked to write to a connection that was reset
    ValueError,  # a DSN that cannot be parsed
)
"All that reading a database over a network may raise."


class SourceError(Exception):
    """The facts could not be read; one line: what, where, and how to mend it."""


class PostgresSource:
    """The platform `kind` in the database at `dsn`. Not to be used by two tasks at once."""

    def __init__(self, dsn: str, kind: str, *, statement_timeout: float) -> None:
        self._dsn = dsn
        self._kind = kind
        self._timeout = statement_timeout
        self._connection: Any = None

    async def read(self) -> tuple[Rows, float]:
        """The rows of one snapshot, and the Unix time just before it was taken."""
        try:
            connection = await self._connected()
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                as_of = time.time()
                return await self._read(connection), as_of
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind)) from error

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, statement_timeout=self._timeout)
        return self._connection

    async def _read(self, connection: Any) -> Rows:
        folder = folder_of(self._kind)

        async def rows(name: str) -> list[Any]:
            found: list[Any] = await connection.fetch((folder / f"{name}.sql").read_text())
            return found

        has_divisions = await connection.fetchval("SELECT to_regclass('divisions') IS NOT NULL")
        return Rows(
            challenges=[Challenge(*row) for row in await rows("challenges")],
            teams=[Team(*row) for row in await rows("teams")],
            users=[User(*row) for row in await rows("users")],
            solves=[Solve(*row) for row in await rows("solves")],
            divisions=[row[0] for row in await rows("divisions")] if has_divisions else [],
        )

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()  # it is read-only, and a graceful close may hang on a link that is half open

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def connect(dsn: str, *, statement_timeout: float, **settings: str) -> Any:
    """A connection on which nothing waits for ever. `statement_timeout` is in seconds; `settings` are the server's."""
    async with asyncio.timeout(CONNECT + 1):
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT,
            # The server gives up first, and says so; ours is for a server that does not answer at all.
            command_timeout=statement_timeout + CONNECT,
            server_settings={
                "application_name": "scoreboardd",
                "statement_timeout": str(round(statement_timeout * 1000)),
                "timezone": "UTC",
                **settings,
            },
        )


def folder_of(kind: str) -> Traversable:
    return files(__package__) / kind


def explain(error: BaseException, kind: str) -> str:
    """What went wrong, for the person who can mend it."""
    said = " ".join(str(error).split()) or type(error).__name__
    match error:
        case ValueError():
            # Nothing of what it says: it may quote a part of the password.
            return "postgres: postgres.dsn cannot be read; see that special characters of the password are %-encoded"
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return (
                f"postgres: {said}; the {kind} source needs it: see that postgres.dsn names the platform's "
                "database, and run `scoreboardd check`"
            )
        case asyncpg.InsufficientPrivilegeError():
            return f"postgres: {said}; GRANT SELECT on the platform's tables to the role in postgres.dsn"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"postgres: {said}; see that the role and password in postgres.dsn are right"
        case asyncpg.InvalidCatalogNameError():
            return f"postgres: {said}; see that postgres.dsn names the platform's database"
        case asyncpg.QueryCanceledError():
            return f"postgres: {said}; run `scoreboardd check` for missing indexes, or raise postgres.statement_timeout"
        case TimeoutError():
            return "postgres: no answer in time; see that it runs, and that postgres.dsn is right"
        case _:
            return f"postgres: {said}; see that it runs, and that postgres.dsn is right"
