"""Triggers with which a platform's tables announce their own changes: `platform.toml` in, SQL out. Pure.

Each table gets one function, fired once per statement, which lives in the schema of the table and belongs to its owner:
whoever can replace it runs code as everybody who writes to the table. What it promises the platform:

- It never makes a statement fail: a comparison that fails counts as a change, an announcement that fails is left out
  (`rebuild.reconcile` finds the change), and both are told in the server's log.
- It asks nothing of the role that fires it: it reads the rows the statement touched, and no table.
- It speaks only if columns that the source reads have changed, in rows that the source reads, and Postgres delivers it
  when the transaction commits. What one transaction says for one reason is one notification: equal payloads are merged,
  and `ts` is when the transaction began.

Rows are compared as they stand, `EXCEPT ALL` both ways, which needs no key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoreboardd.model import UPDATED
from scoreboardd.platforms.check import Table
from scoreboardd.platforms.columns import Tables

OPERATIONS = {
    "insert": "REFERENCING NEW TABLE AS new_rows ",
    "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows ",
    "delete": "REFERENCING OLD TABLE AS old_rows ",
    "truncate": "",
}
"What a statement may do to a table, and what its trigger is given to see."

SETTINGS = ("search_path=pg_catalog, pg_temp",)
"Of each function, as `pg_proc.proconfig` has them: nobody's search_path may change what its words mean."

MAX_CHANNEL = 63
"Bytes PostgreSQL allows the name of a channel."

# A COMMIT that notifies fails when the server's queue is full, and the queue fills when any listener of any of its
# databases is stuck.
_FULL = 0.9

_BODY = """
#variable_conflict use_column
DECLARE
    changed boolean := true;
    reason text := '{updated}';
BEGIN
    BEGIN
        CASE TG_OP
            WHEN 'INSERT' THEN
                changed := EXISTS ({new});
                reason := '{insert}';
            WHEN 'UPDATE' THEN
                changed := EXISTS (
                    ({old} EXCEPT ALL {new})
                    UNION ALL
                    ({new} EXCEPT ALL {old})
                );
                reason := {update};
            WHEN 'DELETE' THEN
                changed := EXISTS ({old});
                reason := '{delete}';
            ELSE  -- a TRUNCATE does not say what there was
        END CASE;
    EXCEPTION WHEN OTHERS THEN
        RAISE LOG 'scoreboardd: {table} could not be compared: %', SQLERRM;
    END;
    IF changed AND pg_notification_queue_usage() < {full} THEN
        PERFORM pg_notify({channel}, format(
            '{{"scope":"all","reason":"%s","ts":"%s"}}',
            reason, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
        ));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'scoreboardd: {table} could not be announced: %', SQLERRM;
    RETURN NULL;
END
"""

_UPDATE_REASON = "CASE{cases}\n                    ELSE '{otherwise}'\n                END"
_CASE = """
                    WHEN EXISTS (SELECT FROM {old} AS before JOIN {new} AS after USING (id) WHERE {when})
                        THEN '{reason}'"""


@dataclass(frozen=True, slots=True)
class Announcer:
    """What makes one table speak."""

    name: str
    "Of the table, as the source has it."
    table: Table
    body: str
    "Of its function, as `pg_proc.prosrc` has it."

    @property
    def function(self) -> str:
        """With its schema."""
        return f"{self.table.schema}.{function(self.name)}"

    @property
    def create_function(self) -> tuple[str, ...]:
        return (
            f"CREATE OR REPLACE FUNCTION {self.function}() RETURNS trigger\n"
            f"LANGUAGE plpgsql SET {SETTINGS[0].replace('=', ' = ')} AS $scoreboardd${self.body}$scoreboardd$;",
            f"ALTER FUNCTION {self.function}() OWNER TO {self.table.owner};",
        )

    def create_trigger(self, operation: str) -> str:
        return (
            f"CREATE TRIGGER {trigger(operation)} AFTER {operation.upper()} ON {self.table.name} "
            f"{OPERATIONS[operation]}FOR EACH STATEMENT EXECUTE FUNCTION {self.function}();"
        )


def function(table: str) -> str:
    """The name of the function for it."""
    return f"scoreboardd_announce_{table}"


def trigger(operation: str) -> str:
    """The name of the trigger for it, on whichever table."""
    return f"scoreboardd_announce_{operation}"


def announcer(name: str, table: Table, found: Tables, rules: Mapping[str, Any], channel: str) -> Announcer:
    """`rules` is what `platform.toml` says under `announce` for the table. Raises `ColumnError`."""
    otherwise = rules.get("update", UPDATED)
    old, new = (found.rows(name, rows, "UTC") for rows in ("old_rows", "new_rows"))
    cases = "".join(_CASE.format(old=old, new=new, **case) for case in rules.get("updates", ()))
    read = f"SELECT * FROM {{}} AS them WHERE {rules.get('where', 'true')}"  # noqa: S608  from platform.toml
    body = _BODY.format(
        table=name,
        old=read.format(old),
        new=read.format(new),
        insert=rules.get("insert", UPDATED),
        update=_UPDATE_REASON.format(cases=cases, otherwise=otherwise) if cases else f"'{otherwise}'",
        delete=rules.get("delete", UPDATED),
        updated=UPDATED,
        channel=_literal(channel),
        full=_FULL,
    )
    return Announcer(name, table, body)


def channel_of(body: str) -> str | None:
    """On which channel a function with this body announces, if it is one of ours."""
    literal = re.search(r"pg_notify\(E'((?:[^'\\]|''|\\.)*)'", body, re.DOTALL)
    return re.sub(r"\\x24|\\\\|''", lambda escape: _ESCAPES[escape[0]], literal[1]) if literal else None


# A string that means the same under any setting of the session, and ends no dollar quote around it.
_ESCAPES = {"\\\\": "\\", "''": "'", "\\x24": "$"}


def _literal(text: str) -> str:
    for escape, meant in _ESCAPES.items():
        text = text.replace(meant, escape)
    return f"E'{text}'"
