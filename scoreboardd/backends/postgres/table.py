"""The table that is ours (protocol §7), and whether the one that is there is it.

It is in the schema in which our role would make it, the first of its search_path. A `leaderboard_cache` of the
platform's, further on in that path, is not read or written.
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

MARK = "scoreboardd: "
"How the comment begins of whatever `scoreboardd migrate` has made."

_DDL = (files(__package__) / "leaderboard_cache.sql").read_text().strip()
_COLUMNS = re.findall(r"^    (\w+) +(\w+)", _DDL, re.MULTILINE)

_HERE = """
SELECT quote_ident(current_user) AS role, quote_ident(current_schema()) AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       c.oid IS NOT NULL AS is_there, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
       quote_ident(pg_get_userbyid(c.relowner)) AS owner, pg_has_role(c.relowner, 'USAGE') AS owned,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
           AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE') AS may_write,
       EXISTS (
           SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
           AND i.indnkeyatts = 1 AND pg_get_indexdef(i.indexrelid, 1, true) = 'cache_key'
       ) AND ARRAY(
           SELECT a.attname || ' ' || a.atttypid::regtype FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname
       ) = ARRAY(
           SELECT name || ' ' || to_regtype(type) FROM unnest($1::text[], $2::text[]) AS wanted (name, type)
           ORDER BY name COLLATE "C"
       ) AS alike
FROM (SELECT) AS once
LEFT JOIN pg_class c ON c.relname = 'leaderboard_cache'
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
"""


@dataclass(frozen=True, slots=True)
class CacheTable:
    """As our role finds it. All names are quoted where they must be."""

    role: str
    "Ours."
    schema: str | None
    "Where our role makes things, if anywhere."
    may_create: bool
    "Whether it may."
    is_there: bool
    comment: str
    owner: str | None
    owned: bool | None
    "By our role."
    may_write: bool | None
    alike: bool
    "Its columns and its key are those that we make."

    @property
    def name(self) -> str:
        return f"{self.schema}.leaderboard_cache"

    @property
    def marked(self) -> bool:
        """Whether `scoreboardd migrate` has made it."""
        return self.comment.startswith(MARK)

    @property
    def create(self) -> tuple[str, ...]:
        """Returns the statements. The table belongs to our role, whichever role runs them."""
        return _DDL.replace(
            "TABLE leaderboard_cache", f"TABLE {self.name}"
        ), f"ALTER TABLE {self.name} OWNER TO {self.role};"

    @property
    def problem(self) -> str | None:
        """What keeps us from creating or using the table, and the fix; None if it is only missing."""
        own = f"CREATE SCHEMA IF NOT EXISTS {self.role}; GRANT ALL ON SCHEMA {self.role} TO {self.role};"
        if not self.is_there:
            if self.may_create:
                return None
            what = f"create nothing in schema {self.schema}" if self.schema else "create nothing: it has no schema"
            return f"postgres: role {self.role} may {what}; let the owner of the database run: {own}"
        if not self.alike:
            return (
                f"postgres: {self.name} is not ours, its columns differ; nothing of it was touched: "
                f"give role {self.role} a schema of its own, {own}"
            )
        if not self.may_write:
            return (
                f"postgres: leaderboard_cache may not be written; let the owner, {self.owner}, run: "
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON {self.name} TO {self.role};"
            )
        return None


async def find(connection: Any) -> CacheTable:
    names, types = zip(*_COLUMNS, strict=True)
    return CacheTable(**dict(await connection.fetchrow(_HERE, names, types)))


async def cache_problem(connection: Any) -> str | None:
    """Returns what keeps us from using the table, and the fix, in one line."""
    table = await find(connection)
    if table.problem is None and not table.is_there:
        return "postgres: table leaderboard_cache is missing; run `scoreboardd migrate`"
    return table.problem
