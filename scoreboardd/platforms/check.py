"""What `scoreboardd check` finds wrong with a source's database: one line each, with its mend."""

import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg

from scoreboardd.platforms.columns import Tables, inspect
from scoreboardd.platforms.postgres import PostgresSource, SourceError, explain, wanted
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

# The valid indexes of a table: their columns in order, and their condition.
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
    """A table of the platform's, or what stands in its place."""

    schema: str
    "Quoted where it must be, as are all names here."
    name: str
    "With its schema."
    kind: str
    "As in `pg_class.relkind`."
    owner: str
    owned: bool
    "By our role."

    @property
    def is_table(self) -> bool:
        """Not a view, nor a table of another server: it can have indexes and triggers."""
        return self.kind in "rp"

    @property
    def is_partitioned(self) -> bool:
        return self.kind == "p"


def requirements(kind: str) -> dict[str, Any]:
    """What the source wants of its database: its `platform.toml`."""
    return wanted(kind)


async def problems(dsn: str, kind: str, *, statement_timeout: float, timezone: str = "UTC") -> AsyncIterator[str]:
    """Every problem of the database, none if the source can be read as it should."""
    try:
        connection = await connect_for_transactions(dsn, statement_timeout=statement_timeout)
    except FAILURES as error:
        yield explain(error, kind, dsn)
        return
    try:
        async with transaction(connection, statement_timeout=statement_timeout):
            found = await inspect(connection, kind, requirements(kind))
            unreadable = [problem async for problem in _unreadable(connection, found, dsn)]
            shadowed, zones = await _shadowed(connection, found), await _zone(connection, found, timezone)
            unindexed = [problem async for problem in _unindexed(connection, found)]
        for problem in [*unreadable, *found.problems(), *shadowed, *zones, *unindexed]:
            yield problem
        if not unreadable and found.is_readable:
            source = PostgresSource(dsn, kind, statement_timeout=statement_timeout, timezone=timezone)
            async for problem in _reading(source):
                yield problem
    except FAILURES as error:
        yield explain(error, kind, dsn)
    finally:
        connection.terminate()


async def _unreadable(connection: Any, found: Tables, dsn: str) -> AsyncIterator[str]:
    """What keeps the tables from being read, whatever their columns are: one row of each is read."""
    for table, columns in found.meanings.items():
        problems = await table_problems(connection, table, list(columns), found.kind)
        if not problems:
            await connection.execute("SAVEPOINT one_table")
            try:
                await connection.fetch(f"SELECT {', '.join(columns)} FROM {table} LIMIT 1")  # noqa: S608
            except FAILURES as error:
                await connection.execute("ROLLBACK TO one_table")
                if not isinstance(
                    error, asyncpg.QueryCanceledError
                ):  # of that the whole read tells, and how long it took
                    problems = [explain(error, found.kind, dsn)]
        for problem in problems:
            yield problem


async def _unindexed(connection: Any, found: Tables) -> AsyncIterator[str]:
    for index in requirements(found.kind)["indexes"]:
        indexed = await find_table(connection, index["table"])
        its = fitted(index, found)
        if indexed is not None and indexed.is_table and not await has_index(connection, its):
            yield no_index(its, indexed)


async def _shadowed(connection: Any, found: Tables) -> list[str]:
    """Tables that hide others of the same name, which the search_path comes to later."""
    return [
        f"postgres: {table} is read from {read}, which hides {hidden}; if the platform's is the other one, set the "
        "search_path of the role in postgres.dsn to the platform's schema alone, else rename one of them"
        for table, read, hidden in await connection.fetch(_SHADOWED, list(found.meanings))
    ]


async def _zone(connection: Any, found: Tables, timezone: str) -> list[str]:
    """Times without a zone, where the database has another than we take them to be in."""
    zone = await connection.fetchval("SELECT current_setting('TimeZone')")
    if timezone != "UTC" or zone in _UTC:
        return []
    return [
        f"postgres: column {table}.{name} is of type {column.declared}, which has no time zone, and is taken as UTC, "
        f'but the TimeZone of the database is {zone}; set source.timezone = "{zone}", or "Etc/UTC" if the platform '
        "writes UTC"
        for table, meanings in found.meanings.items()
        for name, meaning in meanings.items()
        if meaning == "time" and (column := found.columns.get(table, {}).get(name)) and not column.has_zone
    ]


async def _reading(source: PostgresSource) -> AsyncIterator[str]:
    """Read as the daemon does: what fails, what is odd, and what takes nearly as long as it may."""
    async with source:
        start = time.monotonic()
        try:
            reading = await source.read()
        except SourceError as error:
            seconds = time.monotonic() - start
            limit = f"to read everything took {seconds:.1f} s until then, postgres.statement_timeout is "
            limit += f"{source.statement_timeout:g} s"
            yield f"{error} ({limit})" if isinstance(error.__cause__, asyncpg.QueryCanceledError) else str(error)
            return
        seconds = time.monotonic() - start
    for finding in reading.findings:
        yield str(finding)
    if seconds > source.statement_timeout / 2:
        yield (
            f"postgres: to read everything took {seconds:.1f} s, and postgres.statement_timeout allows "
            f"{source.statement_timeout:g} s for a statement; raise it, or see what keeps the server busy"
        )


async def find_table(connection: Any, name: str) -> Table | None:
    """What the source reads as `name`."""
    row = await connection.fetchrow(_TABLE, name)
    return None if row is None else Table(*row)


async def table_problems(connection: Any, table: str, columns: list[str], kind: str) -> list[str]:
    """What keeps these columns from being read."""
    readable = dict(await connection.fetch(_COLUMNS, table))
    if not readable:
        return [
            f"postgres: table {table} is missing: the {kind} source reads it; see that postgres.dsn names the "
            "platform's database, and its search_path the schema"
        ]
    found = [
        f"postgres: column {table}.{column} is missing: the {kind} source reads it; "
        f"see that the platform is of the version that source.kind={kind} is for"
        for column in columns
        if column not in readable
    ]
    denied = [column for column in columns if not readable.get(column, True)]
    if denied:
        found.append(
            f"postgres: {table} ({', '.join(denied)}) may not be read; GRANT SELECT ON it to the role in postgres.dsn"
        )
    return found


async def has_index(connection: Any, wanted: dict[str, Any]) -> bool:
    """True if some index, whoever's, does what the wanted one is for."""
    names, where = wanted["columns"], wanted["where"]
    return any(
        columns[: len(names)] == names and condition in (None, where, f"({where} = true)")
        for columns, condition in await connection.fetch(_INDEXES, wanted["table"])
    )


def fitted(wanted: dict[str, Any], found: Tables) -> dict[str, Any]:
    """The wanted index. Of all rows, if the column of its condition is not boolean."""
    column = found.columns.get(wanted["table"], {}).get(wanted["where"])
    return wanted if column is None or column.base == "bool" else wanted | {"where": None}


def _condition(wanted: dict[str, Any]) -> str:
    return f" WHERE {wanted['where']}" if wanted["where"] else ""


def no_index(wanted: dict[str, Any], table: Table) -> str:
    """The problem, and its mend."""
    mend = "run `scoreboardd migrate`, or let the owner of the table run:"
    if table.is_partitioned:
        mend = f"{table.name} is partitioned and locked while one is made: let its owner run, when nobody writes to it:"
    return (
        f"postgres: no index on {wanted['table']} ({', '.join(wanted['columns'])}){_condition(wanted)}: "
        f"rebuilds scan the whole table; {mend} {create_index(wanted, table)}"
    )


def create_index(wanted: dict[str, Any], table: Table) -> str:
    """The statement; it keeps nobody waiting, but where the table is partitioned."""
    concurrently = "" if table.is_partitioned else "CONCURRENTLY "
    return (
        f"CREATE INDEX {concurrently}{wanted['name']} ON {table.name} ({', '.join(wanted['columns'])}) "
        f"INCLUDE ({', '.join(wanted['include'])}){_condition(wanted)};"
    )
