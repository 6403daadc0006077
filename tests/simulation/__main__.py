"""`python -m tests.simulation SEEDS [FIRST] [--backend NAME]`: as many runs as one likes, on all cores.

Each seed is run on every backend, or on the one named. Ends at the first run that fails: prints its history, and exits
with 1.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from itertools import product

from tests.simulation.backends import BACKENDS
from tests.simulation.cluster import unlucky

CHUNK = 50
"Runs that a process takes at a time."


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def complain(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def run(which: tuple[str, int]) -> tuple[str, int, bool, Counter[str]]:
    name, seed = which
    try:
        return name, seed, True, unlucky(seed, BACKENDS[name]).sometimes
    except Exception:  # noqa: BLE001  whatever it is, it is told when the seed is run again
        return name, seed, False, Counter()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=int)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--backend", choices=BACKENDS)
    options = parser.parse_args(arguments)
    names = [options.backend] if options.backend else list(BACKENDS)
    runs = [*product(names, range(options.first, options.first + options.seeds))]
    start, done = time.monotonic(), 0
    sometimes = {name: Counter[str]() for name in names}
    with multiprocessing.Pool() as pool:
        for name, seed, passed, reached in pool.imap_unordered(run, runs, CHUNK):
            if not passed:
                pool.terminate()
                return tell(name, seed)
            done += 1
            sometimes[name] += reached
            if done % 1000 == 0 or done == len(runs):
                rate = done / (time.monotonic() - start)
                say(f"{done} of {len(runs)} runs, {rate:.0f} a second")
    for name, counted in sometimes.items():
        say(f"{name}, {options.seeds} seeds")
        for path, times in sorted(counted.items()):
            say(f"{times:10}  {path}")
    return 0


def tell(name: str, seed: int) -> int:
    complain(f"{name}, seed {seed}")
    try:
        unlucky(seed, BACKENDS[name], recording=True)
    except Exception as error:  # noqa: BLE001
        complain(f"{type(error).__name__}: {error}")
    else:
        complain("it passes when it is run again: a run depends on more than its seed")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
