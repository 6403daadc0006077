"""The faults: each is done to a world, lasts, and is mended before it returns."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from tests.chaos.world import LOCK_TTL, Member, World

Fault = Callable[[World, random.Random], Awaitable[None]]

#: What happens after `SIGSTOP` must happen to a holder whose lock has run out.
FREEZE = LOCK_TTL + 1.5


def _one(world: World, rng: random.Random) -> Member:
    return rng.choice(world.members)


async def kill_a_node(world: World, rng: random.Random) -> None:
    member = _one(world, rng)
    await member.kill()
    await asyncio.sleep(rng.uniform(0, 1))
    await member.start()


async def kill_all_nodes(world: World, rng: random.Random) -> None:
    await asyncio.gather(*(member.kill() for member in world.members))
    await asyncio.gather(*(member.start() for member in world.members))


async def freeze_a_node(world: World, rng: random.Random) -> None:
    process = _one(world, rng).node.process
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(FREEZE)
    process.send_signal(signal.SIGCONT)


async def restart_valkey_with_its_data(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.valkey.restart, keep_data=True)


async def restart_valkey_empty(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.valkey.restart, keep_data=False)


async def kill_valkey(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.valkey.kill)
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(world.valkey.start)


async def flushall(world: World, rng: random.Random) -> None:
    async with Redis.from_url(world.valkey.url()) as redis:
        await redis.flushall()


async def restart_postgres(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.postgres.restart)


async def kill_postgres(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(world.postgres.start)


async def reset_redis_connections(world: World, rng: random.Random) -> None:
    for member in world.members:
        member.redis.reset()


async def swallow_redis_of_a_node(world: World, rng: random.Random) -> None:
    proxy = _one(world, rng).redis
    proxy.swallow()
    await asyncio.sleep(rng.uniform(1, 12))
    proxy.heal()


async def swallow_redis_then_reset(world: World, rng: random.Random) -> None:
    proxy = _one(world, rng).redis
    proxy.swallow()
    await asyncio.sleep(rng.uniform(1, 6))
    proxy.reset()
    proxy.heal()


async def swallow_postgres_of_a_node(world: World, rng: random.Random) -> None:
    proxy = _one(world, rng).postgres
    proxy.swallow()
    await asyncio.sleep(rng.uniform(1, 12))
    proxy.heal()


async def swallow_postgres_of_all(world: World, rng: random.Random) -> None:
    for member in world.members:
        member.postgres.swallow()
    await asyncio.sleep(rng.uniform(1, 6))
    for member in world.members:
        member.postgres.reset()
        member.postgres.heal()


async def slow_redis(world: World, rng: random.Random) -> None:
    for member in world.members:
        member.redis.delay = rng.uniform(0.05, 0.5)
    await asyncio.sleep(3)
    for member in world.members:
        member.redis.heal()


async def slow_postgres(world: World, rng: random.Random) -> None:
    for member in world.members:
        member.postgres.delay = rng.uniform(0.05, 0.5)
    await asyncio.sleep(3)
    for member in world.members:
        member.postgres.heal()


ALL: list[Fault] = [
    kill_a_node,
    kill_all_nodes,
    freeze_a_node,
    restart_valkey_with_its_data,
    restart_valkey_empty,
    kill_valkey,
    flushall,
    restart_postgres,
    kill_postgres,
    reset_redis_connections,
    swallow_redis_of_a_node,
    swallow_redis_then_reset,
    swallow_postgres_of_a_node,
    swallow_postgres_of_all,
    slow_redis,
    slow_postgres,
]

#: For a run that has a minute: the ones that differ most, each once.
SHORT: list[Fault] = [
    kill_a_node,
    freeze_a_node,
    kill_valkey,
    flushall,
    restart_postgres,
    swallow_redis_then_reset,
    slow_redis,
]


async def run(world: World, faults: list[Fault], rng: random.Random) -> None:
    """One after the other, each until the cluster has recovered."""
    for fault in faults:
        # At any moment of a rebuild.
        await asyncio.sleep(rng.uniform(0, 1.5))
        await fault(world, rng)
        await world.recovered(fault.__name__)
