"""Read a contest from the platform's PostgreSQL: all of it, or what is new since, from one snapshot (I5).

One connection, kept for a minute, with a read-only transaction for each read; every await has a deadline. A transaction
carries its own settings and nothing is kept in the session, so that a pooler may stand in between in any mode but
statement pooling. Solves, which are many, come as one packed value that costs this process next to nothing to read.

What is new since an earlier read (`news`) is found without looking at the whole of anything. There is an increment only
if all of this holds; else all has to be read:

- The ids of submissions are integers, and have come in rising order so far: since the whole read before the last one no
  solve has appeared below the window that was kept then (`Cursor.is_ordered`).
- It is the same server, and no table was truncated, restored or rewritten (`evidence`).
- The counters of changed and removed submissions can move and have not moved. They follow a commit by up to some
  seconds. They are there to find what nobody announced.
- Each of the newest solves is there as it was (`tail`). This is exact for the `WINDOW` highest, and so for all of a
  contest that has no more.
- Where the counters of the small tables have moved, the small tables still hold the same rows.
- No new solve is by a user, or of a challenge, that the roster lacks.

What an increment cannot see, until all is read: a solve with an id below those of `WINDOW` others that were seen; an
older row that was changed, for some seconds. If either was announced, the follower misses it among the solves that are
new (`Increment.added`), and reads everything in the same build.

A hot standby may lag: `FullRead.is_current` says whether it had replayed by then what it had received when the read
began, for which the read waits at most `REPLAY_SECONDS`.
"""

import asyncio
import time
import tomllib
from collections.abc import Sized
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import TracebackType
from typing import Any, NamedTuple, Self

import asyncpg
import numpy as np

from scoreboardd.board.source_rows import (
    ChallengeRow,
    DivisionRow,
    Roster,
    Solves,
    SourceRows,
    TeamRow,
    UserRow,
    find,
    released,
)
from scoreboardd.platforms.columns import INTEGERS, ColumnError, Tables, inspect
from scoreboardd.platforms.decoding import EARLIEST, LATEST, Decoder, codec_of, unpacked
from scoreboardd.platforms.evidence import Evidence, evidence
from scoreboardd.platforms.findings import MAX_EXAMPLES, Finding, Findings
from scoreboardd.platforms.tail import RECORD, WINDOW, Tail
from scoreboardd.postgres import connection
from scoreboardd.postgres.connection import FAILURES, connect_for_transactions, transaction
from scoreboardd.system import clock

REPLAY_SECONDS = 2.0
"How long a read waits for a standby, at most."
REPLAY_POLL_SECONDS = 0.05
CONNECTION_SECONDS = 60.0
"How long a connection is used: the name in the DSN may lead to another server since."

_COLUMNS = {
    "challenges": ChallengeRow._fields,
    "divisions": DivisionRow._fields,
    "teams": TeamRow._fields,
    "users": UserRow._fields,
}
"What the queries of the roster return."

# Of a `solves.sql`. A bytea holds a gigabyte: forty million solves. A solve that lacks a part is counted, not packed.
_SOLVES = "FROM ({}) AS solves (id, user_id, challenge_id, at, first_blood)"
_FIELDS = "int8send(user_id) || int8send(challenge_id) || timestamptz_send(at) || boolsend(first_blood)"
_PACK = f"SELECT string_agg({_FIELDS}, ''), count(*) {_SOLVES}"
_ABOVE = "WHERE id > $1::bigint"
# As `tail.RECORD`.
_PACK_RECORDS = f"SELECT string_agg(int8send(id) || {_FIELDS}, ''), count(*)"
_PACK_ABOVE = f"{_PACK_RECORDS} {_SOLVES} {_ABOVE}"
_PACK_NEWEST = f"{_PACK_RECORDS} FROM (SELECT * {_SOLVES} ORDER BY id DESC LIMIT {WINDOW}) AS solves"
_COUNT_ABOVE = f"SELECT count(*) {_SOLVES} {_ABOVE}"
_BAD_SOLVES = f"""
SELECT id::text FROM (SELECT * {_SOLVES} {{}}) AS solves
WHERE user_id IS NULL OR challenge_id IS NULL OR at IS NULL OR at NOT BETWEEN '{EARLIEST}' AND '{LATEST}'
LIMIT {MAX_EXAMPLES}"""  # noqa: S608
_REPEATED_SOLVES = f"""
SELECT sum(times - 1)::bigint, (array_agg(id))[:{MAX_EXAMPLES}]
FROM (SELECT id::text, count(*) AS times {_SOLVES} GROUP BY 1 HAVING count(*) > 1) AS repeated"""  # noqa: S608

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


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a read came: what `news` goes on from."""

    evidence: Evidence
    roster: Roster
    "As the database has it."
    listed: Roster
    "As `SourceRows` has it."
    solves: int
    "How many rows."
    tail: Tail | None
    "None if the order of the ids says nothing about time."
    is_ordered: bool = True
    "Of all that the last reads found new, nothing was below the tail."


class FullRead(NamedTuple):
    rows: SourceRows
    as_of: float
    "Unix time of the database's clock, in seconds, just before the snapshot was taken."
    cursor: Cursor
    findings: list[Finding]
    is_current: bool = True
    "False if the server is a standby that has not replayed what it had received."


class Increment(NamedTuple):
    solves: Solves
    "Those that are new, and some that are known."
    added: int
    "How many are new."
    as_of: float
    cursor: Cursor
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
        self._connected_at = 0.0
        self._place: tuple[str, bool] | None = None
        "Of the connection, once it is known."
        self._found: Tables
        "The tables as the last whole read found them, and the queries and the codec that go with them."
        self._sql: dict[str, str] = {}
        self._codec = "utf-8"
        self._is_raw = False
        "The texts are sent as they are in the database, for the codec to convert."

    async def read(self, before: Cursor | None = None) -> FullRead:
        """All rows of one snapshot. `before` is of the read before this one."""
        try:
            # Before the snapshot: what is written in between is then read twice, not missed.
            connection, evidence = await self._observe()
            is_current = not evidence.is_standby or await self._replayed(connection)
            findings = Findings()
            async with self._transaction(connection, "repeatable read"):
                as_of = await connection.fetchval(_BEGUN_AT)
                await self._inspect(connection)
                roster = await self._roster(connection, findings)
                solves, count = await self._solves(connection, findings)
                await self._find_repeated_solves(connection, findings)
                await self._find_hidden_tables(connection, roster, solves, findings)
                tail, is_ordered = await self._tail(connection, evidence, count, before)
            listed = released(roster, solves)
            cursor = Cursor(evidence, roster, listed, count, tail, is_ordered)
            return FullRead(SourceRows(listed, solves), as_of, cursor, findings.all, is_current)
        except ColumnError as error:
            raise SourceError(str(error)) from error
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind, self._dsn)) from error

    async def read_since(self, cursor: Cursor) -> Increment | None:
        """The solves since `cursor`. None if something else has changed, or could have: read all again."""
        try:
            connection, now = await self._observe()
            then, tail = cursor.evidence, cursor.tail
            if tail is None or not (cursor.is_ordered and then.countable and now.countable):
                return None
            if now._replace(roster=then.roster) != then:
                return None
            findings = Findings()
            async with self._transaction(connection, "repeatable read"):
                as_of = await connection.fetchval(_BEGUN_AT)
                if now.roster != then.roster and await self._roster(connection, findings) != cursor.roster:
                    return None
                packed, solves = await self._solves_above(connection, findings, tail.floor)
                added = tail.added(packed)
                if added is None or await self._newcomers(connection, cursor.listed, solves):
                    return None
            after = replace(cursor, evidence=now, solves=cursor.solves + added, tail=Tail.of(packed, tail.floor))
            return Increment(solves, added, as_of, after, findings.all)
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._kind, self._dsn)) from error

    async def clock(self) -> clock.ClockReading:
        """Ask the database for the time. On a connection of its own, so that it may be called during a read."""
        try:
            connection = await connect_for_transactions(self._dsn, statement_timeout=self.statement_timeout)
            try:
                async with self._transaction(connection):
                    before = time.monotonic()
                    now = await connection.fetchval(_NOW)
                    after = time.monotonic()
            finally:
                connection.terminate()
        except FAILURES as error:
            raise SourceError(explain(error, self._kind, self._dsn)) from error
        return clock.ClockReading(offset=now - (before + after) / 2, error=(after - before) / 2)

    async def _observe(self) -> tuple[Any, Evidence]:
        """A connection to the server that the DSN leads to, and what that server says of itself and the tables."""
        if time.monotonic() - self._connected_at > CONNECTION_SECONDS:
            await self.aclose()
        connection = await self._connected()
        found = await self._evidence(connection)
        if self._place not in (None, found.place):
            # Behind a pooler, or because the server is being replaced.
            await self.aclose()
            connection = await self._connected()
            found = await self._evidence(connection)
        self._place = found.place
        return connection, found

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._place = None
            self._connection = await connect_for_transactions(self._dsn, statement_timeout=self.statement_timeout)
            self._connected_at = time.monotonic()
        return self._connection

    def _transaction(self, connection: Any, isolation: str = "read committed") -> AbstractAsyncContextManager[None]:
        return transaction(connection, statement_timeout=self.statement_timeout, isolation=isolation)

    async def _evidence(self, connection: Any) -> Evidence:
        async with self._transaction(connection):
            return await evidence(connection, self._tables)

    async def _replayed(self, connection: Any) -> bool:
        """Wait until the standby has replayed what it has received by now. False if that takes too long."""
        async with self._transaction(connection):
            received = await connection.fetchval("SELECT pg_last_wal_receive_lsn()::text")
        give_up_at = time.monotonic() + min(REPLAY_SECONDS, self.statement_timeout / 2)
        while True:
            async with self._transaction(connection):
                # NULL if it has received nothing, or has become a primary.
                query = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)"
                if await connection.fetchval(query, received):
                    return True
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(REPLAY_POLL_SECONDS)

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

    async def _solves(self, connection: Any, findings: Findings) -> tuple[Solves, int]:
        """All, and of how many rows they are."""
        packed, count = await connection.fetchrow(_PACK.format(self._sql["solves"]))
        solves = unpacked(packed)
        await self._find_bad_solves(connection, findings, count - len(solves))
        return solves, count

    async def _solves_above(self, connection: Any, findings: Findings, floor: int) -> tuple[bytes, Solves]:
        """Those with ids above `floor`, as the records of a tail and as solves."""
        packed, count = await connection.fetchrow(_PACK_ABOVE.format(self._sql["solves"]), floor)
        solves = unpacked(packed, RECORD)
        await self._find_bad_solves(connection, findings, count - len(solves), _ABOVE, floor)
        return packed or b"", solves

    async def _find_bad_solves(
        self, connection: Any, findings: Findings, bad: int, where: str = "", *arguments: int
    ) -> None:
        if not bad:
            return
        query = _BAD_SOLVES.format(self._sql["solves"], where)
        ids = [id for (id,) in await connection.fetch(query, *arguments)]
        problem = "a correct submission without user, challenge or a time from year 1 to 9999, and it is left out"
        for id in ids:
            findings.add("submissions", problem, id)
        findings.add("submissions", problem, rows=bad - len(ids))

    async def _tail(
        self, connection: Any, now: Evidence, count: int, before: Cursor | None
    ) -> tuple[Tail | None, bool]:
        """The tail of the `count` solves there are, and whether since the read `before` none has come up below its."""
        if self._found.columns["submissions"]["id"].base not in INTEGERS:
            return None, False
        sql = self._sql["solves"]
        packed, _ = await connection.fetchrow(_PACK_NEWEST.format(sql))
        tail = Tail.of(packed or b"")
        if before is None or before.tail is None or before.evidence.relations != now.relations:
            return tail, True
        known = len(before.tail.records)
        above = await connection.fetchval(_COUNT_ABOVE.format(sql), before.tail.floor)
        if count - above > before.solves - known:
            return tail, False
        return tail, before.is_ordered or above > known

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

    async def _newcomers(self, connection: Any, roster: Roster, solves: Solves) -> bool:
        """Whether some of the solves are by users, or of challenges, that belong on the board and not in the roster."""
        is_known = find(solves["user_id"], roster.user_ids)[1]
        # What somebody solves who may not be seen puts no challenge on the board.
        challenges = solves["challenge_id"][is_known]
        for name, strange in (
            ("users", solves["user_id"][~is_known]),
            ("challenges", challenges[~find(challenges, roster.challenge_ids)[1]]),
        ):
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
    """What the source wants of its database: its `platform.toml`."""
    return tomllib.loads((folder_of(kind) / "platform.toml").read_text())


async def hidden(connection: Any, table: str) -> str | None:
    """Why nothing of a table can be read although there is something, if that is so."""
    if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608  a name from platform.toml
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
        case asyncpg.PostgresError() if "conflict with recovery" in str(error):
            fix = "let the standby in postgres.dsn have hot_standby_feedback = on, or raise max_standby_streaming_delay"
        case asyncpg.QueryCanceledError():
            fix = "run `scoreboardd check` for missing indexes, or raise postgres.statement_timeout"
        case asyncpg.InvalidParameterValueError() if "time zone" in str(error):
            fix = "write another name of it in source.timezone"
        case _:
            return connection.explain(error, dsn)
    return connection.error_line(error, fix, dsn)
