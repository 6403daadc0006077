"""A platform's database with the roles of a real one, and what a test does with them."""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from scoreboardd import config, migrate
from scoreboardd.config import Settings
from scoreboardd.demo.servers import Postgres
from scoreboardd.model import ChangeEvent
from tests.contests import SCHEMA_SQL
from tests.platforms.conftest import as_user

CHANNEL = "scoreboard_events"
SCHEMA = (files("scoreboardd.demo") / "schema.sql").read_text()
TABLES = ["submissions", "users", "teams", "challenges", "divisions"]


CONTEST = """
    INSERT INTO divisions VALUES (1, 'open'), (2, 'closed');
    INSERT INTO teams VALUES (1, 'engines', 1), (2, 'looms', NULL);
    INSERT INTO users VALUES (1, 'ada', 'user', 1), (2, 'bob', 'user', 2), (3, 'eve', 'blocked', 2);
    INSERT INTO challenges VALUES (1, 'sums', 'misc', 500, 100), (2, 'logs', 'misc', 100, 100);
    INSERT INTO submissions VALUES
        (1, 1, 1, true, true, '2026-02-27 18:00Z'), (2, 2, 1, false, false, '2026-02-27 18:01Z');
    ALTER TABLE submissions ALTER id RESTART WITH 3;
    ALTER TABLE users ALTER id RESTART WITH 4;
    ALTER TABLE teams ALTER id RESTART WITH 3;
"""


@dataclass(frozen=True)
class Role:
    name: str
    dsn: str

    async def execute(self, statement: str) -> None:
        await execute(self.dsn, statement)


@dataclass(frozen=True)
class Roles:
    """As the README sets them up."""

    owner: Role
    "Of the platform's tables."
    writer: Role
    "As whom the platform runs: it may read and write those tables, and nothing else."
    board: Role
    "As whom the daemon runs: it may read them, and has a schema of its own."


@pytest.fixture
async def roles(admin: Any, database: str) -> AsyncIterator[Roles]:
    made = []
    for kind in ("owner", "writer", "board"):
        name, password = f"{kind}_{secrets.token_hex(6)}", secrets.token_hex(8)
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        made.append(Role(name, as_user(database, name, password)))
    owner, writer, board = made
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(
        f"GRANT CREATE ON SCHEMA public TO {owner.name}; GRANT CREATE ON DATABASE {name} TO {owner.name}"
    )
    await owner.execute(SCHEMA_SQL(divisions=True))
    await owner.execute(f"""
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {", ".join(TABLES)} TO {writer.name};
        GRANT SELECT ON {", ".join(TABLES)} TO {board.name};
        CREATE SCHEMA {board.name};
        GRANT ALL ON SCHEMA {board.name} TO {board.name};
    """)
    yield Roles(*made)
    for role in made:
        await admin.execute(f"DROP OWNED BY {role.name} CASCADE; DROP ROLE {role.name}")


@dataclass(frozen=True)
class Outcome:
    said: list[str]
    problems: list[str]


def settings(dsn: str, **environ: str) -> Settings:
    given = {f"SCOREBOARDD_{name.upper()}": value for name, value in environ.items()}
    return config.load(Path(os.devnull), {"SCOREBOARDD_POSTGRES__DSN": dsn} | given)


async def run(
    dsn: str, *, triggers: bool = False, undo: bool = False, dry_run: bool = False, **environ: str
) -> Outcome:
    said: list[str] = []
    problems = await migrate.migrate(
        settings(dsn, **environ), triggers=triggers, undo=undo, dry_run=dry_run, report=said.append
    )
    for problem in problems:
        assert problem.startswith("postgres: ")
        assert "\n" not in problem
    return Outcome(said, problems)


async def done(dsn: str, **options: Any) -> list[str]:
    """The steps of a run without problems."""
    outcome = await run(dsn, **options)
    assert outcome.problems == []
    return outcome.said


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        connection.terminate()


async def announcing(dsn: str) -> None:
    """Make it a platform that announces its contest."""
    await execute(dsn, SCHEMA, "ALTER TABLE users ADD password text; ALTER TABLE teams ADD motto text")
    await done(dsn, triggers=True)
    await execute(dsn, CONTEST)


class Listener:
    """Who hears what is said in a database."""

    def __init__(self, connection: Any, channel: str = CHANNEL) -> None:
        self._connection = connection
        self._channel = channel
        self._heard: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        await self._connection.add_listener(self._channel, lambda *said: self._heard.put_nowait(said[3]))

    async def events(self) -> list[ChangeEvent]:
        """All that was said by transactions that have committed, since the last time."""
        end = secrets.token_hex(4)
        await self._connection.execute("SELECT pg_notify($1, $2)", self._channel, end)
        said = []
        async with asyncio.timeout(10):
            while (payload := await self._heard.get()) != end:
                said.append(ChangeEvent(**json.loads(payload)))
        return said

    async def reasons(self) -> list[str]:
        return [event.reason for event in await self.events()]


@asynccontextmanager
async def listening(dsn: str, channel: str = CHANNEL) -> AsyncIterator[Listener]:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        listener = Listener(connection, channel)
        await listener.start()
        yield listener
    finally:
        connection.terminate()


async def psql(dsn: str, script: str) -> None:
    await _client("psql", dsn, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", script=script)


async def dump(dsn: str) -> str:
    """The whole database as text, data and all."""
    text = await _client("pg_dump", dsn)
    # Two lines carry a word that is another one each time.
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


async def _client(program: str, *args: str, script: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        Postgres._binary(program),
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(script.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()


def quoted(problem: str) -> str:
    """The statements that a problem asks the owner to run."""
    return problem.partition(" run: ")[2]
