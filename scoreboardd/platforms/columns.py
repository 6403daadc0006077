"""The columns of a platform's tables: what the queries expect of each, and how a column of another type is read.

`platform.toml` says what a column means; the database says which type it has. A query names a table
as `users AS u`, and `Tables.query` puts a subquery in the place of `users`, in which every column has the type that
goes with its meaning. A column that has that type already costs nothing: PostgreSQL merges the subquery into the query.

| meaning | the query sees | a value that does not fit |
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
_FLOATS = frozenset({"float4", "float8"})

_EXPECTED = {
    "id": "an integer (smallint, integer, bigint or numeric)",
    "number": "a number",
    "text": "text",
    "word": "text or an enum",
    "flag": "boolean",
    "time": "timestamp with time zone",
}

# The type below all domains. One row a column.
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
    "As SQL writes it."
    base: str
    "The name of the type below all domains, as in `pg_type.typname`."
    category: str
    "As in `pg_type.typcategory`."
    is_unique: bool
    "Part of a unique index."

    @property
    def ignores_case(self) -> bool:
        return self.base == "citext"

    @property
    def has_zone(self) -> bool:
        return self.base not in ("timestamp", "date")

    @property
    def is_text(self) -> bool:
        return self.category in "SE" or self.base == "char"


class ColumnError(Exception):
    """A column has a type that cannot be read as what it means; one line."""


@dataclass(frozen=True)
class Tables:
    """The tables that a source reads, as they are in one database."""

    kind: str
    meanings: Mapping[str, Mapping[str, str]]
    "By table and column. Without the columns that the platform may lack, and does."
    absent: Mapping[str, Mapping[str, str]]
    "The columns that it lacks."
    columns: Mapping[str, Mapping[str, Column]]
    "What is there, by table and column."

    @property
    def has_divisions(self) -> bool:
        return "divisions" in self.columns

    @property
    def is_readable(self) -> bool:
        """Whether every column that is there has a type that can be read."""
        return all(
            _value(meaning, name, column, "UTC") is not None and (meaning != "word" or _fits(meaning, column))
            for table, meanings in self.meanings.items()
            for name, meaning in meanings.items()
            if (column := self.columns.get(table, {}).get(name)) is not None
        )

    def problems(self) -> Iterator[str]:
        """One line for each column whose type cannot be read, or cannot mean what the source takes it for."""
        for table, meanings in self.meanings.items():
            for name, meaning in meanings.items():
                column = self.columns.get(table, {}).get(name)
                if column is not None and not _fits(meaning, column):
                    yield self._problem(table, name, meaning, column)

    def _problem(self, table: str, name: str, meaning: str, column: Column) -> str:
        what = f"postgres: column {table}.{name} is of type {column.declared}, expected {_EXPECTED[meaning]}"
        if meaning == "word":
            return f"{what}: no value of it can be 'blocked' or 'admin', so nobody would be left out; make it text"
        return f"{what}; see that the platform is of the version that source.kind={self.kind} is for"

    def query(self, sql: str, timezone: str) -> str:
        """`sql`, reading columns of the expected types. Raises `ColumnError`."""
        for table in self.meanings:
            place = re.compile(rf"\b{table}(?= AS\b)")
            if place.search(sql):
                sql = place.sub(self.rows(table, table, timezone).replace("\\", r"\\"), sql)
        return sql

    def rows(self, table: str, origin: str, timezone: str) -> str:
        """A subquery of rows of a table, which are in `origin`. Raises `ColumnError`."""
        return f"(SELECT {', '.join(self._selected(table, timezone))} FROM {origin})"  # noqa: S608

    def _selected(self, table: str, timezone: str) -> Iterator[str]:
        columns = self.columns.get(table, {})
        for name, meaning in self.meanings[table].items():
            column = columns.get(name)
            # A column that is missing is named as it is: the server then says so.
            value = name if column is None else _value(meaning, name, column, timezone)
            if column is not None and (value is None or (meaning == "word" and not _fits(meaning, column))):
                # Better no board than one with everybody on it.
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


async def inspect(connection: Any, kind: str, wanted: Mapping[str, Any]) -> Tables:
    """What the source described by `wanted`, a `platform.toml`, finds in this database."""
    columns = await columns_of(connection, {*wanted["tables"], *wanted["divisions"]})
    meanings: dict[str, dict[str, str]] = {table: dict(its) for table, its in wanted["tables"].items()}
    absent: dict[str, dict[str, str]] = {}
    optional = wanted.get("optional", {})
    for table, its in wanted["divisions"].items():
        if "divisions" in columns:
            meanings.setdefault(table, {}).update(its)
        else:
            optional = optional | {table: optional.get(table, {}) | its}
    for table, its in optional.items():
        for name, meaning in its.items():
            if table not in meanings:
                continue
            (meanings if name in columns.get(table, {}) else absent).setdefault(table, {})[name] = meaning
    return Tables(kind, meanings, absent, columns)


async def columns_of(connection: Any, tables: Iterable[str]) -> dict[str, dict[str, Column]]:
    """By table and name. Only tables that exist."""
    found: dict[str, dict[str, Column]] = {}
    for table, name, *column in await connection.fetch(_COLUMNS, sorted(tables)):
        found.setdefault(table, {})[name] = Column(*column)
    return found


def _fits(meaning: str, column: Column) -> bool:
    if meaning == "word":
        return column.is_text or column.ignores_case
    if meaning == "number":
        return (column.category == "N" and column.base != "money") or column.is_text
    return _value(meaning, "x", column, "UTC") is not None


def _value(meaning: str, name: str, column: Column, timezone: str) -> str | None:
    """The SQL expression of a column's value as what it means, or None if there is no such."""
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
        # As a float the largest bigint is 2^63, which is no bigint.
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
        # A time near the ends of what PostgreSQL can hold has no equivalent in another zone.
        zone = timezone.replace("'", "''")
        inside = f"{name} >= '0001-01-01' AND {name} < '10000-01-01'"
        return f"CASE WHEN {inside} THEN {name}::timestamp AT TIME ZONE '{zone}' END"
    return None
