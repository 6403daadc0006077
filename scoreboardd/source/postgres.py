"""Read a contest from the platform's PostgreSQL: all of it, or what is new since, from one snapshot (I5).

One connection, kept between reads, in a read-only repeatable-read transaction for each; every await has a deadline.
Solves, which are many, come as one packed value that costs this process next to nothing to read.

What is new since an earlier read (`news`) is found without looking at the whole of anything:

- *Solves*, among the submissions whose ids are above the highest that was seen then, less `TAIL`. Ids are given out
  roughly in order but become visible in any, when a transaction commits; whoever is not overtaken by more than `TAIL`
  others is read in time. Solves that are known already do no harm.
- *Anything else*, by the counters PostgreSQL keeps of rows written to each table. Where those of the small tables
  differ the small tables are read and compared; where a submission was changed or removed, or a solver or a challenge
  is new, there is no `news` and all has to be read. The counters may come seconds after the commit: they are there to
  find the change that nobody announced (but not a TRUNCATE, which they do not count). One that is announced by its
  reason is not for `news` at all.

So what is missed, until all is read again, is a submission that becomes visible only after others with ids higher by
more than `TAIL` were seen; and for some seconds a change that is not announced.
"""

import time
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import TracebackType
from typing import Any, NamedTuple, Self

import asyncpg
import numpy as np

from scoreboardd import clock, database
from scoreboardd.board.rows import SOLVE, Challenge, Division, Roster, Rows, Solves, Team, User, find
from scoreboardd.database import FAILURES, connect

TAIL = 10_000
"Ids below the highest seen among which a submission may still become visible."

_PACKED = np.dtype([("user_id", ">i8"), ("challenge_id", ">i8"), ("at", ">i8"), ("first_blood", "?")])
_POSTGRES_EPOCH = 946_684_800_000_000
"Microseconds from 1970 to 2000, where PostgreSQL's own count begins."

_QUERIES = ("challenges", "divisions", "solves", "teams", "users")

# Of a `solves.sql`. A bytea holds a gigabyte: forty million solves.
_PACK = """
SELECT string_agg(int8send(user_id) || int8send(challenge_id) || timestamptz_send(at) || boolsend(first_blood), '')
FROM ({}) AS solves (id, user_id, challenge_id, at, first_blood)"""
_PACK_AFTER = f"{_PACK} WHERE id > $1"
_HIGHEST = "SELECT coalesce(max(id), 0) FROM ({}) AS solves (id)"

# Rows written so far to the small tables, then rows of submissions changed or removed.
_COUNTERS = """
SELECT sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid))
         FILTER (WHERE t.name <> 'submissions'),
       sum(pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)) FILTER (WHERE t.name = 'submissions')
FROM unnest($1::text[]) AS t (name) JOIN pg_class c ON c.oid = to_regclass(t.name)
"""

# The database's clock, as Unix time: when this transaction began, before its snapshot was taken; and now.
_BEGUN_AT = "SELECT extract(epoch FROM transaction_timestamp())::float8"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


class SourceError(Exception):
    """The facts could not be read; one line: what, where, and how to mend it."""


class Counters(NamedTuple):
    """Rows written so far, as far as the server has counted. Only whether they differ means anything."""

    roster: int | None
    "To the tables of the roster."
    history: int | None
    "To submissions that were there already."


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a read came: what `news` goes on from."""

    highest: int
    "Id of a submission."
    counters: Counters


class Reading(NamedTuple):
    rows: Rows
    as_of: float
    "Unix time of the database's clock, in seconds, just before the snapshot was taken."
    mark: Mark


class News(NamedTuple):
    solves: Solves
    as_of: float
    mark: Mark


class PostgresSource:
    """The platform `kind` in the database at `dsn`. Not to be used by two tasks at once."""

    def __init__(self, dsn: str, kind: str, *, statement_timeout: float) -> None:
        self._dsn = dsn
        self._kind = kind
        self._timeout = statement_timeout
        self._sql = {name: (folder_of(kind) / f"{name}.sql").read_text() for name in _QUERIES}
        tables = tomllib.loads((folder_of(kind) / "source.toml").read_text())
        self._tables = [*{*tables["tables"], *tables["divisions"]}]
        self._connection: Any = None

    async def read(self) -> Reading:
        """All rows of one snapshot."""
        try:
            connection = await self._connected()
            # Before the snapshot: what is written in between is then read twice, not missed.
            counters = await self._counters(connection)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                as_of = await connection.fetchval(_BEGUN_AT)
                roster = await self._roster(connection)
                solves = _unpacked(await connection.fetchval(_PACK.format(self._sql["solves"])))
                return Reading(Rows(roster, solves), as_of, Mark(await self._highest(connection), counters))
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind)) from error

    async def news(self, roster: Roster, mark: Mark) -> News | None:
        """The solves since `mark`, some older ones among them. None if something else has changed: read all again.

        `roster` is the one read then.
        """
        try:
            connection = await self._connected()
            counters = await self._counters(connection)
            if counters.history != mark.counters.history:
                return None
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                as_of = await connection.fetchval(_BEGUN_AT)
                if counters.roster != mark.counters.roster and await self._roster(connection) != roster:
                    return None
                packed = await connection.fetchval(_PACK_AFTER.format(self._sql["solves"]), mark.highest - TAIL)
                solves = _unpacked(packed)
                if await self._newcomers(connection, roster, solves):
                    return None
                return News(solves, as_of, Mark(max(await self._highest(connection), mark.highest), counters))
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind)) from error

    async def clock(self) -> clock.Reading:
        """Ask the database for the time. On a connection of its own, so that it may be called during a read."""
        try:
            connection = await connect(self._dsn, statement_timeout=self._timeout)
            try:
                before = time.monotonic()
                now = await connection.fetchval(_NOW)
                after = time.monotonic()
            finally:
                connection.terminate()
        except FAILURES as error:
            raise SourceError(explain(error, self._kind)) from error
        return clock.Reading(offset=now - (before + after) / 2, error=(after - before) / 2)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._dsn,
                statement_timeout=self._timeout,
                # Not one plan for every argument: it would scan all submissions for the newest of them.
                plan_cache_mode="force_custom_plan",
            )
        return self._connection

    async def _counters(self, connection: Any) -> Counters:
        return Counters(*await connection.fetchrow(_COUNTERS, self._tables))

    async def _roster(self, connection: Any) -> Roster:
        async def rows(name: str) -> list[Any]:
            found: list[Any] = await connection.fetch(f"SELECT * FROM ({self._sql[name]}) AS them ORDER BY 1")  # noqa: S608
            return found

        has_divisions = await connection.fetchval("SELECT to_regclass('divisions') IS NOT NULL")
        return Roster(
            challenges=[Challenge(*row) for row in await rows("challenges")],
            teams=[Team(*row) for row in await rows("teams")],
            users=[User(*row) for row in await rows("users")],
            divisions=[Division(*row) for row in await rows("divisions")] if has_divisions else [],
        )

    async def _highest(self, connection: Any) -> int:
        highest: int = await connection.fetchval(_HIGHEST.format(self._sql["solves"]))
        return highest

    async def _newcomers(self, connection: Any, roster: Roster, solves: Solves) -> bool:
        """Whether some of the solves are by users, or of challenges, that are to be seen but not in the roster."""
        for name, column, known in (
            ("users", "user_id", roster.user_ids),
            ("challenges", "challenge_id", roster.challenge_ids),
        ):
            strange = solves[column][~find(solves[column], known)[1]]
            query = f"SELECT count(*) FROM ({self._sql[name]}) AS them WHERE id = ANY($1)"  # noqa: S608
            if len(strange) and await connection.fetchval(query, np.unique(strange).tolist()):
                return True
        return False

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()  # it is read-only, and a graceful close may hang on a link that is half open

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _unpacked(packed: bytes | None) -> Solves:
    solves = np.frombuffer(packed or b"", _PACKED).astype(SOLVE)
    solves["at"] += _POSTGRES_EPOCH
    return solves


def folder_of(kind: str) -> Traversable:
    return files(__package__) / kind


def explain(error: BaseException, kind: str) -> str:
    """What went wrong with reading, for the person who can mend it."""
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return database.told(
                error,
                f"the {kind} source needs it: see that postgres.dsn names the platform's database, and run "
                "`scoreboardd check`",
            )
        case asyncpg.InsufficientPrivilegeError():
            return database.told(error, "GRANT SELECT on the platform's tables to the role in postgres.dsn")
        case asyncpg.QueryCanceledError():
            return database.told(
                error, "run `scoreboardd check` for missing indexes, or raise postgres.statement_timeout"
            )
        case _:
            return database.explain(error)
