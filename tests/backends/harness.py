"""What the tests of a backend do to its server behind its back, and the calls that they all make."""

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from scoreboardd.backends.base import ClusterBackend, DocumentStore, Lease, Message, SnapshotMetadata, Subscribed
from scoreboardd.backends.local.bus import LocalBus
from scoreboardd.backends.local.cluster import LocalClusterBackend
from scoreboardd.backends.local.documents import LocalDocumentStore
from scoreboardd.backends.local.file import NAME, LocalFile
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.cluster import wire
from scoreboardd.model import ChangeEvent, Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import plain
from tests.documents import document_of

SOLVE = ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z")
LOCK_TTL_SECONDS = 60.0
STAGE_TTL_SECONDS = 30.0


def flipped(value: bytes) -> bytes:
    """A document with one bit changed."""
    return value[:20] + bytes([value[20] ^ 1]) + value[21:]


class Harness:
    """One cluster on a real server. Whatever it opens is closed with `stack`."""

    channel_separator = "."

    def __init__(
        self, address: str, client: Any, names: Names, stack: AsyncExitStack, encoding: str = "identity"
    ) -> None:
        self.encoding = encoding
        self.address = address
        self.client = client
        self.names = names
        self._stack = stack

    def cluster_backend(self, lock_ttl: float = LOCK_TTL_SECONDS) -> ClusterBackend:
        backend = self._cluster_backend(lock_ttl)
        self._stack.push_async_callback(backend.aclose)
        return backend

    def document_store(self) -> DocumentStore:
        document_store = self._document_store()
        self._stack.push_async_callback(document_store.aclose)
        return document_store

    async def flip(self, key: str) -> None:
        await self.change(key, flipped)

    async def publish(self, prefix: str, channel: str, payload: str) -> None:
        """Publishes as a program that is no node; `channel` is the part behind `scoreboard`."""
        await self._publish(f"{prefix}scoreboard{self.channel_separator}{channel}", payload)

    async def flood(self, count: int) -> None:
        """Publishes `count` different events at once."""
        await self._publish_many(
            f"{self.names.prefix}scoreboard{self.channel_separator}events",
            [f'{{"scope": "all", "reason": "flood {n}"}}' for n in range(count)],
        )


class RedisHarness(Harness):
    def _cluster_backend(self, lock_ttl: float) -> RedisClusterBackend:
        return RedisClusterBackend(self.address, prefix=self.names.prefix, lock_ttl=lock_ttl, encoding=self.encoding)

    def _document_store(self) -> RedisDocumentStore:
        return RedisDocumentStore(
            self.address, prefix=self.names.prefix, encoding=self.encoding, stage_ttl=STAGE_TTL_SECONDS
        )

    async def keys(self, begins: str = "") -> list[str]:
        return sorted([key.decode() async for key in self.client.scan_iter(match=f"{self.names.prefix}{begins}*")])

    async def holder(self) -> str | None:
        token = await self.client.get(self.names.lock)
        return token.decode() if token else None

    async def seconds_left(self, key: str) -> float:
        return await self.client.pttl(key) / 1000

    async def set_lock(self, token: str, seconds: float) -> None:
        await self.client.set(self.names.lock, token, px=round(seconds * 1000))

    async def expire_lock(self) -> None:
        await self.client.delete(self.names.lock)

    async def set_number(self, number: int) -> None:
        await self.client.hset(self.names.fence, "number", number)

    async def set_epoch(self, epoch: str) -> None:
        await self.client.hset(self.names.fence, "epoch", epoch)

    async def forget_number(self) -> None:
        await self.client.delete(self.names.fence)

    async def set_version(self, version: Version) -> None:
        await self.client.set(self.names.version, str(version))

    async def delete(self, *keys: str) -> None:
        if keys:
            await self.client.delete(*keys)

    async def change(self, key: str, to: Callable[[bytes], bytes]) -> None:
        await self.client.set(key, to(await self.client.get(key)))

    async def set_huge(self, what: str, size: int) -> None:
        """Replaces a document, a field of the metadata or the version by a value of `size` bytes."""
        if what == "metadata":
            await self.client.hset(self.names.metadata, "digest", b"x" * size)
        else:
            key = self.names.version if what == "version" else self.names.document("leaderboard:users")
            await self.client.set(key, b"x" * size)

    async def set_metadata(self, field: str, value: str) -> None:
        await self.client.hset(self.names.metadata, field, value)

    async def _publish(self, channel: str, payload: str) -> None:
        await self.client.publish(channel, payload)

    async def _publish_many(self, channel: str, payloads: list[str]) -> None:
        async with self.client.pipeline(transaction=False) as publishing:
            for payload in payloads:
                publishing.publish(channel, payload)
            await publishing.execute()


class PostgresHarness(Harness):
    channel_separator = "_"

    def _cluster_backend(self, lock_ttl: float) -> PostgresClusterBackend:
        return PostgresClusterBackend(self.address, prefix=self.names.prefix, lock_ttl=lock_ttl)

    def _document_store(self) -> PostgresDocumentStore:
        return PostgresDocumentStore(self.address, prefix=self.names.prefix, stage_ttl=STAGE_TTL_SECONDS)

    async def keys(self, begins: str = "") -> list[str]:
        query = "SELECT cache_key FROM leaderboard_cache WHERE starts_with(cache_key, $1) ORDER BY 1"
        return [key for (key,) in await self.client.fetch(query, self.names.prefix + begins)]

    async def holder(self) -> str | None:
        query = "SELECT building_token FROM leaderboard_cache WHERE cache_key = $1 AND building_until > now()"
        return await self.client.fetchval(query, self.names.lock)

    async def seconds_left(self, key: str) -> float:
        query = "SELECT extract(epoch FROM building_until - now())::float8 FROM leaderboard_cache WHERE cache_key = $1"
        return await self.client.fetchval(query, key)

    async def set_lock(self, token: str, seconds: float) -> None:
        until = f"now() + interval '{seconds} s'"
        await self._set(self.names.lock, f"building_token = '{token}', building_until = {until}")

    async def expire_lock(self) -> None:
        await self._set(self.names.lock, "building_until = now() - interval '1 ms'")

    async def set_number(self, number: int) -> None:
        await self._set(self.names.lock, f"version = {number}")

    async def set_epoch(self, epoch: str) -> None:
        await self._set(self.names.lock, f"epoch = '{epoch}'")

    async def forget_number(self) -> None:
        await self._set(self.names.lock, "epoch = NULL, version = NULL")

    async def set_version(self, version: Version) -> None:
        await self._set(self.names.version, f"epoch = '{version.epoch}', version = {version.number}")

    async def delete(self, *keys: str) -> None:
        await self.client.execute("DELETE FROM leaderboard_cache WHERE cache_key = ANY ($1)", keys)

    async def change(self, key: str, to: Callable[[bytes], bytes]) -> None:
        value = await self.client.fetchval("SELECT payload FROM leaderboard_cache WHERE cache_key = $1", key)
        await self.client.execute("UPDATE leaderboard_cache SET payload = $2 WHERE cache_key = $1", key, to(value))

    async def set_huge(self, what: str, size: int) -> None:
        key = self.names.version if what == "metadata" else self.names.document("leaderboard:users")
        await self._set(key, f"payload = convert_to(repeat('x', {size}), 'UTF8')")

    async def set_metadata(self, field: str, value: str) -> None:
        changed = f"convert_to(jsonb_set(convert_from(payload, 'UTF8')::jsonb, '{{{field}}}', '{value}')::text, 'UTF8')"
        assignments = f"payload = {changed}"
        if field == "as_of":
            as_of = "'infinity'" if value == "1e999" else f"to_timestamp({value})"
            assignments = f"generated_at = {as_of}"
        await self._set(self.names.version, assignments)

    async def _publish(self, channel: str, payload: str) -> None:
        await self.client.execute("SELECT pg_notify($1, $2)", channel, payload)

    async def _publish_many(self, channel: str, payloads: list[str]) -> None:
        await self.client.execute("SELECT pg_notify($1, payload) FROM unnest($2::text[]) payload", channel, payloads)

    async def _set(self, key: str, assignments: str) -> None:
        done = await self.client.execute(f"UPDATE leaderboard_cache SET {assignments} WHERE cache_key = $1", key)
        assert done == "UPDATE 1"


class LocalHarness(Harness):
    """`address` is a folder, and `client` the connection to the file in it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bus = LocalBus(Path(self.address))

    def _cluster_backend(self, lock_ttl: float) -> LocalClusterBackend:
        return LocalClusterBackend(Path(self.address), prefix=self.names.prefix, lock_ttl=lock_ttl, bus=self._bus)

    def _document_store(self) -> LocalDocumentStore:
        return LocalDocumentStore(self.address, prefix=self.names.prefix, stage_ttl=STAGE_TTL_SECONDS)

    async def keys(self, begins: str = "") -> list[str]:
        begins = self.names.prefix + begins
        return [key for (key,) in self._execute("SELECT key FROM entries ORDER BY key") if key.startswith(begins)]

    async def holder(self) -> str | None:
        query = "SELECT token FROM entries WHERE key = ? AND until > ?"
        found = self._execute(query, self.names.lock, time.time()).fetchone()
        return found[0] if found else None

    async def seconds_left(self, key: str) -> float:
        return self._execute("SELECT until FROM entries WHERE key = ?", key).fetchone()[0] - time.time()

    async def set_lock(self, token: str, seconds: float) -> None:
        self._set(self.names.lock, token=token, until=time.time() + seconds)

    async def expire_lock(self) -> None:
        self._set(self.names.lock, until=time.time() - 0.001)

    async def set_number(self, number: int) -> None:
        self._set(self.names.lock, number=number)

    async def set_epoch(self, epoch: str) -> None:
        self._set(self.names.lock, epoch=epoch)

    async def forget_number(self) -> None:
        self._set(self.names.lock, epoch=None, number=None)

    async def set_version(self, version: Version) -> None:
        self._set(self.names.version, epoch=version.epoch, number=version.number)

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._execute("DELETE FROM entries WHERE key = ?", key)

    async def change(self, key: str, to: Callable[[bytes], bytes]) -> None:
        (payload,) = self._execute("SELECT payload FROM entries WHERE key = ?", key).fetchone()
        self._set(key, payload=to(payload))

    async def flip(self, key: str) -> None:
        (payload,) = self._execute("SELECT payload FROM entries WHERE key = ?", key).fetchone()
        value = bytearray(payload)
        value[20] ^= 1
        self._set(key, payload=bytes(value))

    async def set_metadata(self, field: str, value: str) -> None:
        if field == "as_of":
            self._set(self.names.version, as_of=float(value))
            return
        (payload,) = self._execute("SELECT payload FROM entries WHERE key = ?", self.names.version).fetchone()
        fields = json.loads(payload) | {field: json.loads(value)}
        self._set(self.names.version, payload=json.dumps(fields).encode())

    async def _publish(self, channel: str, payload: str) -> None:
        """What a program publishes never reaches this bus; an event source passes on what it has received."""
        if channel == f"{self.names.prefix}scoreboard.events":
            self._bus.send(wire.changed(payload.encode()))

    async def _publish_many(self, channel: str, payloads: list[str]) -> None:
        for payload in payloads:
            await self._publish(channel, payload)

    def _execute(self, query: str, *arguments: Any) -> Any:
        return self.client.execute(query, arguments)

    def _set(self, key: str, **columns: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        assert self._execute(f"UPDATE entries SET {names} WHERE key = ?", *columns.values(), key).rowcount == 1


@asynccontextmanager
async def opened(name: str, address: str) -> AsyncIterator[Any]:
    """A harness under a prefix of its own, whose keys are deleted at the end. `name` is that of a backend, or of an
    encoding of the Redis backend."""
    names = Names(f"t-{secrets.token_hex(4)}:")
    async with AsyncExitStack() as stack:
        if name == "postgres":
            client: Any = await asyncpg.connect(address, timeout=10, command_timeout=30)
            stack.callback(client.terminate)
            harness: Any = PostgresHarness(address, client, names, stack)
        elif name == "local":
            LocalFile(Path(address)).run(lambda *_: None)  # makes it
            client = stack.enter_context(closing(sqlite3.connect(Path(address) / NAME, isolation_level=None)))
            harness = LocalHarness(address, client, names, stack)
        else:
            client = await stack.enter_async_context(Redis.from_url(address, socket_timeout=None))
            harness = RedisHarness(address, client, names, stack, "zstd" if name == "zstd" else "identity")
        yield harness
        await harness.delete(*await harness.keys())


async def won(store: ClusterBackend, token: str = "me", seen: Version | None = None) -> Lease:
    """Acquires the lock, which has to be free."""
    lease = await store.acquire(token, seen)
    assert isinstance(lease, Lease)
    return lease


async def acquired(store: ClusterBackend, token: str) -> Lease | None:
    answer = await store.acquire(token, None)
    return answer if isinstance(answer, Lease) else None


def text(name: str, version: Version) -> bytes:
    return f'"{name} of {version}"'.encode()


def documents(version: Version, divisions: tuple[int, ...] = ()) -> dict[str, Document]:
    """Each contains its name and the version."""
    return {name: document_of(text(name, version)) for name in document_names(divisions)}


async def stage(document_store: DocumentStore, lease: Lease, divisions: tuple[int, ...] = ()) -> SnapshotMetadata:
    """Stages the documents of the lease's version. Returns what to commit them with."""
    _, values = await document_store.stage(lease, documents(lease.version, divisions))
    as_of = 1772215200.25 + lease.version.number
    return replace(SnapshotMetadata(f"digest of {lease.version}", as_of, divisions), documents=values)


async def holds(document_store: DocumentStore, version: Version) -> SnapshotMetadata:
    """Asserts that this version is committed, and nothing else. Returns its metadata."""
    stored = await document_store.load(None)
    assert stored.documents is not None
    assert stored.head.metadata is not None
    assert stored.head.version == version
    assert stored.head.metadata.digest == f"digest of {version}"
    assert [name for name, _ in stored.documents] == document_names(stored.head.metadata.divisions)
    assert all(plain(document) == text(name, version) for name, document in stored.documents)
    return stored.head.metadata


@asynccontextmanager
async def hearing(store: ClusterBackend) -> AsyncIterator[Callable[[int], Any]]:
    """Subscribes; what it yields waits for so many messages after the first, which says that it has begun."""
    async with asyncio.timeout(20), store.subscribe() as messages:
        assert isinstance(await anext(messages), Subscribed)

        async def heard(count: int) -> list[Message]:
            return [await anext(messages) for _ in range(count)]

        yield heard
