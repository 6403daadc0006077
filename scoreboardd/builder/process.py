"""The daemon's handle on its builder process.

- There is one child at a time. `run` owns it: it starts the child, receives its answers, and starts another when it
  dies. A child that answers no ping for seconds, because it is stopped or stuck, is killed.
- Every request has a deadline. A build that is cancelled or out of time is ended by killing the child. That also ends
  the query or the loop that kept it busy.
"""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from scoreboardd.backends.base import Head, SnapshotMetadata
from scoreboardd.builder.channel import Channel, pair
from scoreboardd.builder.messages import (
    ANSWER,
    MAX_ERROR_CHARACTERS,
    Answer,
    AnswerBody,
    Build,
    BuildResult,
    FailedPart,
    Failure,
    Live,
    LiveBoards,
    Load,
    Persist,
    Persisted,
    Ping,
    Probe,
    Probed,
    ReadClock,
    Request,
    RequestBody,
    Restore,
    Stored,
)
from scoreboardd.builder.messages import Clock as ClockAnswer
from scoreboardd.builder.shared_documents import SharedDocuments
from scoreboardd.model import Snapshot, Version
from scoreboardd.system.backoff import Backoff
from scoreboardd.system.clock import Clock
from scoreboardd.system.compression import Frames
from scoreboardd.telemetry.metrics import Metrics

LOAD_TIMEOUT_SECONDS = 30.0
"To read or to write all documents, in the store or in the persisted copy."
PING_SECONDS = 1.0
"Between two looks at whether the child answers."
PING_TIMEOUT_SECONDS = 5.0
"A child that answers nothing for so long is killed."
START_SECONDS = 30.0
"The same, for a child that is just starting."
CLOCK_SECONDS = 60.0
"Between two looks at the database's clock."
CLOCK_RETRY = Backoff(1.0, 8.0)
"The same, while the database does not answer."
CLOCK_TIMEOUT_SECONDS = 5.0
PROBE_TIMEOUT_SECONDS = 15.0
RESTART_SECONDS = 0.2
"Between the death of a child and the start of the next."
# For glibc. Arrays of megabytes come and go: they are cut from one heap, whose free end is kept for those to come. What
# is larger has a mapping of its own, and goes back to the system at once. Left to itself glibc keeps more than that.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}

log = structlog.stdlib.get_logger("scoreboardd.builder")


class BuilderError(Exception):
    """The builder process could not do what was asked; `part` says what failed."""

    def __init__(self, part: FailedPart, text: str) -> None:
        super().__init__(text)
        self.part = part


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
        self._options = {"source": source, "document_store": document_store, "persister": persister}
        self._clock = clock or Clock()
        self._metrics = metrics or Metrics()
        self._log_options = (log_level, log_format)
        self._ids = itertools.count(1)
        self._received = 0
        "Number of messages received from children."
        self._answers: dict[int, asyncio.Future[tuple[Answer, SharedDocuments | None]]] = {}
        self._channel: asyncio.Future[Channel] | None = None
        self.pid: int | None = None
        "The child's, while there is one."
        self.source_problem: str | None = "not tried yet"
        "What was wrong when the child last used the platform's database; None if it answered."
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
            await asyncio.sleep(RESTART_SECONDS)

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
                await channel.send(self._options)
                self._open().set_result(channel)
                while (message := await channel.receive()) is not None:
                    data, descriptor = message
                    self._received += 1
                    self.problem = None
                    self._deliver(ANSWER.validate_json(data), descriptor)
            except (OSError, ValueError) as error:  # or a message that no child of ours sends
                log.warning("lost the builder process", error=str(error)[:MAX_ERROR_CHARACTERS])
            finally:
                self.pid = None
                for task in watching:
                    task.cancel()
                await asyncio.wait(watching)
                self.kill(child.pid)
                await asyncio.shield(child.wait())
        finally:
            channel.close()
            # A channel that was never open has taken no request: what waits for it gets the next child.
            if self._channel is not None and self._channel.done():
                self._channel = None
                for waiting in self._answers.values():
                    if not waiting.done():
                        waiting.set_exception(BuilderError("builder", "the builder process died"))

    def _open(self) -> "asyncio.Future[Channel]":
        if self._channel is None:
            self._channel = asyncio.get_running_loop().create_future()
        return self._channel

    def _deliver(self, answer: Answer, descriptor: int | None) -> None:
        # From here on we own the descriptor. If nobody waits any more, it is closed at once.
        documents = None
        if descriptor is not None:
            documents = SharedDocuments(descriptor, answer.manifest or [])
        waiting = self._answers.get(answer.id)
        if waiting is None or waiting.done():
            return
        if documents is None and answer.manifest is not None:
            # The kernel drops a descriptor if the process has no number left for it.
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
        self, request: Build, token: str, *, timeout: float
    ) -> tuple[BuildResult, Mapping[str, Frames] | None]:
        """Read, build and stage under the lease of `token`, within `timeout` seconds. Returns the result and the
        documents as zstd; None in place of them if they are those of `result.unchanged`. Raises `BuilderError`."""
        try:
            answer, documents = await self._ask(request, timeout, token=token)
        except asyncio.CancelledError:
            self.kill()
            raise
        except TimeoutError as error:
            self.kill()
            raise BuilderError(
                "builder", f"not built within {timeout:g} s; see the database, or raise rebuild.timeout"
            ) from error
        assert isinstance(answer, BuildResult)
        self.source_problem = None
        return answer, documents

    async def load(self, have: Version | None) -> tuple[Head, Snapshot | None]:
        """What is committed; with its documents, unless that is the version `have`. Raises `BuilderError`."""
        return await self._stored(Load(have))

    async def restore(self) -> Snapshot | None:
        """The persisted copy, or None if there is none. Raises `BuilderError`."""
        return (await self._stored(Restore()))[1]

    async def persist(self, snapshot: Snapshot, *, quiet: float) -> bool:
        """Write a copy of the documents. False if one was written less than `quiet` seconds ago. Raises
        `BuilderError`."""
        documents = snapshot.documents
        if not isinstance(documents, SharedDocuments):
            raise TypeError("only documents in shared memory can be persisted")
        manifest = [(name, *extent) for name, extent in documents.extents.items()]
        metadata = SnapshotMetadata(snapshot.digest, snapshot.as_of, snapshot.divisions)
        request = Persist(snapshot.version, metadata, manifest, quiet)
        try:
            answer, _ = await self._ask(request, LOAD_TIMEOUT_SECONDS, descriptor=documents.descriptor)
        except TimeoutError as error:
            raise BuilderError("store", f"documents not persisted within {LOAD_TIMEOUT_SECONDS:g} s") from error
        assert isinstance(answer, Persisted)
        return answer.done

    async def live(self) -> tuple[SnapshotMetadata, Mapping[str, Frames]]:
        """The boards with what happened after a freeze, read now. Raises `BuilderError`."""
        try:
            answer, documents = await self._ask(Live(), LOAD_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise BuilderError("source", f"not read within {LOAD_TIMEOUT_SECONDS:g} s") from error
        assert isinstance(answer, LiveBoards) and documents is not None
        return answer.metadata, documents

    async def is_changed(self) -> bool:
        """Whether the platform's database differs from the last read. Raises `BuilderError`."""
        try:
            answer, _ = await self._ask(Probe(), PROBE_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise BuilderError("source", f"no answer within {PROBE_TIMEOUT_SECONDS:g} s") from error
        assert isinstance(answer, Probed)
        return answer.is_changed

    async def _stored(self, request: Load | Restore) -> tuple[Head, Snapshot | None]:
        try:
            answer, documents = await self._ask(request, LOAD_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise BuilderError("store", f"documents not read within {LOAD_TIMEOUT_SECONDS:g} s") from error
        assert isinstance(answer, Stored)
        head = answer.head
        if documents is None or head.version is None or head.metadata is None:
            return head, None
        return head, head.metadata.snapshot(head.version, documents)

    async def _ping(self) -> None:
        """Return when the child does not answer any more."""
        timeout = START_SECONDS
        while True:
            received = self._received
            try:
                await self._ask(Ping(), timeout)
            except TimeoutError:
                if self._received == received:
                    return
            except BuilderError:
                pass  # an answer too; or the child has died, which `run` sees
            timeout = PING_TIMEOUT_SECONDS
            await asyncio.sleep(PING_SECONDS)

    async def _end_if_it_stops(self, pid: int) -> None:
        """Kill a child that is stopped or stuck: it would delay every rebuild until its deadline."""
        await self._ping()
        self.problem = "the builder process did not answer, starting another"
        log.error("the builder process does not answer, killing it", pid=pid)
        self._cause = "unresponsive"
        self.kill(pid)

    async def _learn_clock(self) -> None:
        failures = 0
        while True:
            try:
                answer, _ = await self._ask(ReadClock(), CLOCK_TIMEOUT_SECONDS)
            except BuilderError as error:
                failures += 1
                if error.part == "source":
                    self.source_problem = str(error)
            except TimeoutError:
                failures += 1
                self.source_problem = f"postgres: no answer within {CLOCK_TIMEOUT_SECONDS:g} s; see that it runs"
            else:
                assert isinstance(answer, ClockAnswer)
                self._clock.learn(answer.reading)
                self.source_problem = None
                failures = 0
            await asyncio.sleep(CLOCK_RETRY.delay(failures) if failures else CLOCK_SECONDS)

    async def _ask(
        self, body: RequestBody, timeout: float, *, token: str = "", descriptor: int | None = None
    ) -> tuple[AnswerBody, SharedDocuments | None]:
        request = Request(next(self._ids), timeout, body, token)
        waiting: asyncio.Future[tuple[Answer, SharedDocuments | None]] = asyncio.get_running_loop().create_future()
        self._answers[request.id] = waiting
        try:
            async with asyncio.timeout(timeout):
                channel = await asyncio.shield(self._open())
                try:
                    await channel.send(request, descriptor)
                except OSError as error:
                    raise BuilderError("builder", "the builder process died") from error
                answer, documents = await waiting
        finally:
            del self._answers[request.id]
            waiting.cancel()
        if isinstance(answer.body, Failure):
            raise BuilderError(answer.body.part, answer.body.text)
        return answer.body, documents
