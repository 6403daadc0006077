"""A version of the scoreboard, and the documents that were committed under it.

- A `Version` is `<epoch>-<number>`. Numbers only grow within an epoch; the epoch changes only when the shared store has
  lost its state, so two versions of different epochs have no order and the store's own is the true one.
- The number is handed out with the lock, before the build begins (it is the fence): a failed build leaves a gap.
- An `Snapshot` is immutable, and its documents are all of one database snapshot (I5).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from scoreboardd.system.compression import Frames

UPDATED = "scoreboard_updated"
"The reason told to clients when nobody gave one."
SOLVED = "submission_correct"
"The reason of a change that is one more solve and nothing else."

MAX_DIVISION_IDS = 100
"Divisions that an event may name; one that would name more is about all of them."

MAX_NUMBER = 10**14 - 1
"Of a version. The store's scripts and browsers hold so many digits exactly; milliseconds since 1970 have 13."
_VERSION = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,14})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Version:
    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for anything that is not a version."""
        match = _VERSION.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None

    def follows(self, other: "Version | None") -> bool:
        """True if this one, said by the store, is news to whoever has `other`."""
        return other is None or self.epoch != other.epoch or self.number > other.number

    def replaces(self, served: "Version | None", asked: "Version | None") -> bool:
        """True if this one, which the store said it had to whoever then served `asked`, is newer than `served`.

        Of two epochs that is the one asked for later: an answer may have been on its way while the epoch changed.
        """
        if served is not None and self.epoch == served.epoch:
            return self.number > served.number
        return served == asked

    def includes(self, other: "Version") -> bool:
        """True if this one was begun as late as `other` or later, so that it contains all that `other` does."""
        return self.epoch == other.epoch and self.number >= other.number


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """What a platform said changed (contract §3), and what clients are told (§6)."""

    scope: str
    reason: str
    ts: str
    division_ids: tuple[int, ...] | None = None
    "The divisions whose boards may have changed, in ascending order; None is all of them."

    def as_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"scope": self.scope, "reason": self.reason, "ts": self.ts}
        if self.division_ids is not None:
            fields["division_ids"] = self.division_ids
        return fields

    @classmethod
    def updated(cls) -> Self:
        """Something changed, now, and that is all that is known."""
        return cls("all", UPDATED, now_rfc3339())

    def after(self, earlier: "ChangeEvent | None") -> "ChangeEvent":
        """The two as one: what a single rebuild for both of them was for."""
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
    "Equal digests, equal documents."
    documents: Mapping[str, Frames]

    def division(self, asked: int | None) -> int | None:
        """Whose boards are meant, None for everyone's: a platform without divisions is one. LookupError if there is no
        such division."""
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
