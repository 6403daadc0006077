"""What a source of a contest returns, whatever the platform and the database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from scoreboardd.board.rules.ctfd import DynamicPoints
from scoreboardd.board.source_rows import Adjustments, ChallengeRow, Solves, SourceRows
from scoreboardd.platforms.findings import Finding
from scoreboardd.platforms.settings import ContestSettings
from scoreboardd.system.clock import ClockReading


class SourceError(Exception):
    """The database could not be read. The text is one line: what failed, where, and how to fix it."""


class Cursor(Protocol):
    """The state of the database at a read, from which `read_since` continues."""

    @property
    def solves(self) -> int:
        """The number of solves."""

    @property
    def facts(self) -> object:
        """Differs if anything but the solves differs."""

    @property
    def tables(self) -> object:
        """Differs if the rows of a table were replaced as a whole, so that numbers of rows cannot be compared."""


@dataclass(frozen=True, slots=True)
class FullRead:
    """Everything that the source reads, from one snapshot."""

    rows: SourceRows
    as_of: float
    "Unix time in seconds, by the database's clock, just before the snapshot was taken."
    cursor: Cursor
    "The argument for the next `read_since`."
    findings: list[Finding]
    "All problems in the data."
    is_current: bool = True
    "False if the server is a standby that did not replay in time what it had received."
    settings: ContestSettings = field(default_factory=ContestSettings)
    live: SourceRows | None = None
    "The rows with those after a freeze. None on a platform without a freeze."
    dynamic: Mapping[int, DynamicPoints] = field(default_factory=dict)
    "How the points of challenges fall, by the id of the challenge."


class Increment(NamedTuple):
    """What is new since an earlier read."""

    solves: Solves
    "The new solves, and some that were read before."
    added: int
    "How many of the solves are new."
    as_of: float
    "As in `FullRead`."
    cursor: Cursor
    "The argument for the next `read_since`."
    findings: list[Finding]
    "The problems of the solves and of the roster, if it was read."
    settings: ContestSettings = ContestSettings()
    adjustments: Adjustments | None = None
    "The new adjustments; None if there are none, or the platform has none."
    challenges: list[ChallengeRow] | None = None
    "All challenges, if some have other points; None if none has."
    read: FullRead | None = None
    "Everything, if it was read to find what is new."


class Source(Protocol):
    """Reads a platform's database. Only `clock` and `is_changed` may be called while another call is in progress."""

    is_exact: bool
    "Whether `read_since` misses nothing that `read` would find."

    async def read(self, before: Cursor | None = None) -> FullRead:
        """Read everything. `before` is the cursor of the full read before this one. Raises `SourceError`."""

    async def read_since(self, cursor: Cursor) -> Increment | FullRead | None:
        """Read what is new since `cursor`. None if everything must be read. Raises `SourceError`."""

    async def is_changed(self) -> bool:
        """Return whether the database holds anything else than at the last read. Raises `SourceError`."""

    async def clock(self) -> ClockReading:
        """Measure the database's clock. Raises `SourceError`."""

    async def aclose(self) -> None:
        """Close the connections. The next call opens others."""
