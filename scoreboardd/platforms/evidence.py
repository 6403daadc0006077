"""What a server says of itself and of the platform's tables: whether an increment can be trusted.

Three things are compared between two reads, in one short query that looks at no row of any table:

- *The server*: when it started and whether it is a standby. Behind one name there may be another server today.
- *The tables*: which relations are read, partitions included, and in which files their rows are. TRUNCATE, a restored
  dump and a rewritten table change the files at once, although no counter counts them.
- *The counters* of rows written, which PostgreSQL keeps by table, and brings up to date within seconds of a commit.

`countable` is false where the counters cannot move: of views, materialized views, foreign tables (as partitions, too),
on a standby, to which they are not replicated, and with `track_counts = off`. Then nothing is known of rows that were
changed or removed.
"""

from typing import Any, NamedTuple

_QUERY = """
WITH RECURSIVE relations (name, oid) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS wanted (name) WHERE to_regclass(name) IS NOT NULL
    UNION
    SELECT name, inhrelid FROM relations JOIN pg_inherits ON inhparent = relations.oid
)
SELECT format('%s %s %s', pg_postmaster_start_time(), pg_is_in_recovery(),
              (SELECT oid FROM pg_database WHERE datname = current_database())),
       pg_is_in_recovery(),
       current_setting('default_transaction_read_only') = 'on',
       bool_and(c.relkind IN ('r', 'p')) AND current_setting('track_counts') = 'on' AND NOT pg_is_in_recovery(),
       array_agg(format('%s %s %s', name, c.oid, c.relfilenode) ORDER BY name, c.oid),
       sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid))
         FILTER (WHERE name <> 'submissions'),
       sum(pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)) FILTER (WHERE name = 'submissions')
FROM relations JOIN pg_class c ON c.oid = relations.oid
"""


class Evidence(NamedTuple):
    """Only whether two of them differ means anything."""

    server: str
    "Which server process this is, in which role, and which database."
    is_standby: bool
    is_read_only: bool
    "What transactions are unless they say otherwise: so is a primary that must not be used any more."
    countable: bool
    "Whether the counters count all that is done to the tables."
    relations: tuple[str, ...]
    "Every table and partition, and the file that its rows are in."
    roster: int | None
    "Rows written so far to the tables of the roster."
    history: int | None
    "Rows of submissions changed or removed so far."

    @property
    def place(self) -> tuple[str, bool]:
        """What may change on a connection only if it leads elsewhere, or to a server that is being replaced."""
        return self.server, self.is_read_only


async def evidence(connection: Any, tables: list[str]) -> Evidence:
    server, is_standby, is_read_only, countable, relations, *counters = await connection.fetchrow(_QUERY, tables)
    return Evidence(server, is_standby, is_read_only, bool(countable), tuple(relations or ()), *counters)
