"""Reads a contest of any platform by its queries: everything each time, from one snapshot.

What was read is compared, in arrays, with what was read before. If there are only new solves, new adjustments and other
points of challenges, `read_since` returns these; otherwise it returns all that it read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.rules.ctfd import DynamicPoints
from scoreboardd.board.source_rows import (
    ADJUSTMENT,
    NO_ID,
    OWNED_SOLVE,
    ChallengeRow,
    DivisionRow,
    Roster,
    SourceRows,
    TeamRow,
    UserRow,
    find,
    released,
)
from scoreboardd.board.times import micros
from scoreboardd.platforms.decoding import EARLIEST, LATEST, MAX_POINTS, MAX_SAFE_ID
from scoreboardd.platforms.engines import Engine, EngineError, EngineRead, Packed, Query
from scoreboardd.platforms.engines.factory import engine_of, open_engine
from scoreboardd.platforms.findings import Findings
from scoreboardd.platforms.platform import PACKED, ROWS, Platform
from scoreboardd.platforms.settings import ContestSettings, parse_settings
from scoreboardd.platforms.source import Cursor, FullRead, Increment, SourceError
from scoreboardd.system.clock import ClockReading

_EARLIEST, _LATEST = micros(EARLIEST), micros(LATEST)
PROBE = Query("", (), is_packed=False)


@dataclass(frozen=True, slots=True, eq=False)
class SnapshotCursor:
    """What one read found. `read_since` compares the next read with it."""

    rows: SourceRows
    solves: int
    "The number of solves, with those after a freeze."
    facts: object
    "Differs if anything but the solves differs."
    tables: object = None


class SnapshotSource:
    """Reads the platform's database at `dsn`, a URL of one of the platform's engines."""

    is_exact = True

    def __init__(self, dsn: str, platform: Platform, *, statement_timeout: float) -> None:
        self._platform = platform
        self.engine: Engine = open_engine(dsn, statement_timeout_seconds=statement_timeout)
        engine = engine_of(dsn)
        probe = platform.query("probe", engine)
        self._probe = {"probe": replace(PROBE, sql=probe)} if probe else {}
        self.queries = self._probe | {
            name: Query(sql, columns, is_packed)
            for names, is_packed in ((ROWS, False), (PACKED, True))
            for name, columns in names.items()
            if (sql := platform.query(name, engine)) is not None
        }
        self._last_probe: list[tuple[Any, ...]] | None = None

    async def read(self, before: Cursor | None = None) -> FullRead:
        """Read everything. Raises `SourceError`."""
        found = await self._run(self.queries)
        self._last_probe = found.rows.get("probe")
        return SnapshotDecoder(self._platform.name).decode(found)

    async def read_since(self, cursor: Cursor) -> Increment | FullRead | None:
        """Read everything, and return only what is new if all the rest is as at `cursor`. Raises `SourceError`."""
        read = await self.read()
        assert isinstance(cursor, SnapshotCursor)
        return _increment(cursor, read) or read

    async def is_changed(self) -> bool:
        """Return whether the probe finds anything else than at the last read or probe. Raises `SourceError`.

        A process that has read nothing yet cannot know, and says so: the one before it may have died with the answer.
        """
        if not self._probe:
            return False
        found = (await self._run(self._probe)).rows["probe"]
        is_changed = found != self._last_probe
        self._last_probe = found
        return is_changed

    async def clock(self) -> ClockReading:
        """Measure the database's clock. Raises `SourceError`."""
        try:
            return await self.engine.clock()
        except EngineError as error:
            raise SourceError(str(error)) from error

    async def aclose(self) -> None:
        """Each read has a connection of its own, so there is nothing to close."""

    async def _run(self, queries: Mapping[str, Query]) -> EngineRead:
        try:
            return await self.engine.read(queries)
        except EngineError as error:
            raise SourceError(str(error)) from error


def _increment(cursor: SnapshotCursor, read: FullRead) -> Increment | None:
    """Return what `read` adds to the rows of `cursor`. None if anything else has changed than the points of
    challenges."""
    before, rows = cursor.rows, read.rows
    old, new = before.roster, rows.roster
    same_challenges = [each._replace(initial=0) for each in old.challenges] == [
        each._replace(initial=0) for each in new.challenges
    ]
    if not same_challenges or (old.teams, old.users, old.divisions) != (new.teams, new.users, new.divisions):
        return None
    solves = _added(before.solves, rows.solves)
    if solves is None:
        return None
    adjustments = None
    if rows.adjustments is not None and before.adjustments is not None:
        adjustments = _added(before.adjustments, rows.adjustments)
        if adjustments is None:
            return None
    return Increment(
        solves,
        read.cursor.solves - cursor.solves,
        read.as_of,
        read.cursor,
        read.findings,
        read.settings,
        adjustments,
        new.challenges if old.challenges != new.challenges else None,
        read,
    )


def _added(old: Any, new: Any) -> Any | None:
    """Return the rows that `new` has beyond those of `old`; both are ordered by sequence. None if one is missing."""
    place = np.searchsorted(new["sequence"], old["sequence"])
    if len(old) and (len(new) == 0 or place.max() >= len(new) or (new[place] != old).any()):
        return None
    is_new = np.ones(len(new), np.bool_)
    is_new[place] = False
    added = new[is_new]
    return added if len(added) == len(new) - len(old) else None


class SnapshotDecoder:
    """Makes a contest of what the queries returned. An invalid value affects its row only, and is a finding."""

    def __init__(self, kind: str) -> None:
        self._findings = Findings(kind)

    def decode(self, found: EngineRead) -> FullRead:
        """Return the contest that `found` describes."""
        rows = found.rows
        settings = parse_settings(((row[0], row[1]) for row in rows.get("settings", [])), self._findings)
        settings["now"] = settings["now"] or found.as_of
        mode = settings.get("mode")
        roster = Roster(
            challenges=[],
            teams=[] if mode is ParticipantKind.USERS else self._rows("teams", rows.get("teams", []), self._team),
            users=self._rows("users", rows.get("users", []), self._user),
            divisions=self._rows(
                "divisions", [row for row in rows.get("divisions", []) if row[2] in (None, mode)], self._division
            ),
        )
        if mode is ParticipantKind.TEAMS:  # then a team's division is that of its members
            roster = replace(roster, users=[user._replace(division_id=None) for user in roster.users])
        contest = ContestSettings(**settings)
        challenges = self._rows("challenges", rows.get("challenges", []), lambda row: row)
        roster = replace(roster, challenges=[self._challenge(row, contest) for row in challenges])
        opens = [time for row in challenges if (time := _seconds(row[5])) is not None]
        moments = [*opens, contest.starts_at, contest.freezes_at]
        later = [moment for moment in moments if moment is not None and moment > contest.now]
        contest = replace(contest, changes_in=min(later) - contest.now if later else None)

        live = self._source_rows(found.packed, roster, len(roster.teams) > 0)
        cut = _before(live, contest.freezes_at)
        counted = replace(cut, roster=released(roster, cut.solves))
        shown = replace(live, roster=released(roster, live.solves))
        facts = (
            roster,
            replace(contest, now=0.0, changes_in=None),
            None if live.adjustments is None else live.adjustments.tobytes(),
        )
        return FullRead(
            rows=counted,
            as_of=found.as_of,
            cursor=SnapshotCursor(counted, len(live.solves), facts),
            findings=self._findings.all,
            settings=contest,
            dynamic={row[0]: dynamic for row in challenges if (dynamic := self._dynamic(row))},
            live=shown,
        )

    def _rows(self, table: str, rows: Iterable[Sequence[Any]], decode: Any) -> list[Any]:
        """Decode the rows of a table, one for each id, by id."""
        kept: dict[int, Any] = {}
        for row in sorted(rows, key=repr):
            id = row[0]
            if type(id) is not int or abs(id) > MAX_SAFE_ID:
                problem = "the id is not an integer from -2^53 to 2^53, and the row is left out; correct the query"
                self._findings.add(table, problem, id)
            elif id in kept:
                problem = "several rows have this id, and only one of them is shown; correct the query"
                self._findings.add(table, problem, id)
            else:
                kept[id] = decode(row)
        return [kept[id] for id in sorted(kept)]

    def _team(self, row: Sequence[Any]) -> TeamRow:
        return TeamRow(row[0], _text(row[1]), row[2])

    def _user(self, row: Sequence[Any]) -> UserRow:
        return UserRow(row[0], _text(row[1]), row[2], row[3])

    def _division(self, row: Sequence[Any]) -> DivisionRow:
        return DivisionRow(row[0], _text(row[1]))

    def _challenge(self, row: Sequence[Any], settings: ContestSettings) -> ChallengeRow:
        id, title, category, points, listed, opens_at, *_ = row
        opening = _seconds(opens_at)
        is_open = bool(listed) and settings.has_started and (opening is None or opening <= settings.now)
        # What only players may see appears once it is solved: the solves are public.
        is_shown = is_open and settings.challenges in ("public", "private")
        return ChallengeRow(
            id,
            _text(title) if is_shown else "",
            _text(category) if is_shown else "",
            self._points(id, points),
            0,
            is_shown and settings.challenges == "public",
        )

    def _points(self, id: int, value: Any) -> int:
        if value is None:
            return 0
        try:
            points = float(value)
            if abs(points) <= MAX_POINTS:
                return round(points)
        except (TypeError, ValueError, OverflowError):
            pass
        problem = "points is not a number of at most 10^12, and 0 is used instead; correct it"
        self._findings.add("challenges", problem, id)
        return 0

    def _dynamic(self, row: Sequence[Any]) -> DynamicPoints | None:
        function, *numbers = row[6:10]
        if function not in ("linear", "logarithmic") or any(type(number) is not int for number in numbers):
            return None
        return DynamicPoints(function, *numbers)

    def _source_rows(self, packed: Mapping[str, Packed], roster: Roster, has_teams: bool) -> SourceRows:
        solves = self._owned(packed.get("solves"), "solves", OWNED_SOLVE)
        owner = "team_id" if has_teams else "user_id"
        shown = find(solves[owner], roster.team_ids if has_teams else roster.user_ids)[1]
        solves["first_blood"] = _first_bloods(solves, shown)
        adjustments = packed.get("adjustments")
        return SourceRows(
            roster, solves, None if adjustments is None else self._owned(adjustments, "adjustments", ADJUSTMENT)
        )

    def _owned(self, packed: Packed | None, table: str, dtype: "np.dtype[np.void]") -> Any:
        """The rows of a packed query, without those that have no id or no time."""
        columns = PACKED[table]
        if packed is None:
            packed = np.empty((0, len(columns)), np.int64)
        made = np.zeros(len(packed), dtype)
        for place, column in enumerate(columns):
            made["sequence" if column == "id" else column] = packed[:, place]
        is_valid = (made["at"] >= _EARLIEST) & (made["at"] <= _LATEST) & (made["sequence"] != NO_ID)
        for id in made["sequence"][~is_valid].tolist():
            problem = "the row has no time from year 1 to 9999, and is left out; correct it"
            self._findings.add(table, problem, None if id == NO_ID else id)
        return made[is_valid]


def _first_bloods(solves: Any, is_shown: Any) -> Any:
    """Mark the first solve of each challenge among those of owners that are shown."""
    order = np.lexsort((solves["sequence"], solves["at"], solves["challenge_id"]))
    order = order[is_shown[order]]
    challenges = solves["challenge_id"][order]
    marks = np.zeros(len(solves), np.bool_)
    marks[order[np.flatnonzero(np.diff(challenges, prepend=NO_ID) != 0)]] = True
    return marks


def _before(rows: SourceRows, moment: float | None) -> SourceRows:
    """Only what happened before `moment`, in Unix seconds; everything for None."""
    if moment is None:
        return rows
    end = round(moment * 1_000_000)
    adjustments = rows.adjustments
    return SourceRows(
        rows.roster,
        rows.solves[rows.solves["at"] < end],
        None if adjustments is None else adjustments[adjustments["at"] < end],
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    # A lone surrogate, which a client of another database may have stored, is not text.
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def _seconds(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
