"""The newest solves, kept from one read to the next: what an increment is compared with.

The ids of submissions are given out roughly in order, but become visible in any order, when a transaction commits. So
an increment reads the `WINDOW` highest solves again, and those above. It is counted in solves and not in ids: one id
far above the others, ids that leave gaps, and clocks of several servers in the ids only matter to the order.

Of a contest with fewer solves the window is the whole. In general every solve of the window must be there again as it
was; else it was changed or removed, and all has to be read.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

WINDOW = 2_500
"Solves."
LOWEST = -(2**63)
"Below every id."

RECORD = np.dtype([("id", ">i8"), ("user_id", ">i8"), ("challenge_id", ">i8"), ("at", ">i8"), ("first_blood", "?")])
"A solve as the database packs it."


@dataclass(frozen=True, slots=True)
class Tail:
    """All solves with ids above `floor`, as one read found them."""

    floor: int
    records: frozenset[bytes]
    "Of `RECORD`."

    @classmethod
    def of(cls, packed: bytes, floor: int = LOWEST) -> Self:
        """`packed`: all solves above `floor`, in any order. Keeps the highest."""
        ids = np.frombuffer(packed, RECORD)["id"]
        if len(ids) >= WINDOW:
            floor = int(np.partition(ids, len(ids) - WINDOW)[len(ids) - WINDOW])
        size = RECORD.itemsize
        return cls(floor, frozenset(packed[size * n : size * (n + 1)] for n in np.flatnonzero(ids > floor).tolist()))

    def added(self, packed: bytes) -> int | None:
        """How many of the solves in `packed`, all that are above `floor` now, are new. None if a known one is not among
        them."""
        size = RECORD.itemsize
        now = {packed[start : start + size] for start in range(0, len(packed), size)}
        return len(now) - len(self.records) if self.records <= now else None
