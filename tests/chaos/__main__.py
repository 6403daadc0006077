"""`python -m tests.chaos MINUTES [NODES] [SEED] [BACKEND]`: every fault it has, over and over, and the verdict."""

import argparse
import asyncio
import random
import sys
import time

from tests.chaos import faults
from tests.chaos.backends import BACKENDS
from tests.chaos.world import cluster


async def main(minutes: float, size: int, seed: int, name: str) -> int:
    rng, backend = random.Random(seed), BACKENDS[name]
    size = min(size, backend.most_nodes or size)
    print(f"{name}, {size} nodes, {minutes:g} minutes, seed {seed}", flush=True)  # noqa: T201
    end = time.monotonic() + minutes * 60
    world = backend.world()
    async with cluster(world, size, seed):
        while time.monotonic() < end:
            order = rng.sample(backend.faults, len(backend.faults))
            while order and time.monotonic() < end:
                await faults.run(world, [order.pop()], rng)
    print(world.history.report())  # noqa: T201
    return 1 if world.history.violations else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("nodes", type=int, nargs="?", default=4)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    parser.add_argument("backend", choices=BACKENDS, nargs="?", default="redis")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.minutes, given.nodes, given.seed, given.backend)))
