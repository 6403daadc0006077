"""Reads a contest from the platform's PostgreSQL: everything, or what is new since an earlier read (I5).

Each read is one read-only transaction and so sees one snapshot. The source keeps its connection for a minute. Every
await has a deadline. A transaction brings its own settings and leaves nothing in the session, so that the connection
may lead through a pooler in any mode but statement pooling. Solves, of which there may be millions, arrive as one
packed value, which this process reads at almost no cost.

`read_since` finds what is new without scanning a whole table. It returns an increment only if all of this holds;
otherwise everything must be read:

- The ids of submissions are integers, and have increased over time so far: between the last two whole reads no solve
  appeared below the tail of the earlier one (`Cursor.is_ordered`).
- The server is the same, and no table was truncated, restored or rewritten (`evidence`).
- The counters of changed and removed submissions work, and have not changed. PostgreSQL updates them up to some seconds
  after a commit. They serve to detect changes that were not announced.
- Every solve of the tail still exists unchanged (`tail`). This check is exact for the `TAIL_SOLVES` solves with the
  highest ids, and so for every solve of a contest that has no more.
- If the counters of the small tables have changed, the small tables still hold the same rows.
- No new solve is by a user, or of a challenge, that is missing from the roster.

Until the next whole read, an increment cannot detect a solve with an id below the tail, nor, for some seconds, a change
of an older row. If such a change was announced, the loader notices that it is missing among the new solves
(`Increment.added`), and reads everything in the same build.

A hot standby may lag. A whole read waits up to `REPLAY_SECONDS` until the standby has replayed all that it had received
when the read began; `FullRead.is_current` is false if that took longer, or if the standby has no WAL receiver.
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
from typing import Any, Self

import asyncpg
import numpy as np

from scoreboardd.board.source_rows import (
    ChallengeRow,
    DivisionRow,
    Roster,
    Solves,
    SourceRows,
    TeamRow,
    find,
    released,
)
from scoreboardd.platforms.columns import INTEGERS, ColumnError, Tables, inspect
from scoreboardd.platforms.decoding import EARLIEST, LATEST, Decoder, codec_of, unpacked
from scoreboardd.platforms.evidence import Evidence, evidence
from scoreboardd.platforms.findings import MAX_EXAMPLES, Findings
from scoreboardd.platforms.source import Cursor, FullRead, Increment, SourceError
from scoreboardd.platforms.tail import RECORD, TAIL_SOLVES, Tail
from scoreboardd.postgres import connection
from scoreboardd.postgres.connection import FAILURES, connect_for_transactions, transaction
from scoreboardd.system import clock

REPLAY_SECONDS = 2.0
"The longest time that a read waits for a standby to replay."
REPLAY_POLL_SECONDS = 0.05
"The time between two checks of the standby's progress."
CONNECTION_SECONDS = 60.0
"The age at which a connection is replaced, because the name in the DSN may lead to another server by then."

_COLUMNS = {
    "challenges": ChallengeRow._fields,
    "divisions": DivisionRow._fields,
    "teams": TeamRow._fields,
    "users": ("id", "name", "team_id"),
}
"The columns that the queries of the roster return."

# Around the query in `solves.sql`. A bytea holds a gigabyte: forty million solves. A solve with a NULL field is counted
# but not packed.
_SOLVES = "FROM ({}) AS solves (id, user_id, challenge_id, at, first_blood)"
_FIELDS = "int8send(user_id) || int8send(challenge_id) || timestamptz_send(at) || boolsend(first_blood)"
_PACK = f"SELECT string_agg({_FIELDS}, ''), count(*) {_SOLVES}"
_ABOVE = "WHERE id > $1::bigint"
# With the layout of `tail.RECORD`.
_PACK_RECORDS = f"SELECT string_agg(int8send(id) || {_FIELDS}, ''), count(*)"
_PACK_ABOVE = f"{_PACK_RECORDS} {_SOLVES} {_ABOVE}"
_PACK_NEWEST = f"{_PACK_RECORDS} FROM (SELECT * {_SOLVES} ORDER BY id DESC LIMIT {TAIL_SOLVES}) AS solves"
_COUNT_ABOVE = f"SELECT count(*) {_SOLVES} {_ABOVE}"
_BAD_SOLVES = f"""
SELECT id::text FROM (SELECT * {_SOLVES} {{}}) AS solves
WHERE user_id IS NULL OR challenge_id IS NULL OR at IS NULL OR at NOT BETWEEN '{EARLIEST}' AND '{LATEST}'
LIMIT {MAX_EXAMPLES}"""  # noqa: S608
_REPEATED_SOLVES = f"""
SELECT sum(times - 1)::bigint, (array_agg(id))[:{MAX_EXAMPLES}]
FROM (SELECT id::text, count(*) AS times {_SOLVES} GROUP BY 1 HAVING count(*) > 1) AS repeated"""  # noqa: S608

# The database's clock as Unix time in seconds: at the start of the transaction, before its snapshot; and now.
_BEGUN_AT = "SELECT extract(epoch FROM transaction_timestamp())::float8"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"

# A table or view, with the tables behind the view and the partitions: the number of rows according to the statistics,
# whether row-level security applies to our role, and whether a policy lets our role read any rows.
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


@dataclass(frozen=True, slots=True)
class PostgresCursor:
    """The state of the database at a read, from which `read_since` continues."""

    evidence: Evidence
    "The state of the server and the tables."
    roster: Roster
    "The roster as the database holds it."
    listed: Roster
    "The roster in `SourceRows`, without the inactive challenges that nobody has solved."
    solves: int
    "The number of solves."
    tail: Tail | None
    "The newest solves. None if the ids are not integers, so that their order does not follow time."
    is_ordered: bool = True
    "False once a whole read has found a new solve below the tail, until a later one finds new solves only above it."

    @property
    def facts(self) -> Roster:
        """Differs if anything but the solves differs."""
        return self.roster

    @property
    def tables(self) -> tuple[str, ...]:
        """Differs if the rows of a table were replaced as a whole."""
        return self.evidence.relations


class PostgresSource:
    """Reads a platform's database. Only `clock` may be called while another call is in progress."""

    is_exact = False

    def __init__(self, dsn: str, platform: str, *, statement_timeout: float, timezone: str = "UTC") -> None:
        """`platform` is the value of source.kind; `statement_timeout` is in seconds.

        `timezone` is the IANA name of the zone of times that are stored without one.
        """
        self._dsn = dsn
        self._platform = platform
        self.statement_timeout = statement_timeout
        self._timezone = timezone
        self._requirements = requirements(platform)
        self._queries = {name: (folder_of(platform) / f"{name}.sql").read_text() for name in (*_COLUMNS, "solves")}
        self._tables = [*{*self._requirements["tables"], *self._requirements["divisions"]}]
        self._connection: Any = None
        self._connected_at = 0.0
        self._place: tuple[str, bool] | None = None
        "The `Evidence.place` of the current connection, once it is known."
        self._found: Tables
        "The tables as the last whole read found them. The queries and the codec below fit these tables."
        self._sql: dict[str, str] = {}
        self._codec = "utf-8"
        self._is_raw = False
        "Whether the server sends texts in the database's encoding, for the codec to convert."

    async def read(self, before: Cursor | None = None) -> FullRead:
        """Read everything. `before` is the cursor of the whole read before this one, if there was one.

        Raises `SourceError`.
        """
        assert before is None or isinstance(before, PostgresCursor)
        try:
            # The counters are read before the snapshot, so that the next read does not miss what is written in between.
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
            cursor = PostgresCursor(evidence, roster, listed, count, tail, is_ordered)
            return FullRead(SourceRows(listed, solves), as_of, cursor, findings.all, is_current)
        except ColumnError as error:
            raise SourceError(str(error)) from error
        except FAILURES as error:
            await self.aclose()
            raise SourceError(explain(error, self._platform, self._dsn)) from error

    async def read_since(self, cursor: Cursor) -> Increment | None:
        """Read the solves since `cursor`. None if anything else may have changed, so that everything must be read.

        Raises `SourceError`.
        """
        assert isinstance(cursor, PostgresCursor)
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
            raise SourceError(explain(error, self._platform, self._dsn)) from error

    async def is_changed(self) -> bool:
        """Return False: changes are announced."""
        return False

    async def clock(self) -> clock.ClockReading:
        """Measure the database's clock on a new connection, which allows this during a read. Raises `SourceError`."""
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
            raise SourceError(explain(error, self._platform, self._dsn)) from error
        return clock.ClockReading(offset=now - (before + after) / 2, error=(after - before) / 2)

    async def _observe(self) -> tuple[Any, Evidence]:
        """Return a connection to the server that the DSN leads to, and the state of that server and the tables."""
        if time.monotonic() - self._connected_at > CONNECTION_SECONDS:
            await self.aclose()
        connection = await self._connected()
        found = await self._evidence(connection)
        if self._place not in (None, found.place):
            # A pooler has switched to another server, or the server is being replaced.
            await self.aclose()
            connection = await self._connected()
            found = await self._evidence(connection)
        self._place = found.place
        return connection, found

    async def _connected(self) -> Any:
        """Return the current connection; open one if necessary."""
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
        """Wait until the standby has replayed all that it has received by now. Return False if that takes too long, or
        if it cannot be known: a standby whose WAL comes from an archive receives nothing."""
        async with self._transaction(connection):
            received, is_standby = await connection.fetchrow(
                "SELECT pg_last_wal_receive_lsn()::text, pg_is_in_recovery()"
            )
        if received is None:
            return not is_standby
        give_up_at = time.monotonic() + min(REPLAY_SECONDS, self.statement_timeout / 2)
        while True:
            async with self._transaction(connection):
                # NULL if the server has become a primary.
                query = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)"
                if await connection.fetchval(query, received):
                    return True
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(REPLAY_POLL_SECONDS)

    async def _inspect(self, connection: Any) -> None:
        """Look up the existing columns and their types, and adapt the queries and the codec to them."""
        self._found = await inspect(connection, self._platform, self._requirements)
        names = [name for name in self._queries if name != "divisions" or self._found.has_divisions]
        self._sql = {name: self._found.query(self._queries[name], self._timezone) for name in names}
        encoding = await connection.fetchval("SELECT getdatabaseencoding()")
        codec = codec_of(encoding)
        # PostgreSQL raises an error if it has to convert invalid text, and does not validate text that is in UTF-8.
        self._is_raw = codec is not None and encoding != "UTF8"
        self._codec = codec or "utf-8"

    async def _roster(self, connection: Any, findings: Findings) -> Roster:
        """Read the roster, and add invalid values to `findings`."""

        async def rows(name: str) -> list[Any]:
            if name not in self._sql:
                return []
            columns = _COLUMNS[name]
            values = ", ".join(name if name.endswith("id") else f"textsend({name}::text)" for name in columns)
            query = f"SELECT {values} FROM ({self._sql[name]}) AS roster ({', '.join(columns)}) ORDER BY id"  # noqa: S608
            found: list[Any] = await connection.fetch(query)
            return found

        if self._is_raw:
            await connection.execute("SET LOCAL client_encoding = 'SQL_ASCII'")
        raw = {name: await rows(name) for name in _COLUMNS}
        if self._is_raw:
            await connection.execute("SET LOCAL client_encoding = 'UTF8'")
        return Decoder(self._codec, findings).roster(**raw)

    async def _solves(self, connection: Any, findings: Findings) -> tuple[Solves, int]:
        """Read all solves. Return the valid ones, and the number of all rows."""
        packed, count = await connection.fetchrow(_PACK.format(self._sql["solves"]))
        solves = unpacked(packed)
        await self._find_bad_solves(connection, findings, count - len(solves))
        return solves, count

    async def _solves_above(self, connection: Any, findings: Findings, floor: int) -> tuple[bytes, Solves]:
        """Read the solves with ids above `floor`. Return them packed with the layout of `RECORD`, and as solves."""
        packed, count = await connection.fetchrow(_PACK_ABOVE.format(self._sql["solves"]), floor)
        solves = unpacked(packed, RECORD)
        await self._find_bad_solves(connection, findings, count - len(solves), _ABOVE, floor)
        return packed or b"", solves

    async def _find_bad_solves(
        self, connection: Any, findings: Findings, bad: int, where: str = "", *arguments: int
    ) -> None:
        """Add a finding for `bad` invalid solves. `where` and `arguments` select the solves that were read."""
        if not bad:
            return
        query = _BAD_SOLVES.format(self._sql["solves"], where)
        ids = [id for (id,) in await connection.fetch(query, *arguments)]
        problem = (
            "a correct submission lacks a user, a challenge or a time from year 1 to 9999, and is left out; correct it"
        )
        for id in ids:
            findings.add("submissions", problem, id)
        findings.add("submissions", problem, rows=bad - len(ids))

    async def _tail(
        self, connection: Any, now: Evidence, count: int, before: PostgresCursor | None
    ) -> tuple[Tail | None, bool]:
        """Return the tail of the `count` solves, and whether their ids are ordered (`Cursor.is_ordered`).

        The ids are ordered unless a solve has appeared below the tail of the whole read `before`.
        """
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
        """Add a finding for submissions with the same id."""
        if self._found.columns["submissions"]["id"].is_unique:
            return
        rows, ids = await connection.fetchrow(_REPEATED_SOLVES.format(self._sql["solves"]))
        if rows:
            problem = "several rows have this id, and rows of the same user count as one; make the id unique"
            for id in ids:
                findings.add("submissions", problem, id)
            findings.add("submissions", problem, rows=rows - len(ids))

    async def _find_hidden_tables(self, connection: Any, roster: Roster, solves: Solves, findings: Findings) -> None:
        """Add a finding for each table that appears empty because its rows are hidden from our role."""
        shown: dict[str, Sized] = {
            "users": roster.users,
            "teams": roster.teams,
            "challenges": roster.challenges,
            "submissions": solves,
        }
        for table, rows in shown.items():
            if not len(rows) and (problem := await hidden_rows_problem(connection, table)):
                findings.add(table, problem, rows=0, is_altered=False)

    async def _newcomers(self, connection: Any, roster: Roster, solves: Solves) -> bool:
        """Return whether a solve is by a user, or of a challenge, that the platform shows but `roster` lacks."""
        is_known = find(solves["user_id"], roster.user_ids)[1]
        # A solve by a hidden user does not put its challenge on the board.
        challenges = solves["challenge_id"][is_known]
        for name, unknown in (
            ("users", solves["user_id"][~is_known]),
            ("challenges", challenges[~find(challenges, roster.challenge_ids)[1]]),
        ):
            query = f"SELECT count(*) FROM ({self._sql[name]}) AS roster WHERE id = ANY($1)"  # noqa: S608
            if len(unknown) and await connection.fetchval(query, np.unique(unknown).tolist()):
                return True
        return False

    async def aclose(self) -> None:
        """Close the connection. The next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()  # it only reads, and a graceful close may hang if the connection is half open

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def folder_of(platform: str) -> Traversable:
    """Return the folder with the files of a platform."""
    return files(__package__) / platform


def requirements(platform: str) -> dict[str, Any]:
    """Return the content of the platform's `platform.toml`: what its queries require of the database."""
    return tomllib.loads((folder_of(platform) / "platform.toml").read_text())


async def hidden_rows_problem(connection: Any, table: str) -> str | None:
    """Return the problem that all rows of `table` are hidden from our role. None if that is not so."""
    if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608  a name from platform.toml
        return None
    name, role, is_view, rows, is_protected, has_policy = await connection.fetchrow(_HIDDEN, table)
    if is_protected and (rows or not (has_policy or is_view)):
        return (
            f"row-level security hides every row from role {role}, and the board lacks them; let the owner of "
            f"the table run: CREATE POLICY scoreboard ON {name} FOR SELECT TO {role} USING (true);"
        )
    if rows and not is_view:
        return (
            f"no row can be read, though PostgreSQL counts about {rows:.0f}; find out what hides them from role {role}"
        )
    return None


def explain(error: BaseException, platform: str, dsn: str) -> str:
    """Return one line for the operator: why a read failed, on which server, and how to fix it."""
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            fix = (
                f"the {platform} source needs it: check that postgres.dsn names the platform's database, and run "
                "`scoreboardd check`"
            )
        case asyncpg.InsufficientPrivilegeError() if "function" in str(error):
            fix = "a view of the platform calls it: GRANT EXECUTE on it to the role in postgres.dsn"
        case asyncpg.InsufficientPrivilegeError():
            fix = "GRANT SELECT on the platform's tables to the role in postgres.dsn"
        case asyncpg.PostgresError() if "conflict with recovery" in str(error):
            fix = "set hot_standby_feedback = on on the standby in postgres.dsn, or raise max_standby_streaming_delay"
        case asyncpg.QueryCanceledError():
            fix = "run `scoreboardd check` for missing indexes, or raise postgres.statement_timeout"
        case asyncpg.InvalidParameterValueError() if "time zone" in str(error):
            fix = "write another name of this time zone in source.timezone"
        case _:
            return connection.explain(error, dsn)
    return connection.error_line(error, fix, dsn)
