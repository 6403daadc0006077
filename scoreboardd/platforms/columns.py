"""The columns of a platform's tables: which type the queries expect, and how a column of another type is converted.

`platform.toml` gives each column a meaning; the database gives its type. A query names a table as `users AS u`.
`Tables.query` replaces `users` with a subquery in which every column has the type that its meaning requires. A column
that already has this type costs nothing: PostgreSQL merges the subquery into the query.

| meaning | type in the query | result for a value that cannot be converted |
| --- | --- | --- |
| `key` | the column as it is | |
| `id` | bigint | NULL |
| `number` | text, for `decoding` | |
| `text` | text | |
| `word` | text; lower case if the type ignores case | |
| `flag` | boolean | false |
| `time` | timestamptz | NULL |
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

INTEGERS = frozenset({"int2", "int4", "int8"})
"The names of the integer types, as in `pg_type.typname`."
_FLOATS = frozenset({"float4", "float8"})

_EXPECTED = {
    "id": "an integer (smallint, integer, bigint or numeric)",
    "number": "a number",
    "text": "text",
    "word": "text or an enum",
    "flag": "boolean",
    "time": "timestamp with time zone",
}
"The expected type by meaning, as problems name it."

# The type of each column, with domains resolved to their base type. One row per column.
_COLUMNS = """
WITH RECURSIVE columns (table_name, column_name, declared, number, is_last, type) AS (
    SELECT t.name, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnum, y.typbasetype = 0,
           CASE y.typbasetype WHEN 0 THEN y.oid ELSE y.typbasetype END
    FROM unnest($1::text[]) AS t (name)
    JOIN pg_attribute a ON a.attrelid = to_regclass(t.name) AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type y ON y.oid = a.atttypid
    UNION ALL
    SELECT c.table_name, c.column_name, c.declared, c.number, y.typbasetype = 0,
           CASE y.typbasetype WHEN 0 THEN y.oid ELSE y.typbasetype END
    FROM columns c JOIN pg_type y ON y.oid = c.type
    WHERE NOT c.is_last
)
SELECT c.table_name, c.column_name, c.declared, y.typname::text, y.typcategory::text,
       EXISTS (
           SELECT FROM pg_index i
           WHERE i.indrelid = to_regclass(c.table_name) AND i.indisunique AND i.indisvalid AND c.number = ANY (i.indkey)
       )
FROM columns c JOIN pg_type y ON y.oid = c.type
WHERE c.is_last
"""


class Column(NamedTuple):
    """The type of a column."""

    declared: str
    "The declared type, as SQL writes it."
    base: str
    "The base type with domains resolved, as in `pg_type.typname`."
    category: str
    "The category of the base type, as in `pg_type.typcategory`."
    is_unique: bool
    "Whether the column is part of a unique index."

    @property
    def ignores_case(self) -> bool:
        """Whether comparisons of the type ignore case."""
        return self.base == "citext"

    @property
    def has_zone(self) -> bool:
        """False if the type is a time or date without a time zone."""
        return self.base not in ("timestamp", "date")

    @property
    def is_text(self) -> bool:
        """Whether the type is a text type or an enum."""
        return self.category in "SE" or self.base == "char"


class ColumnError(Exception):
    """The type of a column cannot be converted to what its meaning requires. The text is one line."""


@dataclass(frozen=True)
class Tables:
    """The tables that a source reads, as found in one database."""

    platform: str
    "The value of source.kind."
    meanings: Mapping[str, Mapping[str, str]]
    "The meaning of each column by table and column, without the optional columns that are missing."
    absent: Mapping[str, Mapping[str, str]]
    "The meaning of each optional column that is missing, by table and column."
    columns: Mapping[str, Mapping[str, Column]]
    "The columns that exist, by table and column."

    @property
    def has_divisions(self) -> bool:
        """Whether the platform has a table of divisions."""
        return "divisions" in self.columns

    @property
    def is_readable(self) -> bool:
        """Whether every existing column has a type that can be converted."""
        return all(
            _value(meaning, name, column, "UTC") is not None and (meaning != "word" or _fits(meaning, column))
            for table, meanings in self.meanings.items()
            for name, meaning in meanings.items()
            if (column := self.columns.get(table, {}).get(name)) is not None
        )

    def problems(self) -> Iterator[str]:
        """Yield one line for each column whose type does not fit its meaning."""
        for table, meanings in self.meanings.items():
            for name, meaning in meanings.items():
                column = self.columns.get(table, {}).get(name)
                if column is not None and not _fits(meaning, column):
                    yield self._problem(table, name, meaning, column)

    def _problem(self, table: str, name: str, meaning: str, column: Column) -> str:
        what = f"postgres: column {table}.{name} is of type {column.declared}, expected {_EXPECTED[meaning]}"
        if meaning == "word":
            return f"{what}: its values can never be 'blocked' or 'admin', so nobody would be left out; make it text"
        return f"{what}; check that the platform has a version that source.kind={self.platform} supports"

    def query(self, sql: str, timezone: str) -> str:
        """Return `sql` with each table replaced by the subquery that converts its columns.

        `timezone` is the IANA name of the zone of times that are stored without one. Raises `ColumnError`.
        """
        for table in self.meanings:
            place = re.compile(rf"\b{table}(?= AS\b)")
            if place.search(sql):
                sql = place.sub(self.rows(table, table, timezone).replace("\\", r"\\"), sql)
        return sql

    def rows(self, table: str, origin: str, timezone: str) -> str:
        """Return a subquery that converts the rows of `origin`, which has the columns of `table`.

        `timezone` is as for `query`. Raises `ColumnError`.
        """
        return f"(SELECT {', '.join(self._selected(table, timezone))} FROM {origin})"  # noqa: S608

    def _selected(self, table: str, timezone: str) -> Iterator[str]:
        columns = self.columns.get(table, {})
        for name, meaning in self.meanings[table].items():
            column = columns.get(name)
            # A missing column stays in the query as it is: the server then reports it.
            value = name if column is None else _value(meaning, name, column, timezone)
            if column is not None and (value is None or (meaning == "word" and not _fits(meaning, column))):
                # No board is better than a board that shows blocked users and admins.
                raise ColumnError(self._problem(table, name, meaning, column))
            yield f"{value} AS {name}"
        for name, meaning in self.absent.get(table, {}).items():
            yield f"NULL::{_TYPES[meaning]} AS {name}"


_TYPES = {
    "id": "bigint",
    "number": "text",
    "text": "text",
    "word": "text",
    "flag": "boolean",
    "time": "timestamptz",
}
"The type in the query by meaning."


async def inspect(connection: Any, platform: str, requirements: Mapping[str, Any]) -> Tables:
    """Look up the tables and columns of `requirements`, the content of a `platform.toml`, in the database."""
    columns = await columns_of(connection, {*requirements["tables"], *requirements["divisions"]})
    meanings: dict[str, dict[str, str]] = {table: dict(named) for table, named in requirements["tables"].items()}
    absent: dict[str, dict[str, str]] = {}
    optional = requirements.get("optional", {})
    for table, named in requirements["divisions"].items():
        if "divisions" in columns:
            meanings.setdefault(table, {}).update(named)
        else:
            optional = optional | {table: optional.get(table, {}) | named}
    for table, named in optional.items():
        for name, meaning in named.items():
            if table not in meanings:
                continue
            (meanings if name in columns.get(table, {}) else absent).setdefault(table, {})[name] = meaning
    return Tables(platform, meanings, absent, columns)


async def columns_of(connection: Any, tables: Iterable[str]) -> dict[str, dict[str, Column]]:
    """Return the columns of those of `tables` that exist, by table and column."""
    found: dict[str, dict[str, Column]] = {}
    for table, name, *column in await connection.fetch(_COLUMNS, sorted(tables)):
        found.setdefault(table, {})[name] = Column(*column)
    return found


def _fits(meaning: str, column: Column) -> bool:
    """Return whether values of the column's type can have this meaning."""
    if meaning == "word":
        return column.is_text or column.ignores_case
    if meaning == "number":
        return (column.category == "N" and column.base != "money") or column.is_text
    return _value(meaning, "x", column, "UTC") is not None


def _value(meaning: str, name: str, column: Column, timezone: str) -> str | None:
    """Return the SQL expression that converts a column to the type of its meaning. None if there is no conversion."""
    match meaning:
        case "key":
            return name
        case "text" | "word" | "number" if column.base == "text":
            return name
        case "id":
            return _id(name, column)
        case "flag":
            return _flag(name, column)
        case "time":
            return _time(name, column, timezone)
        case "word" if column.ignores_case:
            return f"lower({name}::text)"
        case _:
            return f"{name}::text"


def _id(name: str, column: Column) -> str | None:
    if column.base in INTEGERS:
        return f"{name}::bigint"
    if column.base == "numeric" or column.base in _FLOATS:
        # The largest bigint rounds to 2^63 as a float, which is out of range, so the upper bound is exclusive.
        inside = f"{name} >= -9223372036854775808 AND {name} < 9223372036854775808 AND {name} = trunc({name})"
        return f"CASE WHEN {inside} THEN {name}::bigint END"
    return None


def _flag(name: str, column: Column) -> str | None:
    if column.base == "bool":
        return name
    if column.base in INTEGERS or column.base == "numeric" or column.base in _FLOATS:
        return f"{name} <> 0"
    if column.base in ("bit", "varbit"):
        return f"strpos({name}::text, '1') > 0"
    if column.is_text or column.ignores_case:
        return f"lower(btrim({name}::text)) IN ('t', 'true', 'y', 'yes', 'on', '1')"
    return None


def _time(name: str, column: Column, timezone: str) -> str | None:
    if column.base == "timestamptz":
        return name
    if not column.has_zone:
        # A time near the limits of PostgreSQL cannot be converted to another zone.
        zone = timezone.replace("'", "''")
        inside = f"{name} >= '0001-01-01' AND {name} < '10000-01-01'"
        return f"CASE WHEN {inside} THEN {name}::timestamp AT TIME ZONE '{zone}' END"
    return None
