"""What `scoreboardd check` finds wrong with a source's database: one line each, with its mend."""

import tomllib
from collections.abc import AsyncIterator
from typing import Any

from scoreboardd.source.postgres import FAILURES, connect, explain, folder_of

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


async def problems(dsn: str, kind: str, *, statement_timeout: float) -> AsyncIterator[str]:
    """Every problem of the database, none if the source can be read as it should."""
    wanted = tomllib.loads((folder_of(kind) / "source.toml").read_text())
    try:
        connection = await connect(dsn, statement_timeout=statement_timeout)
    except FAILURES as error:
        yield explain(error, kind)
        return
    try:
        for table, columns in wanted["tables"].items():
            async for problem in _table_problems(connection, table, columns, kind):
                yield problem
        if await connection.fetchval("SELECT to_regclass('divisions') IS NOT NULL"):
            for table, columns in wanted["divisions"].items():
                async for problem in _table_problems(connection, table, columns, kind):
                    yield problem
        for index in wanted["indexes"]:
            exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", index["table"])
            if exists and not await _has_index(connection, index):
                yield (
                    f"postgres: no index on {index['table']} ({', '.join(index['columns'])}) WHERE {index['where']}: "
                    f"rebuilds scan the whole table; {_create(index)}"
                )
    except FAILURES as error:
        yield explain(error, kind)
    finally:
        connection.terminate()


async def _table_problems(connection: Any, table: str, columns: list[str], kind: str) -> AsyncIterator[str]:
    readable = dict(await connection.fetch(_COLUMNS, table))
    if not readable:
        yield (
            f"postgres: table {table} is missing: the {kind} source reads it; see that postgres.dsn names the "
            "platform's database, and its search_path the schema"
        )
        return
    for column in columns:
        if column not in readable:
            yield (
                f"postgres: column {table}.{column} is missing: the {kind} source reads it; "
                f"see that the platform is of the version that source.kind={kind} is for"
            )
    denied = [column for column in columns if not readable.get(column, True)]
    if denied:
        yield f"postgres: {table} ({', '.join(denied)}) may not be read; GRANT SELECT ON it to the role in postgres.dsn"


async def _has_index(connection: Any, wanted: dict[str, Any]) -> bool:
    names, where = wanted["columns"], wanted["where"]
    return any(
        columns[: len(names)] == names and condition in (None, where, f"({where} = true)")
        for columns, condition in await connection.fetch(_INDEXES, wanted["table"])
    )


def _create(index: dict[str, Any]) -> str:
    return (
        f"CREATE INDEX CONCURRENTLY {index['name']} ON {index['table']} ({', '.join(index['columns'])}) "
        f"INCLUDE ({', '.join(index['include'])}) WHERE {index['where']}"
    )
