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
from collections.abc import Sized
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import TracebackType
from typing import Any, NamedTuple, Self

import asyncpg
import numpy as np

from scoreboardd import clock, database
from scoreboardd.board.rows import Challenge, Division, Roster, Rows, Solves, Team, User, find
from scoreboardd.database import FAILURES, connect
from scoreboardd.source.columns import INTEGERS, ColumnError, Tables, inspect
from scoreboardd.source.decoding import EARLIEST, LATEST, Decoder, codec_of, unpacked
from scoreboardd.source.findings import MAX_EXAMPLES, Finding, Findings

TAIL = 10_000
"Ids below the highest seen among which a submission may still become visible."

_COLUMNS = {
    "challenges": Challenge._fields,
    "divisions": Division._fields,
    "teams": Team._fields,
    "users": User._fields,
}
"What the queries of the roster return."

# Of a `solves.sql`. A bytea holds a gigabyte: forty million solves. A solve that lacks a part is counted, not packed.
_SOLVES = "FROM ({}) AS solves (id, user_id, challenge_id, at, first_blood)"
_PACK = f"""
SELECT string_agg(int8send(user_id) || int8send(challenge_id) || timestamptz_send(at) || boolsend(first_blood), ''),
       count(*)
{_SOLVES}"""
_AFTER = "WHERE id > $1::bigint"
_PACK_AFTER = f"{_PACK} {_AFTER}"
_HIGHEST = f"SELECT max(id)::text {_SOLVES}"
_BAD_SOLVES = f"""
SELECT id::text FROM (SELECT * {_SOLVES} {{}}) AS solves
WHERE user_id IS NULL OR challenge_id IS NULL OR at IS NULL OR at NOT BETWEEN '{EARLIEST}' AND '{LATEST}'
LIMIT {MAX_EXAMPLES}"""  # noqa: S608
_REPEATED_SOLVES = f"""
SELECT sum(times - 1)::bigint, (array_agg(id))[:{MAX_EXAMPLES}]
FROM (SELECT id::text, count(*) AS times {_SOLVES} GROUP BY 1 HAVING count(*) > 1) AS repeated"""  # noqa: S608

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


# What is read as a table, and all that is beneath a view or a partitioned table: rows, by the statistics, and whether
# row-level security applies to us.
_HIDDEN = """
WITH RECURSIVE beneath (oid) AS (
    SELECT to_regclass($1)::oid
    UNION
    SELECT below.oid FROM beneath, LATERAL (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = beneath.oid
        UNION ALL
        SELECT d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE r.ev_class = beneath.oid AND d.refclassid = 'pg_class'::regclass
    ) AS below (oid)
)
SELECT top.oid::regclass::text, quote_ident(current_user), top.relkind = 'v',
       sum(CASE WHEN pg_stat_get_live_tuples(c.oid) + pg_stat_get_dead_tuples(c.oid) > 0
           THEN pg_stat_get_live_tuples(c.oid) ELSE greatest(c.reltuples, 0) END)::float8,
       row_security_active(top.oid) OR top.relkind = 'v' AND bool_or(c.relrowsecurity),
       EXISTS (
           SELECT FROM pg_policy WHERE polrelid = top.oid AND polpermissive AND polcmd IN ('r', '*')
           AND EXISTS (SELECT FROM unnest(polroles) AS r (oid) WHERE r.oid = 0 OR pg_has_role(r.oid, 'USAGE'))
       )
FROM beneath JOIN pg_class c ON c.oid = beneath.oid JOIN pg_class top ON top.oid = to_regclass($1)
GROUP BY top.oid, top.relkind
"""


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

    highest: int | None
    "Id of a submission. None if the ids are of a type whose order says nothing about time."
    counters: Counters


class Reading(NamedTuple):
    rows: Rows
    as_of: float
    "Unix time of the database's clock, in seconds, just before the snapshot was taken."
    mark: Mark
    findings: list[Finding]


class News(NamedTuple):
    solves: Solves
    as_of: float
    mark: Mark
    findings: list[Finding]


class PostgresSource:
    """The platform `kind` in the database at `dsn`. Not to be used by two tasks at once."""

    def __init__(self, dsn: str, kind: str, *, statement_timeout: float, timezone: str = "UTC") -> None:
        """`timezone`, an IANA name, is that of times without a zone."""
        self._dsn = dsn
        self._kind = kind
        self.statement_timeout = statement_timeout
        self._timezone = timezone
        self._wanted = wanted(kind)
        self._queries = {name: (folder_of(kind) / f"{name}.sql").read_text() for name in (*_COLUMNS, "solves")}
        self._tables = [*{*self._wanted["tables"], *self._wanted["divisions"]}]
        self._connection: Any = None
        self._found: Tables
        "The tables as the last whole read found them, and the queries and the codec that go with them."
        self._sql: dict[str, str] = {}
        self._codec = "utf-8"
        self._is_raw = False
        "The texts are sent as they are in the database, for the codec to convert."

    async def read(self) -> Reading:
        """All rows of one snapshot."""
        try:
            connection = await self._connected()
            # Before the snapshot: what is written in between is then read twice, not missed.
            counters = await self._counters(connection)
            findings = Findings()
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                as_of = await connection.fetchval(_BEGUN_AT)
                await self._inspect(connection)
                roster = await self._roster(connection, findings)
                solves = await self._solves(connection, findings)
                await self._find_repeated_solves(connection, findings)
                await self._find_hidden_tables(connection, roster, solves, findings)
                mark = Mark(await self._highest(connection), counters)
                return Reading(Rows(roster, solves), as_of, mark, findings.all)
        except ColumnError as error:
            raise SourceError(str(error)) from error
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind, self._dsn)) from error

    async def news(self, roster: Roster, mark: Mark) -> News | None:
        """The solves since `mark`, some older ones among them. None if something else has changed: read all again.

        `roster` is the one read then.
        """
        try:
            connection = await self._connected()
            counters = await self._counters(connection)
            if mark.highest is None or counters.history != mark.counters.history:
                return None
            findings = Findings()
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                as_of = await connection.fetchval(_BEGUN_AT)
                if counters.roster != mark.counters.roster and await self._roster(connection, findings) != roster:
                    return None
                solves = await self._solves(connection, findings, after=mark.highest - TAIL)
                if await self._newcomers(connection, roster, solves):
                    return None
                highest = max(await self._highest(connection) or 0, mark.highest)
                return News(solves, as_of, Mark(highest, counters), findings.all)
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind, self._dsn)) from error

    async def clock(self) -> clock.Reading:
        """Ask the database for the time. On a connection of its own, so that it may be called during a read."""
        try:
            connection = await connect(self._dsn, statement_timeout=self.statement_timeout)
            try:
                before = time.monotonic()
                now = await connection.fetchval(_NOW)
                after = time.monotonic()
            finally:
                connection.terminate()
        except FAILURES as error:
            raise SourceError(explain(error, self._kind, self._dsn)) from error
        return clock.Reading(offset=now - (before + after) / 2, error=(after - before) / 2)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._dsn,
                statement_timeout=self.statement_timeout,
                # Not one plan for every argument: it would scan all submissions for the newest of them.
                plan_cache_mode="force_custom_plan",
            )
        return self._connection

    async def _counters(self, connection: Any) -> Counters:
        return Counters(*await connection.fetchrow(_COUNTERS, self._tables))

    async def _inspect(self, connection: Any) -> None:
        """Find out which columns there are, of which types, and adapt the queries."""
        self._found = await inspect(connection, self._kind, self._wanted)
        names = [name for name in self._queries if name != "divisions" or self._found.has_divisions]
        self._sql = {name: self._found.query(self._queries[name], self._timezone) for name in names}
        encoding = await connection.fetchval("SELECT getdatabaseencoding()")
        codec = codec_of(encoding)
        # PostgreSQL would refuse to convert a text that is not valid, and it does not look at one in UTF-8.
        self._is_raw = codec is not None and encoding != "UTF8"
        self._codec = codec or "utf-8"

    async def _roster(self, connection: Any, findings: Findings) -> Roster:
        async def rows(name: str) -> list[Any]:
            if name not in self._sql:
                return []
            columns = _COLUMNS[name]
            values = ", ".join(name if name.endswith("id") else f"textsend({name}::text)" for name in columns)
            query = f"SELECT {values} FROM ({self._sql[name]}) AS them ({', '.join(columns)}) ORDER BY id"  # noqa: S608
            found: list[Any] = await connection.fetch(query)
            return found

        if self._is_raw:
            await connection.execute("SET LOCAL client_encoding = 'SQL_ASCII'")
        raw = {name: await rows(name) for name in _COLUMNS}
        if self._is_raw:
            await connection.execute("SET LOCAL client_encoding = 'UTF8'")
        return Decoder(self._codec, findings).roster(**raw)

    async def _solves(self, connection: Any, findings: Findings, *, after: int | None = None) -> Solves:
        sql = self._sql["solves"]
        where, arguments = ("", []) if after is None else (_AFTER, [after])
        packed, count = await connection.fetchrow(f"{_PACK.format(sql)} {where}", *arguments)
        solves = unpacked(packed)
        if bad := count - len(solves):
            ids = [id for (id,) in await connection.fetch(_BAD_SOLVES.format(sql, where), *arguments)]
            problem = "a correct submission without user, challenge or a time from year 1 to 9999, and it is left out"
            for id in ids:
                findings.add("submissions", problem, id)
            findings.add("submissions", problem, rows=bad - len(ids))
        return solves

    async def _find_repeated_solves(self, connection: Any, findings: Findings) -> None:
        if self._found.columns["submissions"]["id"].is_unique:
            return
        rows, ids = await connection.fetchrow(_REPEATED_SOLVES.format(self._sql["solves"]))
        if rows:
            problem = "more than one row has this id, and they count as one if they are of one user; make the id unique"
            for id in ids:
                findings.add("submissions", problem, id)
            findings.add("submissions", problem, rows=rows - len(ids))

    async def _find_hidden_tables(self, connection: Any, roster: Roster, solves: Solves, findings: Findings) -> None:
        """Of the tables of which nothing is shown, those of which we cannot see what there is."""
        shown: dict[str, Sized] = {
            "users": roster.users,
            "teams": roster.teams,
            "challenges": roster.challenges,
            "submissions": solves,
        }
        for table, rows in shown.items():
            if not len(rows) and (problem := await hidden(connection, table)):
                findings.add(table, problem, rows=0, is_altered=False)

    async def _highest(self, connection: Any) -> int | None:
        """The highest id of a solve; None if the order of the ids says nothing."""
        if self._found.columns["submissions"]["id"].base not in INTEGERS | {"numeric"}:
            return None
        highest = await connection.fetchval(_HIGHEST.format(self._sql["solves"])) or "0"
        # Of numeric ids the highest may be 1.5, NaN or beyond all that PostgreSQL can compare with a bigint.
        return int(highest) if highest.lstrip("-").isdigit() and abs(int(highest)) < 2**63 else None

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


def folder_of(kind: str) -> Traversable:
    return files(__package__) / kind


def wanted(kind: str) -> dict[str, Any]:
    """What the source wants of its database: its `source.toml`."""
    return tomllib.loads((folder_of(kind) / "source.toml").read_text())


async def hidden(connection: Any, table: str) -> str | None:
    """Why nothing of a table can be read although there is something, if that is so."""
    if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608  a name from source.toml
        return None
    name, role, is_view, rows, is_protected, has_policy = await connection.fetchrow(_HIDDEN, table)
    if is_protected and (rows or not (has_policy or is_view)):
        return (
            f"row-level security hides every row from role {role}, and the board lacks them; let the owner of "
            f"the table run: CREATE POLICY scoreboard ON {name} FOR SELECT TO {role} USING (true);"
        )
    if rows and not is_view:
        return f"no row can be read, though PostgreSQL counts about {rows:.0f}; see what hides them from role {role}"
    return None


def explain(error: BaseException, kind: str, dsn: str) -> str:
    """What went wrong with reading, for the person who can fix it."""
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            fix = (
                f"the {kind} source needs it: see that postgres.dsn names the platform's database, and run "
                "`scoreboardd check`"
            )
        case asyncpg.InsufficientPrivilegeError() if "function" in str(error):
            fix = "a view of the platform calls it: GRANT EXECUTE on it to the role in postgres.dsn"
        case asyncpg.InsufficientPrivilegeError():
            fix = "GRANT SELECT on the platform's tables to the role in postgres.dsn"
        case asyncpg.QueryCanceledError():
            fix = "run `scoreboardd check` for missing indexes, or raise postgres.statement_timeout"
        case asyncpg.InvalidParameterValueError() if "time zone" in str(error):
            fix = "write another name of it in source.timezone"
        case _:
            return database.explain(error, dsn)
    return database.told(error, fix, dsn)
