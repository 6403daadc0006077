"""The tail: the newest solves of a read, with which the next incremental read compares the database.

The database assigns the ids of submissions roughly in order, but submissions become visible in any order, when their
transactions commit. So an incremental read reads the `TAIL_SOLVES` solves with the highest ids again, and all above
them. The size is a number of solves and not a range of ids, so that gaps between ids do no harm.

The tail of a contest with fewer solves holds all of them. Every solve of the tail must still exist unchanged. Otherwise
a solve was changed or removed, and everything must be read again.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

TAIL_SOLVES = 2_500
"How many solves a tail holds at most."
NO_FLOOR = -(2**63)
"The floor of a tail that holds all solves: it is below every id."

RECORD = np.dtype([("id", ">i8"), ("user_id", ">i8"), ("challenge_id", ">i8"), ("at", ">i8"), ("first_blood", "?")])
"A solve as the database packs it. `at` is in microseconds since 2000-01-01 UTC."


@dataclass(frozen=True, slots=True)
class Tail:
    """All solves with ids above `floor`, as one read found them."""

    floor: int
    records: frozenset[bytes]
    "The packed solves, each with the layout of `RECORD`."

    @classmethod
    def of(cls, packed: bytes, floor: int = NO_FLOOR) -> Self:
        """Return the tail with the highest ids of `packed`, which holds all solves above `floor` in any order."""
        ids = np.frombuffer(packed, RECORD)["id"]
        if len(ids) >= TAIL_SOLVES:
            floor = int(np.partition(ids, len(ids) - TAIL_SOLVES)[len(ids) - TAIL_SOLVES])
        size = RECORD.itemsize
        return cls(floor, frozenset(packed[size * n : size * (n + 1)] for n in np.flatnonzero(ids > floor).tolist()))

    def added(self, packed: bytes) -> int | None:
        """Return how many solves in `packed` are new; `packed` holds all solves that are now above `floor`.

        None if a solve of the tail is not among them, and so was changed or removed.
        """
        size = RECORD.itemsize
        now = {packed[start : start + size] for start in range(0, len(packed), size)}
        return len(now) - len(self.records) if self.records <= now else None
