"""A cluster under fire: one world for each backend.

Real daemons, each behind proxies of its own to the real servers it needs; a platform that adds solves for ever and
remembers each that was committed; clients of each node, who witness what they are told and shown. A change that is
announced late, or not at all, is due as well (DESIGN: I1).
"""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from urllib.parse import urlsplit

import aiohttp
import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from scoreboardd.backends.local.file import NAME
from scoreboardd.demo.servers import Postgres, Valkey
from scoreboardd.postgres.connection import FAILURES
from tests.chaos.history import History, Solve
from tests.chaos.member import Member
from tests.chaos.proxy import Proxy
from tests.integration.conftest import SCHEMA
from tests.nodes import until

USERS, CHALLENGES = 400, 60
PREFIX = "chaos:"
LOCK_TTL = 3.0
RECONCILE = 5.0
#: Seconds after a fault is mended within which every node must serve what was committed until then: a lock that has to
#: run out, a subscription that has to be found dead and made anew, a change that only `reconcile` finds, and a few
#: builds.
BOUND = LOCK_TTL + 15.0 + RECONCILE * 1.25 + 3.0

PERSIST_INTERVAL = 2.0
#: Seconds from a version's being served to its being kept. A node that offers it just before the last write is an
#: interval old is told to wait, and does so for another one.
KEPT = PERSIST_INTERVAL * 2.2 + 1.5
#: Seconds in which a node that listens, in a cluster that has nothing but what is kept, must answer with that: time
#: for its builder process to start, beside those of the others.
COLD = 10.0

#: Of the changes, those whose platform crashes before it can announce them.
UNSAID = 0.05

SOLVE = "INSERT INTO submissions (user_id, challenge_id, correct) VALUES ($1, $2, true)"
SAY = "SELECT pg_notify($1, $2)"
SOLVE_AND_SAY = f"WITH solved AS ({SOLVE} RETURNING id) SELECT pg_notify($3, $4) FROM solved"
EVENT = '{"reason":"submission_correct"}'

CACHE = (files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text()
"What `scoreboardd migrate` makes."


class World(ABC):
    """`members` and the servers, for faults to be done to; `history` for the verdict."""

    SETTINGS: ClassVar[dict[str, Any]] = {
        "redis__key_prefix": PREFIX,
        "rebuild__lock_ttl": LOCK_TTL,
        "rebuild__reconcile": RECONCILE,
        "rebuild__timeout": 10,
        "postgres__statement_timeout": 5,
        "sse__heartbeat": 1,
    }

    def __init__(self) -> None:
        self.history = History()
        self.members: list[Member] = []
        self.postgres = Postgres()

    @property
    def servers(self) -> list[AbstractContextManager[Any]]:
        return [self.postgres]

    def settings(self) -> dict[str, Any]:
        """Of each node, but for where the servers are."""
        return dict(self.SETTINGS)

    def urls(self) -> dict[str, str]:
        """Where the servers are, by the setting that says so."""
        return {"postgres__dsn": self.postgres.dsn()}

    async def execute(self, *statements: str) -> None:
        """Do this to the database, past the proxies, in one transaction."""
        connection = await asyncpg.connect(self.postgres.dsn(), timeout=10, command_timeout=60)
        try:
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement)
        finally:
            connection.terminate()

    async def prepare(self) -> None:
        await self.execute(
            SCHEMA,
            CACHE,
            "INSERT INTO teams (name) SELECT 'team ' || n FROM generate_series(1, 100) n",
            "INSERT INTO users (username, team_id) "
            f"SELECT 'user ' || n, n % 100 + 1 FROM generate_series(1, {USERS}) n",
            "INSERT INTO challenges (title, category, points, minimum_points) "
            f"SELECT 'challenge ' || n, 'misc', 500, 100 FROM generate_series(1, {CHALLENGES}) n",
        )

    async def recovered(self, fault: str) -> None:
        """Wait until every node serves all that was committed when the fault was mended (I1), and note the time."""
        start = time.monotonic()
        due = self.history.committed_by(start)
        while not all(due <= member.board for member in self.members):
            if time.monotonic() > start + BOUND:
                missing = {member.url: len(due - member.board) for member in self.members}
                self.history.violated(f"I1: after {fault}, not within {BOUND} s; changes missing: {missing}")
                return
            await asyncio.sleep(0.02)
        self.history.recoveries[fault].append(time.monotonic() - start)

    async def one_more_change(self) -> None:
        """Until something is due that was not when this was called."""
        before = len(self.history.committed)
        await until(lambda: len(self.history.committed) > before, "a change is committed")

    async def write(self, rng: random.Random) -> None:
        """Change the contest for ever: one solve at a time and now and then a burst."""
        pairs = [(user, challenge) for user in range(1, USERS + 1) for challenge in range(1, CHALLENGES + 1)]
        rng.shuffle(pairs)
        connection: Any = None
        try:
            while pairs:
                for _ in range(20 if rng.random() < 0.02 else 1):
                    try:
                        if connection is None:
                            connection = await asyncpg.connect(self.postgres.dsn(), timeout=2, command_timeout=2)
                        await self._solve(connection, pairs.pop(), rng)
                    except FAILURES:
                        if connection is not None:
                            connection.terminate()
                            connection = None
                        await asyncio.sleep(0.1)
                await asyncio.sleep(rng.expovariate(8))
        finally:
            if connection is not None:
                connection.terminate()

    @abstractmethod
    async def _solve(self, connection: Any, solve: Solve, rng: random.Random) -> None:
        """Commit, tell the history, and announce as a platform may on this backend: late, or never."""


class RedisWorld(World):
    """Valkey coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.valkey = Valkey()

    @property
    def servers(self) -> list[AbstractContextManager[Any]]:
        return [*super().servers, self.valkey]

    def urls(self) -> dict[str, str]:
        return super().urls() | {"redis__url": self.valkey.url()}

    def redis(self) -> Redis:
        """A client past the proxies."""
        # With a `socket_timeout` redis-py swallows cancellations (Python 3.11's `wait_for`).
        return Redis.from_url(self.valkey.url(), socket_timeout=None, socket_connect_timeout=10)

    async def _solve(self, connection: Any, solve: Solve, rng: random.Random) -> None:
        await connection.execute(SOLVE, *solve)
        self.history.commit(solve)
        if rng.random() >= UNSAID:
            with suppress(RedisError, OSError):
                async with asyncio.timeout(1), self.redis() as redis:
                    await redis.publish(f"{PREFIX}scoreboard.events", EVENT)


class ArchivedWorld(RedisWorld):
    """Valkey coordinates, and Postgres keeps an edition for a day without it."""

    SETTINGS: ClassVar[dict[str, Any]] = World.SETTINGS | {
        "cache__persist": True,
        "cache__persist_interval": PERSIST_INTERVAL,
    }

    def shown(self) -> frozenset[Solve]:
        """What every node shows."""
        return frozenset.intersection(*(member.board for member in self.members))

    async def answered_from_cold(self, fault: str, due: frozenset[Solve], *, only_kept: bool = False) -> None:
        """Wait until every node has answered, with `due` at the least; none has more to begin from than what is kept.

        `only_kept`: nor is there anything else to be had.
        """
        start = time.monotonic()
        while not all(member.first for member in self.members):
            if time.monotonic() > start + COLD:
                silent = [member.url for member in self.members if not member.first]
                self.history.violated(f"cold: after {fault}, not within {COLD} s: {silent}")
                return
            await asyncio.sleep(0.02)
        self.history.recoveries[f"{fault}: first answers"].append(time.monotonic() - start)
        for member in self.members:
            assert member.first is not None
            tier, board = member.first
            if only_kept and tier != "stale-postgres":
                self.history.violated(f"cold: after {fault}, {member.url} answered from {tier}")
            if not due <= board:
                self.history.violated(f"cold: after {fault}, {member.url} lacked {len(due - board)} that were kept")


class PostgresWorld(World):
    """Postgres does everything."""

    SETTINGS: ClassVar[dict[str, Any]] = World.SETTINGS | {"coordination__backend": "postgres"}

    async def _solve(self, connection: Any, solve: Solve, rng: random.Random) -> None:
        channel = f"{PREFIX}scoreboard_events"
        if rng.random() < 0.5:
            await connection.execute(SOLVE_AND_SAY, *solve, channel, EVENT)
            self.history.commit(solve)
            return
        await connection.execute(SOLVE, *solve)
        self.history.commit(solve)
        if rng.random() >= UNSAID:
            await connection.execute(SAY, channel, EVENT)


class LocalWorld(PostgresWorld):
    """A file coordinates the one node there is. Postgres notifies it."""

    def __init__(self) -> None:
        super().__init__()
        self._parent = TemporaryDirectory(prefix="scoreboardd-chaos-")
        self.directory = Path(self._parent.name) / "state"
        self.directory.mkdir()

    @property
    def servers(self) -> list[AbstractContextManager[Any]]:
        return [*super().servers, self._parent]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"coordination__backend": "local", "cache__directory": self.directory}

    @property
    def file(self) -> Path:
        return self.directory / NAME

    @property
    def member(self) -> Member:
        (member,) = self.members
        return member


@asynccontextmanager
async def cluster(it: World, size: int, seed: int) -> AsyncIterator[None]:
    """`it`, with `size` nodes, written to and witnessed until the end."""
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        for server in it.servers:
            stack.enter_context(server)
        await it.prepare()
        for _ in range(size):
            links, settings = {}, it.settings()
            for name, url in it.urls().items():
                port = urlsplit(url).port
                assert port is not None
                link = links[name.partition("__")[0]] = await stack.enter_async_context(Proxy(("127.0.0.1", port)))
                settings[name] = url.replace(f":{port}/", f":{link.port}/")
            environ = {f"SCOREBOARDD_{key.upper()}": str(value) for key, value in settings.items()}
            it.members.append(Member(it.history, links, environ))
        try:
            await asyncio.gather(*(member.start() for member in it.members))
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(it.write(rng))]
                for member in it.members:
                    running.append(tasks.create_task(member.follow(session)))
                    running.append(tasks.create_task(member.follow(session, stay=lambda: rng.uniform(0, 0.5))))
                    running.append(tasks.create_task(member.read_on(session)))
                try:
                    await it.recovered("start")
                    yield
                finally:
                    for task in running:
                        task.cancel()
        finally:
            for member in it.members:
                if hasattr(member, "node"):
                    await member.kill()
