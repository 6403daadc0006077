"""What is to be done: looks at the database and changes nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from scoreboardd.source import check, triggers
from scoreboardd.source.triggers import OPERATIONS, Announcer

DDL = (files("scoreboardd.backend") / "leaderboard_cache.sql").read_text()
MARK = "scoreboardd: "
"How the comment of our table begins."
_COLUMNS = re.findall(r"^    (\w+) +(\w+)", DDL, re.MULTILINE)

_HERE = """
SELECT quote_ident(current_user) AS role, current_schema() AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create
"""

_CACHE = """
SELECT coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
           AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE') AS may_write,
       pg_has_role(c.relowner, 'USAGE') AS owned, pg_get_userbyid(c.relowner) AS owner,
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
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relname = 'leaderboard_cache'
"""

_TABLE = """
SELECT relkind IN ('r', 'p') AS is_table, pg_get_userbyid(relowner) AS owner, pg_has_role(relowner, 'USAGE') AS owned,
       has_table_privilege(oid, 'TRIGGER') AS may_trigger
FROM pg_class WHERE oid = to_regclass($1)
"""

_INDEX = """
SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1) AND c.relname = $2
"""

_TRIGGERS = """
SELECT t.tgname, t.tgenabled IN ('O', 'A') AS enabled, n.nspname = current_schema() AS here,
       p.prosrc = $3 AND p.proconfig = $4 AND NOT p.prosecdef AS alike
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = to_regclass($1) AND t.tgname = ANY ($2)
"""

_FUNCTION = """
SELECT p.prosrc = $2 AND p.proconfig = $3 AND NOT p.prosecdef AS alike
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = current_schema() AND p.proname = $1 AND p.pronargs = 0
"""


@dataclass(frozen=True, slots=True)
class Step:
    done: str
    "What is said once it is done."
    statements: tuple[str, ...]
    "Each ends in a semicolon."


@dataclass(slots=True)
class Plan:
    together: list[Step] = field(default_factory=list)
    "In one transaction, in this order."
    apart: list[Step] = field(default_factory=list)
    "Outside of any transaction, statement by statement."
    problems: list[str] = field(default_factory=list)


async def making(connection: Any, kind: str, channel: str | None) -> Plan:
    """What is missing: the table, the indexes and, if there is a `channel` to announce on, the triggers."""
    plan = Plan()
    here = await connection.fetchrow(_HERE)
    await _make_cache(connection, plan, here)
    if channel is not None:
        for announcer in await _announcers(connection, plan, kind, channel):
            await _make_triggers(connection, plan, here, announcer)
    if plan.together and not here["may_create"]:
        what = f"create nothing in schema {here['schema']}" if here["schema"] else "create nothing: it has no schema"
        plan.problems.append(
            f"postgres: role {here['role']} may {what}; let an administrator of the database run: "
            f"CREATE SCHEMA {here['role']} AUTHORIZATION {here['role']};"
        )
        plan.together.clear()
    for index in check.wishes(kind)["indexes"]:
        await _make_index(connection, plan, kind, index)
    return plan


async def undoing(connection: Any, kind: str) -> Plan:
    """All that is ours: the triggers, their functions, the indexes of our names, and the table if it is marked."""
    plan = Plan()
    wanted = check.wishes(kind)
    for table in wanted["tables"] | wanted["divisions"]:
        await _undo_triggers(connection, plan, table)
    cache = await _cache(connection)
    if cache is not None and cache["comment"].startswith(MARK):
        step = Step("dropped table leaderboard_cache", ("DROP TABLE leaderboard_cache;",))
        if cache["owned"]:
            plan.together.append(step)
        else:
            plan.problems.append(_for_owner("table leaderboard_cache is ours", cache, step.statements))
    for index in wanted["indexes"]:
        await _undo_index(connection, plan, index)
    return plan


# --- the table ----------------------------------------------------------------------------------------------


async def _cache(connection: Any) -> Any:
    names, types = zip(*_COLUMNS, strict=True)
    return await connection.fetchrow(_CACHE, names, types)


async def _make_cache(connection: Any, plan: Plan, here: Any) -> None:
    cache = await _cache(connection)
    role, table = here["role"], f"{here['schema']}.leaderboard_cache"
    if cache is None:
        plan.together.append(Step("created table leaderboard_cache", (DDL.strip(),)))
    elif not cache["alike"]:
        plan.problems.append(
            f"postgres: {table} is not ours, its columns differ; nothing of it was touched: give role {role} a schema "
            f"of its own, CREATE SCHEMA {role} AUTHORIZATION {role};"
        )
    elif not cache["may_write"]:
        plan.problems.append(
            _for_owner(
                f"role {role} may not write {table}",
                cache,
                [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role};"],
            )
        )


# --- the indexes --------------------------------------------------------------------------------------------


async def _make_index(connection: Any, plan: Plan, kind: str, index: dict[str, Any]) -> None:
    table = await connection.fetchrow(_TABLE, index["table"])
    if table is None:
        plan.problems += await check.table_problems(connection, index["table"], [], kind)
        return
    if await check.has_index(connection, index):
        return
    # One of that name which does not serve is what an interrupted run, or an older release, has left.
    left = await connection.fetchval(_INDEX, index["table"], index["name"])
    drop = (f"DROP INDEX CONCURRENTLY {left};",) if left else ()
    statements = (*drop, check.create_index(index))
    if table["owned"]:
        done = f"created index {index['name']} on {index['table']}"
        plan.apart.append(Step(done + (", in place of one that did not serve" if left else ""), statements))
    else:
        plan.problems.append(_for_owner(check.no_index(index).removeprefix("postgres: "), table, statements))


async def _undo_index(connection: Any, plan: Plan, index: dict[str, Any]) -> None:
    name = await connection.fetchval(_INDEX, index["table"], index["name"])
    if name is None:
        return
    table = await connection.fetchrow(_TABLE, index["table"])
    statements = (f"DROP INDEX CONCURRENTLY {name};",)
    if table["owned"]:
        plan.apart.append(Step(f"dropped index {index['name']} on {index['table']}", statements))
    else:
        plan.problems.append(_for_owner(f"index {index['name']} on {index['table']} is ours", table, statements))


# --- the triggers -------------------------------------------------------------------------------------------


async def _announcers(connection: Any, plan: Plan, kind: str, channel: str) -> list[Announcer]:
    """One for each table that is as the source wants it."""
    wanted = check.wishes(kind)
    found = []
    for table, columns in (await check.tables(connection, wanted)).items():
        problems = await check.table_problems(connection, table, columns, kind)
        if problems:
            plan.problems += problems
        else:
            found.append(triggers.announcer(table, columns, wanted["announce"].get(table, {}), channel))
    return found


async def _make_triggers(connection: Any, plan: Plan, here: Any, wanted: Announcer) -> None:
    table = await connection.fetchrow(_TABLE, wanted.table)
    if not table["is_table"]:
        plan.problems.append(
            f"postgres: {wanted.table} is not a table and can announce nothing; let the platform publish its changes"
        )
        return
    of_function = wanted.body, triggers.SETTINGS
    names = [triggers.trigger(operation) for operation in OPERATIONS]
    found = {row["tgname"]: row for row in await connection.fetch(_TRIGGERS, wanted.table, names, *of_function)}
    # A function of ours can be replaced under its trigger; one elsewhere has to be right as it is.
    wrong = [name for name, row in found.items() if not (row["enabled"] and (row["here"] or row["alike"]))]
    new = [operation for operation, name in zip(OPERATIONS, names, strict=True) if name in wrong or name not in found]
    if new and not table["may_trigger"]:
        plan.problems.append(
            _for_owner(
                f"role {here['role']} may not make triggers on {wanted.table}",
                table,
                [f"GRANT TRIGGER ON {wanted.table} TO {here['role']};"],
            )
        )
        return
    if wrong and not table["owned"]:
        plan.problems.append(
            _for_owner(
                f"triggers on {wanted.table} are switched off or call something else",
                table,
                _drop_triggers(wanted.table, wrong),
            )
        )
        return
    function = await connection.fetchrow(_FUNCTION, wanted.function, *of_function)
    if (new or any(row["here"] for row in found.values())) and not (function and function["alike"]):
        done = f"{'replaced' if function else 'created'} function {wanted.function}"
        plan.together.append(Step(done, (wanted.create_function,)))
    if new:
        statements = (*_drop_triggers(wanted.table, wrong), *map(wanted.create_trigger, new))
        plan.together.append(Step(f"created triggers on {wanted.table}: {', '.join(new)}", statements))


async def _undo_triggers(connection: Any, plan: Plan, table: str) -> None:
    anything = "", triggers.SETTINGS
    names = [triggers.trigger(operation) for operation in OPERATIONS]
    found = [row["tgname"] for row in await connection.fetch(_TRIGGERS, table, names, *anything)]
    if found:
        owner = await connection.fetchrow(_TABLE, table)
        drops = _drop_triggers(table, sorted(found))
        if not owner["owned"]:
            plan.problems.append(_for_owner(f"triggers on {table} are ours, and keep their function", owner, drops))
            return
        plan.together.append(Step(f"dropped triggers on {table}", drops))
    name = triggers.function(table)
    if await connection.fetchrow(_FUNCTION, name, *anything) is not None:
        plan.together.append(Step(f"dropped function {name}", (f"DROP FUNCTION {name}();",)))


def _drop_triggers(table: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"DROP TRIGGER {name} ON {table};" for name in names)


def _for_owner(what: str, table: Any, statements: Iterable[str]) -> str:
    return f"postgres: {what}; let the owner, {table['owner']}, run: {' '.join(statements)}"
