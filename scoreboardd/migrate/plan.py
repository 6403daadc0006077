"""Plans the statements of a migration and the role that may run each. Reads the database and changes nothing.

Statements qualify every name with its schema, so that they mean the same in a session with any search_path.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from scoreboardd.backends.postgres import table as cache
from scoreboardd.backends.postgres.table import MARK
from scoreboardd.platforms import check, triggers
from scoreboardd.platforms.check import Table
from scoreboardd.platforms.columns import ColumnError, inspect
from scoreboardd.platforms.postgres import requirements
from scoreboardd.platforms.triggers import OPERATIONS, Announcer

_INDEX = """
SELECT format('%I.%I', n.nspname, c.relname) AS name, i.indisvalid AS valid,
       coalesce(starts_with(obj_description(c.oid, 'pg_class'), $3), false) AS marked
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = to_regclass($1) AND c.relname = $2
"""

_TRIGGERS = """
SELECT t.tgname AS name, t.tgenabled IN ('O', 'A') AS enabled, p.prosrc AS body,
       n.nspname = tn.nspname AND p.proname = $3 AS here
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace tn ON tn.oid = c.relnamespace
JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = to_regclass($1) AND t.tgname = ANY ($2)
ORDER BY t.tgname
"""

# Our function in the table's schema, and functions in other schemas that our triggers on the table call.
_FUNCTIONS = """
SELECT format('%I.%I', n.nspname, p.proname) AS name, p.prosrc AS body, n.oid = c.relnamespace AS here,
       p.proowner = c.relowner AND p.proconfig = $4 AND NOT p.prosecdef AS safe,
       quote_ident(pg_get_userbyid(p.proowner)) AS owner, pg_has_role(p.proowner, 'USAGE') AS owned
FROM pg_class c CROSS JOIN pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE c.oid = to_regclass($1) AND p.proname = $3 AND p.pronargs = 0 AND (
    n.oid = c.relnamespace
    OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = ANY ($2) AND t.tgfoid = p.oid)
)
"""


@dataclass(frozen=True, slots=True)
class MigrationStep:
    """A part of a migration."""

    done: str
    "The line to report once the step is done."
    statements: tuple[str, ...]
    "The SQL statements, each with its semicolon."


@dataclass(slots=True)
class RolePlan:
    """The steps that one role may execute."""

    tables: dict[str, None] = field(default_factory=dict)
    "The tables that the steps change, in order."
    transactional: list[MigrationStep] = field(default_factory=list)
    "The steps to execute in one transaction, in order."
    standalone: list[MigrationStep] = field(default_factory=list)
    "The steps to execute outside of any transaction, statement by statement."


@dataclass(slots=True)
class Plan:
    """All steps of a migration, by the role that may execute them."""

    role: str
    "The role of our session."
    own: RolePlan = field(default_factory=RolePlan)
    "The steps that our role may execute."
    for_owners: dict[str, RolePlan] = field(default_factory=dict)
    "The steps that our role may not execute, by the owner of the object."
    notes: list[str] = field(default_factory=list)
    "Lines about what is not possible in this database, and not necessary."
    problems: list[str] = field(default_factory=list)
    "Lines about what is necessary and not possible, each with how to fix it."

    def role_plan(self, table: str, owner: str | None, is_owned: bool | None) -> RolePlan:
        """Return the plan to which to add a step on `table` that only the owner of an object may execute.

        `is_owned`: our role has the privileges of the owner. `owner` is None if the object does not exist yet.
        """
        plan = self.own if is_owned or owner is None else self.for_owners.setdefault(owner, RolePlan())
        plan.tables[table] = None
        return plan

    def role_plan_for(self, table: Table) -> RolePlan:
        """Return the plan to which to add a step that the owner of `table` may execute."""
        return self.role_plan(table.name, table.owner, table.is_owned)


async def plan_install(connection: Any, platform: str, channel: str | None) -> Plan:
    """Plan to create what is missing: the daemon's table, the indexes and, unless `channel` is None, the triggers.

    `platform` is the value of source.kind. The triggers announce changes on `channel`.
    """
    table = await cache.find(connection)
    plan = Plan(table.role)
    if table.problem is not None:
        plan.problems.append(table.problem)
    elif not table.is_there:
        plan.own.transactional.append(MigrationStep("created table leaderboard_cache", table.create))
    if channel is not None:
        await _plan_triggers(connection, plan, platform, channel)
    required = requirements(platform)
    found = await inspect(connection, platform, required)
    for index in required["indexes"]:
        await _plan_index(connection, plan, platform, check.adapted_index(index, found))
    return plan


async def plan_uninstall(connection: Any, platform: str, channel: str) -> Plan:
    """Plan to remove what `plan_install` creates.

    These are the triggers that announce on `channel` with their functions, and the table and the indexes whose comments
    mark them as ours.
    """
    table = await cache.find(connection)
    plan = Plan(table.role)
    required = requirements(platform)
    tables = [*(required["tables"] | required["divisions"])]
    if conflict := await _other_channel(connection, tables, channel):
        plan.problems.append(
            f"postgres: the triggers belong to another cluster, and were not removed: {conflict} to remove them"
        )
    else:
        for name in tables:
            await _plan_trigger_removal(connection, plan, name)
    if table.is_there and table.marked:
        step = MigrationStep("dropped table leaderboard_cache", (f"DROP TABLE {table.name};",))
        plan.role_plan(table.name, table.owner, table.owned).transactional.append(step)
    for index in required["indexes"]:
        await _plan_index_removal(connection, plan, index)
    return plan


# --- the indexes --------------------------------------------------------------------------------------------


async def _plan_index(connection: Any, plan: Plan, platform: str, index: dict[str, Any]) -> None:
    table = await check.find_table(connection, index["table"])
    if table is None:
        plan.problems += await check.table_problems(connection, index["table"], [], platform)
        return
    if not table.is_table:
        plan.notes.append(f"{index['table']} is a view: an index can only be on the tables behind it")
        return
    if await check.has_index(connection, index):
        return
    if table.is_partitioned:
        plan.problems.append(check.missing_index_problem(index, table))
        return
    existing = await _index_of_our_name(connection, index)
    if existing is not None and existing["valid"] and not existing["marked"]:
        plan.problems.append(
            f"postgres: index {existing['name']} is not ours, and not the index that rebuilds need: let the "
            f"owner, {table.owner}, give it another name with ALTER INDEX {existing['name']} RENAME TO"
        )
        return
    # An index of our name that does not serve was left by an interrupted run, or an older release.
    drop = (f"DROP INDEX CONCURRENTLY {existing['name']};",) if existing else ()
    mark = f"COMMENT ON INDEX {table.schema}.{index['name']} IS '{MARK}so that rebuilds need not scan the table';"
    done = f"created index {index['name']} on {index['table']}" + (", replacing an unusable one" * bool(existing))
    plan.role_plan_for(table).standalone.append(MigrationStep(done, (*drop, check.create_index(index, table), mark)))


async def _plan_index_removal(connection: Any, plan: Plan, index: dict[str, Any]) -> None:
    existing = await _index_of_our_name(connection, index)
    table = await check.find_table(connection, index["table"])
    if existing is None or table is None or not (existing["marked"] or not existing["valid"]) or table.is_partitioned:
        return
    step = MigrationStep(
        f"dropped index {index['name']} on {index['table']}", (f"DROP INDEX CONCURRENTLY {existing['name']};",)
    )
    plan.role_plan_for(table).standalone.append(step)


async def _index_of_our_name(connection: Any, index: dict[str, Any]) -> Any:
    """Return the row of `_INDEX` for the index with our name. None if it does not exist."""
    return await connection.fetchrow(_INDEX, index["table"], index["name"], MARK)


# --- the triggers -------------------------------------------------------------------------------------------


async def _plan_triggers(connection: Any, plan: Plan, platform: str, channel: str) -> None:
    required = requirements(platform)
    found = await inspect(connection, platform, required)
    tables = found.meanings
    if conflict := await _other_channel(connection, tables, channel):
        plan.problems.append(
            f"postgres: the triggers belong to another cluster, and were not changed: {conflict} first"
        )
        return
    for name, columns in tables.items():
        problems = await check.table_problems(connection, name, list(columns), platform)
        table = await check.find_table(connection, name)
        if problems or table is None:
            plan.problems += problems
        elif not table.is_table:
            plan.problems.append(
                f"postgres: {name} is not a table and can have no triggers; let the platform publish its changes"
            )
        else:
            rules = required["announce"].get(name, {})
            try:
                announcer = triggers.announcer(name, table, found, rules, channel)
            except ColumnError as error:
                plan.problems.append(str(error))
            else:
                await _plan_announcer(connection, plan, announcer)


async def _plan_announcer(connection: Any, plan: Plan, announcer: Announcer) -> None:
    found = {row["name"]: row["enabled"] and row["here"] for row in await _triggers(connection, announcer.name)}
    names = {operation: triggers.trigger(operation) for operation in OPERATIONS}
    unusable = [name for name, is_usable in found.items() if not is_usable]
    new = [operation for operation, name in names.items() if not found.get(name)]
    function = next((row for row in await _functions(connection, announcer.name) if row["here"]), None)
    steps = []
    if function is None or not (function["safe"] and function["body"] == announcer.body):
        done = f"{'replaced' if function else 'created'} function {triggers.function(announcer.name)}"
        steps.append(MigrationStep(done, announcer.create_function))
    if new:
        statements = (*_drop_triggers(announcer.table, unusable), *map(announcer.create_trigger, new))
        steps.append(MigrationStep(f"created triggers on {announcer.name}: {', '.join(new)}", statements))
    if steps:
        plan.role_plan_for(announcer.table).transactional += steps


async def _plan_trigger_removal(connection: Any, plan: Plan, name: str) -> None:
    table = await check.find_table(connection, name)
    if table is None:
        return
    if found := [row["name"] for row in await _triggers(connection, name)]:
        plan.role_plan_for(table).transactional.append(
            MigrationStep(f"dropped triggers on {name}", _drop_triggers(table, found))
        )
    for function in await _functions(connection, name):
        step = MigrationStep(f"dropped function {triggers.function(name)}", (f"DROP FUNCTION {function['name']}();",))
        plan.role_plan(table.name, function["owner"], function["owned"]).transactional.append(step)


async def _other_channel(connection: Any, tables: Iterable[str], channel: str) -> str | None:
    """Return None unless our triggers on `tables` announce on another channel than `channel`.

    Otherwise, return which channel, and how to fix it; the caller completes the sentence.
    """
    for name in tables:
        for row in await _triggers(connection, name):
            if (other := triggers.channel_of(row["body"])) not in (None, channel):
                return (
                    f"those on {name} announce on channel {other!r}, and with this redis.key_prefix nodes listen on "
                    f"{channel!r}; set the same prefix, or run `scoreboardd migrate --undo` with the other one"
                )
    return None


async def _triggers(connection: Any, name: str) -> list[Any]:
    """Return the rows of `_TRIGGERS` for table `name`."""
    names = [triggers.trigger(operation) for operation in OPERATIONS]
    found: list[Any] = await connection.fetch(_TRIGGERS, name, names, triggers.function(name))
    return found


async def _functions(connection: Any, name: str) -> list[Any]:
    """Return the rows of `_FUNCTIONS` for table `name`."""
    names = [triggers.trigger(operation) for operation in OPERATIONS]
    found: list[Any] = await connection.fetch(_FUNCTIONS, name, names, triggers.function(name), triggers.SETTINGS)
    return found


def _drop_triggers(table: Table, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"DROP TRIGGER {name} ON {table.name};" for name in names)
