"""The lock, the commit and the bus in Redis."""

import asyncio
import copy
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import orjson
from redis.exceptions import ResponseError

from scoreboardd.backends.base import (
    MESSAGES_PER_TURN,
    Busy,
    Lease,
    Message,
    SnapshotMetadata,
    Subscribed,
    Unavailable,
    removed_documents,
)
from scoreboardd.backends.names import Names
from scoreboardd.backends.redis import check
from scoreboardd.backends.redis.connection import (
    COMMAND_TIMEOUT_SECONDS,
    connect,
    deadline,
    load_script,
    parse_version,
    read_head,
)
from scoreboardd.board import document_names
from scoreboardd.cluster import wire
from scoreboardd.model import MAX_NUMBER, ChangeEvent, Version


class RedisClusterBackend:
    """The lock, the commit and the bus. See `base.ClusterBackend`. With `encoding` "zstd" a commit keeps the documents
    that it replaces, for the document store to write over."""

    def __init__(self, url: str, *, prefix: str, lock_ttl: float, encoding: str) -> None:
        self._names = Names(prefix)
        self._keep = encoding == "zstd"
        self._ttl_ms = round(lock_ttl * 1000)
        self._url = url
        self._redis = connect(url)
        self._head = load_script(self._redis, "head")
        self._acquire = load_script(self._redis, "acquire")
        self._renew = load_script(self._redis, "renew")
        self._commit = load_script(self._redis, "commit")
        self._confirm = load_script(self._redis, "confirm")
        self._abandon = load_script(self._redis, "abandon")

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        names = self._names
        fresh_epoch = secrets.token_hex(4)
        async with deadline():
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
        version = parse_version(b"%b-%d" % tuple(rest))
        if version is None:
            raise Unavailable("redis: what it says of its last version is no version; see what else writes to it")
        return Lease(token, version)

    async def renew(self, lease: Lease) -> bool:
        async with deadline():
            return bool(await self._renew(keys=[self._names.lock], args=[lease.token, self._ttl_ms]))

    async def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        names = self._names
        fresh = document_names.document_names(metadata.divisions)
        async with deadline():
            # Stable while we hold the lock, and if we do not, the script refuses.
            before = (await read_head(self._head, names)).metadata
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
        async with deadline():
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
        async with deadline():
            await self._abandon(
                keys=[names.lock],
                args=[lease.token, version.epoch, version.number, names.channel(wire.BUILDING)],
            )

    async def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        async with deadline():
            await self._redis.publish(self._names.channel(wire.EVENTS), wire.change(event, id))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Message]]:
        async with self._redis.pubsub() as pubsub:
            # The events last: its confirmation says that all are in force.
            channels = [self._names.channel(c) for c in (wire.ECHO, wire.BUILDING, wire.REBUILT, wire.EVENTS)]
            async with deadline():
                run = await _run_of(pubsub)
                await pubsub.subscribe(*channels)
            yield self._messages(pubsub, run)

    async def _messages(self, pubsub: Any, run: str | None) -> AsyncIterator[Message]:
        echo, building, rebuilt, events = (
            self._names.channel(c).encode() for c in (wire.ECHO, wire.BUILDING, wire.REBUILT, wire.EVENTS)
        )
        time = asyncio.get_running_loop().time
        due, mark, subscribed = time() + COMMAND_TIMEOUT_SECONDS, None, False
        received = 0
        while True:
            async with deadline(2 * COMMAND_TIMEOUT_SECONDS):
                raw = await pubsub.get_message(timeout=max(due - time(), 0.01))
            if mark is None and time() >= due:
                mark = await self._send_mark(run)
                due = time() + COMMAND_TIMEOUT_SECONDS
            elif raw is None and time() >= due:
                # The connection is half open, or leads to another server than our commands do.
                await self._redis.leave()
                raise Unavailable(
                    "redis: the subscription does not answer to what is published; reconnecting; "
                    "see that redis.url leads to one server, the primary"
                )
            if raw is None:
                continue
            received += 1
            if received % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # so that a flood does not hold up the loop
            said: Message | None = None
            channel, data = raw["channel"], raw["data"]
            if raw["type"] == "subscribe":
                # redis-py reconnects silently, perhaps to another server; a confirmation is the only sign of it.
                if subscribed:
                    raise Unavailable("redis: the subscription was interrupted; reconnecting")
                if channel == events:
                    async with deadline():
                        said, subscribed = Subscribed((await read_head(self._head, self._names)).given), True
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

    async def _send_mark(self, run: str | None) -> bytes:
        """Publish what the subscription must receive if it is on the server that `redis.url` leads to now.

        On a connection of its own: the name in the URL may lead to another server since we connected, while the old
        one still works.
        """
        mark = secrets.token_hex(8).encode()
        client = connect(self._url)
        try:
            async with deadline(COMMAND_TIMEOUT_SECONDS):
                now = await client.primary()
                if None not in (run, now) and run != now:
                    await self._redis.leave()
                    raise Unavailable("redis: redis.url leads to another server than before; reconnecting")
                await client.publish(self._names.channel(wire.ECHO), mark)
        finally:
            await client.aclose()
        return mark

    async def check(self) -> list[str]:
        """Returns what keeps this server from serving the daemon, one line each."""
        async with deadline():
            await self._redis.ping()
        async with deadline(4 * COMMAND_TIMEOUT_SECONDS):
            return await check.problems(self._redis, self, self._names)

    def rehearsing(self, names: Names) -> "RedisClusterBackend":
        """Returns a backend on the same connections, under other names."""
        other = copy.copy(self)
        other._names = names  # noqa: SLF001
        return other

    async def aclose(self) -> None:
        await self._redis.aclose()


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


def _fields(values: Mapping[str, Any]) -> list[Any]:
    """As a script takes the fields of a hash."""
    return [part for name, value in values.items() for part in (name, orjson.dumps(value))]


def _as_fields(metadata: SnapshotMetadata) -> dict[str, Any]:
    return {field.name: getattr(metadata, field.name) for field in fields(metadata)}
