"""Versions of the scoreboard, the events that cause them, and the documents of a version.

- A `Version` is `<epoch>-<number>`. Numbers only grow within an epoch. The epoch changes only when the shared store has
  lost its state. So versions of two epochs have no order, and the one in the store is the true one.
- The number is given out with the lock, before the build begins; it is also the fencing token. A failed build leaves a
  gap.
- A `Snapshot` is immutable, and all its documents come from one database snapshot (I5).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from scoreboardd.system.compression import Frames

UPDATED = "scoreboard_updated"
"The reason for clients when the event has none."
SOLVED = "submission_correct"
"The reason of a change that is just one more solve."

MAX_DIVISION_IDS = 100
"Divisions that an event may name. An event that would name more is about all divisions."

MAX_NUMBER = 10**14 - 1
"The largest number of a version. The store's scripts and browsers hold it exactly."
_VERSION = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,14})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Version:
    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The version in `text`; None if there is no valid one."""
        match = _VERSION.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None

    def follows(self, other: "Version | None") -> bool:
        """True if a node or client that has `other` should replace it by this version from the store."""
        return other is None or self.epoch != other.epoch or self.number > other.number

    def replaces(self, served: "Version | None", asked: "Version | None") -> bool:
        """True if this version is newer than `served`. The store had it when a node that served `asked` read it.

        Of two epochs the one that was read later is newer: an answer may have been under way while the epoch changed.
        """
        if served is not None and self.epoch == served.epoch:
            return self.number > served.number
        return served == asked

    def includes(self, other: "Version") -> bool:
        """True if the build of this version did not begin before that of `other`, so that it contains all of it."""
        return self.epoch == other.epoch and self.number >= other.number


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """What changed, as a platform announces it (protocol §3) and as clients receive it (§6)."""

    scope: str
    reason: str
    ts: str
    division_ids: tuple[int, ...] | None = None
    "The divisions whose boards may have changed, in ascending order; None stands for all."

    def as_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"scope": self.scope, "reason": self.reason, "ts": self.ts}
        if self.division_ids is not None:
            fields["division_ids"] = self.division_ids
        return fields

    @classmethod
    def updated(cls) -> Self:
        """An event of now that says only that something changed."""
        return cls("all", UPDATED, now_rfc3339())

    def after(self, earlier: "ChangeEvent | None") -> "ChangeEvent":
        """Both events as one: the event of a rebuild that contains both changes."""
        if earlier is None:
            return self
        reasons = {self.reason, earlier.reason} - {UPDATED}
        return ChangeEvent(
            self.scope if self.scope == earlier.scope else "all",
            "batch" if len(reasons) > 1 else next(iter(reasons), UPDATED),
            max(self.ts, earlier.ts),
            _union(self.division_ids, earlier.division_ids),
        )

    def about_all(self) -> "ChangeEvent":
        """The same event, about all divisions."""
        return replace(self, scope="all", division_ids=None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The documents of one version: `documents[name]` is JSON as zstd (see `compression`); names as in
    `board.document_names.keys`."""

    version: Version
    as_of: float
    "Unix time, in seconds, at which the documents were true."
    divisions: tuple[int, ...]
    digest: str
    "Equal digests mean equal documents."
    documents: Mapping[str, Frames]

    def division(self, asked: int | None) -> int | None:
        """The division whose boards are meant; None stands for everyone, and for a platform without divisions. Raises
        `LookupError` if there is no such division."""
        if not self.divisions:
            return None
        if asked is not None and asked not in self.divisions:
            raise LookupError(f"no division {asked}")
        return asked


def _union(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if one is None or other is None:
        return None
    union = tuple(sorted({*one, *other}))
    return union if len(union) <= MAX_DIVISION_IDS else None


def now_rfc3339() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
