"""A connection to PostgreSQL on which nothing waits for ever, and what to say when it fails."""

import asyncio
from typing import Any

import asyncpg

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


def told(error: BaseException, mend: str) -> str:
    """What the server said, and how to mend it, in one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"postgres: {said}; {mend}"


def explain(error: BaseException) -> str:
    """What went wrong, for the person who can mend it, whatever was asked of the server."""
    match error:
        case ValueError():
            # Nothing of what it says: it may quote a part of the password.
            return "postgres: postgres.dsn cannot be read; see that special characters of the password are %-encoded"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return told(error, "see that the role and password in postgres.dsn are right")
        case asyncpg.InvalidCatalogNameError():
            return told(error, "see that postgres.dsn names the platform's database")
        case asyncpg.ReadOnlySQLTransactionError():
            return told(error, "point postgres.dsn at the primary")
        case TimeoutError():
            return "postgres: no answer in time; see that it runs, and that postgres.dsn is right"
        case _:
            return told(error, "see that it runs, and that postgres.dsn is right")
