"""The Postgres backend: a whole cluster on the platform's own database, and the tier that outlives Redis.

All of it is one table, `leaderboard_cache` (contract §7, made by `scoreboardd migrate`), found by the search_path:

- the lease: key `leaderboard:rebuild:lock`; `epoch` and `version` are those last given out, `payload` is the server
  that gave them out, `building_token` has the lease until `building_until`;
- what is committed: key `scoreboard:version`; `payload` is its catalogue, `generated_at` when it was last true;
- the documents, zstd, under the names they have in Redis; a staged one is forgotten at its `building_until`.

Every step that must be atomic is one statement, in a file beside this, in a repeatable-read transaction of its own: it
sees one state of the table and changes that one, or fails as not serializable and is run again. No client can stop in
the middle of one. Postgres delivers notifications in the order of the commits that sent them, and what was committed
is visible before the next one that notifies can be: that is the order which `coordination` builds on.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Any

import asyncpg
import orjson

from scoreboardd.backends.base import (
    Busy,
    Damaged,
    Head,
    Lease,
    Message,
    SnapshotMetadata,
    StoredSnapshot,
    Subscribed,
    Unavailable,
    Value,
    Values,
    head_of,
    removed_documents,
    verified,
)
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres import table
from scoreboardd.board import document_names
from scoreboardd.cluster import wire
from scoreboardd.model import MAX_NUMBER, ChangeEvent, Version
from scoreboardd.postgres import connection
from scoreboardd.postgres.connection import FAILURES, connect
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import digest_of

COMMAND_TIMEOUT_SECONDS = 5.0
"Seconds within which the server must answer a statement, or say or answer something on a subscription."
TRANSFER_TIMEOUT_SECONDS = 20.0
"Seconds within which the server must take or give one document."
MAX_QUEUED_NOTIFICATIONS = 100_000
"Notifications that wait to be handled; with more, the subscription is given up and begun anew."


def channel(names: Names, name: str) -> str:
    """`scoreboard.events` is `scoreboard_events` here (contract §7)."""
    return names.channel(name.replace(".", "_"))


def _sql(name: str) -> str:
    return (files(__package__) / f"{name}.sql").read_text()


def _explain(error: BaseException, dsn: str) -> str:
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return connection.error_line(error, "run `scoreboardd migrate`", dsn)
        case asyncpg.InsufficientPrivilegeError():
            return connection.error_line(error, "run `scoreboardd check`, as the role in postgres.dsn", dsn)
        case asyncpg.QueryCanceledError():
            return connection.error_line(
                error, "see what holds a lock on leaderboard_cache, or keeps the server busy", dsn
            )
        case _:
            return connection.explain(error, dsn)


@asynccontextmanager
async def _answering(dsn: str, within: float = COMMAND_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Whatever goes wrong on the way to Postgres and back, or takes longer than `within` seconds, is `Unavailable`."""
    try:
        async with asyncio.timeout(within):
            yield
    except FAILURES as error:
        raise Unavailable(_explain(error, dsn)) from error


class Connection:
    """One connection, made when it is needed, used by one caller at a time, thrown away when anything goes wrong."""

    def __init__(self, dsn: str, *, statement_timeout: float) -> None:
        self._dsn = dsn
        self._timeout = statement_timeout
        self._turn = asyncio.Lock()
        self._connection: Any = None

    async def run(self, query: str, *args: Any) -> list[Any]:
        """The rows of one statement, which is a transaction of its own and may be sent twice."""
        async with _answering(self._dsn, self._timeout), self._turn:
            while True:
                async with self._connected() as connection:
                    try:
                        rows: list[Any] = await connection.fetch(query, *args)
                    except asyncpg.SerializationError:
                        continue  # another node was quicker: look again
                    return rows

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """The connection, in a transaction that reads one state of the database."""
        async with _answering(self._dsn, self._timeout), self._turn, self._connected() as connection:
            # Not `connection.transaction()`: on a link that is half open it would wait for its ROLLBACK.
            await connection.execute("BEGIN READ ONLY")
            yield connection
            await connection.execute("COMMIT")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._dsn,
                statement_timeout=self._timeout,
                default_transaction_isolation="repeatable read",
                # A number that was given out must not be forgotten, whatever the platform's own data is worth.
                synchronous_commit="on",
                idle_in_transaction_session_timeout=f"{self._timeout:.0f}s",
            )
        try:
            yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()  # a graceful close may hang on a link that is half open


class PostgresClusterBackend:
    """The lease, the commit and the bus. See `base.Store`."""

    def __init__(self, dsn: str, *, prefix: str, lock_ttl: float) -> None:
        self._dsn = dsn
        self._names = Names(prefix)
        self._ttl = lock_ttl
        self._link = Connection(dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        self._echo, self._building, self._rebuilt, self._events = (
            channel(self._names, name) for name in (wire.ECHO, wire.BUILDING, wire.REBUILT, wire.EVENTS)
        )
        self._acquire, self._renew, self._commit, self._confirm, self._abandon = (
            _sql(name) for name in ("acquire", "renew", "commit", "confirm", "abandon")
        )

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        names = self._names
        ((epoch, number, remaining, overlong, _),) = await self._link.run(
            self._acquire,
            names.lock,
            names.version,
            token,
            self._ttl,
            secrets.token_hex(4),
            seen.epoch if seen else "",
            seen.number if seen else 0,
            self._building,
            MAX_NUMBER,
        )
        if epoch is None:
            return Busy(remaining, overlong)
        version = Version.parse(f"{epoch}-{number}")
        if version is None:
            raise Unavailable("postgres: what it says of its last version is no version; see what else writes to it")
        return Lease(token, version)

    async def renew(self, lease: Lease) -> bool:
        return bool(await self._link.run(self._renew, self._names.lock, lease.token, self._ttl))

    async def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        names, version = self._names, lease.version
        # Stable while we have the lease, and if we have not, the statement refuses.
        before = _head(await self._link.run(HEAD, names.version, names.lock)).metadata
        ((committed,),) = await self._link.run(
            self._commit,
            names.lock,
            names.version,
            lease.token,
            version.epoch,
            version.number,
            *_shown(names, lease, metadata, before),
            self._rebuilt,
            wire.announcement(version, event).decode(),
        )
        return bool(committed)

    async def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        names, version = self._names, lease.version
        fields = {"confirmed": version.number, "complete": complete} | ({"full": version.number} if full else {})
        return bool(
            await self._link.run(
                self._confirm,
                names.lock,
                names.version,
                lease.token,
                version.epoch,
                version.number,
                as_of,
                self._building,
                orjson.dumps(fields).decode(),
            )
        )

    async def abandon(self, lease: Lease) -> None:
        version = lease.version
        await self._link.run(
            self._abandon, self._names.lock, lease.token, version.epoch, version.number, self._building
        )

    async def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        await self._link.run("SELECT pg_notify($1, $2)", self._events, wire.change(event, id).decode())

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Message]]:
        async with _answering(self._dsn):
            connection = await connect(self._dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        try:
            heard: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
            connection.add_termination_listener(lambda _: heard.put_nowait(None))
            # All at once, and heard from then on: an event must not be missed that was before a build we hear begin.
            async with _answering(self._dsn):
                await connection.execute("BEGIN")
                for name in (self._echo, self._building, self._rebuilt, self._events):
                    await connection.add_listener(name, lambda *said: heard.put_nowait(said[2:]))
                await connection.execute("COMMIT")
            yield self._messages(connection, heard)
        finally:
            connection.terminate()

    async def _messages(
        self, connection: Any, heard: "asyncio.Queue[tuple[str, str] | None]"
    ) -> AsyncIterator[Message]:
        yield Subscribed(_head(await self._link.run(HEAD, self._names.version, self._names.lock)).given)
        time = asyncio.get_running_loop().time
        due, mark = time() + COMMAND_TIMEOUT_SECONDS, None
        while True:
            said: tuple[str, str] | None = ("", "")
            try:
                async with asyncio.timeout(max(due - time(), 0.01)):
                    said = await heard.get()
            except TimeoutError:
                if mark is not None:
                    # The connection is half open, or leads to another server than our statements do.
                    self._link.close()
                    raise Unavailable(
                        "postgres: the subscription does not answer to what is notified; connecting again; "
                        "see that postgres.dsn leads to one server, the primary"
                    ) from None
            if mark is None and time() >= due:
                mark = await self._say_mark()
                due = time() + COMMAND_TIMEOUT_SECONDS
            if said is None:
                raise Unavailable("postgres: the subscription was closed; connecting again")
            if heard.qsize() > MAX_QUEUED_NOTIFICATIONS:
                raise Unavailable("postgres: more notifications than can be handled; connecting again")
            if said == (self._echo, mark):
                due, mark = time() + COMMAND_TIMEOUT_SECONDS, None
            elif (message := self._message(*said)) is not None:
                yield message

    def _message(self, name: str, payload: str) -> Message | None:
        data = payload.encode()
        if name == self._events:
            return wire.changed(data)
        if name == self._rebuilt:
            return wire.rebuilt(data)
        return wire.building(data) if name == self._building else None

    async def _say_mark(self) -> str:
        """Notify what the subscription must hear if it is on the server that takes our statements."""
        mark = secrets.token_hex(8)
        ((read_only, _),) = await self._link.run(f"SELECT ({READ_ONLY}), pg_notify($1, $2)", self._echo, mark)
        if read_only:
            self._link.close()
            raise Unavailable(
                "postgres: this server takes no writes now; connecting again; point postgres.dsn at the primary"
            )
        return mark

    async def check(self) -> list[str]:
        """What is wrong with this server for our purpose, one line each."""
        async with self._link.snapshot() as connection:
            if await connection.fetchval(READ_ONLY):
                return ["postgres: this server takes no writes; point postgres.dsn at the primary"]
            problem = await table.cache_problem(connection)
        if problem:
            return [problem]
        await self._rehearse()
        return []

    async def _rehearse(self) -> None:
        """Take and forget a lock that no node uses, and hear of it as nodes do. Raises `Unavailable`."""
        test = Names(f"{self._names.prefix}scoreboard:check:{secrets.token_hex(4)}:")
        mark = asyncio.Event()
        async with _answering(self._dsn):
            connection = await connect(self._dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        try:
            async with _answering(self._dsn):
                for name in (self._building, self._rebuilt, self._events):
                    await connection.add_listener(name, lambda *_: None)
                await connection.add_listener(self._echo, lambda *said: mark.set() if test.lock in said[3] else None)
            await self._link.run(
                self._acquire,
                test.lock,
                test.version,
                "check",
                self._ttl,
                secrets.token_hex(4),
                "",
                0,
                self._echo,
                MAX_NUMBER,
            )
            await self._link.run("DELETE FROM leaderboard_cache WHERE cache_key = $1", test.lock)
            await self._link.run("SELECT pg_notify($1, $2)", self._echo, test.lock)
            async with _answering(self._dsn):
                await mark.wait()
        except Unavailable as error:
            raise Unavailable(f"{error} (found by a rehearsal of what the daemon does)") from error
        finally:
            connection.terminate()

    async def aclose(self) -> None:
        self._link.close()


HEAD = """
WITH ours AS (
    -- A text may not even be text, in a database without an encoding.
    SELECT cache_key, epoch || '-' || version AS version, payload, generated_at FROM leaderboard_cache
    WHERE cache_key IN ($1, $2) AND epoch ~ '^[0-9a-z]{1,32}$'
)
SELECT committed.version, committed.payload, lock.version,
       CASE WHEN isfinite(committed.generated_at) THEN extract(epoch FROM committed.generated_at)::float8 END,
       written.xmin::text
FROM (VALUES (1)) AS always
LEFT JOIN ours AS committed ON committed.cache_key = $1
LEFT JOIN ours AS lock ON lock.cache_key = $2
LEFT JOIN leaderboard_cache AS written ON written.cache_key = $1
"""
READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"
STAGE = """
INSERT INTO leaderboard_cache (cache_key, payload, encoding, epoch, version, building_until, building_token)
VALUES ($1, $2, 'zstd', $3, $4, now() + make_interval(secs => $5), $6)
ON CONFLICT (cache_key) DO UPDATE
SET payload = excluded.payload, building_until = excluded.building_until
"""
FORGET = "DELETE FROM leaderboard_cache WHERE starts_with(cache_key, $1) AND building_until < now()"
FORGET_VERSION = "DELETE FROM leaderboard_cache WHERE cache_key = $1 AND epoch = $2 AND version = $3"
LENGTHS = "SELECT cache_key, octet_length(payload) FROM leaderboard_cache WHERE cache_key = ANY ($1)"
KEPT_LATELY = """
SELECT FROM leaderboard_cache
WHERE cache_key = $1 AND building_until > now() AND building_until <= now() + make_interval(secs => $2)
"""


class PostgresDocumentStore:
    """The documents. See `base.Vault`; `persist` makes them the tier that outlives Redis."""

    def __init__(self, dsn: str, *, prefix: str, stage_ttl: float) -> None:
        self._names = Names(prefix)
        self._link = Connection(dsn, statement_timeout=TRANSFER_TIMEOUT_SECONDS)
        self._stage_ttl = stage_ttl
        self._keep = _sql("keep")

    async def head(self) -> Head:
        async with self._link.snapshot() as connection:
            head = await self._read_head(connection)
            if head.metadata is None:
                return head
            keys, lengths = self._lengths(head)
            found = await connection.fetch(LENGTHS, keys)
        return head if dict(found) == lengths else Head(None, None, given=head.given)

    def _lengths(self, head: Head) -> tuple[list[str], dict[str, int]]:
        """The keys of the documents, and how long each value is."""
        values = head.metadata.documents if head.metadata else {}
        lengths = {self._names.document(name): value.length for name, value in values.items()}
        return [*lengths], lengths

    async def stage(self, lease: Lease, documents: Mapping[str, Document]) -> tuple[int, Values]:
        values = await self._put(
            lease,
            ((name, b"".join(document.frames()), document.zstd_digest) for name, document in documents.items()),
        )
        return sum(value.length for value in values.values()), values

    async def _put(self, lease: Lease, documents: Iterable[tuple[str, bytes, str]]) -> Values:
        """Takes each document's name, value and digest."""
        # What builders that died have left behind.
        await self._link.run(FORGET, self._names.staged("", "").removesuffix(":"))
        values: dict[str, Value] = {}
        for name, document, digest in documents:
            await self._link.run(
                STAGE,
                self._names.staged(lease.token, name),
                document,
                lease.version.epoch,
                lease.version.number,
                self._stage_ttl,
                lease.token,
            )
            values[name] = Value(len(document), digest)
        return values

    async def load(self, have: Version | None) -> StoredSnapshot:
        head, found = await self._committed(have)
        try:
            intact = [(name, await self._verified(name, value, wanted)) for name, value, wanted in found]
        except Damaged:
            if head.version is not None:
                await self._forget(head.version)
            raise
        return StoredSnapshot(head, intact or None)

    async def verify(self) -> None:
        _, found = await self._committed(None)
        for each in found:
            await self._verified(*each)

    async def _committed(self, have: Version | None) -> tuple[Head, list[tuple[str, Any, Value]]]:
        """What is committed, and what is in the rows of the documents, unless it is the version `have`."""
        async with self._link.snapshot() as connection:
            head = await self._read_head(connection)
            if head.metadata is None or head.version == have:
                return head, []
            found = []
            for name in document_names.document_names(head.metadata.divisions):
                value = await connection.fetchval(
                    "SELECT payload FROM leaderboard_cache WHERE cache_key = $1", self._names.document(name)
                )
                found.append((name, value, head.metadata.documents[name]))
        return head, found

    async def _verified(self, name: str, value: Any, wanted: Value) -> bytes:
        return await asyncio.to_thread(
            verified, f"postgres: leaderboard_cache {self._names.document(name)}", value, wanted
        )

    async def _forget(self, version: Version) -> None:
        await self._link.run(FORGET_VERSION, self._names.version, version.epoch, version.number)

    async def persist(
        self, version: Version, metadata: SnapshotMetadata, kept: Iterable[tuple[str, bytes]], *, quiet: float
    ) -> bool:
        """Keep these documents, unless they are older than those that are kept, or somebody has done so within their
        `quiet` seconds. True if the ones kept are these or newer. With `quiet` 0, at once."""
        names = self._names
        rows = await self._link.run(HEAD, names.version, names.lock)
        held, (*_, useless) = _head(rows), rows[0]
        keys, lengths = self._lengths(held)
        if held.version and held.metadata and dict(await self._link.run(LENGTHS, keys)) == lengths:
            useless = None
            is_newer = held.metadata.as_of >= metadata.as_of
            if held.version.includes(version) if held.version.epoch == version.epoch else is_newer:
                return True
            if quiet and await self._link.run(KEPT_LATELY, names.version, quiet):
                return False
        lease = Lease(secrets.token_hex(16), version)
        digests = [(name, value, await asyncio.to_thread(digest_of, value)) for name, value in kept]
        metadata = replace(metadata, documents=await self._put(lease, digests))
        rows = await self._link.run(
            self._keep,
            names.version,
            version.epoch,
            version.number,
            *_shown(names, lease, metadata, held.metadata),
            quiet,
            useless,
        )
        return bool(rows)  # or somebody was quicker: the next look tells

    async def _read_head(self, connection: Any) -> Head:
        return _head(await connection.fetch(HEAD, self._names.version, self._names.lock))

    async def aclose(self) -> None:
        self._link.close()


def _head(rows: list[Any]) -> Head:
    """What is committed, whether or not the documents are there."""
    ((version, payload, given, as_of, _),) = rows
    try:
        fields = orjson.loads(payload or b"null")
    except orjson.JSONDecodeError:
        fields = None
    fields = fields | {"as_of": as_of} if isinstance(fields, dict) else None
    return head_of(Version.parse(version or ""), fields, Version.parse(given or ""))


def _shown(names: Names, lease: Lease, metadata: SnapshotMetadata, before: SnapshotMetadata | None) -> tuple[Any, ...]:
    """What `commit.sql` and `persist.sql` are told of the edition to show: from the staged keys to as_of."""
    fresh = document_names.document_names(metadata.divisions)
    return (
        [names.staged(lease.token, name) for name in fresh],
        [names.document(name) for name in fresh],
        [names.document(name) for name in removed_documents(before, fresh)],
        orjson.dumps(
            {
                "digest": metadata.digest,
                "divisions": metadata.divisions,
                "full": metadata.full,
                "complete": metadata.complete,
                "documents": metadata.documents,
                "confirmed": lease.version.number,
            }
        ),
        metadata.as_of,
    )
