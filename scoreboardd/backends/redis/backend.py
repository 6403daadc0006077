"""The Redis backend (Redis ≥ 6.2 or Valkey; one primary).

Every step that must be atomic is a Lua script beside this file; no script touches a document's bytes. Under Redis
Cluster all keys must live in one slot: give `redis.key_prefix` a hash tag, such as `{ctf}:`, and name the node of that
slot in `redis.url`; this is no cluster client.
"""

import asyncio
import copy
import re
import secrets
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from importlib.resources import files
from typing import Any

import orjson
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError, RedisError, ResponseError

from scoreboardd.backends.base import (
    METADATA_FIELDS,
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
from scoreboardd.backends.redis import check, value_layout
from scoreboardd.board import document_names
from scoreboardd.cluster import wire
from scoreboardd.model import MAX_NUMBER, ChangeEvent, Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import compressed, digest_of, is_zstd

COMMAND_TIMEOUT_SECONDS = 5.0
"Seconds within which the server must answer a command, or send or answer something on a subscription."
TRANSFER_TIMEOUT_SECONDS = 20.0
"Seconds within which the server must take or give one document."


class _Client(aioredis.Redis):
    """Does not stay with a server that says that it is not the primary: the name in the URL may lead to another."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisError as error:
            if _not_primary(error):
                await self.leave()
            raise

    async def leave(self) -> None:
        """Close every connection, those of subscriptions included. The next command connects again."""
        await self.connection_pool.disconnect()

    async def primary(self) -> str | None:
        """The id of the run of the primary that answers; None if we may not ask. Leaves a server that is no primary."""
        try:
            said = await self.info()
        except ResponseError:
            return None
        if said.get("role", "master") != "master" or said.get("loading"):
            await self.leave()
            raise ReadOnlyError("the server is a replica, or still loads its data")
        return str(said.get("run_id"))


def _not_primary(error: BaseException) -> bool:
    # Redis 6.2 puts what a script ran into behind words of its own.
    known = isinstance(error, ReadOnlyError | MasterDownError | BusyLoadingError)
    return known or re.search(r"\b(READONLY|MASTERDOWN|LOADING)\b", str(error)) is not None


def _connect(url: str) -> _Client:
    # One retry, at once: it is for a pooled connection that the server has closed meanwhile. Every command we send may
    # be sent twice without harm. Whoever calls us does the waiting.
    client: _Client = _Client.from_url(  # type: ignore[assignment]
        url,
        # Not its own: on Python 3.11 it may swallow a cancellation (asyncio.wait_for). `_answering` keeps the time.
        socket_timeout=None,
        socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=0,
        client_name="scoreboardd",
    )
    return client


@asynccontextmanager
async def _answering(within: float = COMMAND_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Whatever goes wrong on the way to Redis and back, or takes longer than `within` seconds, is `Unavailable`."""
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError as error:
        raise Unavailable(f"redis: no answer in {within:g} s; see that it runs and that redis.url is right") from error
    except (RedisError, OSError, RuntimeError) as error:
        # RuntimeError is how uvloop says that a connection was reset before we wrote to it.
        raise Unavailable(_explain(error)) from error


def _explain(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    fix = "see that it runs and that redis.url is right"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        said = f"the server's certificate cannot be verified: {cause.verify_message}"
        fix = "see that ssl_ca_certs in redis.url is of the authority that signed it, and that it names this host"
    elif _not_primary(error):
        said = f"this server takes no writes now: {said}"
        fix = "connecting again; see that redis.url leads to the primary"
    return f"redis: {said}; {fix}"


async def _run_of(pubsub: Any) -> str | None:
    """The id of the run of the server that this subscription is going to be on; None if we may not ask."""
    await pubsub.connect()
    await pubsub.connection.send_command("INFO", "server")
    try:
        said = await pubsub.connection.read_response(disable_decoding=True)
    except ResponseError:
        return None
    found = re.search(rb"^run_id:(\w+)", said, re.MULTILINE)
    return found[1].decode() if found else None


def _script(client: aioredis.Redis, name: str) -> Any:
    return client.register_script((files(__package__) / f"{name}.lua").read_text())


class RedisClusterBackend:
    """The lock, the commit and the bus. See `base.Store`. With `encoding` "zstd" the documents that a commit replaces
    stay, for the vault to write over."""

    def __init__(self, url: str, *, prefix: str, lock_ttl: float, encoding: str) -> None:
        self._names = Names(prefix)
        self._keep = encoding == "zstd"
        self._ttl_ms = round(lock_ttl * 1000)
        self._redis = _connect(url)
        self._head = _script(self._redis, "head")
        self._acquire = _script(self._redis, "acquire")
        self._renew = _script(self._redis, "renew")
        self._commit = _script(self._redis, "commit")
        self._confirm = _script(self._redis, "confirm")
        self._abandon = _script(self._redis, "abandon")

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        names = self._names
        fresh_epoch = secrets.token_hex(4)
        async with _answering():
            won, *rest = await self._acquire(
                keys=[names.lock, names.fence, names.version],
                args=[
                    token,
                    self._ttl_ms,
                    fresh_epoch,
                    seen.epoch if seen else "",
                    seen.number if seen else 0,
                    names.channel(wire.BUILDING),
                    MAX_NUMBER,
                ],
            )
        if not won:
            return Busy(max(rest[0], 0) / 1000, overlong=bool(rest[1]))
        version = _version(b"%b-%d" % tuple(rest))
        if version is None:
            raise Unavailable("redis: what it says of its last version is no version; see what else writes to it")
        return Lease(token, version)

    async def renew(self, lease: Lease) -> bool:
        async with _answering():
            return bool(await self._renew(keys=[self._names.lock], args=[lease.token, self._ttl_ms]))

    async def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        names = self._names
        fresh = document_names.document_names(metadata.divisions)
        async with _answering():
            # Stable while we hold the lock, and if we do not, the script refuses.
            before = (await _read_head(self._head, names)).metadata
            return bool(
                await self._commit(
                    keys=[
                        names.lock,
                        names.fence,
                        names.version,
                        names.metadata,
                        *(
                            key
                            for name in fresh
                            for key in (names.staged(lease.token, name), names.document(name), names.previous(name))
                        ),
                        *(
                            key
                            for name in removed_documents(before, fresh)
                            for key in (names.document(name), names.previous(name))
                        ),
                    ],
                    args=[
                        lease.token,
                        lease.version.epoch,
                        lease.version.number,
                        len(fresh),
                        int(self._keep),
                        names.channel(wire.REBUILT),
                        wire.announcement(lease.version, event),
                        *_fields(_as_fields(metadata) | {"confirmed": lease.version.number}),
                    ],
                )
            )

    async def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        names, version = self._names, lease.version
        fields = {"confirmed": version.number, "complete": complete} | ({"full": version.number} if full else {})
        async with _answering():
            return bool(
                await self._confirm(
                    keys=[names.lock, names.version, names.metadata],
                    args=[
                        lease.token,
                        version.epoch,
                        version.number,
                        repr(as_of),
                        names.channel(wire.BUILDING),
                        *_fields(fields),
                    ],
                )
            )

    async def abandon(self, lease: Lease) -> None:
        names, version = self._names, lease.version
        async with _answering():
            await self._abandon(
                keys=[names.lock],
                args=[lease.token, version.epoch, version.number, names.channel(wire.BUILDING)],
            )

    async def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        async with _answering():
            await self._redis.publish(self._names.channel(wire.EVENTS), wire.change(event, id))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Message]]:
        async with self._redis.pubsub() as pubsub:
            # The events last: its confirmation says that all are in force.
            channels = [self._names.channel(c) for c in (wire.ECHO, wire.BUILDING, wire.REBUILT, wire.EVENTS)]
            async with _answering():
                run = await _run_of(pubsub)
                await pubsub.subscribe(*channels)
            yield self._messages(pubsub, run)

    async def _messages(self, pubsub: Any, run: str | None) -> AsyncIterator[Message]:
        echo, building, rebuilt, events = (
            self._names.channel(c).encode() for c in (wire.ECHO, wire.BUILDING, wire.REBUILT, wire.EVENTS)
        )
        time = asyncio.get_running_loop().time
        due, mark, subscribed = time() + COMMAND_TIMEOUT_SECONDS, None, False
        while True:
            async with _answering(2 * COMMAND_TIMEOUT_SECONDS):
                raw = await pubsub.get_message(timeout=max(due - time(), 0.01))
            if mark is None and time() >= due:
                mark = await self._say_mark(run)
                due = time() + COMMAND_TIMEOUT_SECONDS
            elif raw is None and time() >= due:
                # The connection is half open, or leads to another server than our commands do.
                await self._redis.leave()
                raise Unavailable(
                    "redis: the subscription does not answer to what is published; connecting again; "
                    "see that redis.url leads to one server, the primary"
                )
            if raw is None:
                continue
            said: Message | None = None
            channel, data = raw["channel"], raw["data"]
            if raw["type"] == "subscribe":
                # redis-py reconnects silently, perhaps to another server; a confirmation is the only sign of it.
                if subscribed:
                    raise Unavailable("redis: the subscription was interrupted; connecting again")
                if channel == events:
                    async with _answering():
                        said, subscribed = Subscribed((await _read_head(self._head, self._names)).given), True
            elif channel == echo:
                if mark is not None and data == mark:
                    due, mark = time() + COMMAND_TIMEOUT_SECONDS, None
            elif raw["type"] == "message" and channel == events:
                said = wire.changed(data)
            elif raw["type"] == "message" and channel == building:
                said = wire.building(data)
            elif raw["type"] == "message" and channel == rebuilt:
                said = wire.rebuilt(data)
            if said is not None:
                yield said

    async def _say_mark(self, run: str | None) -> bytes:
        """Publish what the subscription must hear if it is on the server that takes our commands."""
        mark = secrets.token_hex(8).encode()
        async with _answering(COMMAND_TIMEOUT_SECONDS):
            now = await self._redis.primary()
            if None not in (run, now) and run != now:
                await self._redis.leave()
                raise Unavailable("redis: commands reach another server than the subscription; connecting again")
            await self._redis.publish(self._names.channel(wire.ECHO), mark)
        return mark

    async def check(self) -> list[str]:
        """What is wrong with this server for our purpose, one line each."""
        async with _answering():
            await self._redis.ping()
        async with _answering(4 * COMMAND_TIMEOUT_SECONDS):
            return await check.problems(self._redis, self, self._names)

    def rehearsing(self, names: Names) -> "RedisClusterBackend":
        """The same, on the same connections, under other names."""
        other = copy.copy(self)
        other._names = names  # noqa: SLF001
        return other

    async def aclose(self) -> None:
        await self._redis.aclose()


class RedisDocumentStore:
    """The documents. See `base.Vault`.

    A commit leaves the documents it replaced. If it was this vault that had staged them, the next version is written
    over them where it differs (`slots`), so that it takes no longer for larger ones. Otherwise, and without zstd,
    documents are written whole.
    """

    def __init__(self, url: str, *, prefix: str, encoding: str, stage_ttl: float) -> None:
        self._names = Names(prefix)
        self._redis = _connect(url)
        self._head = _script(self._redis, "head")
        self._forget_script = _script(self._redis, "forget")
        self._compress = encoding == "zstd"
        self._stage_ttl_ms = round(stage_ttl * 1000)
        self._layouts: OrderedDict[Version, dict[str, value_layout.Layout]] = OrderedDict()
        "How the documents of the last two versions staged lie in their values."

    async def head(self) -> Head:
        head = await self._read_head()
        if head.metadata is None:
            return head
        names = document_names.document_names(head.metadata.divisions)
        async with _answering(), self._redis.pipeline(transaction=False) as lengths:
            for name in names:
                lengths.strlen(self._names.document(name))
            found = await lengths.execute(raise_on_error=False)
        wanted = [head.metadata.documents[name].length for name in names]
        return head if found == wanted else Head(None, None, given=head.given)

    async def _read_head(self) -> Head:
        """What is committed, whether or not the documents are there."""
        async with _answering():
            return await _read_head(self._head, self._names)

    async def stage(self, lease: Lease, documents: Mapping[str, Document]) -> tuple[int, Values]:
        values: dict[str, Value] = {}
        if not self._compress:
            for name, document in documents.items():
                text = await asyncio.to_thread(b"".join, document.text())
                values[name] = Value(await self._set(lease, name, text), await asyncio.to_thread(digest_of, text))
            return sum(value.length for value in values.values()), values
        # While we hold the lock nobody replaces it; and if we do not, our commit will be refused.
        previous = await self._previous()
        known = self._layouts.get(previous, {}) if previous else {}
        self._layouts.pop(lease.version, None)  # staged before, and not to be known until all is staged again
        layouts: dict[str, value_layout.Layout] = {}
        written = 0
        for name, document in documents.items():
            patch = await asyncio.to_thread(value_layout.patch, known[name], document) if name in known else None
            if patch is not None and await self._patch(lease, name, value_layout.size(known[name]), patch[1]):
                layouts[name], writes = patch
                written += sum(len(part) for _, part in writes)
            else:
                layouts[name] = value_layout.new_layout(document)
                written += await self._set(
                    lease, name, await asyncio.to_thread(value_layout.value, layouts[name], document)
                )
            values[name] = Value(value_layout.size(layouts[name]), document.zstd_digest)
        self._layouts[lease.version] = layouts
        if len(self._layouts) > 2:
            self._layouts.popitem(last=False)
        return written, values

    async def _previous(self) -> Version | None:
        """Which version the documents are of that the last commit replaced."""
        async with _answering():
            try:
                said: Any = await self._redis.hget(self._names.metadata, "previous")
            except ResponseError:  # of another type
                return None
        return _version(said)

    async def _set(self, lease: Lease, name: str, payload: bytes) -> int:
        async with _answering(TRANSFER_TIMEOUT_SECONDS):
            await self._redis.set(self._names.staged(lease.token, name), payload, px=self._stage_ttl_ms)
        return len(payload)

    async def _patch(self, lease: Lease, name: str, size: int, writes: list[value_layout.Write]) -> bool:
        """Stage a document by these writes over the previous one. False if that is gone, or not as we left it; then
        there is nothing of use under the staged name."""
        staged = self._names.staged(lease.token, name)
        async with _answering(TRANSFER_TIMEOUT_SECONDS), self._redis.pipeline(transaction=True) as steps:
            steps.rename(self._names.previous(name), staged)
            steps.strlen(staged)
            for offset, part in writes:
                steps.setrange(staged, offset, part)
            steps.pexpire(staged, self._stage_ttl_ms)
            answers = await steps.execute(raise_on_error=False)
        return answers == [True, *[size] * (1 + len(writes)), True]

    async def load(self, have: Version | None) -> StoredSnapshot:
        head, found = await self._committed(have)
        try:
            intact = [(name, await self._verified(name, value, wanted)) for name, value, wanted in found]
        except Damaged:
            if head.version is not None:
                await self._forget(head.version)
            raise
        return StoredSnapshot(head, [(name, await _zstd(value)) for name, value in intact] or None)

    async def verify(self) -> None:
        _, found = await self._committed(None)
        for each in found:
            await self._verified(*each)

    async def _committed(self, have: Version | None) -> tuple[Head, list[tuple[str, Any, Value]]]:
        """What is committed, and what is under the names of the documents, unless it is the version `have`."""
        while True:
            run = await self._run()
            head = await self._read_head()
            if head.metadata is None or head.version == have:
                return head, []
            values = head.metadata.documents
            found = [
                (name, await self._document(name), values[name])
                for name in document_names.document_names(head.metadata.divisions)
            ]
            if (await self._read_head()).version == head.version and await self._run() == run:
                return head, found
            # A commit came between, the next is seconds away; or another server, which may be behind.

    async def _verified(self, name: str, value: Any, wanted: Value) -> bytes:
        return await asyncio.to_thread(verified, f"redis: {self._names.document(name)}", value, wanted)

    async def _forget(self, version: Version) -> None:
        names = self._names
        async with _answering():
            await self._forget_script(keys=[names.version, names.metadata], args=[str(version)])

    async def _run(self) -> str | None:
        """Which run of which server answers; None if we may not ask."""
        async with _answering():
            return await self._redis.primary()

    async def _document(self, name: str) -> Any:
        async with _answering(TRANSFER_TIMEOUT_SECONDS):
            try:
                return await self._redis.get(self._names.document(name))
            except ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return None

    async def aclose(self) -> None:
        await self._redis.aclose()


async def _read_head(script: Any, names: Names) -> Head:
    version, fields, epoch, number = await script(keys=[names.version, names.metadata, names.fence])
    said = dict(zip(fields[::2], fields[1::2], strict=True))
    metadata = {name: _json(said.get(name.encode())) for name in METADATA_FIELDS}
    return head_of(_version(version), metadata, _version(b"%b-%b" % (epoch, number)))


def _fields(values: Mapping[str, Any]) -> list[Any]:
    """As a script takes the fields of a hash."""
    return [part for name, value in values.items() for part in (name, orjson.dumps(value))]


def _as_fields(metadata: SnapshotMetadata) -> dict[str, Any]:
    return {field.name: getattr(metadata, field.name) for field in fields(metadata)}


def _version(text: bytes | None) -> Version | None:
    return Version.parse(text.decode(errors="replace")) if text else None


def _json(text: bytes | None) -> Any:
    """None if it is not JSON."""
    try:
        return orjson.loads(text or b"null")
    except orjson.JSONDecodeError:
        return None


async def _zstd(value: bytes) -> bytes:
    return value if is_zstd(value) else await asyncio.to_thread(compressed, value)
