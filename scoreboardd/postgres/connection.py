"""Connections to PostgreSQL on which every operation has a deadline, and the error texts for an operator."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from scoreboardd.postgres.dsn import DsnError, place, require

CONNECT_TIMEOUT_SECONDS = 5.0
"The longest time to open a connection."

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # by asyncpg, if the connection was cut in the middle of a message
    OSError,
    RuntimeError,  # by uvloop, on a write to a connection that was reset
    ValueError,  # by a DSN that cannot be parsed, or an answer that cannot be decoded
)
"The exceptions that an operation on a database over a network may raise."

_NO_POOLER = (
    "a connection pooler such as PgBouncer answers here, and operations that need a session of their own (LISTEN, "
    "locks, migrate) do not work through it: let postgres.dsn name the PostgreSQL server itself; only the source can "
    'be read through a pooler, with coordination.backend = "redis" or "local"'
)
_OWN_SESSION = "scoreboardd.own_session"
"A setting that only the daemon sends at the start of a session. A pooler does not know it, and drops it."


class PoolerError(asyncpg.InterfaceError):  # type: ignore[misc]
    """A connection pooler dropped the settings of the session."""


async def connect(dsn: str, *, statement_timeout: float, **settings: str) -> Any:
    """Open a connection with a server session of its own, on which every operation has a deadline.

    `statement_timeout` is in seconds; `settings` are settings of the server for this session. Raises `PoolerError` if
    the connection leads to a pooler: a pooler drops the settings, and may run each transaction in another session,
    which has neither our LISTEN nor our locks. Raises others of `FAILURES` if the connection fails.
    """
    own_settings = {"statement_timeout": str(round(statement_timeout * 1000)), _OWN_SESSION: "on"}
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS + 1):
        connection = await _connect(dsn, statement_timeout, server_settings=own_settings | settings)
        try:
            is_own_session = await connection.fetchval("SELECT current_setting($1, true) = 'on'", _OWN_SESSION)
        except BaseException:
            connection.terminate()
            raise
    if not is_own_session:
        connection.terminate()
        raise PoolerError("the settings of the session were dropped")
    return connection


async def connect_for_transactions(dsn: str, *, statement_timeout: float) -> Any:
    """Open a connection for use with `transaction` only, which may lead to a pooler.

    `statement_timeout` is in seconds. Raises `FAILURES`.
    """
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS + 1):
        # A prepared statement belongs to a session, and a pooler may run the next transaction in another session.
        return await _connect(dsn, statement_timeout, statement_cache_size=0)


async def _connect(
    dsn: str, statement_timeout: float, *, server_settings: dict[str, str] | None = None, **options: Any
) -> Any:
    require(dsn)
    return await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_SECONDS,
        # The server's own timeout expires first and yields an error; this one is for a server that does not answer.
        command_timeout=statement_timeout + CONNECT_TIMEOUT_SECONDS,
        server_settings={"application_name": "scoreboardd", **(server_settings or {})},
        **options,
    )


@asynccontextmanager
async def transaction(
    connection: Any, *, statement_timeout: float, isolation: str = "read committed"
) -> AsyncIterator[None]:
    """Run the block in a read-only transaction. `statement_timeout` is in seconds.

    If the block or the transaction raises, the connection is closed instead of rolled back: a rollback may hang on a
    half-open connection.
    """
    try:
        await connection.execute(
            f"BEGIN ISOLATION LEVEL {isolation} READ ONLY; "
            f"SET LOCAL statement_timeout = {round(statement_timeout * 1000)}"
        )
        yield
        await connection.execute("COMMIT")
    except BaseException:
        connection.terminate()
        raise


def error_line(error: BaseException, fix: str, dsn: str) -> str:
    """Return one line with the text of `error`, the server that `dsn` names, and `fix`: what the operator should do."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"postgres: {text} ({place(dsn)}); {fix}"


def explain(error: BaseException, dsn: str) -> str:
    """Return one line for the operator: what failed, on which server, and how to fix it.

    For failures that do not depend on the statement.
    """
    match error:
        case DsnError():
            return f"postgres: postgres.dsn cannot be read: {error}"
        case ssl.SSLCertVerificationError():
            why = f"the server's certificate cannot be verified: {error.verify_message}"
            fix = (
                "check that sslrootcert in postgres.dsn holds the authority that signed it, and that it names this host"
            )
            return f"postgres: {why} ({place(dsn)}); {fix}"
        case ssl.SSLError():
            return error_line(
                error,
                "check sslmode, sslcert and sslkey in postgres.dsn, and which TLS versions the server accepts",
                dsn,
            )
        case ConnectionError() if "SSL" in str(error):
            return error_line(error, "check sslmode in postgres.dsn, and that the server has ssl = on", dsn)
        case PoolerError():
            return error_line(error, _NO_POOLER, dsn)
        case asyncpg.ProtocolViolationError() if "unsupported startup parameter" in str(error):
            return error_line(error, _NO_POOLER, dsn)
        case _ if "statement pooling mode" in str(error):
            return error_line(error, "set pool_mode = transaction or session in PgBouncer", dsn)
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return error_line(error, "check that the role and password in postgres.dsn are right", dsn)
        case asyncpg.InvalidCatalogNameError():
            return error_line(error, "check that postgres.dsn names the platform's database", dsn)
        case asyncpg.ReadOnlySQLTransactionError():
            return error_line(error, "point postgres.dsn at the primary", dsn)
        case TimeoutError():
            return f"postgres: no answer in time ({place(dsn)}); check that it runs, and that postgres.dsn is right"
        case _:
            return error_line(error, "check that it runs, and that postgres.dsn is right", dsn)
