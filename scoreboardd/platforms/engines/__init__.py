"""The database engines that a platform may use: each reads the platform's queries from one snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scoreboardd.system.clock import ClockReading

Packed = NDArray[np.int64]
"The rows of a query, one per row of the array; NULL is `source_rows.NO_ID`."


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a platform. `columns` names the columns that it returns, in order."""

    sql: str
    columns: tuple[str, ...]
    is_packed: bool
    "All columns are integers; the first is the id."


class EngineRead(NamedTuple):
    """The results of some queries, from one snapshot, by the name of the query."""

    as_of: float
    "Unix time in seconds by the server's clock, just before the snapshot was taken."
    rows: Mapping[str, list[tuple[Any, ...]]]
    packed: Mapping[str, Packed]


class EngineError(Exception):
    """A read failed. The text is one line: what failed, where, and how to fix it."""


class Engine(Protocol):
    """A database server, or a file. Each call opens a connection of its own, and has a deadline."""

    async def read(self, queries: Mapping[str, Query]) -> EngineRead:
        """Run all queries in one read-only snapshot. Raises `EngineError`."""

    async def clock(self) -> ClockReading:
        """Measure the server's clock. Raises `EngineError`."""


def unpack(packed: bytes, columns: int) -> Packed:
    """Return the rows in `packed`, in which each value is a big-endian 64-bit integer."""
    return np.frombuffer(packed, ">i8").astype(np.int64).reshape(-1, columns)
