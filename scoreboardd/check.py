"""`scoreboardd check`: everything that would keep this configuration from working, found in one run."""

from collections.abc import AsyncIterator

from scoreboardd.backend.base import Unavailable
from scoreboardd.backend.choice import open_store
from scoreboardd.config import Settings
from scoreboardd.source import check as source


async def problems(settings: Settings) -> AsyncIterator[str]:
    """One line each: what, where, how to mend it."""
    store = open_store(settings)
    try:
        for problem in await store.check():
            yield problem
    except Unavailable as error:
        yield str(error)
    finally:
        await store.aclose()
    postgres = settings.postgres
    async for problem in source.problems(
        postgres.dsn.get_secret_value(), settings.source.kind, statement_timeout=postgres.statement_timeout
    ):
        yield problem
