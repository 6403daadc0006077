"""What `scoreboardd check` finds wrong with a source's database: one line each, with its mend."""

import tomllib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from scoreboardd.database import FAILURES, connect
from scoreboardd.source.postgres import explain, folder_of

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


def wishes(kind: str) -> dict[str, Any]:
    """What the source wants of its database: its `source.toml`."""
    return tomllib.loads((folder_of(kind) / "source.toml").read_text())


async def problems(dsn: str, kind: str, *, statement_timeout: float) -> AsyncIterator[str]:
    """Every problem of the database, none if the source can be read as it should."""
    wanted = wishes(kind)
    try:
        connection = await connect(dsn, statement_timeout=statement_timeout)
    except FAILURES as error:
        yield explain(error, kind)
        return
    try:
        for table, columns in (await tables(connection, wanted)).items():
            for problem in await table_problems(connection, table, columns, kind):
                yield problem
        for index in wanted["indexes"]:
            indexed = await find_table(connection, index["table"])
            if indexed is not None and indexed.is_table and not await has_index(connection, index):
                yield no_index(index, indexed)
    except FAILURES as error:
        yield explain(error, kind)
    finally:
        connection.terminate()


async def find_table(connection: Any, name: str) -> Table | None:
    """What the source reads as `name`."""
    row = await connection.fetchrow(_TABLE, name)
    return None if row is None else Table(*row)


async def tables(connection: Any, wanted: dict[str, Any]) -> dict[str, list[str]]:
    """The columns to be read, by table: those of the divisions too, if this platform has any."""
    columns: dict[str, list[str]] = dict(wanted["tables"])
    if await connection.fetchval("SELECT to_regclass('divisions') IS NOT NULL"):
        for table, more in wanted["divisions"].items():
            columns[table] = columns.get(table, []) + more
    return columns


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


def no_index(wanted: dict[str, Any], table: Table) -> str:
    """The problem, and its mend."""
    mend = "run `scoreboardd migrate`, or let the owner of the table run:"
    if table.is_partitioned:
        mend = f"{table.name} is partitioned and locked while one is made: let its owner run, when nobody writes to it:"
    return (
        f"postgres: no index on {wanted['table']} ({', '.join(wanted['columns'])}) WHERE {wanted['where']}: "
        f"rebuilds scan the whole table; {mend} {create_index(wanted, table)}"
    )


def create_index(wanted: dict[str, Any], table: Table) -> str:
    """The statement; it keeps nobody waiting, but where the table is partitioned."""
    concurrently = "" if table.is_partitioned else "CONCURRENTLY "
    return (
        f"CREATE INDEX {concurrently}{wanted['name']} ON {table.name} ({', '.join(wanted['columns'])}) "
        f"INCLUDE ({', '.join(wanted['include'])}) WHERE {wanted['where']};"
    )
