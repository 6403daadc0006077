"""A cluster under fire, and what is recorded of it.

Real daemons, each behind proxies of its own to one real Valkey and one real PostgreSQL; a writer that adds solves for
ever and remembers each that was committed; a witness per node that follows its stream, reads the board whenever it is
told of one, and reads it besides, all the while. The witnesses hold the history against the invariants (DESIGN: I1,
I2, I4, I6).
"""

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from scoreboardd.demo.servers import Postgres, Valkey, free_port
from scoreboardd.edition import Version
from tests.chaos.proxy import Proxy
from tests.integration.conftest import SCHEMA
from tests.nodes import Node, notices

USERS, CHALLENGES = 400, 60
LOCK_TTL = 3.0
RECONCILE = 5.0
# : Seconds after a fault is mended within which every node must serve what was committed until then: a lock that has to
# run : out, a subscription that has to be found dead and made anew, a change that only `reconcile` finds, and a few
# builds.
BOUND = LOCK_TTL + 15.0 + RECONCILE * 1.25 + 3.0

SETTINGS: dict[str, Any] = {
    "rebuild__lock_ttl": LOCK_TTL,
    "rebuild__reconcile": RECONCILE,
    "rebuild__timeout": 10,
    "postgres__statement_timeout": 5,
    "sse__heartbeat": 1,
}

Solve = tuple[int, int]

SOLVE = "INSERT INTO submissions (user_id, challenge_id, correct) VALUES ($1, $2, true)"


@dataclass
class History:
    """What happened. `violations` is empty if the invariants held."""

    committed: dict[Solve, float] = field(default_factory=dict)
    "Every solve that PostgreSQL has acknowledged, and when."
    violations: list[str] = field(default_factory=list)
    recoveries: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    "Seconds from the mending of a fault until every node served what was committed until then."
    reads: int = 0
    told: int = 0

    def violated(self, what: str) -> None:
        self.violations.append(f"{time.monotonic():.3f} {what}")

    def report(self) -> str:
        rows = [
            f"{fault:<40} {len(times):>4} {sorted(times)[len(times) // 2]:>8.2f} {max(times):>8.2f}"
            for fault, times in sorted(self.recoveries.items())
        ]
        head = f"{'fault':<40} {'n':>4} {'median s':>8} {'worst s':>8}"
        done = (
            f"{len(self.committed)} changes, {self.told} events, {self.reads} reads, {len(self.violations)} violations"
        )
        return "\n".join([head, *rows, done, *self.violations])


class Member:
    """One node of the cluster, its proxies, and its witness."""

    def __init__(self, history: History, redis: Proxy, postgres: Proxy, environ: dict[str, str]) -> None:
        self.redis, self.postgres = redis, postgres
        self.port, self._admin_port = free_port(), free_port()
        self._environ = environ | {
            "SCOREBOARDD_SERVER__PORT": str(self.port),
            "SCOREBOARDD_ADMIN__PORT": str(self._admin_port),
        }
        self._history = history
        self.board: frozenset[Solve] = frozenset()
        "What it showed when last read."
        self.version: Version | None = None
        self._life = 0
        "Grows with every process that is killed."
        self._answered = False
        "This process has shown a document."
        self._killed = False

    async def start(self) -> None:
        node = Node(self._environ)
        try:
            await node.start()
        finally:
            self.node, self._killed = node, False

    async def kill(self) -> None:
        self._killed = True
        self._life += 1
        self._answered, self.board, self.version = False, frozenset(), None
        await self.node.end(signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def read(self, session: aiohttp.ClientSession, *, at_least: Version | None = None) -> None:
        """Read the board, if the node can be reached, and hold it against what it showed before."""
        node, life = self.node, self._life
        if node.process.returncode is not None and not self._killed:
            self._killed = True
            self._history.violated(f"I6: {self.url} ended by itself: {node.log[-1]['event']}")
        try:
            async with session.get(f"{self.url}/api/leaderboard") as response:
                status, text = response.status, response.headers.get("X-Scoreboard-Version", "")
                body = await response.json() if status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return  # dead, or stopped, and so not answering: no answer is not a wrong one
        if life != self._life:
            return  # what answered may have been killed since, and replaced
        self._history.reads += 1
        if body is None:
            if self._answered:
                self._history.violated(f"I6: {self.url} answered {status} after it had had a document")
            return
        self._answered = True
        version = Version.parse(text)
        assert version is not None
        board = frozenset((e["user_id"], s["challenge_id"]) for e in body["entries"] for s in e["solves"])
        if at_least is not None and at_least.epoch == version.epoch and version.number < at_least.number:
            self._history.violated(f"I4: {self.url} told of {at_least} and then served {version}")
        before = self.version
        if before is not None and before.epoch == version.epoch and version.number < before.number:
            self._history.violated(f"I2: {self.url} served {before} and then {version}")
        if before is not None and version.number >= before.number and not self.board <= board:
            self._history.violated(f"I2: {self.url} lost {len(self.board - board)} solves from {before} to {version}")
        self.board, self.version = board, version

    async def witness(self, session: aiohttp.ClientSession) -> None:
        """Follow the stream as a browser would; ends never."""
        last = ""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                timeout = aiohttp.ClientTimeout(total=None, sock_read=4)
                async with session.get(
                    f"{self.url}/api/scoreboard/stream",
                    headers={"Last-Event-ID": last} if last else {},
                    timeout=timeout,
                ) as response:
                    async for notice in notices(response.content):
                        told = Version.parse(notice.id)
                        if told is None:
                            continue
                        old = Version.parse(last)
                        if (
                            old
                            and notice.event == "scoreboard"
                            and old.epoch == told.epoch
                            and told.number < old.number
                        ):
                            self._history.violated(f"I2: {self.url} told of {old} and then of {told}")
                        last = notice.id
                        self._history.told += 1
                        await self.read(session, at_least=told)
            await asyncio.sleep(0.1)

    async def read_on(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self.read(session)
            await asyncio.sleep(0.1)

    async def churn(self, session: aiohttp.ClientSession, rng: random.Random) -> None:
        """Clients that come, and leave without a word."""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.get(f"{self.url}/api/scoreboard/stream"):
                    await asyncio.sleep(rng.random() * 0.5)
            await asyncio.sleep(rng.random() * 0.2)


class World:
    """`members` and the servers, for faults to be done to; `history` for the verdict."""

    def __init__(self, postgres: Postgres, valkey: Valkey) -> None:
        self.postgres, self.valkey = postgres, valkey
        self.history = History()
        self.members: list[Member] = []

    async def recovered(self, fault: str) -> None:
        """Wait until every node serves all that was committed when the fault was mended (I1), and note the time."""
        start = time.monotonic()
        due = frozenset(solve for solve, at in self.history.committed.items() if at <= start)
        while not all(due <= member.board for member in self.members):
            if time.monotonic() > start + BOUND:
                missing = {member.url: len(due - member.board) for member in self.members}
                self.history.violated(f"I1: after {fault}, not within {BOUND} s; changes missing: {missing}")
                return
            await asyncio.sleep(0.02)
        self.history.recoveries[fault].append(time.monotonic() - start)

    async def write(self, rng: random.Random) -> None:
        """Commit, then publish, for ever: one change at a time and now and then a burst. Some are never published."""
        pairs = [(user, challenge) for user in range(1, USERS + 1) for challenge in range(1, CHALLENGES + 1)]
        rng.shuffle(pairs)
        connection: Any = None
        redis = Redis.from_url(self.valkey.url())
        try:
            while pairs:
                for _ in range(20 if rng.random() < 0.02 else 1):
                    user, challenge = pairs.pop()
                    try:
                        if connection is None:
                            connection = await asyncpg.connect(self.postgres.dsn(), timeout=2, command_timeout=2)
                        await connection.execute(
                            "INSERT INTO submissions (user_id, challenge_id, correct) VALUES ($1, $2, true)",
                            user,
                            challenge,
                        )
                    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                        if connection is not None:
                            connection.terminate()
                            connection = None
                        await asyncio.sleep(0.1)
                        continue
                    self.history.committed[user, challenge] = time.monotonic()
                    if rng.random() < 0.05:
                        continue  # the platform crashed before it could publish
                    with suppress(RedisError, OSError, TimeoutError):
                        async with asyncio.timeout(1):
                            await redis.publish("scoreboard.events", b'{"reason":"submission_correct"}')
                await asyncio.sleep(rng.expovariate(8))
        finally:
            if connection is not None:
                connection.terminate()
            await redis.aclose()


@asynccontextmanager
async def world(size: int, seed: int) -> AsyncIterator[World]:
    """A cluster of `size` nodes that is written to and witnessed until the end."""
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(Postgres())
        valkey = stack.enter_context(Valkey())
        await _create_tables(postgres.dsn())
        it = World(postgres, valkey)
        environ = {f"SCOREBOARDD_{key.upper()}": str(value) for key, value in SETTINGS.items()}
        for _ in range(size):
            to_redis = await stack.enter_async_context(Proxy(("127.0.0.1", valkey.port)))
            to_postgres = await stack.enter_async_context(Proxy(("127.0.0.1", postgres.port)))
            dsn = postgres.dsn().replace(f":{postgres.port}/", f":{to_postgres.port}/")
            servers = {
                "SCOREBOARDD_REDIS__URL": f"redis://127.0.0.1:{to_redis.port}/0",
                "SCOREBOARDD_POSTGRES__DSN": dsn,
            }
            it.members.append(Member(it.history, to_redis, to_postgres, environ | servers))
        try:
            await asyncio.gather(*(member.start() for member in it.members))
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(it.write(rng))]
                for member in it.members:
                    running.append(tasks.create_task(member.witness(session)))
                    running.append(tasks.create_task(member.read_on(session)))
                    running.append(tasks.create_task(member.churn(session, random.Random(rng.random()))))
                try:
                    await it.recovered("start")
                    yield it
                finally:
                    for task in running:
                        task.cancel()
        finally:
            for member in it.members:
                if hasattr(member, "node"):
                    await member.kill()


async def _create_tables(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        await connection.execute(SCHEMA)
        await connection.execute("INSERT INTO teams (name) SELECT 'team ' || n FROM generate_series(1, 100) n")
        await connection.execute(
            "INSERT INTO users (username, team_id) SELECT 'user ' || n, n % 100 + 1 FROM generate_series(1, $1::int) n",
            USERS,
        )
        await connection.execute(
            "INSERT INTO challenges (title, category, points, minimum_points) "
            "SELECT 'challenge ' || n, 'misc', 500, 100 FROM generate_series(1, $1::int) n",
            CHALLENGES,
        )
    finally:
        connection.terminate()
