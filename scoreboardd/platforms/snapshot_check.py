"""Checks a platform that is read by its queries: runs each query, then reads everything as the daemon does."""

import time
from collections.abc import AsyncIterator

from scoreboardd.platforms.engines import EngineError
from scoreboardd.platforms.snapshots import SnapshotSource
from scoreboardd.platforms.source import SourceError


async def problems(source: SnapshotSource, *, statement_timeout: float) -> AsyncIterator[str]:
    """Yield every problem as one line: what, where, and how to fix it. `statement_timeout` is in seconds."""
    found = False
    for name, query in source.queries.items():
        try:
            await source.engine.read({name: query})
        except EngineError as error:
            found = True
            yield str(error)
    if found:
        return
    start = time.monotonic()
    try:
        read = await source.read()
    except SourceError as error:
        yield str(error)
        return
    for finding in read.findings:
        yield str(finding)
    if (seconds := time.monotonic() - start) > statement_timeout / 2:
        yield (
            f"source: reading everything took {seconds:.1f} s, and postgres.statement_timeout allows "
            f"{statement_timeout:g} s; raise it, or find out what keeps the server busy"
        )
