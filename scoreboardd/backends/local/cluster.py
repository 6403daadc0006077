"""The lock, the commit and the bus of a single node. See `base.ClusterBackend`."""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import orjson

from scoreboardd.backends.base import (
    Abandoned,
    Begun,
    Busy,
    Changed,
    Confirmed,
    Lease,
    Message,
    Rebuilt,
    SnapshotMetadata,
    Subscribed,
    Unavailable,
    removed_documents,
)
from scoreboardd.backends.local.bus import LocalBus
from scoreboardd.backends.local.documents import read_head
from scoreboardd.backends.local.file import LocalFile
from scoreboardd.backends.names import Names
from scoreboardd.board.document_names import document_names
from scoreboardd.model import MAX_NUMBER, ChangeEvent, Version

COMMAND_TIMEOUT_SECONDS = 10.0
"Longer than the file's own timeout, which yields an error that says more."

Result = TypeVar("Result")
Operation = Callable[[sqlite3.Connection, float], tuple[Result, Message | None]]
"What it returns, and the message that announces it."


class LocalClusterBackend:
    """`directory` holds the file. Backends that share a `bus` are nodes of one process, as in tests."""

    def __init__(self, directory: Path, *, prefix: str, lock_ttl: float, bus: LocalBus | None = None) -> None:
        self._file = LocalFile(directory)
        self._names = Names(prefix)
        self._ttl = lock_ttl
        self._bus = bus or LocalBus(directory)
        # One thread: the operations are done, and their messages sent, in the order in which they were asked for.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local")

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        def operation(connection: sqlite3.Connection, now: float) -> tuple[Lease | Busy, Message | None]:
            lock = connection.execute("SELECT epoch, number, until, token FROM entries WHERE key = ?", (names.lock,))
            epoch, number, until, holder = lock.fetchone() or (None, None, None, None)
            until = until if isinstance(until, float) else None
            if until is not None and until > now and holder != token:
                overlong = until > now + self._ttl
                if overlong:  # no node of ours holds it for so long
                    connection.execute("UPDATE entries SET until = ? WHERE key = ?", (now + self._ttl, names.lock))
                return Busy(min(until - now, self._ttl), overlong), None
            last = _version(epoch, number)
            is_again = until is not None and until > now and last is not None
            version = last if last is not None and is_again else self._next(connection, last, seen)
            connection.execute(
                "INSERT OR REPLACE INTO entries (key, epoch, number, until, token) VALUES (?, ?, ?, ?, ?)",
                (names.lock, version.epoch, version.number, now + self._ttl, token),
            )
            return Lease(token, version), None if is_again else Begun(version)

        names = self._names
        return await self._run(operation)

    def _next(self, connection: sqlite3.Connection, last: Version | None, seen: Version | None) -> Version:
        """Return the version that follows `last`, the latest one that was given out."""
        if last is None:
            return Version(secrets.token_hex(4), 1)
        row = connection.execute("SELECT epoch, number FROM entries WHERE key = ?", (self._names.version,)).fetchone()
        committed = _version(*row) if row else None
        latest = committed if committed is not None and committed.epoch == last.epoch else last
        if seen is not None and seen.epoch == last.epoch and latest.number < seen.number:
            return Version(secrets.token_hex(4), 1)  # the file has lost what it once gave out
        return Version(last.epoch, last.number + 1)

    async def renew(self, lease: Lease) -> bool:
        def operation(connection: sqlite3.Connection, now: float) -> tuple[bool, None]:
            done = connection.execute(
                "UPDATE entries SET until = ? WHERE key = ? AND token = ? AND until > ?",
                (now + self._ttl, self._names.lock, lease.token, now),
            )
            return done.rowcount == 1, None

        return await self._run(operation)

    async def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        def operation(connection: sqlite3.Connection, now: float) -> tuple[bool, Message | None]:
            head = read_head(connection, names)
            if head.version == version:
                return True, None  # asked for twice
            fresh = document_names(metadata.divisions)
            staged = [names.staged(lease.token, name) for name in fresh]
            marks = ", ".join("?" * len(staged))
            (ready,) = connection.execute(
                f"SELECT count(*) FROM entries WHERE key IN ({marks}) AND until > ?",  # noqa: S608  question marks
                (*staged, now),
            ).fetchone()
            if ready != len(staged) or not self._released(connection, lease, now):
                return False, None
            removed = removed_documents(head.metadata, fresh)
            connection.executemany(
                "DELETE FROM entries WHERE key = ?", [(names.document(name),) for name in (*fresh, *removed)]
            )
            connection.executemany(
                "UPDATE entries SET key = ?, until = NULL, token = NULL WHERE key = ?",
                [(names.document(name), names.staged(lease.token, name)) for name in fresh],
            )
            fields = asdict(metadata) | {"confirmed": version.number}
            connection.execute(
                "INSERT OR REPLACE INTO entries (key, payload, epoch, number, as_of) VALUES (?, ?, ?, ?, ?)",
                (names.version, orjson.dumps(fields), version.epoch, version.number, metadata.as_of),
            )
            return True, Rebuilt(version.number, event)

        names, version = self._names, lease.version
        return await self._run(operation)

    async def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        def operation(connection: sqlite3.Connection, now: float) -> tuple[bool, Message | None]:
            row = connection.execute(
                "SELECT epoch, number, payload FROM entries WHERE key = ?", (self._names.version,)
            ).fetchone()
            committed = _version(*row[:2]) if row else None
            if committed is None or not self._released(connection, lease, now, fenced=False):
                return False, None
            fields = {"confirmed": version.number, "complete": complete} | ({"full": version.number} if full else {})
            connection.execute(
                "UPDATE entries SET payload = ?, as_of = ? WHERE key = ?",
                (orjson.dumps(_fields(row[2]) | fields), as_of, self._names.version),
            )
            return True, Confirmed(version, committed, as_of)

        version = lease.version
        return await self._run(operation)

    async def abandon(self, lease: Lease) -> None:
        def operation(connection: sqlite3.Connection, now: float) -> tuple[None, Message | None]:
            released = self._released(connection, lease, now, fenced=False)
            return None, Abandoned(lease.version) if released else None

        await self._run(operation)

    def _released(self, connection: sqlite3.Connection, lease: Lease, now: float, *, fenced: bool = True) -> bool:
        """Release the lock if it is that of `lease`; `fenced`: and its number is the last one given out."""
        fence = " AND epoch = ? AND number = ?" if fenced else ""
        version = (lease.version.epoch, lease.version.number) if fenced else ()
        done = connection.execute(
            f"UPDATE entries SET until = NULL, token = NULL WHERE key = ? AND token = ? AND until > ?{fence}",  # noqa: S608
            (self._names.lock, lease.token, now, *version),
        )
        return done.rowcount == 1

    async def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        # Through the thread, so that it has its place among the changes of the file.
        await self._run(lambda _, __: (None, Changed(event, id)))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Message]]:
        async with self._bus.subscribe() as messages:
            yield self._greeted(messages)

    async def _greeted(self, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        head = await self._run(lambda connection, _: (read_head(connection, self._names), None))
        yield Subscribed(head.given)
        async for message in messages:
            yield message

    async def interrupted(self) -> None:
        """Have the subscriptions begin anew: an event of the platform may have been lost on its way to the bus."""
        await self._run(lambda connection, _: (None, Subscribed(read_head(connection, self._names).given)))

    async def check(self) -> list[str]:
        """Returns what keeps the file from serving the daemon, one line each."""
        return await self._in_thread(self._file.problems)

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False)

    async def _run(self, operation: Operation[Result]) -> Result:
        """Run `operation`, and send its message whether or not this call is cancelled. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()

        def run() -> Result:
            result, message = self._file.run(operation)
            if message is not None:
                loop.call_soon_threadsafe(self._bus.send, message)
            return result

        return await self._in_thread(run)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError as error:
            raise Unavailable(f"local: {self._file.path} did not answer; see its disk") from error


def _version(epoch: object, number: object) -> Version | None:
    """The version of an epoch and a number that are as a node writes them."""
    return Version.parse(f"{epoch}-{number}") if isinstance(number, int) and 0 <= number < MAX_NUMBER else None


def _fields(payload: object) -> dict[str, object]:
    try:
        fields = orjson.loads(payload if isinstance(payload, bytes) else b"{}")
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
