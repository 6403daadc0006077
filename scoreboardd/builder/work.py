"""What the child does: build, load, cut a timeline. Each is one request and one answer, in order.

- `build` reads one snapshot, builds and renders it, and stages it in the store under the caller's lease, so that only
  the commit, a few names, is left to the parent. If nobody said that anything changed and the result is what is
  committed already, it says so and stages nothing.
- `load` reads the committed documents from the store.
- `cut` makes the timeline of a window out of a leaderboard document.

What takes the processor long runs in a thread: a cut must not wait for a build, though both get slower.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scoreboardd.backend.base import Catalogue, Lease, Vault
from scoreboardd.board import documents
from scoreboardd.board.documents import Owner, Scored
from scoreboardd.board.rows import Micros
from scoreboardd.board.scoreboard import Scoreboard
from scoreboardd.edition import Version
from scoreboardd.source.postgres import PostgresSource


@dataclass(slots=True)
class Stages:
    """Seconds spent in each stage of a build."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start


@dataclass(frozen=True, slots=True)
class Work:
    """The result of a build. `documents` is None if they are those of `unchanged`, which is committed already."""

    catalogue: Catalogue
    stages: dict[str, float]
    rows: dict[str, int]
    documents: list[tuple[str, bytes]] | None = None
    staged_bytes: int = 0
    unchanged: Version | None = None


class Builder:
    """Holds what survives between requests: the connections, and the solves that windows are cut from."""

    def __init__(self, source: PostgresSource, vault: Vault) -> None:
        self._source = source
        self._vault = vault
        self._solves: dict[str, tuple[Version, list[Scored]]] = {}

    async def build(self, lease: Lease, *, quiet: bool) -> Work:
        stages = Stages()
        with stages.timed("read"):
            rows, as_of, _ = await self._source.read()
        with stages.timed("build"):
            scoreboard = await asyncio.to_thread(Scoreboard, rows)
        with stages.timed("render"):
            rendered = await asyncio.to_thread(_plain, scoreboard)
            catalogue = Catalogue(scoreboard.digest, as_of, tuple(rows.roster.divisions))
        counts = {name: len(getattr(rows.roster, name)) for name in ("challenges", "teams", "users")}
        counts["solves"] = len(rows.solves)
        with stages.timed("commit"):
            if quiet and (unchanged := await self._same(lease.version, catalogue)) is not None:
                return Work(catalogue, stages.seconds, counts, unchanged=unchanged)
            staged = await self._vault.stage(lease, rendered)
        return Work(catalogue, stages.seconds, counts, rendered, staged)

    async def _same(self, version: Version, catalogue: Catalogue) -> Version | None:
        """The committed version, if its documents are these. One of another epoch will not do: its numbers may come
        after ones that the nodes had seen and the store has lost."""
        committed, its = await self._vault.committed() or (None, None)
        if committed is None or its is None or its.digest != catalogue.digest:
            return None
        return committed if committed.epoch == version.epoch else None

    async def load(self) -> tuple[Version, Catalogue, list[tuple[str, bytes]]] | None:
        stored = await self._vault.load()
        return (stored.version, stored.catalogue, stored.documents) if stored else None

    async def cut(self, version: Version, name: str, owner: Owner, leaderboard: memoryview, since: Micros) -> bytes:
        """The timeline of the solves at or after `since` in `leaderboard`, which is document `name` of `version`."""
        kept, solves = self._solves.get(name, (None, []))
        if kept != version:
            solves = await asyncio.to_thread(documents.solves_of, owner, leaderboard)
            self._solves[name] = version, solves
        return await asyncio.to_thread(documents.timeline, owner, documents.since(solves, since))

    async def aclose(self) -> None:
        await self._source.aclose()
        await self._vault.aclose()


def _plain(scoreboard: Scoreboard) -> list[tuple[str, bytes]]:
    return [(name, b"".join(document.text())) for name, document in scoreboard.documents.items()]
