"""A connection to PostgreSQL on which nothing waits for ever, and what to say when it fails."""

import asyncio
import ssl
from typing import Any

import asyncpg

from scoreboardd.dsn import DsnError, place, require

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


async def connect(dsn: str, *, statement_timeout: float, **settings: str) -> Any:
    """A connection on which nothing waits for ever. `statement_timeout` is in seconds; `settings` are the server's."""
    require(dsn)
    async with asyncio.timeout(CONNECT + 1):
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT,
            # The server gives up first, and says so; ours is for a server that does not answer at all.
            command_timeout=statement_timeout + CONNECT,
            server_settings={
                "application_name": "scoreboardd",
                "statement_timeout": str(round(statement_timeout * 1000)),
                **settings,
            },
        )


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
