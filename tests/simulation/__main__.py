"""`python -m tests.simulation SEEDS [FIRST]`: as many runs as one likes, on all cores.

Ends at the first seed that fails: prints its history, and exits with 1.
"""

import multiprocessing
import sys
import time
from collections import Counter

from tests.simulation.cluster import unlucky

CHUNK = 50
"Seeds that a process takes at a time."


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def complain(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def run(seed: int) -> tuple[int, bool, Counter[str]]:
    try:
        return seed, True, unlucky(seed).sometimes
    except Exception:  # noqa: BLE001  whatever it is, it is told when the seed is run again
        return seed, False, Counter()


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2 or not all(argument.isdecimal() for argument in arguments):
        complain(__doc__ or "")
        return 2
    count, first = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    start, done, sometimes = time.monotonic(), 0, Counter[str]()
    with multiprocessing.Pool() as pool:
        for seed, passed, reached in pool.imap_unordered(run, range(first, first + count), CHUNK):
            if not passed:
                pool.terminate()
                return tell(seed)
            done += 1
            sometimes += reached
            if done % 1000 == 0 or done == count:
                rate = done / (time.monotonic() - start)
                say(f"{done} of {count} seeds, {rate:.0f} a second")
    for path, times in sorted(sometimes.items()):
        say(f"{times:10}  {path}")
    return 0


def tell(seed: int) -> int:
    complain(f"seed {seed}")
    try:
        unlucky(seed, recording=True)
    except Exception as error:  # noqa: BLE001
        complain(f"{type(error).__name__}: {error}")
    else:
        complain("it passes when it is run again: a run depends on more than its seed")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
