"""`scoreboardd check`: everything that would keep this configuration from working, found in one run."""

from collections.abc import AsyncIterator

from scoreboardd.backend.base import Store, Unavailable
from scoreboardd.backend.choice import open_store, open_table
from scoreboardd.config import Settings
from scoreboardd.source import check as source


async def problems(settings: Settings) -> AsyncIterator[str]:
    """One line each: what, where, how to mend it."""
    postgres = settings.postgres
    in_postgres = settings.coordination.backend == "postgres"
    stores = [open_store(settings)] + ([open_table(settings)] if settings.cache.persist and not in_postgres else [])
    found: dict[str, None] = {}
    for store in stores:
        found |= dict.fromkeys([problem async for problem in _of(store)])
    found |= dict.fromkeys(
        [
            problem
            async for problem in source.problems(
                postgres.dsn.get_secret_value(), settings.source.kind, statement_timeout=postgres.statement_timeout
            )
        ]
    )
    for problem in found:
        yield problem


async def _of(store: Store) -> AsyncIterator[str]:
    try:
        for problem in await store.check():
            yield problem
    except Unavailable as error:
        yield str(error)
    finally:
        await store.aclose()
