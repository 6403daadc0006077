"""`scoreboardd check`: everything that would keep this configuration from working, found in one run."""

from collections.abc import AsyncIterator

from scoreboardd.backends.base import ClusterBackend, Damaged, DocumentStore, Unavailable
from scoreboardd.backends.factory import (
    PERSISTER,
    backend_of,
    document_store_options,
    open_cluster_backend,
    open_document_store,
)
from scoreboardd.config import Settings
from scoreboardd.platforms import check, snapshot_check
from scoreboardd.platforms.factory import SourceOptions, open_source
from scoreboardd.platforms.snapshots import SnapshotSource
from scoreboardd.system import descriptors
from scoreboardd.web import listener


async def problems(settings: Settings) -> AsyncIterator[str]:
    """Yields each problem once, in one line: what, where, how to fix it."""
    told = set()
    async for problem in _all(settings):
        if problem not in told:
            told.add(problem)
            yield problem


async def _all(settings: Settings) -> AsyncIterator[str]:
    for problem in descriptors.problems(settings.sse.max_clients):
        yield problem
    for problem in await listener.problems(settings):
        yield problem
    async for problem in _of(open_cluster_backend(settings), open_document_store(**document_store_options(settings))):
        yield problem
    if settings.cache.persist and backend_of(settings).persisted:
        async for problem in _of(
            PERSISTER.open_cluster_backend(settings),
            PERSISTER.open_document_store(**PERSISTER.document_store_options(settings)),
        ):
            yield problem
    async for problem in _of_source(SourceOptions.of(settings)):
        yield problem


async def _of_source(options: SourceOptions) -> AsyncIterator[str]:
    source = open_source(options)
    if isinstance(source, SnapshotSource):
        found = snapshot_check.problems(source, statement_timeout=options.statement_timeout)
    else:
        found = check.problems(
            options.dsn,
            options.platform,
            statement_timeout=options.statement_timeout,
            timezone=options.timezone,
        )
    async for problem in found:
        yield problem


async def _of(backend: ClusterBackend, document_store: DocumentStore) -> AsyncIterator[str]:
    try:
        problems = await backend.check()
        for problem in problems:
            yield problem
        if not problems:
            await document_store.verify()
    except (Damaged, Unavailable) as error:
        yield str(error)
    finally:
        await document_store.aclose()
        await backend.aclose()
