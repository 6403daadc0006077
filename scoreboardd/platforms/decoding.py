"""Decodes the values that PostgreSQL sends into rows. An invalid value affects its row only; the read never fails.

Rows of the roster (challenges, teams, users, divisions) arrive as ids and the bytes of texts, all solves as one packed
value. Invalid values are handled as follows, and each is reported as a finding:

- A name that is not valid in the database's encoding is shown with U+FFFD for the invalid bytes.
- Points that are not a finite number, or beyond `MAX_POINTS`, become 0; such minimum points become the initial points.
- A row whose id is NULL or not an integer is left out. A row with such a team or division id has no team or division.
- A solve without a time, or with a time that RFC 3339 cannot express, is left out.
- If several rows have the same id, one is kept: the user with the lowest team id, the team with the lowest division id,
  then the row whose other values sort first.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.source_rows import SOLVE, ChallengeRow, DivisionRow, Roster, Solves, TeamRow, UserRow
from scoreboardd.board.times import micros
from scoreboardd.platforms.findings import Findings

MAX_POINTS = 10**12
"The most points a challenge may have. JavaScript represents the sum of nine thousand such challenges exactly."
MAX_SAFE_ID = 2**53 - 1
"The largest integer up to which JavaScript represents all integers exactly."

EARLIEST, LATEST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
"The range of times that RFC 3339 can express."

_PACKED = np.dtype([("user_id", ">i8"), ("challenge_id", ">i8"), ("at", ">i8"), ("first_blood", "?")])
"A solve as the query packs it. `at` is in microseconds since `_POSTGRES_EPOCH`."
_POSTGRES_EPOCH = micros("2000-01-01T00:00:00Z")
"The epoch of PostgreSQL's timestamps, in microseconds of Unix time."
_EARLIEST, _LATEST = (micros(text) - _POSTGRES_EPOCH for text in (EARLIEST, LATEST))

Raw = Sequence[Any]
"One row of a query. Ids are integers; all other values are bytes of text in the encoding of the database."
Row = TypeVar("Row", ChallengeRow, TeamRow, UserRow, DivisionRow)

_CODECS = {"SQL_ASCII": "utf-8", "KOI8R": "koi8_r", "KOI8U": "koi8_u", "EUC_CN": "gb2312"}
"Python's codecs for encodings of PostgreSQL with another name."


def codec_of(encoding: str) -> str | None:
    """Return the name of Python's codec for an encoding of PostgreSQL. None if Python has no such codec."""
    try:
        return codecs.lookup(_CODECS.get(encoding, re.sub("^WIN", "cp", encoding))).name
    except LookupError:
        return None


class Decoder:
    """Decodes the rows of the roster and adds invalid values to `findings`. `codec` is the codec of the texts."""

    def __init__(self, codec: str, findings: Findings) -> None:
        self._codec = codec
        self._findings = findings

    def roster(
        self, *, challenges: Iterable[Raw], teams: Iterable[Raw], users: Iterable[Raw], divisions: Iterable[Raw]
    ) -> Roster:
        """Return the roster that these rows of the queries describe."""
        return Roster(
            challenges=self._rows("challenges", challenges, self._challenge, tuple),
            teams=self._rows("teams", teams, self._team, lambda team: (_last(team.division_id), team.name)),
            users=self._rows("users", users, self._user, lambda user: (_last(user.team_id), user.name)),
            divisions=self._rows("divisions", divisions, self._division, tuple),
        )

    def _rows(
        self, table: str, raw: Iterable[Raw], decode: Callable[[Raw], Row], order: Callable[[Row], Any]
    ) -> list[Row]:
        """Decode the rows of a table. Of rows with the same id, keep the one that `order` sorts first."""
        rows: list[Row] = []
        for values in raw:
            if values[0] is None:
                self._findings.add(table, "the id is NULL or not an integer, and the row is left out; correct it")
            else:
                rows.append(decode(values))
        kept = {row.id: row for row in rows}
        if len(kept) < len(rows):
            kept = {}
            for row in sorted(rows, key=lambda row: (row.id, order(row))):
                if kept.setdefault(row.id, row) is not row:
                    self._findings.add(
                        table, "several rows have this id, and only one of them is shown; make the id unique", row.id
                    )
        if kept and not -MAX_SAFE_ID <= min(kept) <= max(kept) <= MAX_SAFE_ID:
            for id in kept:
                if abs(id) > MAX_SAFE_ID:
                    self._findings.add(
                        table,
                        "the id is beyond 2^53-1, and browsers confuse such ids with others; assign smaller ids",
                        id,
                        is_altered=False,
                    )
        return list(kept.values())

    def _challenge(self, row: Raw) -> ChallengeRow:
        id, title, category, initial, minimum, active = row
        points = self._points("points", id, initial) or 0
        floor = self._points("minimum_points", id, minimum)
        return ChallengeRow(
            id,
            self._text("challenges.title", id, title),
            self._text("challenges.category", id, category),
            points,
            points if floor is None else floor,
            active != b"false",
        )

    def _team(self, row: Raw) -> TeamRow:
        id, name, division_id = row
        return TeamRow(id, self._text("teams.name", id, name), division_id)

    def _user(self, row: Raw) -> UserRow:
        id, name, team_id = row
        return UserRow(id, self._text("users.username", id, name), team_id)

    def _division(self, row: Raw) -> DivisionRow:
        id, name = row
        return DivisionRow(id, self._text("divisions.name", id, name))

    def _text(self, column: str, id: int, value: bytes | None) -> str:
        if value is None:
            return ""
        try:
            return value.decode(self._codec)
        except UnicodeDecodeError:
            table, _, name = column.partition(".")
            problem = f"{name} is not valid in the database's encoding, and is shown with U+FFFD; correct it"
            self._findings.add(table, problem, id)
            return value.decode(self._codec, "replace")

    def _points(self, column: str, id: int, value: bytes | None) -> int | None:
        """Return the points rounded to an integer. None if they are NULL or not valid."""
        if value is None:
            return None
        try:
            number = Decimal(value.decode("ascii").strip())
            if number.is_finite() and -MAX_POINTS <= number <= MAX_POINTS:
                return int(number.to_integral_value(ROUND_HALF_UP))
        except (InvalidOperation, UnicodeDecodeError):
            pass
        instead = "0" if column == "points" else "points"
        self._findings.add(
            "challenges", f"{column} is not a number of at most 10^12, and {instead} is used instead; correct it", id
        )
        return None


def _last(id: int | None) -> tuple[bool, int]:
    """Return a sort key that orders None after all ids."""
    return id is None, id or 0


def unpacked(packed: bytes | None, packing: "np.dtype[np.void]" = _PACKED) -> Solves:
    """Unpack solves, without those at times outside `EARLIEST` to `LATEST`.

    `packing` is the dtype of the packed records; fields that `SOLVE` lacks are dropped.
    """
    solves = np.frombuffer(packed or b"", packing)[list(SOLVE.names or ())].astype(SOLVE)
    at: NDArray[np.int64] = solves["at"]
    if len(at) and not _EARLIEST <= at.min() <= at.max() <= _LATEST:
        solves = solves[(at >= _EARLIEST) & (at <= _LATEST)]
    solves["at"] += _POSTGRES_EPOCH
    return solves
