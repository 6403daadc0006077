"""What `scoreboardd check` finds wrong with a source's database: one line each, with its mend."""

import tomllib
from collections.abc import AsyncIterator
from typing import Any

from scoreboardd.database import FAILURES, connect
from scoreboardd.source.postgres import explain, folder_of

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
            exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", index["table"])
            if exists and not await has_index(connection, index):
                yield (
                    f"{no_index(index)}; run `scoreboardd migrate`, or let the owner of the table run: "
                    f"{create_index(index)}"
                )
    except FAILURES as error:
        yield explain(error, kind)
    finally:
        connection.terminate()


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


def no_index(wanted: dict[str, Any]) -> str:
    """The problem, without its mend."""
    return (
        f"postgres: no index on {wanted['table']} ({', '.join(wanted['columns'])}) WHERE {wanted['where']}: "
        "rebuilds scan the whole table"
    )


def create_index(wanted: dict[str, Any]) -> str:
    return (
        f"CREATE INDEX CONCURRENTLY {wanted['name']} ON {wanted['table']} ({', '.join(wanted['columns'])}) "
        f"INCLUDE ({', '.join(wanted['include'])}) WHERE {wanted['where']};"
    )
