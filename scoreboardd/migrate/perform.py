"""Do what is planned, in the platform's way as little as can be.

Whoever waits for a table's lock makes everybody wait who comes after. So the transaction waits for none longer than
`BLINK`, gives up, and is sent once more a little later; it is one message, so that no client which stops in the middle
holds a lock. All its waits together stay below PostgreSQL's `deadlock_timeout` (1 s), after which it could be the
platform's transaction that is ended. Making an index concurrently keeps nobody waiting, and may wait itself.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg

from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.backend import channel
from scoreboardd.cluster import wire
from scoreboardd.config import ConfigError, Settings
from scoreboardd.migrate.plan import MigrationStep, Plan, RolePlan, plan_install, plan_uninstall
from scoreboardd.platforms.postgres import explain
from scoreboardd.platforms.triggers import MAX_CHANNEL
from scoreboardd.postgres.connection import FAILURES, connect, error_line

BLINK = 0.1
"Seconds the transaction waits for a lock, and the platform for it."
PATIENCE = 5.0
"Seconds after which the transaction is not sent again."
PAUSE = 0.2
"Seconds between two tries."
OTHERS = 60
"Seconds an index waits for transactions that began before it."
INDEX = 3600.0
"Seconds to make one."

ONE_AT_A_TIME = int.from_bytes(b"scorebrd")
"Of the advisory lock."

_BEGIN = f"BEGIN;\nSET LOCAL lock_timeout = '{BLINK * 1000:.0f}ms';"
_APART = f"SET statement_timeout = 0;\nSET lock_timeout = '{OTHERS}s';"


async def migrate(
    settings: Settings, *, triggers: bool, undo: bool, dry_run: bool, say: Callable[[str], None]
) -> list[str]:
    """Do it, and `say` a line for each step done, or the SQL. Returns the problems: with none all is as wanted.

    Raises `ConfigError` if triggers cannot be had with this configuration.
    """
    postgres, kind = settings.postgres, settings.source.kind
    dsn = postgres.dsn.get_secret_value()
    bus = channel(Names(settings.redis.key_prefix), wire.EVENTS)
    if triggers and (over := len(bus) - MAX_CHANNEL) > 0:
        mend = f"shorten it to {len(settings.redis.key_prefix) - over} characters"
        raise ConfigError([f"redis.key_prefix: too long for a channel of PostgreSQL; {mend}"])
    try:
        connection = await connect(
            dsn,
            statement_timeout=postgres.statement_timeout,
            **({"default_transaction_read_only": "on"} if dry_run else {}),
        )
    except FAILURES as error:
        return [_explain(error, kind, dsn)]
    try:
        if not dry_run and not await _alone(connection):
            return ["postgres: another `scoreboardd migrate` is at work; run it again when that has ended"]
        plan = await (
            plan_uninstall(connection, kind, bus) if undo else plan_install(connection, kind, bus if triggers else None)
        )
        _note(plan, say if not dry_run else lambda line: say(f"-- {line}"))
        if dry_run:
            for line in _script(plan):
                say(line)
        else:
            await _perform(connection, plan, kind, dsn, say)
            option = "--undo " if undo else "--triggers " if triggers else ""
            plan.problems += [_left(plan.role, owner, work, option) for owner, work in plan.theirs.items()]
        return plan.problems
    except FAILURES as error:
        return [_explain(error, kind, dsn)]
    finally:
        connection.terminate()


def _note(plan: Plan, say: Callable[[str], None]) -> None:
    ours = plan.ours
    nothing = not (ours.together or ours.apart or plan.theirs or plan.problems)
    for note in plan.notes + ["nothing to do"] * nothing:
        say(note)


def _left(role: str, owner: str, work: RolePlan, option: str) -> str:
    command = f"scoreboardd migrate {option}--dry-run"
    return (
        f"postgres: more is to be done on {', '.join(work.on)}, and not by role {role}: let the owner, {owner}, run "
        f"what `{command}` prints: {command} | psql"
    )


async def _alone(connection: Any) -> bool:
    return await _patiently(lambda: connection.fetchval("SELECT pg_try_advisory_lock($1)", ONE_AT_A_TIME))


async def _perform(connection: Any, plan: Plan, kind: str, dsn: str, say: Callable[[str], None]) -> None:
    """What our role may do. Adds what could not be done to the plan's problems."""

    async def doing(work: Any, steps: list[MigrationStep]) -> None:
        try:
            await work
        except FAILURES as error:
            plan.problems.append(_explain(error, kind, dsn))
            return
        for step in steps:
            say(step.done)

    if plan.ours.together:
        await doing(_transact(connection, _transaction(plan.ours)), plan.ours.together)
    if plan.ours.apart:
        await connection.execute(_APART)
    for step in plan.ours.apart:
        await doing(_one_by_one(connection, step.statements), [step])


async def _transact(connection: Any, script: str) -> None:
    async def sent() -> bool:
        try:
            await connection.execute(script)
        except asyncpg.LockNotAvailableError:
            await connection.execute("ROLLBACK")
            return False
        except asyncpg.PostgresError:
            await connection.execute("ROLLBACK")
            raise
        return True

    if not await _patiently(sent):
        raise asyncpg.LockNotAvailableError(f"no table's lock to be had in {PATIENCE:g} s")


async def _one_by_one(connection: Any, statements: tuple[str, ...]) -> None:
    for statement in statements:
        await connection.execute(statement, timeout=INDEX)


async def _patiently(attempt: Callable[[], Any]) -> bool:
    """Try until it succeeds, or patience ends."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while not await attempt():
        if loop.time() > end:
            return False
        await asyncio.sleep(PAUSE)
    return True


def _transaction(work: RolePlan) -> str:
    statements = [statement for step in work.together for statement in step.statements]
    return "\n".join([_BEGIN, *statements, "COMMIT;"])


def _script(plan: Plan) -> Iterator[str]:
    """All that `_perform` sends, in its order, and then what it leaves to others."""
    for role, work in {plan.role: plan.ours, **plan.theirs}.items():
        if work.together or work.apart:
            yield f"-- For {' '.join(role.split())} to run, or a superuser."
        if work.together:
            yield _transaction(work)
        if work.apart:
            yield _APART
            for step in work.apart:
                yield from step.statements


def _explain(error: BaseException, kind: str, dsn: str) -> str:
    match error:
        case asyncpg.LockNotAvailableError():
            fix = (
                "a long transaction of the platform (or a VACUUM) is in the way: "
                "run `scoreboardd migrate` again when it has ended, which also mends an index left half made"
            )
        case asyncpg.DependentObjectsStillExistError():
            fix = f"drop what depends on it first: {' '.join(str(error.detail).split())}"
        case asyncpg.InsufficientPrivilegeError():
            fix = "run `scoreboardd migrate --dry-run` and let an administrator run what it prints"
        case _:
            return explain(error, kind, dsn)
    return error_line(error, fix, dsn)
