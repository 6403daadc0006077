"""Generates the SQL of the triggers with which a platform's tables announce changes, from `platform.toml`. No I/O.

Each table gets one trigger function, which runs once per statement. The function is in the schema of the table and is
owned by the table's owner, because a role that can replace it can run code as every role that writes to the table. The
function guarantees the platform:

- It never makes a statement fail. A comparison that fails counts as a change. An announcement that fails is dropped
  (`rebuild.reconcile` finds the change later). Both failures appear in the server's log.
- The role that runs the statement needs no further privileges: the function reads only the rows that the statement
  changed, and no table.
- It sends a notification only if columns that the source reads changed, in rows that the source reads. PostgreSQL
  delivers the notification when the transaction commits, and merges equal payloads. So a transaction sends one
  notification per reason; its `ts` is the start of the transaction.

The function compares whole rows, with `EXCEPT ALL` in both directions, so it needs no key.
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
"The operations that fire a trigger, each with the clause that gives its function access to the changed rows."

SETTINGS = ("search_path=pg_catalog, pg_temp",)
"""The settings of each function, as in `pg_proc.proconfig`. With its own search_path, the caller's search_path cannot
change which functions and operators it uses."""

MAX_CHANNEL_BYTES = 63
"The longest name of a notification channel that PostgreSQL allows."

_MAX_QUEUE_USAGE = 0.9
"""The share of the server's notification queue above which the function sends nothing. When the queue is full, every
COMMIT with a notification fails, and one stuck listener in any database fills it."""

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
            ELSE  -- TRUNCATE: the former rows are not available
        END CASE;
    EXCEPTION WHEN OTHERS THEN
        RAISE LOG 'scoreboardd: {table} could not be compared: %', SQLERRM;
    END;
    IF changed AND pg_notification_queue_usage() < {max_queue_usage} THEN
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
    """The trigger function of one table."""

    name: str
    "The name of the table in `platform.toml`."
    table: Table
    "The table in the database."
    body: str
    "The body of the function, as in `pg_proc.prosrc`."

    @property
    def function(self) -> str:
        """The name of the function, qualified with the schema."""
        return f"{self.table.schema}.{function(self.name)}"

    @property
    def create_function(self) -> tuple[str, ...]:
        """The statements that create the function, or replace it, for the owner of the table."""
        return (
            f"CREATE OR REPLACE FUNCTION {self.function}() RETURNS trigger\n"
            f"LANGUAGE plpgsql SET {SETTINGS[0].replace('=', ' = ')} AS $scoreboardd${self.body}$scoreboardd$;",
            f"ALTER FUNCTION {self.function}() OWNER TO {self.table.owner};",
        )

    def create_trigger(self, operation: str) -> str:
        """Return the statement that creates the trigger for `operation`, a key of `OPERATIONS`."""
        return (
            f"CREATE TRIGGER {trigger(operation)} AFTER {operation.upper()} ON {self.table.name} "
            f"{OPERATIONS[operation]}FOR EACH STATEMENT EXECUTE FUNCTION {self.function}();"
        )


def function(table: str) -> str:
    """Return the name of the function for a table of `platform.toml`, without its schema."""
    return f"scoreboardd_announce_{table}"


def trigger(operation: str) -> str:
    """Return the name of the trigger for `operation`. It is the same on every table."""
    return f"scoreboardd_announce_{operation}"


def announcer(name: str, table: Table, found: Tables, rules: Mapping[str, Any], channel: str) -> Announcer:
    """Return the trigger function of a table.

    `rules` is the section `announce` of `platform.toml` for the table. `channel` is the channel of the notifications.
    Raises `ColumnError` if a column of the table has a type that cannot be converted.
    """
    otherwise = rules.get("update", UPDATED)
    old, new = (found.rows(name, rows, "UTC") for rows in ("old_rows", "new_rows"))
    cases = "".join(_CASE.format(old=old, new=new, **case) for case in rules.get("updates", ()))
    read = f"SELECT * FROM {{}} AS changed_rows WHERE {rules.get('where', 'true')}"  # noqa: S608  from platform.toml
    body = _BODY.format(
        table=name,
        old=read.format(old),
        new=read.format(new),
        insert=rules.get("insert", UPDATED),
        update=_UPDATE_REASON.format(cases=cases, otherwise=otherwise) if cases else f"'{otherwise}'",
        delete=rules.get("delete", UPDATED),
        updated=UPDATED,
        channel=_literal(channel),
        max_queue_usage=_MAX_QUEUE_USAGE,
    )
    return Announcer(name, table, body)


def channel_of(body: str) -> str | None:
    """Return the channel on which a function with this body announces. None if it is not one of ours."""
    literal = re.search(r"pg_notify\(E'((?:[^'\\]|''|\\.)*)'", body, re.DOTALL)
    return re.sub(r"\\x24|\\\\|''", lambda escape: _ESCAPES[escape[0]], literal[1]) if literal else None


_ESCAPES = {"\\\\": "\\", "''": "'", "\\x24": "$"}
"The escape sequences of `_literal`, and the characters that they stand for."


def _literal(text: str) -> str:
    """Return an SQL literal that does not depend on settings of the session, and contains no dollar sign.

    A dollar sign could end the dollar-quoted body around the literal.
    """
    for escape, character in _ESCAPES.items():
        text = text.replace(character, escape)
    return f"E'{text}'"
