"""Keeps a scoreboard current with the platform's database: by an increment where that suffices, else by a full read.

- **Announced solves.** If an increment has fewer solves than were announced, the same build makes a full read (see
  `ledger`).
- **Several nodes.** A full read of another node may have found rows that no increment of this node can see. So the
  loader adds an increment to its own scoreboard only if no other node has made a full read since its own last one.
  Otherwise versions that are built in turns would show such rows and hide them again.
- **Completeness.** `LoadResult.complete` says whether all that was announced was found. A change other than a solve
  counts as found if the roster differs, or if the documents differ without a new solve. Like a solve, such a change may
  be read before its announcement arrives.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from scoreboardd.board.document_names import FEED, SETTINGS
from scoreboardd.board.rules import Rules
from scoreboardd.board.scoreboard import Addition, Deltas, ScoreboardState, digest_of_documents
from scoreboardd.builder.ctfd_feed import feed_document
from scoreboardd.builder.ledger import MEMORY_SECONDS, Ledger
from scoreboardd.builder.messages import Build
from scoreboardd.builder.published_settings import settings_text
from scoreboardd.builder.timings import Timings
from scoreboardd.model import Version
from scoreboardd.platforms.findings import Finding
from scoreboardd.platforms.settings import ContestSettings
from scoreboardd.platforms.source import Cursor, FullRead, Increment, Source
from scoreboardd.render.chunked_document import Document

RECENT_SECONDS = 2.0
"Within this time a solve is normally announced."


class ChangeSet(NamedTuple):
    """The deltas from the documents that had the digest `since`, by division."""

    since: str
    deltas: Deltas


class CommittedSnapshot(NamedTuple):
    """The committed snapshot, if it is of the epoch of the version that is being built."""

    digest: str
    full: int
    "Number of the last build that read everything and on which its documents rest; 0 if that is unknown."


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The boards as they were at `as_of`, Unix time in seconds."""

    as_of: float
    rows: dict[str, int]
    "Number of rows by table; of the solves, only those that were read."
    digest: str
    "Of the documents."
    findings: list[Finding] = field(default_factory=list)
    "What is wrong with some of the rows."
    documents: Mapping[str, Document] = field(default_factory=dict)
    "By name, without the delta logs."
    divisions: tuple[int, ...] = ()
    change_set: ChangeSet | None = None
    "None after a full read."
    complete: bool = True
    "All that was announced was found."
    full: int = 0
    "Number of this loader's last build with a full read."
    settings: ContestSettings = field(default_factory=ContestSettings)
    is_full: bool = True
    "Everything was read."
    full_read: FullRead | None = None
    "What a full read found."


class IncrementalLoader:
    """For one task at a time. `clock` returns seconds and never goes back."""

    def __init__(
        self,
        source: Source,
        clock: Callable[[], float] = time.monotonic,
        *,
        rules: Rules = Rules(),  # noqa: B008  immutable
        feed: bool = False,
    ) -> None:
        """`feed`: make the document of the CTFd feed."""
        self._source = source
        self._rules = rules
        self._feed = feed
        self._clock = clock
        self._scoreboard: ScoreboardState | None = None
        "None at first and after a failure: then only a full read is possible."
        self._last_read: tuple[Cursor, str] | None = None
        "The cursor of the last successful read, and the digest of its documents."
        self._last_build: Version | None = None
        self._last_full_build: Version | None = None
        self._ledger = Ledger()
        self._change_owed_until = 0.0
        "Until then an announced change counts as not found yet."
        self._change_ahead_until = 0.0
        "Until then a change that was read counts as one whose announcement has yet to arrive."

    async def load(self, timings: Timings, request: Build, committed: CommittedSnapshot | None = None) -> LoadResult:
        """Read what `request` needs and update the scoreboard. Raises `SourceError`."""
        self._ledger.announced(request.solves, self._clock())
        loaded = None
        if self._may_load_increment(request, committed):
            loaded = await self._load_increment(timings, request, committed)
        if not isinstance(loaded, LoadResult):
            loaded = await self._load_full(timings, request, committed, loaded)
        self._last_build = request.version
        assert self._last_full_build is not None
        return replace(loaded, full=self._last_full_build.number)

    def _may_load_increment(self, request: Build, committed: CommittedSnapshot | None) -> bool:
        if (
            (not self._source.is_exact and (request.full or request.announced))
            or self._last_full_build is None
            or self._last_full_build.epoch != request.version.epoch
        ):
            return False
        if committed is None:
            # Nothing is committed, or it is damaged. If another node has built since, it may have read more than we.
            return self._last_build is not None and request.version.number <= self._last_build.number + 1
        return committed.full <= self._last_full_build.number

    async def _load_increment(
        self, timings: Timings, request: Build, committed: CommittedSnapshot | None
    ) -> LoadResult | FullRead | None:
        """The result; or what was read, if it cannot be added; or None if everything must be read."""
        # A failure below leaves the scoreboard in an unknown state, so it is given up first.
        scoreboard, self._scoreboard = self._scoreboard, None
        last = self._last_read
        if scoreboard is None or last is None:
            return None
        cursor, since = last
        with timings.timed("read"):
            increment = await self._source.read_since(cursor)
        if increment is None or isinstance(increment, FullRead):
            return increment
        if not self._source.is_exact:
            if increment.added < self._ledger.owed(self._clock()):
                await self._source.aclose()  # the connection may lead to the wrong server
                return None
            self._ledger.read(increment.added, self._clock())
        with timings.timed("build"):
            addition = Addition(increment.solves, increment.adjustments, increment.challenges)
            deltas = await asyncio.to_thread(scoreboard.add, addition)
        loaded = self._finish(scoreboard, increment, len(increment.solves), timings)
        loaded = replace(loaded, findings=increment.findings, change_set=ChangeSet(since, deltas))
        if increment.read is not None:
            return self._settled(loaded, increment.read, last, request, committed)
        return replace(loaded, complete=not self._is_owed(), is_full=False)

    async def _load_full(
        self, timings: Timings, request: Build, committed: CommittedSnapshot | None, read: FullRead | None
    ) -> LoadResult:
        """`read` is everything, if it has been read for this request already."""
        self._scoreboard = None  # before another is made: memory has room for one
        last = self._last_read
        if read is None:
            with timings.timed("read"):
                read = await self._source.read(last[0] if last else None)
        with timings.timed("build"):
            scoreboard = await asyncio.to_thread(ScoreboardState, read.rows, self._rules)
        loaded = self._finish(scoreboard, read, len(read.rows.solves), timings)
        return self._settled(replace(loaded, findings=read.findings), read, last, request, committed)

    def _settled(
        self,
        loaded: LoadResult,
        read: FullRead,
        last: tuple[Cursor, str] | None,
        request: Build,
        committed: CommittedSnapshot | None,
    ) -> LoadResult:
        """`loaded`, which `read` led to, and whether it has all that was announced. `last` is what was known before."""
        self._last_full_build = request.version
        recent = int(np.count_nonzero(read.rows.solves["at"] > (read.as_of - RECENT_SECONDS) * 1e6))
        is_new = committed is None or loaded.digest != committed.digest
        self._settle_announcements(read.cursor, loaded.digest, last, request, recent, is_new=is_new)
        return replace(loaded, complete=read.is_current and not self._is_owed(), full_read=read)

    def _settle_announcements(
        self,
        cursor: Cursor,
        digest: str,
        last: tuple[Cursor, str] | None,
        request: Build,
        recent: int,
        *,
        is_new: bool,
    ) -> None:
        """Compare what a full read found with what was announced. `recent` is the number of solves so new that their
        announcements may still be under way; `is_new`: the documents differ from the committed ones."""
        now = self._clock()
        if last is None:
            # There is no earlier read to compare with, only the committed documents.
            self._ledger.read(recent, now)
            is_changed = is_new
            if request.again:
                self._ledger.announced(1, now)
            elif is_new:
                self._ledger.clear()
        else:
            before, since = last
            added = cursor.solves - before.solves
            is_changed = cursor.facts != before.facts or (added <= 0 and digest != since)
            if cursor.tables != before.tables or (is_changed and is_new and added <= 0):
                # Rows were replaced, changed or removed, so their number does not show what was announced.
                self._ledger.clear()
            else:
                self._ledger.read(max(added, 0), now)
        owed = request.announced or now < self._change_owed_until
        if owed and (now < self._change_ahead_until or (is_changed and is_new)):
            self._change_owed_until = self._change_ahead_until = 0.0
        elif request.announced:
            self._change_owed_until = now + MEMORY_SECONDS
        elif is_changed and last is not None:
            self._change_ahead_until = now + MEMORY_SECONDS

    def _is_owed(self) -> bool:
        now = self._clock()
        return self._ledger.owed(now) > 0 or now < self._change_owed_until

    def _finish(
        self, scoreboard: ScoreboardState, read: FullRead | Increment, solves: int, timings: Timings
    ) -> LoadResult:
        settings = Document.of(settings_text(read.settings, self._rules, sealed=False))
        with timings.timed("render"):
            documents = {**scoreboard.documents, SETTINGS: settings, FEED: self._feed_document(scoreboard, read)}
            digest = digest_of_documents(documents)
        self._scoreboard, self._last_read = scoreboard, (read.cursor, digest)
        rows = {name: len(getattr(scoreboard.roster, name)) for name in ("challenges", "teams", "users")}
        return LoadResult(
            read.as_of,
            rows | {"solves": solves},
            digest,
            settings=read.settings,
            documents=documents,
            divisions=scoreboard.roster.division_ids,
        )

    def _feed_document(self, scoreboard: ScoreboardState, read: FullRead | Increment) -> Document:
        full = read if isinstance(read, FullRead) else read.read
        if not self._feed or full is None:
            return Document.of(b"null")
        return feed_document(full.rows, full.settings, scoreboard.documents)
