"""Checks the platform's database for `scoreboardd check`. Each problem is one line: what, where, and how to fix it."""

import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg

from scoreboardd.platforms.columns import FALSE_WORDS, TRUE_WORDS, Tables, inspect
from scoreboardd.platforms.postgres import PostgresSource, explain, requirements
from scoreboardd.platforms.source import SourceError
from scoreboardd.postgres.connection import FAILURES, connect_for_transactions, transaction

_TABLE = """
SELECT quote_ident(n.nspname), format('%I.%I', n.nspname, c.relname), c.relkind::text,
       quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)
"""

_COLUMNS = """
SELECT a.attname, has_column_privilege(a.attrelid, a.attnum, 'SELECT')
FROM pg_attribute a
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
"""

# The valid indexes of a table: the columns of each in order, and its condition.
_INDEXES = """
SELECT ARRAY(SELECT pg_get_indexdef(indexrelid, n, true) FROM generate_series(1, indnkeyatts) n),
       pg_get_expr(indpred, indrelid)
FROM pg_index WHERE indrelid = to_regclass($1) AND indisvalid
"""

_SHADOWED = """
SELECT t.name, format('%I.%I', min(s.nspname), t.name),
       string_agg(format('%I.%I', n.nspname, c.relname), ', ')
FROM unnest($1::text[]) AS t (name)
JOIN pg_class first ON first.oid = to_regclass(t.name) AND first.relkind IN ('r', 'p')
JOIN pg_namespace s ON s.oid = first.relnamespace
JOIN pg_class c ON c.relname = t.name AND c.oid <> to_regclass(t.name) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = ANY (current_schemas(false))
GROUP BY t.name ORDER BY t.name
"""

_UTC = frozenset(f"{area}{name}" for area in ("", "Etc/") for name in ("UTC", "GMT", "UCT", "Zulu", "Universal"))


class Table(NamedTuple):
    """A table of the platform, or a view with the name of one. Names are quoted for SQL where necessary."""

    schema: str
    "The name of its schema."
    name: str
    "Its name, qualified with the schema."
    relkind: str
    "The kind of relation, as in `pg_class.relkind`."
    owner: str
    "The role that owns it."
    is_owned: bool
    "Whether our role has the privileges of the owner."

    @property
    def is_table(self) -> bool:
        """Whether it is a table, partitioned or not, and so can have indexes and triggers; false for views and foreign
        tables."""
        return self.relkind in "rp"

    @property
    def is_partitioned(self) -> bool:
        """Whether it is a partitioned table, on which an index cannot be created concurrently."""
        return self.relkind == "p"


async def problems(dsn: str, platform: str, *, statement_timeout: float, timezone: str = "UTC") -> AsyncIterator[str]:
    """Yield every problem of the database at `dsn` as one line.

    `platform` is the value of source.kind; `statement_timeout` is in seconds; `timezone` is the IANA name of the zone
    of times that are stored without one.
    """
    try:
        connection = await connect_for_transactions(dsn, statement_timeout=statement_timeout)
    except FAILURES as error:
        yield explain(error, platform, dsn)
        return
    try:
        async with transaction(connection, statement_timeout=statement_timeout):
            found = await inspect(connection, platform, requirements(platform))
            unreadable = [problem async for problem in _unreadable(connection, found, dsn)]
            shadowed, zones = await _shadowed(connection, found), await _zone_problems(connection, found, timezone)
            unindexed = [problem async for problem in _unindexed(connection, found)]
            unclear = [] if unreadable else await _unclear_flags(connection, found)
        for problem in [*unreadable, *found.problems(), *shadowed, *zones, *unclear, *unindexed]:
            yield problem
        if not unreadable and found.is_readable:
            source = PostgresSource(dsn, platform, statement_timeout=statement_timeout, timezone=timezone)
            async for problem in _read_problems(source):
                yield problem
    except FAILURES as error:
        yield explain(error, platform, dsn)
    finally:
        connection.terminate()


async def _unreadable(connection: Any, found: Tables, dsn: str) -> AsyncIterator[str]:
    """Yield why a table or its columns cannot be read. Reads one row of each table."""
    for table, columns in found.meanings.items():
        problems = await table_problems(connection, table, list(columns), found.platform)
        if not problems:
            await connection.execute("SAVEPOINT one_table")
            try:
                await connection.fetch(f"SELECT {', '.join(columns)} FROM {table} LIMIT 1")  # noqa: S608
            except FAILURES as error:
                await connection.execute("ROLLBACK TO one_table")
                # A timeout is reported by `_read_problems`, with the time that the read took.
                if not isinstance(error, asyncpg.QueryCanceledError):
                    problems = [explain(error, found.platform, dsn)]
        for problem in problems:
            yield problem


async def _unindexed(connection: Any, found: Tables) -> AsyncIterator[str]:
    """Yield a problem for each required index that is missing."""
    for required in requirements(found.platform)["indexes"]:
        table = await find_table(connection, required["table"])
        index = adapted_index(required, found)
        if table is not None and table.is_table and not await has_index(connection, index):
            yield missing_index_problem(index, table)


async def _shadowed(connection: Any, found: Tables) -> list[str]:
    """Return a problem for each table that hides another of the same name later in the search_path."""
    return [
        f"postgres: {table} is read from {read}, which hides {hidden}; if the platform uses the other one, set "
        "the search_path of the role in postgres.dsn to the platform's schema alone, else rename one of them"
        for table, read, hidden in await connection.fetch(_SHADOWED, list(found.meanings))
    ]


async def _zone_problems(connection: Any, found: Tables, timezone: str) -> list[str]:
    """Return a problem for each time column without a zone, if the database's zone is not UTC and `timezone` is UTC."""
    zone = await connection.fetchval("SELECT current_setting('TimeZone')")
    if timezone != "UTC" or zone in _UTC:
        return []
    return [
        f"postgres: column {table}.{name} is of type {column.declared}, which has no time zone, and is read as UTC, "
        f'but the TimeZone of the database is {zone}; set source.timezone = "{zone}", or "Etc/UTC" if the platform '
        "writes UTC"
        for table, meanings in found.meanings.items()
        for name, meaning in meanings.items()
        if meaning == "time" and (column := found.columns.get(table, {}).get(name)) and not column.has_zone
    ]


async def _unclear_flags(connection: Any, found: Tables) -> list[str]:
    """Return a problem for each text or enum column whose values are neither true nor false: all count as false."""
    problems = []
    for table, meanings in found.meanings.items():
        for name, meaning in meanings.items():
            column = found.columns.get(table, {}).get(name)
            if meaning != "flag" or column is None or not (column.is_text or column.ignores_case):
                continue
            value = f"lower(btrim({name}::text))"
            unclear = await connection.fetch(
                f"SELECT DISTINCT left({name}::text, 40) FROM {table} "  # noqa: S608  names from platform.toml
                f"WHERE {value} NOT IN {TRUE_WORDS} AND {value} NOT IN {FALSE_WORDS} LIMIT 3"
            )
            if unclear:
                values = ", ".join(repr(str(row[0])) for row in unclear)
                problems.append(
                    f"postgres: column {table}.{name} is of type {column.declared} and has the values {values}, which "
                    f"count as false; only {TRUE_WORDS[1:-1]} count as true: let the daemon read a view that has a "
                    "boolean there, by the search_path of its role"
                )
    return problems


async def _read_problems(source: PostgresSource) -> AsyncIterator[str]:
    """Read everything as the daemon does. Yield a problem for a failed read, for invalid rows, and for a read that took
    more than half of the statement timeout."""
    async with source:
        start = time.monotonic()
        try:
            reading = await source.read()
        except SourceError as error:
            seconds = time.monotonic() - start
            limit = f"the read had taken {seconds:.1f} s, postgres.statement_timeout is {source.statement_timeout:g} s"
            yield f"{error} ({limit})" if isinstance(error.__cause__, asyncpg.QueryCanceledError) else str(error)
            return
        seconds = time.monotonic() - start
    for finding in reading.findings:
        yield str(finding)
    if seconds > source.statement_timeout / 2:
        yield (
            f"postgres: reading everything took {seconds:.1f} s, and postgres.statement_timeout allows "
            f"{source.statement_timeout:g} s for each statement; raise it, or find out what keeps the server busy"
        )


async def find_table(connection: Any, name: str) -> Table | None:
    """Return the table or view that the source reads as `name`. None if it does not exist."""
    row = await connection.fetchrow(_TABLE, name)
    return None if row is None else Table(*row)


async def table_problems(connection: Any, table: str, columns: list[str], platform: str) -> list[str]:
    """Return why these columns of `table` cannot be read, as one line each."""
    readable = dict(await connection.fetch(_COLUMNS, table))
    if not readable:
        return [
            f"postgres: table {table} is missing: the {platform} source reads it; check that postgres.dsn names "
            "the platform's database, and that the search_path of its role contains the schema"
        ]
    found = [
        f"postgres: column {table}.{column} is missing: the {platform} source reads it; "
        f"check that the platform has a version that source.kind={platform} supports"
        for column in columns
        if column not in readable
    ]
    denied = [column for column in columns if not readable.get(column, True)]
    if denied:
        found.append(
            f"postgres: {table} ({', '.join(denied)}) may not be read; GRANT SELECT ON it to the role in postgres.dsn"
        )
    return found


async def has_index(connection: Any, index: dict[str, Any]) -> bool:
    """Return whether the table has an index that serves the purpose of `index`, under any name."""
    names, where = index["columns"], index["where"]
    return any(
        columns[: len(names)] == names and condition in (None, where, f"({where} = true)")
        for columns, condition in await connection.fetch(_INDEXES, index["table"])
    )


def adapted_index(index: dict[str, Any], found: Tables) -> dict[str, Any]:
    """Return `index` of `platform.toml`, without its condition if the column of the condition is not boolean."""
    column = found.columns.get(index["table"], {}).get(index["where"])
    return index if column is None or column.base == "bool" else index | {"where": None}


def _condition(index: dict[str, Any]) -> str:
    return f" WHERE {index['where']}" if index["where"] else ""


def missing_index_problem(index: dict[str, Any], table: Table) -> str:
    """Return the problem that `index` on `table` is missing, with the statement that creates it."""
    fix = "run `scoreboardd migrate`, or let the owner of the table run:"
    if table.is_partitioned:
        fix = (
            f"{table.name} is partitioned, and is locked while an index is created: when nobody writes to it, let its "
            "owner run:"
        )
    return (
        f"postgres: no index on {index['table']} ({', '.join(index['columns'])}){_condition(index)}: "
        f"rebuilds scan the whole table; {fix} {create_index(index, table)}"
    )


def create_index(index: dict[str, Any], table: Table) -> str:
    """Return the statement that creates `index`. It blocks writers only if the table is partitioned."""
    concurrently = "" if table.is_partitioned else "CONCURRENTLY "
    return (
        f"CREATE INDEX {concurrently}{index['name']} ON {table.name} ({', '.join(index['columns'])}) "
        f"INCLUDE ({', '.join(index['include'])}){_condition(index)};"
    )
