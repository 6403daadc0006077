"""The state of the server and the platform's tables, which shows whether an incremental read is safe.

One short query, which reads no row of the platform's tables, collects three things to compare between two reads:

- *The server*: when it started and whether it is a standby. The host name may lead to another server than before.
- *The tables*: which relations are read, partitions included, and the files that hold their rows. TRUNCATE, a restored
  dump and a rewritten table change the files at once, although the counters do not count them.
- *The counters* of written rows, which PostgreSQL keeps per table and updates within seconds of a commit.

`countable` is false if the counters do not change: for views, materialized views and foreign tables (also as
partitions), on a standby, to which the counters are not replicated, and with `track_counts = off`. Then changed and
removed rows cannot be detected.
"""

from typing import Any, NamedTuple

_QUERY = """
WITH RECURSIVE relations (name, oid) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS requested (name) WHERE to_regclass(name) IS NOT NULL
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
    """The state at one time. Its values are only compared with those of another time."""

    server: str
    "Identifies the server process, its role (primary or standby) and the database."
    is_standby: bool
    "Whether the server is a standby."
    is_read_only: bool
    "Whether transactions are read-only by default, as on a primary that is being taken out of service."
    countable: bool
    "Whether the counters count all writes to the tables."
    relations: tuple[str, ...]
    "Every table and partition, each with the file that holds its rows."
    roster: int | None
    "How many rows have been written to the tables of the roster so far."
    history: int | None
    "How many rows of submissions have been changed or removed so far."

    @property
    def place(self) -> tuple[str, bool]:
        """Changes on a connection only if the connection leads to another server, or the server is being replaced."""
        return self.server, self.is_read_only


async def evidence(connection: Any, tables: list[str]) -> Evidence:
    """Return the current state of the server and of those of `tables` that exist."""
    server, is_standby, is_read_only, countable, relations, *counters = await connection.fetchrow(_QUERY, tables)
    return Evidence(server, is_standby, is_read_only, bool(countable), tuple(relations or ()), *counters)
