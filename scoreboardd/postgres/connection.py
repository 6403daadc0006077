"""A connection to PostgreSQL on which nothing waits for ever, and what to say when it fails."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from scoreboardd.postgres.dsn import DsnError, place, require

CONNECT = 5.0
"Seconds to reach the database."

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg, surprised by a connection that was cut in the middle of a message
    OSError,
    RuntimeError,  # uvloop, asked to write to a connection that was reset
    ValueError,  # a DSN that cannot be parsed, or an answer that cannot be decoded
)
"All that reading a database over a network may raise."


_NO_POOLER = (
    "a connection pooler such as PgBouncer answers here, and what needs a session of its own (LISTEN, locks, migrate) "
    "does not work through it: let postgres.dsn name the PostgreSQL server itself; only the source can be read through "
    'a pooler, with coordination.backend = "redis"'
)
_OWN_SESSION = "scoreboardd.own_session"
"A setting that only we send when a session starts, so that no pooler knows it."


class PoolerError(asyncpg.InterfaceError):  # type: ignore[misc]
    """A connection pooler drops the settings of our session."""


async def connect(dsn: str, *, statement_timeout: float, **settings: str) -> Any:
    """A session of our own, on which nothing waits for ever. `statement_timeout` is in seconds; `settings` are the
    server's. Raises `PoolerError` if a pooler stands in between: it drops the settings, and may give every transaction
    another session, without our LISTEN and our locks."""
    ours = {"statement_timeout": str(round(statement_timeout * 1000)), _OWN_SESSION: "on"}
    async with asyncio.timeout(CONNECT + 1):
        connection = await _connect(dsn, statement_timeout, server_settings=ours | settings)
        try:
            is_ours = await connection.fetchval("SELECT current_setting($1, true) = 'on'", _OWN_SESSION)
        except BaseException:
            connection.terminate()
            raise
    if not is_ours:
        connection.terminate()
        raise PoolerError("the settings of the session were dropped")
    return connection


async def connect_for_transactions(dsn: str, *, statement_timeout: float) -> Any:
    """A connection for `transaction`, and nothing else: a pooler may stand in between."""
    async with asyncio.timeout(CONNECT + 1):
        # A prepared statement belongs to a session, and a pooler may give the next transaction another one.
        return await _connect(dsn, statement_timeout, statement_cache_size=0)


async def _connect(
    dsn: str, statement_timeout: float, *, server_settings: dict[str, str] | None = None, **options: Any
) -> Any:
    require(dsn)
    return await asyncpg.connect(
        dsn,
        timeout=CONNECT,
        # The server gives up first, and says so; ours is for a server that does not answer at all.
        command_timeout=statement_timeout + CONNECT,
        server_settings={"application_name": "scoreboardd", **(server_settings or {})},
        **options,
    )


@asynccontextmanager
async def transaction(
    connection: Any, *, statement_timeout: float, isolation: str = "read committed"
) -> AsyncIterator[None]:
    """A read-only transaction with settings of its own. If anything in it fails the connection is closed: to roll back
    may take for ever on a connection that is half open."""
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


def told(error: BaseException, fix: str, dsn: str) -> str:
    """What the server said, where, and how to fix it, in one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"postgres: {said} ({place(dsn)}); {fix}"


def explain(error: BaseException, dsn: str) -> str:
    """What went wrong, for the person who can fix it, whatever was asked of the server."""
    match error:
        case DsnError():
            return f"postgres: postgres.dsn cannot be read: {error}"
        case ssl.SSLCertVerificationError():
            why = f"the server's certificate cannot be verified: {error.verify_message}"
            fix = "see that sslrootcert in postgres.dsn is of the authority that signed it, and that it names this host"
            return f"postgres: {why} ({place(dsn)}); {fix}"
        case ssl.SSLError():
            return told(error, "see sslmode, sslcert and sslkey in postgres.dsn, and which TLS the server takes", dsn)
        case ConnectionError() if "SSL" in str(error):
            return told(error, "see sslmode in postgres.dsn, and that the server has ssl = on", dsn)
        case PoolerError():
            return told(error, _NO_POOLER, dsn)
        case asyncpg.ProtocolViolationError() if "unsupported startup parameter" in str(error):
            return told(error, _NO_POOLER, dsn)
        case _ if "statement pooling mode" in str(error):
            return told(error, "let PgBouncer use pool_mode = transaction or session", dsn)
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return told(error, "see that the role and password in postgres.dsn are right", dsn)
        case asyncpg.InvalidCatalogNameError():
            return told(error, "see that postgres.dsn names the platform's database", dsn)
        case asyncpg.ReadOnlySQLTransactionError():
            return told(error, "point postgres.dsn at the primary", dsn)
        case TimeoutError():
            return f"postgres: no answer in time ({place(dsn)}); see that it runs, and that postgres.dsn is right"
        case _:
            return told(error, "see that it runs, and that postgres.dsn is right", dsn)
