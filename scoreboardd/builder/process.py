"""The parent's handle on the builder process.

- One child at a time; `run` owns it: starts it, receives its answers, starts another when it dies. A child that answers
  no ping in seconds (stopped, or stuck) is killed.
- Every request has a deadline. A build that is given up (cancelled, or out of time) is ended by killing the child,
  which also ends whatever the database or a loop of Python was busy with.
"""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from scoreboardd.backends.base import Head, Lease, SnapshotMetadata, Value
from scoreboardd.builder.channel import Channel, pair
from scoreboardd.builder.shared_documents import SharedDocuments
from scoreboardd.model import Snapshot, Version
from scoreboardd.platforms.findings import Finding
from scoreboardd.system.clock import Clock, ClockReading
from scoreboardd.system.compression import Frames
from scoreboardd.telemetry.metrics import Metrics

LOAD_TIMEOUT_SECONDS = 30.0
"Seconds to read the committed documents from the store, or those that are kept, or to keep them."
PING_SECONDS = 1.0
"Between two looks at whether the child answers."
PING_TIMEOUT_SECONDS = 5.0
"A child that answers nothing for so long is killed."
START_SECONDS = 30.0
"The same, for a child that is just starting."
CLOCK_SECONDS = 60.0
"Between two looks at the database's clock."
CLOCK_RETRY_MIN_SECONDS, CLOCK_RETRY_MAX_SECONDS = 0.5, 8.0
"The same, while the database does not answer."
CLOCK_TIMEOUT_SECONDS = 5.0
RESTART = 0.2
"Seconds between the death of a child and the start of the next."
# For glibc. Arrays of megabytes come and go: they are cut from one heap, whose free end is kept for those to come. What
# is larger has a mapping of its own, and goes back to the system at once. Left to itself glibc keeps more than that.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}

log = structlog.stdlib.get_logger("scoreboardd.builder")


class BuilderError(Exception):
    """The builder could not do it. `part` says whose fault that is: `source`, `store` or `builder`; or
    `damaged`, if what is in the store is not what was committed."""

    def __init__(self, part: str, text: str) -> None:
        super().__init__(text)
        self.part = part


@dataclass(frozen=True, slots=True)
class FinishedBuild:
    """What a build made. `documents`, zstd, is None if they are those of `unchanged`, which is committed already."""

    metadata: SnapshotMetadata
    documents: Mapping[str, Frames] | None
    unchanged: Version | None
    timings: dict[str, float]
    rows: dict[str, int]
    full: bool
    "Whether everything was read, and not only what is new."
    complete: bool
    """All that was announced was found. False: an announced solve is not there even after everything was read; or some
    other change was announced, and the documents are the same as before; or the database is a standby that has not
    replayed what it had received. Then look again."""
    size: int
    "Bytes of the plain documents."
    staged_bytes: int
    findings: list[Finding] = field(default_factory=list)
    "What is odd about the rows that were read."

    def snapshot(self, version: Version, documents: Mapping[str, Frames]) -> Snapshot:
        return _snapshot(version, self.metadata, documents)


class BuilderProcess:
    """`source` holds the keyword arguments of `PostgresSource`, `document_store` those of
    `backends.factory.open_document_store`, `persister` those of `PostgresDocumentStore`; secrets among them. Without
    `persister` there is no `restore` and no `persist`. `clock` learns the database's time. `log_level` and `log_format`
    are for the child's own log, as in `telemetry.logs.configure`."""

    def __init__(
        self,
        *,
        source: dict[str, Any],
        document_store: dict[str, Any],
        persister: dict[str, Any] | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        log_level: str = "info",
        log_format: str = "json",
    ) -> None:
        self._opening = {"source": source, "document_store": document_store, "persister": persister}
        self._clock = clock or Clock()
        self._metrics = metrics or Metrics()
        self._log_options = (log_level, log_format)
        self._ids = itertools.count(1)
        self._heard = 0
        "Messages that children have sent."
        self._answers: dict[int, asyncio.Future[tuple[dict[str, Any], SharedDocuments | None]]] = {}
        self._channel: asyncio.Future[Channel] | None = None
        self.pid: int | None = None
        "The child's, while there is one."
        self.source_problem: str | None = "not tried yet"
        "What was wrong the last time that the child asked the platform's database for anything; None if it answered."
        self._cause = "died"
        "Why the child ended."
        self.problem: str | None = "not started yet"
        "What is wrong with the child; None while it answers."

    async def run(self) -> None:
        """Keep a child until cancelled."""
        while True:
            try:
                self._cause = "died"
                await self._run_child()
                self.problem = self.problem or "the builder process died, starting another"
                log.warning("the builder process died, starting another")
                self._metrics.builder_restarts.labels(self._cause).inc()
            except OSError as error:  # no descriptor, no memory, no process left
                self.problem = f"cannot start the builder process: {error}"
                log.error("cannot start the builder process, retrying", error=str(error))
            await asyncio.sleep(RESTART)

    async def _run_child(self) -> None:
        ours, theirs = pair()
        channel = Channel(ours)
        try:
            with theirs:
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "scoreboardd.builder",
                    str(theirs.fileno()),
                    *self._log_options,
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    env=os.environ | _MALLOC,
                )
            self.pid = child.pid
            watching = [
                asyncio.create_task(self._end_if_it_stops(child.pid)),
                asyncio.create_task(self._learn_clock()),
            ]
            try:
                await channel.send(self._opening)
                self._open().set_result(channel)
                while (message := await channel.receive()) is not None:
                    self._heard += 1
                    self.problem = None
                    self._deliver(*message)
            except OSError as error:
                log.warning("lost the builder process", error=str(error))
            finally:
                self.pid = None
                for task in watching:
                    task.cancel()
                await asyncio.wait(watching)
                self.kill(child.pid)
                await asyncio.shield(child.wait())
        finally:
            channel.close()
            # A channel that did not come to be open has taken no request: who waits for it gets the next child's.
            if self._channel is not None and self._channel.done():
                self._channel = None
                for waiting in self._answers.values():
                    if not waiting.done():
                        waiting.set_exception(BuilderError("builder", "the builder process died"))

    def _open(self) -> "asyncio.Future[Channel]":
        if self._channel is None:
            self._channel = asyncio.get_running_loop().create_future()
        return self._channel

    def _deliver(self, answer: dict[str, Any], descriptor: int | None) -> None:
        # Owned from here on: if nobody waits any more it goes at once.
        documents = None if descriptor is None else SharedDocuments(descriptor, answer["manifest"])
        waiting = self._answers.get(answer["id"])
        if waiting is None or waiting.done():
            return
        if documents is None and "manifest" in answer:
            # The kernel drops a descriptor that it has no number for.
            waiting.set_exception(BuilderError("builder", "out of file descriptors; raise LimitNOFILE"))
        else:
            waiting.set_result((answer, documents))

    def kill(self, pid: int | None = None) -> None:
        """End the child; `run` starts another."""
        pid = pid or self.pid
        if pid is not None:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def build(
        self,
        lease: Lease,
        *,
        quiet: bool,
        full: bool,
        solves: int = 0,
        announced: bool = False,
        again: bool = False,
        timeout: float,
    ) -> FinishedBuild:
        """Read, build, stage. With `quiet`, documents that are committed already are neither staged nor returned. Not
        `full`: nothing but solves is said to have changed since the last build of this process.

        `solves` were announced that no earlier call named, and something else if `announced`; `again`: an earlier build
        did not find all that was announced. What is not found is looked for by later calls, too, for
        `ledger.MEMORY_SECONDS`."""
        request = {
            "op": "build",
            "token": lease.token,
            "version": lease.version,
            "quiet": quiet,
            "full": full,
            "solves": solves,
            "announced": announced,
            "again": again,
        }
        try:
            answer, documents = await self._ask(timeout, request)
        except asyncio.CancelledError:
            self.kill()
            raise
        except TimeoutError as error:
            self.kill()
            raise BuilderError(
                "builder", f"not built within {timeout:g} s; see the database, or raise rebuild.timeout"
            ) from error
        self.source_problem = None
        return FinishedBuild(
            metadata=_metadata(answer["metadata"]),
            documents=documents,
            unchanged=Version(**answer["unchanged"]) if answer["unchanged"] else None,
            timings=answer["timings"],
            rows=answer["rows"],
            full=answer["full"],
            complete=answer["complete"],
            size=answer["size"],
            staged_bytes=answer["staged_bytes"],
            findings=[Finding(**finding) for finding in answer["findings"]],
        )

    async def load(self, have: Version | None) -> tuple[Head, Snapshot | None]:
        """What is committed, with its documents unless that is the version `have`."""
        return await self._stored({"op": "load", "have": have})

    async def restore(self) -> Snapshot | None:
        """The documents that are kept, or None if there are none."""
        return (await self._stored({"op": "restore"}))[1]

    async def persist(self, snapshot: Snapshot, *, quiet: float) -> bool:
        """Keep the documents. False if that was done less than `quiet` seconds ago, and they are still to be kept."""
        documents = snapshot.documents
        if not isinstance(documents, SharedDocuments):
            raise TypeError("to keep documents needs them in a parcel")
        request = {
            "op": "persist",
            "version": snapshot.version,
            "metadata": SnapshotMetadata(snapshot.digest, snapshot.as_of, snapshot.divisions),
            "places": [(name, *extent) for name, extent in documents.extents.items()],
            "quiet": quiet,
        }
        try:
            answer, _ = await self._ask(LOAD_TIMEOUT_SECONDS, request, documents.descriptor)
        except TimeoutError as error:
            raise BuilderError("store", f"documents not kept within {LOAD_TIMEOUT_SECONDS:g} s") from error
        return bool(answer["persisted"])

    async def _stored(self, request: dict[str, Any]) -> tuple[Head, Snapshot | None]:
        try:
            answer, documents = await self._ask(LOAD_TIMEOUT_SECONDS, request)
        except TimeoutError as error:
            raise BuilderError("store", f"documents not read within {LOAD_TIMEOUT_SECONDS:g} s") from error
        head = _head(answer["head"])
        if documents is None or head.version is None or head.metadata is None:
            return head, None
        return head, _snapshot(head.version, head.metadata, documents)

    async def _ping(self) -> None:
        """Returns when the child answers nothing any more."""
        patience = START_SECONDS
        while True:
            heard = self._heard
            try:
                await self._ask(patience, {"op": "ping"})
            except TimeoutError:
                if self._heard == heard:
                    return
            except BuilderError:
                pass  # an answer too; or the child has died, which `run` sees
            patience = PING_TIMEOUT_SECONDS
            await asyncio.sleep(PING_SECONDS)

    async def _end_if_it_stops(self, pid: int) -> None:
        """A child that is stopped, or stuck, would hold up every rebuild until its deadline."""
        await self._ping()
        self.problem = "the builder process did not answer, starting another"
        log.error("the builder process does not answer, killing it", pid=pid)
        self._cause = "unresponsive"
        self.kill(pid)

    async def _learn_clock(self) -> None:
        pause = CLOCK_RETRY_MIN_SECONDS
        while True:
            try:
                answer, _ = await self._ask(CLOCK_TIMEOUT_SECONDS, {"op": "clock"})
            except BuilderError as error:
                pause = min(CLOCK_RETRY_MAX_SECONDS, pause * 2)
                if error.part == "source":
                    self.source_problem = str(error)
            except TimeoutError:
                pause = min(CLOCK_RETRY_MAX_SECONDS, pause * 2)
                self.source_problem = f"postgres: no answer within {CLOCK_TIMEOUT_SECONDS:g} s; see that it runs"
            else:
                self._clock.learn(ClockReading(**answer["reading"]))
                self.source_problem = None
                pause = CLOCK_SECONDS
            await asyncio.sleep(pause)

    async def _ask(
        self, timeout: float, request: dict[str, Any], descriptor: int | None = None
    ) -> tuple[dict[str, Any], SharedDocuments | None]:
        number = next(self._ids)
        waiting: asyncio.Future[tuple[dict[str, Any], SharedDocuments | None]] = (
            asyncio.get_running_loop().create_future()
        )
        self._answers[number] = waiting
        try:
            async with asyncio.timeout(timeout):
                channel = await asyncio.shield(self._open())
                try:
                    await channel.send(request | {"id": number, "within": timeout}, descriptor)
                except OSError as error:
                    raise BuilderError("builder", "the builder process died") from error
                answer, documents = await waiting
        finally:
            del self._answers[number]
            waiting.cancel()
        if "error" in answer:
            raise BuilderError(answer["error"], answer["text"])
        return answer, documents


def _snapshot(version: Version, metadata: SnapshotMetadata, documents: Mapping[str, Frames]) -> Snapshot:
    return Snapshot(version, metadata.as_of, metadata.divisions, metadata.digest, documents)


def _metadata(fields: dict[str, Any]) -> SnapshotMetadata:
    return SnapshotMetadata(
        **fields
        | {
            "divisions": tuple(fields["divisions"]),
            "documents": {name: Value(**value) for name, value in fields["documents"].items()},
        }
    )


def _head(fields: dict[str, Any]) -> Head:
    version, metadata, given = fields["version"], fields["metadata"], fields["given"]
    return Head(
        Version(**version) if version else None,
        _metadata(metadata) if metadata else None,
        fields["confirmed"],
        Version(**given) if given else None,
    )
