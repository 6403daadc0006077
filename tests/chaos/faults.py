"""The faults: each is done to a world, lasts, and is mended before it returns."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psutil

from scoreboardd.backends.names import Names
from scoreboardd.board.document_names import document_names
from tests.chaos.proxy import Proxy
from tests.chaos.world import (
    CACHE,
    KEPT,
    LOCK_TTL,
    PREFIX,
    ArchivedWorld,
    LocalWorld,
    Member,
    PostgresWorld,
    RedisWorld,
    World,
)
from tests.nodes import until

#: What happens after `SIGSTOP` must happen to a holder whose lock has run out.
FREEZE = LOCK_TTL + 1.5

# Whoever wants all rows waits for the statements of nodes first, lest it and they wait for each other: for all of them,
# or for those that hold the lease's row, which take it before any other.
ALONE = "LOCK TABLE leaderboard_cache IN EXCLUSIVE MODE"
LEASE_FIRST = f"SELECT FROM leaderboard_cache WHERE cache_key = '{PREFIX}leaderboard:rebuild:lock' FOR UPDATE"


@dataclass(frozen=True)
class Fault:
    name: str
    befall: Callable[[Any, random.Random], Awaitable[None]]
    "Is given the world, of a class that knows this fault."


def fault(befall: Callable[[Any, random.Random], Awaitable[None]]) -> Fault:
    """Named like the function."""
    return Fault(befall.__name__.replace("_", " "), befall)


def _one(world: World, rng: random.Random) -> Member:
    return rng.choice(world.members)


# Nodes


@fault
async def kill_a_node(world: World, rng: random.Random) -> None:
    member = _one(world, rng)
    await member.kill()
    await asyncio.sleep(rng.uniform(0, 1))
    await member.start()


@fault
async def kill_all_nodes(world: World, rng: random.Random) -> None:
    await _kill_all(world)
    await _start_all(world)


@fault
async def freeze_a_node(world: World, rng: random.Random) -> None:
    process = _one(world, rng).node.process
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(FREEZE)
    process.send_signal(signal.SIGCONT)


async def _kill_all(world: World) -> None:
    await asyncio.gather(*(member.kill() for member in world.members))


async def _start_all(world: World) -> None:
    await asyncio.gather(*(member.start() for member in world.members))


# Links


def links(
    name: str,
    server: str,
    befall: Callable[[Proxy, random.Random], None],
    *,
    everybody: bool,
    seconds: tuple[float, float] = (0, 0),
    then_reset: bool = False,
) -> Fault:
    """Something befalls the links of a node, or of everybody, to a server, and lasts for some seconds."""

    async def befall_links(world: World, rng: random.Random) -> None:
        members = world.members if everybody else [_one(world, rng)]
        befallen = [member.links[server] for member in members]
        for link in befallen:
            befall(link, rng)
        await asyncio.sleep(rng.uniform(*seconds))
        for link in befallen:
            if then_reset:
                link.reset()
            link.heal()

    return Fault(f"{name} {server}, {'all nodes' if everybody else 'a node'}{' then reset' * then_reset}", befall_links)


def _slow(link: Proxy, rng: random.Random) -> None:
    link.slow(rng.uniform(0.05, 0.5))


def _swallow(link: Proxy, rng: random.Random) -> None:
    link.swallow()


def _reset(link: Proxy, rng: random.Random) -> None:
    link.reset()


def _of_links(server: str) -> list[Fault]:
    return [
        links("slow", server, _slow, everybody=True, seconds=(3, 3)),
        links("reset", server, _reset, everybody=True),
        links("swallow", server, _swallow, everybody=False, seconds=(1, 12)),
        links("swallow", server, _swallow, everybody=False, seconds=(1, 6), then_reset=True),
        links("swallow", server, _swallow, everybody=True, seconds=(1, 6), then_reset=True),
        links("half of", server, Proxy.swallow_some, everybody=False, seconds=(1, 12)),
        links("half of", server, Proxy.swallow_some, everybody=True, seconds=(1, 12), then_reset=True),
    ]


# Valkey


@fault
async def restart_valkey_with_its_data(world: RedisWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.valkey.restart, keep_data=True)


@fault
async def restart_valkey_empty(world: RedisWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.valkey.restart, keep_data=False)


@fault
async def kill_valkey(world: RedisWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.valkey.kill)
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(world.valkey.start)


@fault
async def flushall(world: RedisWorld, rng: random.Random) -> None:
    async with world.redis() as redis:
        await redis.flushall()


# What somebody else writes


FORGED = (
    b'{"state":"begun","epoch":"%s","version":%d}',
    b'{"state":"abandoned","epoch":"%s","version":%d}',
    b'{"state":"confirmed","epoch":"%s","version":%d,"committed":"e-1","as_of":1e308}',
    b"\xff\xfe %s %d",
)


def _forged(rng: random.Random, version: bytes) -> tuple[str, bytes]:
    """A channel, and a message that is not true but for what it is like."""
    epoch, _, number = version.partition(b"-")
    epoch = rng.choice((epoch or b"e", b"made0up"))
    number = max(1, int(number or 0) + rng.choice((-1, 0, 1, 2, 1000, 10**14, 10**18)))
    if rng.random() < 0.2:
        return "scoreboard.rebuilt", b'{"version":%d}' % number
    return "scoreboard.building", rng.choice(FORGED) % (epoch, number)


@fault
async def forge_messages_in_valkey(world: RedisWorld, rng: random.Random) -> None:
    async with world.redis() as redis:
        for _ in range(100):
            channel, message = _forged(rng, await redis.get(f"{PREFIX}scoreboard:version") or b"")
            await redis.publish(f"{PREFIX}{channel}", message)
            await asyncio.sleep(0.03)


@fault
async def hold_the_lock_in_valkey(world: RedisWorld, rng: random.Random) -> None:
    async with world.redis() as redis:
        await redis.set(f"{PREFIX}leaderboard:rebuild:lock", "somebody", px=rng.choice((None, 86_400_000)))


@fault
async def write_a_number_that_is_none_to_valkey(world: RedisWorld, rng: random.Random) -> None:
    async with world.redis() as redis:
        number = rng.choice(("9000000000000000000", "-1", "x", ""))
        epoch = rng.choice((b"\xff\xfe", b"a\r\nb", b"e"))
        await redis.hset(f"{PREFIX}scoreboard:fence", mapping={"epoch": epoch, "number": number})
    await world.one_more_change()


@fault
async def damage_a_document_in_valkey(world: RedisWorld, rng: random.Random) -> None:
    async with world.redis() as redis:
        key, other = rng.sample([f"{PREFIX}{name}" for name in document_names(())], 2)
        value = await redis.get(key) or b"{}"
        match rng.randrange(5):
            case 0:
                at = rng.randrange(len(value))
                await redis.set(key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
            case 1:
                await redis.set(key, value[: len(value) // 2], px=60_000)
            case 2:
                await redis.set(key, await redis.get(other) or b"")
            case 3:
                await redis.delete(key)
                await redis.rpush(key, "1")
            case 4:
                await redis.delete(key)
    await _start_again(world, rng)


async def _start_again(world: World, rng: random.Random) -> None:
    """A node that starts has to load the documents."""
    member = _one(world, rng)
    await member.kill()
    await member.start()


# Valkey, and what Postgres keeps


@fault
async def kill_all_nodes_and_empty_valkey(world: ArchivedWorld, rng: random.Random) -> None:
    shown = await _kept(world)
    await _kill_all(world)
    await asyncio.to_thread(world.valkey.restart, keep_data=False)
    await _start_all(world)
    await world.answered_from_cold("kill all nodes and empty valkey", shown)


@fault
async def kill_all_nodes_and_valkey(world: ArchivedWorld, rng: random.Random) -> None:
    shown = await _kept(world)
    await _kill_all(world)
    await asyncio.to_thread(world.valkey.kill)
    await _start_all(world)
    await world.answered_from_cold("kill all nodes and valkey", shown, only_kept=True)
    await asyncio.to_thread(world.valkey.start)


async def _kept(world: ArchivedWorld) -> frozenset[tuple[int, int]]:
    """What has been shown for so long that it is kept."""
    shown = world.shown()
    await asyncio.sleep(KEPT)
    return shown


# Postgres


@fault
async def restart_postgres(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.postgres.restart)


@fault
async def restart_postgres_immediately(world: World, rng: random.Random) -> None:
    os.kill(world.postgres.pid, signal.SIGQUIT)
    await asyncio.to_thread(world.postgres.restart)  # which waits until it has gone


@fault
async def kill_postgres(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(world.postgres.start)


@fault
async def terminate_our_sessions(world: World, rng: random.Random) -> None:
    await world.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'scoreboardd'")


# Our table


@fault
async def truncate_our_table(world: World, rng: random.Random) -> None:
    await world.execute("TRUNCATE leaderboard_cache")


@fault
async def delete_our_rows(world: World, rng: random.Random) -> None:
    await world.execute(ALONE, "DELETE FROM leaderboard_cache")


@fault
async def drop_our_table(world: World, rng: random.Random) -> None:
    await world.execute("DROP TABLE leaderboard_cache")
    await asyncio.sleep(rng.uniform(0, 3))
    await world.execute(CACHE)


@fault
async def take_our_rows_back_in_time(world: World, rng: random.Random) -> None:
    await world.execute("CREATE TABLE older AS TABLE leaderboard_cache")
    await asyncio.sleep(rng.uniform(1, 5))
    await world.execute(
        ALONE,
        "DELETE FROM leaderboard_cache",
        "INSERT INTO leaderboard_cache TABLE older",
        "DROP TABLE older",
    )
    # Nobody is told. With the next change they find out.
    await world.one_more_change()


@fault
async def lock_our_rows(world: PostgresWorld, rng: random.Random) -> None:
    await _hold(world, rng, "SELECT FROM leaderboard_cache FOR UPDATE")


@fault
async def change_our_rows_slowly(world: PostgresWorld, rng: random.Random) -> None:
    await _hold(world, rng, "UPDATE leaderboard_cache SET encoding = encoding")


@fault
async def lock_our_table(world: PostgresWorld, rng: random.Random) -> None:
    await _hold(world, rng, "LOCK TABLE leaderboard_cache")


@fault
async def forge_notifications(world: PostgresWorld, rng: random.Random) -> None:
    for _ in range(50):
        channel, message = _forged(rng, b"e-7")
        payload = message.decode(errors="replace").replace("'", "''")
        await world.execute(f"SELECT pg_notify('{PREFIX}{channel.replace('.', '_')}', '{payload}')")
        await asyncio.sleep(0.03)


@fault
async def hold_the_lease_for_ever(world: PostgresWorld, rng: random.Random) -> None:
    lock = f"{PREFIX}leaderboard:rebuild:lock"
    await world.execute(
        "UPDATE leaderboard_cache SET building_token = 'somebody', building_until = 'infinity' "
        f"WHERE cache_key = '{lock}'"
    )


@fault
async def write_a_number_that_is_none(world: PostgresWorld, rng: random.Random) -> None:
    lock = f"{PREFIX}leaderboard:rebuild:lock"
    wrong = rng.choice(("version = 9223372036854775807", "version = NULL", "epoch = E'a\\r\\nb'", "epoch = NULL"))
    await world.execute(f"UPDATE leaderboard_cache SET {wrong} WHERE cache_key = '{lock}'")
    await world.one_more_change()


@fault
async def damage_a_row(world: World, rng: random.Random) -> None:
    key = f"{PREFIX}{rng.choice(document_names(()))}"
    damage = rng.choice(
        (
            "payload = set_byte(payload, length(payload) / 2, get_byte(payload, length(payload) / 2) # 1)",
            "payload = substr(payload, 1, length(payload) / 2)",
            "payload = '{}'",
            "payload = NULL",
        )
    )
    await world.execute(f"UPDATE leaderboard_cache SET {damage} WHERE cache_key = '{key}'")
    await _start_again(world, rng)


async def _hold(world: PostgresWorld, rng: random.Random, statement: str) -> None:
    await world.execute(LEASE_FIRST, statement, f"SELECT pg_sleep({rng.uniform(1, 8)})")


# The file, and the processes that use it


@fault
async def kill_the_builder(world: LocalWorld, rng: random.Random) -> None:
    os.kill(await _builder(world), signal.SIGKILL)


@fault
async def freeze_the_builder(world: LocalWorld, rng: random.Random) -> None:
    os.kill(await _builder(world), signal.SIGSTOP)
    # The daemon kills it.


async def _builder(world: LocalWorld) -> int:
    node = world.member.node
    children = await until(lambda: psutil.Process(node.process.pid).children(), "the daemon has a builder")
    return children[0].pid


@fault
async def delete_the_file(world: LocalWorld, rng: random.Random) -> None:
    world.file.unlink(missing_ok=True)
    await world.one_more_change()


@fault
async def delete_the_folder_for_a_while(world: LocalWorld, rng: random.Random) -> None:
    world.directory.rename(world.directory.with_name("away"))
    await asyncio.sleep(rng.uniform(0, 4))
    world.directory.mkdir()
    shutil.rmtree(world.directory.with_name("away"))


@fault
async def damage_the_file(world: LocalWorld, rng: random.Random) -> None:
    _damage_file(world, rng)
    await world.one_more_change()


@fault
async def kill_the_node_and_damage_the_file(world: LocalWorld, rng: random.Random) -> None:
    await world.member.kill()
    _damage_file(world, rng)
    await world.member.start()


@fault
async def kill_the_node_and_delete_the_file(world: LocalWorld, rng: random.Random) -> None:
    await world.member.kill()
    world.file.unlink(missing_ok=True)
    await world.member.start()


def _damage_file(world: LocalWorld, rng: random.Random) -> None:
    """Behind the back of who uses it."""
    with world.file.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        match rng.randrange(4):
            case 0:
                file.truncate(rng.randrange(size + 1))
            case 1:
                file.seek(0)
                file.write(rng.randbytes(4096))
            case 2:
                for _ in range(50):
                    file.seek(rng.randrange(size or 1))
                    file.write(rng.randbytes(1))
            case 3:
                file.seek(rng.randrange(size or 1))
                file.write(rng.randbytes(20_000))


@fault
async def take_the_file_back_in_time(world: LocalWorld, rng: random.Random) -> None:
    older = world.file.with_name("older")
    with closing(sqlite3.connect(world.file)) as connection, closing(sqlite3.connect(older)) as copy:
        connection.backup(copy)
    await asyncio.sleep(rng.uniform(1, 5))
    older.replace(world.file)
    await world.one_more_change()


@fault
async def lock_the_file(world: LocalWorld, rng: random.Random) -> None:
    with closing(sqlite3.connect(world.file, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(rng.uniform(1, 8))
        connection.execute("ROLLBACK")


@fault
async def hold_the_lock_in_the_file(world: LocalWorld, rng: random.Random) -> None:
    with closing(sqlite3.connect(world.file, timeout=10, isolation_level=None)) as connection:
        lock = Names("").lock
        connection.execute("UPDATE entries SET token = 'somebody', until = 9e12 WHERE key = ?", (lock,))


ANYWHERE = [
    kill_a_node,
    kill_all_nodes,
    freeze_a_node,
    restart_postgres,
    restart_postgres_immediately,
    kill_postgres,
    terminate_our_sessions,
    *_of_links("postgres"),
]
REDIS = [
    *ANYWHERE,
    restart_valkey_with_its_data,
    restart_valkey_empty,
    kill_valkey,
    flushall,
    forge_messages_in_valkey,
    hold_the_lock_in_valkey,
    write_a_number_that_is_none_to_valkey,
    damage_a_document_in_valkey,
    *_of_links("redis"),
]
OUR_TABLE = [truncate_our_table, delete_our_rows, drop_our_table, take_our_rows_back_in_time, damage_a_row]
ARCHIVED = [*REDIS, *OUR_TABLE, kill_all_nodes_and_empty_valkey, kill_all_nodes_and_valkey]
POSTGRES = [
    *ANYWHERE,
    *OUR_TABLE,
    lock_our_rows,
    change_our_rows_slowly,
    lock_our_table,
    forge_notifications,
    hold_the_lease_for_ever,
    write_a_number_that_is_none,
]


LOCAL = [
    *ANYWHERE,
    kill_the_builder,
    freeze_the_builder,
    delete_the_file,
    delete_the_folder_for_a_while,
    damage_the_file,
    damage_the_file,
    kill_the_node_and_damage_the_file,
    kill_the_node_and_delete_the_file,
    take_the_file_back_in_time,
    lock_the_file,
    hold_the_lock_in_the_file,
]


async def run(world: World, faults: list[Fault], rng: random.Random) -> None:
    """One after the other, each until the cluster has recovered."""
    for each in faults:
        # At any moment of a rebuild.
        await asyncio.sleep(rng.uniform(0, 1.5))
        await each.befall(world, rng)
        world.history.faults += 1
        await world.recovered(each.name)
