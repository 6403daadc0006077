"""`python -m tests.chaos MINUTES [NODES] [SEED]`: every fault, over and over, and the verdict."""

import asyncio
import random
import sys
import time

from tests.chaos import faults
from tests.chaos.world import world


async def main(minutes: float, size: int, seed: int) -> int:
    rng = random.Random(seed)
    print(f"{size} nodes, {minutes:g} minutes, seed {seed}", flush=True)  # noqa: T201
    end = time.monotonic() + minutes * 60
    async with world(size, seed) as it:
        while time.monotonic() < end:
            order = rng.sample(faults.ALL, len(faults.ALL))
            while order and time.monotonic() < end:
                await faults.run(it, [order.pop()], rng)
    print(it.history.report())  # noqa: T201
    return 1 if it.history.violations else 0


if __name__ == "__main__":
    minutes, size, seed = (float(sys.argv[1]), *(int(a) for a in sys.argv[2:4]), *(4, 1)[len(sys.argv[2:4]) :])
    sys.exit(asyncio.run(main(minutes, int(size), int(seed))))
