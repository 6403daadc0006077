"""Executes a plan while holding up the platform as little as possible.

A statement that waits for a lock on a table blocks all later statements on this table. So the transaction waits at most
`TABLE_LOCK_TIMEOUT_SECONDS` for each lock; then it is rolled back, and sent again after a pause. It is sent as one
message, so that a client that stops in the middle leaves no lock behind. All its waits together stay below PostgreSQL's
`deadlock_timeout` (1 s), after which PostgreSQL could cancel the platform's transaction instead. Creating an index
concurrently does not block the platform, and may wait longer.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg

from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.connection import channel
from scoreboardd.cluster import wire
from scoreboardd.config import ConfigError, Settings
from scoreboardd.migrate.plan import MigrationStep, Plan, RolePlan, plan_install, plan_uninstall
from scoreboardd.platforms.postgres import explain
from scoreboardd.platforms.triggers import MAX_CHANNEL_BYTES
from scoreboardd.postgres.connection import FAILURES, connect, error_line

TABLE_LOCK_TIMEOUT_SECONDS = 0.1
"The longest time that the transaction waits for a lock, and so makes the platform wait."
RETRY_SECONDS = 5.0
"The time after which the transaction, and the lock against other runs, is not tried again."
RETRY_PAUSE_SECONDS = 0.2
"The pause between two attempts."
INDEX_LOCK_TIMEOUT_SECONDS = 60
"The longest time that creating or dropping an index waits for transactions that began earlier."
INDEX_TIMEOUT_SECONDS = 3600.0
"The longest time for a statement that creates or drops an index."

ADVISORY_LOCK_KEY = int.from_bytes(b"scorebrd")
"The key of the advisory lock that a run holds, so that only one run changes the database at a time."

_BEGIN = f"BEGIN;\nSET LOCAL lock_timeout = '{TABLE_LOCK_TIMEOUT_SECONDS * 1000:.0f}ms';"
_STANDALONE_SETTINGS = f"SET statement_timeout = 0;\nSET lock_timeout = '{INDEX_LOCK_TIMEOUT_SECONDS}s';"


async def migrate(
    settings: Settings, *, triggers: bool, undo: bool, dry_run: bool, report: Callable[[str], None]
) -> list[str]:
    """Create what the daemon needs in the database, with `triggers` also the triggers; with `undo`, remove it.

    Calls `report` with a line for each completed step; with `dry_run`, changes nothing and calls it with the SQL.
    Returns the problems; without any, the database is as required. Raises `ConfigError` if the key prefix is too long
    for triggers.
    """
    postgres, platform = settings.postgres, settings.source.kind
    dsn = postgres.dsn.get_secret_value()
    bus = channel(Names(settings.redis.key_prefix), wire.EVENTS)
    if triggers and (excess := len(bus) - MAX_CHANNEL_BYTES) > 0:
        fix = f"shorten it to {len(settings.redis.key_prefix) - excess} characters"
        raise ConfigError([f"redis.key_prefix: too long for a channel of PostgreSQL; {fix}"])
    try:
        connection = await connect(
            dsn,
            statement_timeout=postgres.statement_timeout,
            **({"default_transaction_read_only": "on"} if dry_run else {}),
        )
    except FAILURES as error:
        return [_explain(error, platform, dsn)]
    try:
        if not dry_run and not await _lock_out_other_runs(connection):
            return ["postgres: another `scoreboardd migrate` is running; run it again when that has ended"]
        plan = await (
            plan_uninstall(connection, platform, bus)
            if undo
            else plan_install(connection, platform, bus if triggers else None)
        )
        _report_notes(plan, report if not dry_run else lambda line: report(f"-- {line}"))
        if dry_run:
            for line in _script(plan):
                report(line)
        else:
            await _perform(connection, plan, platform, dsn, report)
            option = "--undo " if undo else "--triggers " if triggers else ""
            plan.problems += [_owner_problem(plan.role, owner, work, option) for owner, work in plan.for_owners.items()]
        return plan.problems
    except FAILURES as error:
        return [_explain(error, platform, dsn)]
    finally:
        connection.terminate()


def _report_notes(plan: Plan, report: Callable[[str], None]) -> None:
    """Report the notes of the plan, and whether there is nothing to do."""
    nothing = not (plan.own.transactional or plan.own.standalone or plan.for_owners or plan.problems)
    for note in plan.notes + ["nothing to do"] * nothing:
        report(note)


def _owner_problem(role: str, owner: str, work: RolePlan, option: str) -> str:
    """Return the problem that `work` is left to the owner of the tables. `option` is the option of this run."""
    command = f"scoreboardd migrate {option}--dry-run"
    return (
        f"postgres: role {role} may not change {', '.join(work.tables)}, where more is to be done: let the owner, "
        f"{owner}, run what `{command}` prints: {command} | psql"
    )


async def _lock_out_other_runs(connection: Any) -> bool:
    """Take the advisory lock for the rest of the session. Return False if another run holds it too long."""
    return await _retry(lambda: connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK_KEY))


async def _perform(connection: Any, plan: Plan, platform: str, dsn: str, report: Callable[[str], None]) -> None:
    """Execute the steps that our role may execute. Report each completed step; add failures to the plan's problems."""

    async def finish(execution: Any, steps: list[MigrationStep]) -> None:
        try:
            await execution
        except FAILURES as error:
            plan.problems.append(_explain(error, platform, dsn))
            return
        for step in steps:
            report(step.done)

    if plan.own.transactional:
        await finish(_execute_transaction(connection, _transaction(plan.own)), plan.own.transactional)
    if plan.own.standalone:
        await connection.execute(_STANDALONE_SETTINGS)
    for step in plan.own.standalone:
        await finish(_execute_standalone(connection, step.statements), [step])


async def _execute_transaction(connection: Any, script: str) -> None:
    """Send the transaction until it gets its locks. Raises `LockNotAvailableError` after `RETRY_SECONDS`."""

    async def attempt() -> bool:
        try:
            await connection.execute(script)
        except asyncpg.LockNotAvailableError:
            await connection.execute("ROLLBACK")
            return False
        except asyncpg.PostgresError:
            await connection.execute("ROLLBACK")
            raise
        return True

    if not await _retry(attempt):
        raise asyncpg.LockNotAvailableError(f"could not lock the tables within {RETRY_SECONDS:g} s")


async def _execute_standalone(connection: Any, statements: tuple[str, ...]) -> None:
    for statement in statements:
        await connection.execute(statement, timeout=INDEX_TIMEOUT_SECONDS)


async def _retry(attempt: Callable[[], Any]) -> bool:
    """Await `attempt` until it returns a true value. Return False if it has not after `RETRY_SECONDS`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RETRY_SECONDS
    while not await attempt():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(RETRY_PAUSE_SECONDS)
    return True


def _transaction(work: RolePlan) -> str:
    statements = [statement for step in work.transactional for statement in step.statements]
    return "\n".join([_BEGIN, *statements, "COMMIT;"])


def _script(plan: Plan) -> Iterator[str]:
    """Yield all SQL that `_perform` sends, in its order, and then the SQL for the owners."""
    for role, work in {plan.role: plan.own, **plan.for_owners}.items():
        if work.transactional or work.standalone:
            yield f"-- To be run by {' '.join(role.split())}, or a superuser."
        if work.transactional:
            yield _transaction(work)
        if work.standalone:
            yield _STANDALONE_SETTINGS
            for step in work.standalone:
                yield from step.statements


def _explain(error: BaseException, platform: str, dsn: str) -> str:
    match error:
        case asyncpg.LockNotAvailableError():
            fix = (
                "a long transaction of the platform (or a VACUUM) is in the way: "
                "run `scoreboardd migrate` again when it has ended, which also replaces an unfinished index"
            )
        case asyncpg.DependentObjectsStillExistError():
            fix = f"drop what depends on it first: {' '.join(str(error.detail).split())}"
        case asyncpg.InsufficientPrivilegeError():
            fix = "run `scoreboardd migrate --dry-run` and let an administrator run what it prints"
        case _:
            return explain(error, platform, dsn)
    return error_line(error, fix, dsn)
