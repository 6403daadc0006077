"""`scoreboardd check`: everything that would keep this configuration from working, found in one run."""

from collections.abc import AsyncIterator

from scoreboardd import descriptors
from scoreboardd.backend.base import Store, Unavailable
from scoreboardd.backend.choice import open_store, open_table
from scoreboardd.config import Settings
from scoreboardd.source import check as source


async def problems(settings: Settings) -> AsyncIterator[str]:
    """One line each, once: what, where, how to mend it."""
    told = set()
    async for problem in _all(settings):
        if problem not in told:
            told.add(problem)
            yield problem


async def _all(settings: Settings) -> AsyncIterator[str]:
    for problem in descriptors.problems(settings.sse.max_clients):
        yield problem
    async for problem in _of(open_store(settings)):
        yield problem
    if settings.cache.persist and settings.coordination.backend != "postgres":
        async for problem in _of(open_table(settings)):
            yield problem
    postgres = settings.postgres
    async for problem in source.problems(
        postgres.dsn.get_secret_value(),
        settings.source.kind,
        statement_timeout=postgres.statement_timeout,
        timezone=settings.source.timezone,
    ):
        yield problem


async def _of(store: Store) -> AsyncIterator[str]:
    try:
        for problem in await store.check():
            yield problem
    except Unavailable as error:
        yield str(error)
    finally:
        await store.aclose()
