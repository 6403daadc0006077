"""A scoreboard that follows its source: by what is new where that will do, else by all of it again.

- **Announced solves.** Where fewer solves are new than were announced, everything is read in the same build (`ledger`).
- **Several nodes.** What one node's increments cannot see another node may have found by reading everything. So a
  follower goes on from what it has only if nobody has read everything since it did so itself; else versions built in
  turns would show such rows and hide them again.
- **Completeness.** `LoadResult.complete` says whether all that was announced was found. Other changes than solves count
  as found if the roster, or the documents without any new solve, are others than before. Like a solve, such a change
  may be read before its announcement arrives.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from scoreboardd.board.scoreboard import Deltas, ScoreboardState
from scoreboardd.builder.ledger import MEMORY_SECONDS, Ledger
from scoreboardd.builder.timings import Timings
from scoreboardd.model import Version
from scoreboardd.platforms.findings import Finding
from scoreboardd.platforms.postgres import Cursor, PostgresSource

RECENT_SECONDS = 2.0
"Within this time a solve is normally announced."


class ChangeSet(NamedTuple):
    """What changed since the documents had the digest `since`."""

    since: str
    deltas: Deltas


class CommittedSnapshot(NamedTuple):
    """What the store has, of the epoch of the version that is built."""

    digest: str
    full: int
    "Number of the last build that read everything and on which its documents rest; 0 if that is unknown."


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What one build is for."""

    version: Version
    full: bool = True
    "More was announced than solves, or nothing was and what is kept is to be verified."
    solves: int = 0
    "How many solves were announced that no build of this follower was asked for yet."
    announced: bool = False
    "Some other change was announced."
    again: bool = False
    "An earlier build, of whatever follower, did not find all that was announced."
    committed: CommittedSnapshot | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The scoreboard as it was at `as_of`, Unix time in seconds."""

    scoreboard: ScoreboardState
    as_of: float
    rows: dict[str, int]
    "How many there are; of the solves, how many were read."
    digest: str
    "Of the documents."
    findings: list[Finding] = field(default_factory=list)
    "What was odd about the rows that were read."
    news: ChangeSet | None = None
    "What is new, if that is all that was read."
    complete: bool = True
    "All that was announced was found."
    full: int = 0
    "Number of the build in which this follower last read everything."


class IncrementalLoader:
    """Not to be used by two tasks at once. `clock` is in seconds and does not go back."""

    def __init__(self, source: PostgresSource, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._scoreboard: ScoreboardState | None = None
        "None while there is nothing to go on from: at first, and after a failure."
        self._last_read: tuple[Cursor, str] | None = None
        "How far the last read that succeeded came, and the digest of what was made of it."
        self._last_build: Version | None = None
        "The last build."
        self._last_full_build: Version | None = None
        "In which build everything was read last."
        self._ledger = Ledger()
        self._change_owed_until = 0.0
        "Until then an announced change counts as not found yet."
        self._change_ahead_until = 0.0
        "Until then a change that was found counts as one whose announcement is still to come."

    async def load(self, timings: Timings, request: LoadRequest) -> LoadResult:
        self._ledger.announced(request.solves, self._clock())
        loaded = None
        if self._may_load_increment(request):
            loaded = await self._load_increment(timings)
        loaded = loaded or await self._load_full(timings, request)
        self._last_build = request.version
        assert self._last_full_build is not None
        return replace(loaded, full=self._last_full_build.number)

    def _may_load_increment(self, request: LoadRequest) -> bool:
        if (
            request.full
            or request.announced
            or self._last_full_build is None
            or self._last_full_build.epoch != request.version.epoch
        ):
            return False
        if request.committed is None:
            # Or what is committed is damaged: others may have read more than we have, if they have built since.
            return self._last_build is not None and request.version.number <= self._last_build.number + 1
        return request.committed.full <= self._last_full_build.number

    async def _load_increment(self, timings: Timings) -> LoadResult | None:
        # Gone, if what follows fails, and in any case before another is made: there is not room for many.
        scoreboard, self._scoreboard = self._scoreboard, None
        if scoreboard is None or self._last_read is None:
            return None
        cursor, since = self._last_read
        with timings.timed("read"):
            news = await self._source.news(cursor)
        if news is None:
            return None
        if news.added < self._ledger.owed(self._clock()):
            await self._source.aclose()  # the connection may lead to the wrong server
            return None
        self._ledger.read(news.added, self._clock())
        with timings.timed("build"):
            deltas = await asyncio.to_thread(scoreboard.add, news.solves)
        loaded = self._finish(scoreboard, news.cursor, news.as_of, len(news.solves), timings)
        complete = not self._is_owed()
        return replace(loaded, findings=news.findings, news=ChangeSet(since, deltas), complete=complete)

    async def _load_full(self, timings: Timings, request: LoadRequest) -> LoadResult:
        self._scoreboard = None
        last = self._last_read
        with timings.timed("read"):
            rows, as_of, cursor, findings, is_current = await self._source.read(last[0] if last else None)
        with timings.timed("build"):
            scoreboard = await asyncio.to_thread(ScoreboardState, rows)
        loaded = self._finish(scoreboard, cursor, as_of, len(rows.solves), timings)
        self._last_full_build = request.version
        recent = int(np.count_nonzero(rows.solves["at"] > (as_of - RECENT_SECONDS) * 1e6))
        self._settle_announcements(cursor, loaded.digest, last, request, recent)
        return replace(loaded, findings=findings, complete=is_current and not self._is_owed())

    def _settle_announcements(
        self, cursor: Cursor, digest: str, last: tuple[Cursor, str] | None, request: LoadRequest, recent: int
    ) -> None:
        """What was found by reading everything, beside what was announced. `recent` solves are not much older."""
        now = self._clock()
        is_new = request.committed is None or digest != request.committed.digest
        if last is None:
            # Nothing to count from, but what is committed. The announcements of the newest may still be to come.
            self._ledger.read(recent, now)
            is_changed = is_new
            if request.again:
                self._ledger.announced(1, now)
            elif is_new:
                self._ledger.clear()
        else:
            before, since = last
            added = cursor.solves - before.solves
            is_changed = cursor.roster != before.roster or (added <= 0 and digest != since)
            if cursor.evidence.relations != before.evidence.relations or (is_changed and is_new and added <= 0):
                # Rows were replaced, changed or removed: their number says nothing of what was announced.
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
        self, scoreboard: ScoreboardState, cursor: Cursor, as_of: float, solves: int, timings: Timings
    ) -> LoadResult:
        with timings.timed("render"):
            digest = scoreboard.digest
        self._scoreboard, self._last_read = scoreboard, (cursor, digest)
        rows = {name: len(getattr(scoreboard.roster, name)) for name in ("challenges", "teams", "users")}
        return LoadResult(scoreboard, as_of, rows | {"solves": solves}, digest)
