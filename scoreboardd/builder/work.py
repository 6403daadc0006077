"""What the child does: build, load, cut a timeline. Each is one request and one answer, in order.

- `build` reads one snapshot, builds and renders it, and stages it in the store under the caller's lease, so that only
  the commit, a few names, is left to the parent. If nobody said that anything changed and the result is what is
  committed already, it says so and stages nothing.
- `load` reads the committed documents from the store, `restore` the ones that are kept for a day without it.
- `keep` keeps them there.
- `cut` makes the timeline of a window out of a leaderboard document.

What takes the processor long runs in a thread: a cut must not wait for a build, though both get slower.
"""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scoreboardd.backend.base import Catalogue, Lease, Stored, Vault
from scoreboardd.backend.postgres import PostgresVault
from scoreboardd.board import documents
from scoreboardd.board.board import Board
from scoreboardd.board.documents import Owner, Scored
from scoreboardd.board.rows import Micros
from scoreboardd.edition import Edition, Version
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

    def __init__(self, source: PostgresSource, vault: Vault, archive: PostgresVault | None) -> None:
        self._source = source
        self._vault = vault
        self._archive = archive
        self._solves: dict[str, tuple[Version, list[Scored]]] = {}

    async def build(self, lease: Lease, *, quiet: bool) -> Work:
        stages = Stages()
        with stages.timed("read"):
            rows, as_of = await self._source.read()
        with stages.timed("build"):
            boards = await asyncio.to_thread(list, documents.boards_of(rows))
        with stages.timed("render"):
            rendered = await asyncio.to_thread(_render, boards)
            catalogue = Catalogue(await asyncio.to_thread(_digest, rendered), as_of, tuple(rows.divisions))
        counts = {name: len(getattr(rows, name)) for name in ("challenges", "teams", "users", "solves")}
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

    async def load(self) -> Stored | None:
        return await self._vault.load()

    async def restore(self) -> Stored | None:
        assert self._archive is not None
        return await self._archive.load()

    async def keep(self, edition: Edition, *, quiet: float) -> bool:
        """True if what is kept is this edition now, or a newer one."""
        assert self._archive is not None
        documents = list(edition.documents.items())
        catalogue = Catalogue(await asyncio.to_thread(_digest, documents), edition.as_of, edition.divisions)
        return await self._archive.keep(edition.version, catalogue, documents, quiet=quiet)

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
        if self._archive is not None:
            await self._archive.aclose()


def _render(boards: Iterable[tuple[Board, int | None]]) -> list[tuple[str, bytes]]:
    return [document for board in boards for document in documents.render(*board)]


def _digest(rendered: Iterable[tuple[str, bytes | memoryview]]) -> str:
    digest = hashlib.sha256()
    for name, document in rendered:
        digest.update(f"{name}:{len(document)}:".encode())
        digest.update(document)
    return digest.hexdigest()
