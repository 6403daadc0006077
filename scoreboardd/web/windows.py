"""Cuts timelines to a window. Any client may cause this work, so it is bounded.

- One thread of low priority does the work, and not the builder: a rebuild never waits for a window.
- A cut is abandoned when the last client that waits for it has left. Only `MAX_UNFINISHED_CUTS` may be under way or
  wait for the thread; more requests are refused.
- A cut reads the leaderboard for the solves of one bucket, and copies the end of the timeline (see `render.window`).
  Windows of one version that begin in the same bucket share what was read; clients that ask for the same window within
  a second share the cut.
- Cuts that are kept, and those that slow clients still read, have at most `MAX_HELD_BYTES` together.
"""

import asyncio
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
import zstandard

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.times import Micros
from scoreboardd.model import Snapshot, Version
from scoreboardd.render import window
from scoreboardd.system.compression import LEVEL, texts
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

MAX_KEPT_CUTS = 16
"Cuts of the served version that are kept for later requests."
MAX_UNFINISHED_CUTS = 8
"Cuts that are under way or wait for the thread."
MAX_HELD_BYTES = 256 << 20
CUT_TIMEOUT_SECONDS = 10.0
CHUNK_BYTES = 128 * 1024
"""Text that the thread handles between two checks whether a client still waits. The event loop may wait that long for
the thread."""
NICENESS = 10
"The niceness of the thread: it gets a tenth of a processor that other threads also use."

log = structlog.stdlib.get_logger("scoreboardd.web")

Board = tuple[Version, ParticipantKind, int | None]
"Which documents a window is cut from: their version, those of users or teams, and the division."


class TooManyCuts(Exception):
    """Too many windows are being cut."""


class CutFailed(Exception):
    """A window could not be cut, or not in time."""


class WindowedTimeline(NamedTuple):
    """A timeline cut to a window."""

    payload: bytes
    "The text in the requested content coding."
    checksum: int
    "The CRC-32 of the plain text."


class _Abandoned(Exception):
    """No client waits for this cut any more."""


@dataclass(slots=True, eq=False)
class Cut:
    """A timeline from `since` on, finished or under way."""

    board: Board
    since: Micros
    clients: int = 0
    "Number of clients that wait for it or read it."
    made: "asyncio.Task[WindowedTimeline]" = field(init=False)

    @property
    def failed(self) -> bool:
        return self.made.done() and (self.made.cancelled() or self.made.exception() is not None)

    @property
    def held_bytes(self) -> int:
        return len(self.made.result().payload) if self.made.done() and not self.failed else 0


class Windows:
    """Cuts timelines, and keeps the cuts of the served version."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, "windows", initializer=_yield_to_others)
        self._thread_lock = asyncio.Lock()
        self._kept: OrderedDict[tuple[Board, int, str], Cut] = OrderedDict()
        self.cuts: set[Cut] = set()
        "The kept cuts, and those that clients still wait for or read."
        self._solves: OrderedDict[tuple[Board, Micros], list[window.WindowRow]] = OrderedDict()
        "The solves of a bucket, for the cuts that begin in it. Only the thread uses it."
        self._may_log = LogThrottle()

    @asynccontextmanager
    async def cut(
        self,
        snapshot: Snapshot,
        owner: ParticipantKind,
        division_id: int | None,
        *,
        minutes: int,
        since: Micros,
        coding: str,
    ) -> AsyncIterator[WindowedTimeline]:
        """Yield the timeline of the solves at or after `since`, in microseconds. `minutes` is the requested window.

        Raises `TooManyCuts` or `CutFailed`.
        """
        cut = self._join(snapshot, (snapshot.version, owner, division_id), minutes, since, coding)
        try:
            try:
                async with asyncio.timeout(CUT_TIMEOUT_SECONDS):
                    # Shielded: a client that leaves must not cancel the work that others wait for.
                    windowed = await asyncio.shield(cut.made)
            except TimeoutError as error:
                raise CutFailed("not in time") from error
            yield windowed
        finally:
            cut.clients -= 1
            if not cut.clients:
                if not cut.made.done():
                    cut.made.cancel()
                    self._metrics.windows.labels("abandoned").inc()
                self._drop_unused(snapshot.version)

    def _join(self, snapshot: Snapshot, board: Board, minutes: int, since: Micros, coding: str) -> Cut:
        key = (board, minutes, coding)
        cut = self._kept.get(key)
        if cut is None or cut.failed or (cut.made.done() and cut.since != since):
            self._drop_unused(snapshot.version)
            unfinished = sum(not other.made.done() for other in self.cuts)
            held_bytes = sum(other.held_bytes for other in self.cuts)
            if unfinished >= MAX_UNFINISHED_CUTS or held_bytes > MAX_HELD_BYTES:
                self._metrics.windows.labels("refused").inc()
                raise TooManyCuts
            cut = self._kept[key] = Cut(board, since)
            cut.made = asyncio.create_task(self._make(snapshot, cut, coding))
            self.cuts.add(cut)
        self._kept.move_to_end(key)
        cut.clients += 1
        return cut

    def _drop_unused(self, version: Version) -> None:
        """Drop cuts that failed, unused cuts of other versions than `version`, and the oldest unused cuts above the
        limits."""
        held_bytes = sum(cut.held_bytes for cut in self.cuts)
        for key, cut in list(self._kept.items()):
            unused = not cut.clients and cut.made.done()
            if cut.failed or cut.made.cancelling() or (unused and cut.board[0] != version):
                del self._kept[key]
            elif unused and (len(self._kept) > MAX_KEPT_CUTS or held_bytes > MAX_HELD_BYTES):
                held_bytes -= cut.held_bytes
                del self._kept[key]
        kept = set(self._kept.values())
        self.cuts = {cut for cut in self.cuts if cut.clients or cut in kept}

    async def _make(self, snapshot: Snapshot, cut: Cut, coding: str) -> WindowedTimeline:
        async with self._thread_lock:
            unwanted = threading.Event()
            making = asyncio.get_running_loop().run_in_executor(
                self._thread, self._work, snapshot, cut, coding, unwanted
            )
            self._metrics.windows.labels("begun").inc()
            try:
                return await asyncio.shield(making)
            except asyncio.CancelledError:
                unwanted.set()
                with suppress(Exception):
                    await making
                raise
            except Exception as error:
                if self._may_log("cut"):
                    log.exception("cannot cut a timeline to a window", version=str(snapshot.version))
                raise CutFailed("see the log") from error

    # In the thread

    def _work(self, snapshot: Snapshot, cut: Cut, coding: str, unwanted: threading.Event) -> WindowedTimeline:
        _, owner, division_id = cut.board

        def text_of(name: str) -> Iterator[bytes]:
            for chunk in texts(snapshot.documents[name], CHUNK_BYTES):
                if unwanted.is_set():
                    raise _Abandoned
                yield chunk

        bucket = window.bucket_of(cut.since)
        solves = self._solves.get((cut.board, bucket))
        if solves is None:
            solves = window.rows_in(bucket, owner, text_of(leaderboard_key(owner, division_id)))
            self._solves[cut.board, bucket] = solves
            if len(self._solves) > MAX_KEPT_CUTS:
                self._solves.popitem(last=False)
        return _encoded(window.timeline(cut.since, owner, text_of(timeline_key(owner, division_id)), solves), coding)


def _encoded(text: Iterable[bytes], coding: str) -> WindowedTimeline:
    checksum = 0
    parts: list[bytes] = []
    compressor: Any = _COMPRESSORS[coding]() if coding != "identity" else None
    for chunk in text:
        checksum = zlib.crc32(chunk, checksum)
        parts.append(compressor.compress(chunk) if compressor else chunk)
    if compressor:
        parts.append(compressor.flush())
    return WindowedTimeline(b"".join(parts), checksum)


_COMPRESSORS: dict[str, Callable[[], Any]] = {
    "zstd": lambda: zstandard.ZstdCompressor(LEVEL).compressobj(),
    "gzip": lambda: zlib.compressobj(1, wbits=31),
}


def _yield_to_others() -> None:
    with suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
