"""What is to be done, and who may do it: looks at the database and changes nothing.

Every name is written with its schema, so that a statement means the same whoever runs it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from scoreboardd.backends.postgres import table as cache
from scoreboardd.backends.postgres.table import MARK
from scoreboardd.platforms import check, triggers
from scoreboardd.platforms.check import Table
from scoreboardd.platforms.columns import ColumnError, inspect
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

# Those of the table's schema, and wherever a trigger finds one.
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
    done: str
    "What is said once it is done."
    statements: tuple[str, ...]
    "Each ends in a semicolon."


@dataclass(slots=True)
class RolePlan:
    """Of one role."""

    on: dict[str, None] = field(default_factory=dict)
    "Which tables, in order."
    together: list[MigrationStep] = field(default_factory=list)
    "In one transaction, in this order."
    apart: list[MigrationStep] = field(default_factory=list)
    "Outside of any transaction, statement by statement."


@dataclass(slots=True)
class Plan:
    role: str
    "Ours."
    ours: RolePlan = field(default_factory=RolePlan)
    theirs: dict[str, RolePlan] = field(default_factory=dict)
    "What our role may not do, by who may: the owners."
    notes: list[str] = field(default_factory=list)
    "What cannot be, and need not."
    problems: list[str] = field(default_factory=list)

    def work(self, on: str, owner: str | None, owned: bool | None) -> RolePlan:
        """To which to add something on this table."""
        work = self.ours if owned or owner is None else self.theirs.setdefault(owner, RolePlan())
        work.on[on] = None
        return work

    def work_on(self, table: Table) -> RolePlan:
        return self.work(table.name, table.owner, table.owned)


async def plan_install(connection: Any, kind: str, channel: str | None) -> Plan:
    """What is missing: the table, the indexes and, if there is a `channel` to announce on, the triggers."""
    table = await cache.find(connection)
    plan = Plan(table.role)
    if table.problem is not None:
        plan.problems.append(table.problem)
    elif not table.is_there:
        plan.ours.together.append(MigrationStep("created table leaderboard_cache", table.create))
    if channel is not None:
        await _make_triggers(connection, plan, kind, channel)
    wanted = check.requirements(kind)
    found = await inspect(connection, kind, wanted)
    for index in wanted["indexes"]:
        await _make_index(connection, plan, kind, check.fitted(index, found))
    return plan


async def plan_uninstall(connection: Any, kind: str, channel: str) -> Plan:
    """All that is ours: the triggers that announce on `channel`, their functions, and what has our mark."""
    table = await cache.find(connection)
    plan = Plan(table.role)
    wanted = check.requirements(kind)
    tables = [*(wanted["tables"] | wanted["divisions"])]
    if others := await _others(connection, tables, channel):
        plan.problems.append(f"postgres: the triggers are another cluster's, and stay: {others} to remove them")
    else:
        for name in tables:
            await _undo_triggers(connection, plan, name)
    if table.is_there and table.marked:
        step = MigrationStep("dropped table leaderboard_cache", (f"DROP TABLE {table.name};",))
        plan.work(table.name, table.owner, table.owned).together.append(step)
    for index in wanted["indexes"]:
        await _undo_index(connection, plan, index)
    return plan


# --- the indexes --------------------------------------------------------------------------------------------


async def _make_index(connection: Any, plan: Plan, kind: str, index: dict[str, Any]) -> None:
    table = await check.find_table(connection, index["table"])
    if table is None:
        plan.problems += await check.table_problems(connection, index["table"], [], kind)
        return
    if not table.is_table:
        plan.notes.append(f"{index['table']} is a view: an index can only be on the tables behind it")
        return
    if await check.has_index(connection, index):
        return
    if table.is_partitioned:
        plan.problems.append(check.no_index(index, table))
        return
    left = await _index(connection, index)
    if left is not None and left["valid"] and not left["marked"]:
        plan.problems.append(
            f"postgres: index {left['name']} is not ours, and not what rebuilds need: let the owner, {table.owner}, "
            f"give it another name with ALTER INDEX {left['name']} RENAME TO"
        )
        return
    # One that does not serve is what an interrupted run, or an older release, has left.
    drop = (f"DROP INDEX CONCURRENTLY {left['name']};",) if left else ()
    mark = f"COMMENT ON INDEX {table.schema}.{index['name']} IS '{MARK}so that rebuilds need not scan the table';"
    done = f"created index {index['name']} on {index['table']}" + (", in place of one that did not serve" * bool(left))
    plan.work_on(table).apart.append(MigrationStep(done, (*drop, check.create_index(index, table), mark)))


async def _undo_index(connection: Any, plan: Plan, index: dict[str, Any]) -> None:
    left = await _index(connection, index)
    table = await check.find_table(connection, index["table"])
    if left is None or table is None or not (left["marked"] or not left["valid"]) or table.is_partitioned:
        return
    step = MigrationStep(
        f"dropped index {index['name']} on {index['table']}", (f"DROP INDEX CONCURRENTLY {left['name']};",)
    )
    plan.work_on(table).apart.append(step)


async def _index(connection: Any, index: dict[str, Any]) -> Any:
    """The one that has our name."""
    return await connection.fetchrow(_INDEX, index["table"], index["name"], MARK)


# --- the triggers -------------------------------------------------------------------------------------------


async def _make_triggers(connection: Any, plan: Plan, kind: str, channel: str) -> None:
    wanted = check.requirements(kind)
    found = await inspect(connection, kind, wanted)
    tables = found.meanings
    if others := await _others(connection, tables, channel):
        plan.problems.append(
            f"postgres: the triggers are another cluster's, nothing of them was changed: {others} first"
        )
        return
    for name, columns in tables.items():
        problems = await check.table_problems(connection, name, list(columns), kind)
        table = await check.find_table(connection, name)
        if problems or table is None:
            plan.problems += problems
        elif not table.is_table:
            plan.problems.append(
                f"postgres: {name} is not a table and can announce nothing; let the platform publish its changes"
            )
        else:
            rules = wanted["announce"].get(name, {})
            try:
                announcer = triggers.announcer(name, table, found, rules, channel)
            except ColumnError as error:
                plan.problems.append(str(error))
            else:
                await _make_announcer(connection, plan, announcer)


async def _make_announcer(connection: Any, plan: Plan, wanted: Announcer) -> None:
    found = {row["name"]: row["enabled"] and row["here"] for row in await _triggers(connection, wanted.name)}
    names = {operation: triggers.trigger(operation) for operation in OPERATIONS}
    wrong = [name for name, right in found.items() if not right]
    new = [operation for operation, name in names.items() if not found.get(name)]
    function = next((row for row in await _functions(connection, wanted.name) if row["here"]), None)
    steps = []
    if function is None or not (function["safe"] and function["body"] == wanted.body):
        done = f"{'replaced' if function else 'created'} function {triggers.function(wanted.name)}"
        steps.append(MigrationStep(done, wanted.create_function))
    if new:
        statements = (*_drop_triggers(wanted.table, wrong), *map(wanted.create_trigger, new))
        steps.append(MigrationStep(f"created triggers on {wanted.name}: {', '.join(new)}", statements))
    if steps:
        plan.work_on(wanted.table).together += steps


async def _undo_triggers(connection: Any, plan: Plan, name: str) -> None:
    table = await check.find_table(connection, name)
    if table is None:
        return
    if found := [row["name"] for row in await _triggers(connection, name)]:
        plan.work_on(table).together.append(MigrationStep(f"dropped triggers on {name}", _drop_triggers(table, found)))
    for function in await _functions(connection, name):
        step = MigrationStep(f"dropped function {triggers.function(name)}", (f"DROP FUNCTION {function['name']}();",))
        plan.work(table.name, function["owner"], function["owned"]).together.append(step)


async def _others(connection: Any, tables: Iterable[str], channel: str) -> str | None:
    """If they announce to somebody else: to whom, and the mend that begins so."""
    for name in tables:
        for row in await _triggers(connection, name):
            if (spoken := triggers.channel_of(row["body"])) not in (None, channel):
                return (
                    f"those on {name} announce on channel {spoken!r}, and with this redis.key_prefix we listen on "
                    f"{channel!r}; set the same prefix, or run `scoreboardd migrate --undo` with theirs"
                )
    return None


async def _triggers(connection: Any, name: str) -> list[Any]:
    names = [triggers.trigger(operation) for operation in OPERATIONS]
    found: list[Any] = await connection.fetch(_TRIGGERS, name, names, triggers.function(name))
    return found


async def _functions(connection: Any, name: str) -> list[Any]:
    names = [triggers.trigger(operation) for operation in OPERATIONS]
    found: list[Any] = await connection.fetch(_FUNCTIONS, name, names, triggers.function(name), triggers.SETTINGS)
    return found


def _drop_triggers(table: Table, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"DROP TRIGGER {name} ON {table.name};" for name in names)
