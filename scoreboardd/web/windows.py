"""Timelines cut to a window: work that strangers choose, so it is bounded by those who still wait for it.

- One thread of low priority does it, and not the builder: a rebuild never waits for a window.
- A cut ends when the last client that waits for it has left. Few cuts may wait for the thread; the rest are refused.
- A cut reads the leaderboard for the solves of one bucket, and copies the end of the timeline (see `render.window`).
  Windows of one version that begin in the same bucket share what was read; clients that ask for the same window within
  a second share the cut.
- Cuts that are kept, and those that slow clients still read, may hold `MAX_HELD_BYTES` in all.
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

CUTS = 16
"Cuts kept, of the version served."
MAX_UNFINISHED = 8
"Cuts under way or waiting for the thread."
MAX_HELD_BYTES = 256 << 20
CUT_TIMEOUT_SECONDS = 10.0
CHUNK_BYTES = 128 * 1024
"Read between two looks at whether anybody still waits; for as long the thread may keep the event loop waiting."
NICENESS = 10
"Of the thread: it gets a tenth of a processor that others want too."

log = structlog.stdlib.get_logger("scoreboardd.web")

Board = tuple[Version, ParticipantKind, int | None]
"The documents of a version that a window is cut from: its users' or teams', and of which division."


class TooMany(Exception):
    """Too many windows are being cut."""


class CutFailed(Exception):
    """A window could not be cut, or not in time."""


class Windowed(NamedTuple):
    payload: bytes
    "In the content coding that was asked for."
    checksum: int
    "Of the plain text."


class _Nobody(Exception):
    """Nobody waits for this cut any more."""


@dataclass(slots=True, eq=False)
class Cut:
    """One timeline from `since` on, made or being made."""

    board: Board
    since: Micros
    clients: int = 0
    "That wait for it or read it."
    made: "asyncio.Task[Windowed]" = field(init=False)

    @property
    def failed(self) -> bool:
        return self.made.done() and (self.made.cancelled() or self.made.exception() is not None)

    @property
    def held_bytes(self) -> int:
        return len(self.made.result().payload) if self.made.done() and not self.failed else 0


class Windows:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, "windows", initializer=_yield_to_others)
        self._turn = asyncio.Lock()
        self._kept: OrderedDict[tuple[Board, int, str], Cut] = OrderedDict()
        self.cuts: set[Cut] = set()
        "Those kept, and those that clients still wait for or read."
        self._solves: OrderedDict[tuple[Board, Micros], list[window.WindowRow]] = OrderedDict()
        "Only the thread uses it."
        self._seldom = LogThrottle()

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
    ) -> AsyncIterator[Windowed]:
        """The timeline of the solves at or after `since`, for as long as it is read. `minutes` is the window that was
        asked for. Raises `TooMany`, and `CutFailed`."""
        cut = self._join(snapshot, (snapshot.version, owner, division_id), minutes, since, coding)
        try:
            try:
                async with asyncio.timeout(CUT_TIMEOUT_SECONDS):
                    # Shielded: a client that leaves does not take the work from the others who wait for it.
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
                self._tidy(snapshot.version)

    def _join(self, snapshot: Snapshot, board: Board, minutes: int, since: Micros, coding: str) -> Cut:
        key = (board, minutes, coding)
        cut = self._kept.get(key)
        if cut is None or cut.failed or (cut.made.done() and cut.since != since):
            self._tidy(snapshot.version)
            unfinished = sum(not other.made.done() for other in self.cuts)
            held_bytes = sum(other.held_bytes for other in self.cuts)
            if unfinished >= MAX_UNFINISHED or held_bytes > MAX_HELD_BYTES:
                self._metrics.windows.labels("refused").inc()
                raise TooMany
            cut = self._kept[key] = Cut(board, since)
            cut.made = asyncio.create_task(self._make(snapshot, cut, coding))
            self.cuts.add(cut)
        self._kept.move_to_end(key)
        cut.clients += 1
        return cut

    def _tidy(self, version: Version) -> None:
        """Forget what is not worth keeping: cuts of other versions, failed ones, the oldest, and the largest part."""
        held_bytes = sum(cut.held_bytes for cut in self.cuts)
        for key, cut in list(self._kept.items()):
            unused = not cut.clients and cut.made.done()
            if cut.failed or cut.made.cancelling() or (unused and cut.board[0] != version):
                del self._kept[key]
            elif unused and (len(self._kept) > CUTS or held_bytes > MAX_HELD_BYTES):
                held_bytes -= cut.held_bytes
                del self._kept[key]
        kept = set(self._kept.values())
        self.cuts = {cut for cut in self.cuts if cut.clients or cut in kept}

    async def _make(self, snapshot: Snapshot, cut: Cut, coding: str) -> Windowed:
        async with self._turn:
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
                if self._seldom("cut"):
                    log.exception("cannot cut a timeline to a window", version=str(snapshot.version))
                raise CutFailed("see the log") from error

    # In the thread

    def _work(self, snapshot: Snapshot, cut: Cut, coding: str, unwanted: threading.Event) -> Windowed:
        _, owner, division_id = cut.board

        def text_of(name: str) -> Iterator[bytes]:
            for chunk in texts(snapshot.documents[name], CHUNK_BYTES):
                if unwanted.is_set():
                    raise _Nobody
                yield chunk

        bucket = window.bucket_of(cut.since)
        solves = self._solves.get((cut.board, bucket))
        if solves is None:
            solves = window.rows_in(bucket, owner, text_of(leaderboard_key(owner, division_id)))
            self._solves[cut.board, bucket] = solves
            if len(self._solves) > CUTS:
                self._solves.popitem(last=False)
        return _encoded(window.timeline(cut.since, owner, text_of(timeline_key(owner, division_id)), solves), coding)


def _encoded(text: Iterable[bytes], coding: str) -> Windowed:
    checksum = 0
    parts: list[bytes] = []
    compressor: Any = _COMPRESSORS[coding]() if coding != "identity" else None
    for chunk in text:
        checksum = zlib.crc32(chunk, checksum)
        parts.append(compressor.compress(chunk) if compressor else chunk)
    if compressor:
        parts.append(compressor.flush())
    return Windowed(b"".join(parts), checksum)


_COMPRESSORS: dict[str, Callable[[], Any]] = {
    "zstd": lambda: zstandard.ZstdCompressor(LEVEL).compressobj(),
    "gzip": lambda: zlib.compressobj(1, wbits=31),
}


def _yield_to_others() -> None:
    with suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
