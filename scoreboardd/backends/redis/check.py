"""What would keep a Redis server from serving us, found by doing what the daemon does, under names of a test."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from scoreboardd.backends.base import Lease, SnapshotMetadata, Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.board import document_names
from scoreboardd.cluster import wire
from scoreboardd.model import ChangeEvent

if TYPE_CHECKING:
    from scoreboardd.backends.redis.cluster import RedisClusterBackend

COMMAND_TIMEOUT_SECONDS = 5.0
"Seconds for each step."
TEST_TTL_MS = 30_000
VERSIONS = 2
"Versions of the documents that must fit into memory beside the present one."


@dataclass(frozen=True, slots=True)
class _TestNames(Names):
    """Keys that no node uses. Every message goes to the channel of marks, where a node ignores marks of others."""

    cluster: str = ""

    def channel(self, name: str) -> str:
        return Names(self.cluster).channel(wire.ECHO)


def acl(prefix: str) -> str:
    """The rights that suffice."""
    return (
        f"~{prefix}leaderboard:* ~{prefix}timeline:* ~{prefix}scoreboard:* &{prefix}scoreboard.* "
        "+@read +@write +@connection +@pubsub +@transaction +@scripting +info +time"
    )


async def problems(client: Any, store: "RedisClusterBackend", names: Names) -> list[str]:
    """Returns what is wrong, one line each, with its fix."""
    async with asyncio.timeout(4 * COMMAND_TIMEOUT_SECONDS):
        wrong = await _server(client, names)
        if any("takes no writes" in line for line in wrong):
            return wrong
        missing = [line async for line in _rights(client, names)]
        if not missing:
            missing = await _rehearsal(client, store, names)
        return wrong + missing + await _foreign(client, names)


async def _server(client: Any, names: Names) -> list[str]:
    try:
        server: dict[str, Any] = await client.info()
    except NoPermissionError:
        return []  # the daemon works without
    wrong = []
    if server.get("role", "master") != "master":
        wrong.append("redis: this is a replica, it takes no writes; point redis.url at the primary")
    policy = str(server.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        wrong.append(
            f"redis: maxmemory-policy is {policy}, so it may throw the documents away; "
            "set it to noeviction or a volatile- policy"
        )
    if most := int(server.get("maxmemory", 0)):
        left = max(most - int(server.get("used_memory", 0)), 0)
        need = VERSIONS * await _size(client, names)
        if left <= need:
            wrong.append(
                f"redis: {left} bytes are left of maxmemory, and {VERSIONS} versions of the documents take {need}; "
                "raise maxmemory, or set redis.encoding to zstd"
            )
    return wrong


async def _size(client: Any, names: Names) -> int:
    """Bytes of the documents that are there."""
    try:
        divisions = orjson.loads(await client.hget(names.metadata, "divisions") or b"[]")
        return sum(
            [await client.strlen(names.document(name)) for name in document_names.document_names(map(int, divisions))]
        )
    except (ResponseError, TypeError, ValueError):
        return 0  # no documents of ours


async def _rights(client: Any, names: Names) -> AsyncIterator[str]:
    """Asked with the real names. A server looks at rights when it queues a command, and none of these is executed."""
    shown = [names.document(name) for name in document_names.document_names(())]
    staged = names.staged("check", "check")
    asked: list[tuple[str, tuple[Any, ...]]] = [
        *(
            (f"key {key}", ("SET", key, "x", "PX", 1))
            for key in (names.lock, names.version, *shown, staged, names.previous("check"))
        ),
        *((f"key {key}", ("HSET", key, "x", "x")) for key in (names.fence, names.metadata)),
        *(
            (f"PUBLISH on {names.channel(name)}", ("PUBLISH", names.channel(name), "x"))
            for name in (wire.EVENTS, wire.BUILDING, wire.REBUILT, wire.ECHO)
        ),
        *((f"command {c[0]}", c) for c in _commands(shown[0])),
        ("EVAL", ("EVAL", "return 1", 0)),
        ("EVALSHA", ("EVALSHA", "0" * 40, 0)),
        ("SCRIPT LOAD", ("SCRIPT", "LOAD", "return 1")),
    ]
    connection = await client.connection_pool.get_connection()
    try:
        for what, command in asked:
            if (said := await _refused(connection, command)) is not None:
                yield f"redis: no right to use {what} ({said}); {_grant(names)}"
    finally:
        await connection.disconnect()
        await client.connection_pool.release(connection)


def _commands(key: str) -> list[tuple[Any, ...]]:
    """The commands that documents are read and written with, and TIME, which a script needs after a restart."""
    return [
        *(("GET", key), ("EXISTS", key), ("STRLEN", key), ("HGET", key, "x"), ("HGETALL", key), ("UNLINK", key)),
        *(("RENAME", key, key), ("SETRANGE", key, 0, "x"), ("PEXPIRE", key, 1), ("TYPE", key), ("PTTL", key)),
        ("TIME",),
    ]


async def _refused(connection: Any, command: tuple[Any, ...]) -> str | None:
    said = None
    for part in (("MULTI",), command, ("DISCARD",)):
        await connection.send_command(*part)
        try:
            await connection.read_response()
        except NoPermissionError as error:
            said = said or " ".join(str(error).split())
        except ResponseError:
            pass  # not a matter of rights: the rehearsal meets it
    return said


def _grant(names: Names) -> str:
    return f"let an administrator run: ACL SETUSER <user> {acl(names.prefix)}"


async def _rehearsal(client: Any, store: "RedisClusterBackend", names: Names) -> list[str]:
    test = _TestNames(f"{names.prefix}scoreboard:check:{secrets.token_hex(4)}:", names.prefix)
    steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("receive what it publishes", lambda: _receive(client, names)),
        ("lock, stage, commit and read a document", lambda: _commit(client, store.rehearsing(test), test)),
    ]
    wrong = []
    for what, step in steps:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                await step()
        except TimeoutError:
            wrong.append(
                f"redis: the daemon cannot {what}: no answer in {COMMAND_TIMEOUT_SECONDS:g} s; "
                "see that redis.url is right"
            )
        except NoPermissionError as error:
            wrong.append(f"redis: the daemon cannot {what} ({error}); {_grant(names)}")
        except (Unavailable, RedisError) as error:
            said = " ".join(str(error).split()).removeprefix("redis: ")
            wrong.append(f"redis: the daemon cannot {what}: {said}")
    return wrong


async def _receive(client: Any, names: Names) -> None:
    mark = secrets.token_hex(8).encode()
    channels = [names.channel(name) for name in (wire.EVENTS, wire.BUILDING, wire.REBUILT, wire.ECHO)]
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(*channels)
        confirmed = 0
        while True:
            said = await pubsub.get_message(timeout=COMMAND_TIMEOUT_SECONDS)
            if said is not None and said["type"] == "subscribe":
                confirmed += 1
                if confirmed == len(channels):
                    await client.publish(channels[-1], mark)
            elif said is not None and said["data"] == mark:
                return


async def _commit(client: Any, store: "RedisClusterBackend", test: Names) -> None:
    fresh = document_names.document_names(())
    lease = await store.acquire("check", None)
    try:
        if not isinstance(lease, Lease):
            raise Unavailable("redis: the lock of a test is held; run check again")
        for name in fresh:
            await client.set(test.staged(lease.token, name), b"{}", px=TEST_TTL_MS)
        if not await store.renew(lease) or not await store.commit(
            lease, SnapshotMetadata("check", 0.0, ()), ChangeEvent.updated()
        ):
            raise Unavailable("redis: what was staged was gone before the commit; see that redis evicts nothing")
        if await client.get(test.document(fresh[0])) != b"{}":
            raise Unavailable("redis: what was committed is not there; see that redis.url leads to one server")
    finally:
        await client.delete(
            test.lock,
            test.fence,
            test.version,
            test.metadata,
            *(key for name in fresh for key in (test.document(name), test.previous(name), test.staged("check", name))),
        )


async def _foreign(client: Any, names: Names) -> list[str]:
    """Values under our keys that no node has written."""
    apart = "give this cluster a redis.key_prefix or another database number, or delete it"
    kinds = {names.version: "string", names.metadata: "hash", names.fence: "hash", names.lock: "string"}
    shown = [names.document(name) for name in document_names.document_names(())]
    wrong = []
    there = set()
    try:
        for key, kind in (kinds | dict.fromkeys(shown, "string")).items():
            found = (await client.type(key)).decode()
            if found != "none":
                there.add(key)
            if found not in ("none", kind):
                wrong.append(f"redis: {key} is a {found} of another program; {apart}")
            elif key != names.lock and found != "none" and await client.pttl(key) >= 0:
                wrong.append(f"redis: {key} has an end (a TTL), so another program has written it; {apart}")
        if names.metadata not in there:
            wrong += [
                f"redis: {key} is of another program: nothing is committed; {apart}" for key in shown if key in there
            ]
    except NoPermissionError as error:
        wrong.append(f"redis: the daemon cannot look at its keys ({error}); {_grant(names)}")
    return wrong
