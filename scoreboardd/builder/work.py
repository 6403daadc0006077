"""What the child does: build, load, cut a timeline. Each is one request and one answer, in order.

- `build` reads one snapshot, builds and renders it, and stages it in the store under the caller's lease, so that only
  the commit, a few names, is left to the parent. If nobody said that anything changed and the result is what is
  committed already, it says so and stages nothing.
- `load` reads the committed documents from the store.
- `cut` makes the timeline of a window out of a leaderboard document.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scoreboardd.backend.base import Catalogue, Lease, Vault
from scoreboardd.board import documents
from scoreboardd.board.documents import Owner, Scored
from scoreboardd.board.rows import Micros
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
    """The result of a build. `documents` is None if they are what is committed already."""

    catalogue: Catalogue
    documents: list[tuple[str, bytes]] | None
    stages: dict[str, float]
    rows: dict[str, int]
    staged_bytes: int = 0


class Builder:
    """Holds what survives between requests: the connections, and the solves that windows are cut from."""

    def __init__(self, source: PostgresSource, vault: Vault) -> None:
        self._source = source
        self._vault = vault
        self._solves: dict[str, tuple[Version, list[Scored]]] = {}

    async def build(self, lease: Lease, *, quiet: bool) -> Work:
        stages = Stages()
        with stages.timed("read"):
            rows, as_of = await self._source.read()
        with stages.timed("build"):
            boards = list(documents.boards_of(rows))
        with stages.timed("render"):
            rendered = [document for board in boards for document in documents.render(*board)]
            catalogue = Catalogue(_digest(rendered), as_of, tuple(rows.divisions))
        counts = {name: len(getattr(rows, name)) for name in ("challenges", "teams", "users", "solves")}
        with stages.timed("commit"):
            if quiet and await self._vault.digest(catalogue.divisions) == catalogue.digest:
                return Work(catalogue, None, stages.seconds, counts)
            staged = await self._vault.stage(lease, rendered)
        return Work(catalogue, rendered, stages.seconds, counts, staged)

    async def load(self) -> tuple[Version, Catalogue, list[tuple[str, bytes]]] | None:
        stored = await self._vault.load()
        return (stored.version, stored.catalogue, stored.documents) if stored else None

    def cut(self, version: Version, name: str, owner: Owner, leaderboard: memoryview, since: Micros) -> bytes:
        """The timeline of the solves at or after `since` in `leaderboard`, which is document `name` of `version`."""
        kept, solves = self._solves.get(name, (None, []))
        if kept != version:
            solves = documents.solves_of(owner, leaderboard)
            self._solves[name] = version, solves
        return documents.timeline(owner, documents.since(solves, since))

    async def aclose(self) -> None:
        await self._source.aclose()
        await self._vault.aclose()


def _digest(rendered: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, document in rendered:
        digest.update(f"{name}:{len(document)}:".encode())
        digest.update(document)
    return digest.hexdigest()
