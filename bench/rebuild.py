"""Rebuilds of a large contest: what a whole one costs, what one more solve costs, what is held meanwhile, and what
goes to each browser.

- The daemon is a real one, with PostgreSQL, Valkey and `redis.encoding=zstd`; the reference's own plan (`rebuild_peer`)
  runs in between, on the same database and the same Valkey.
- A rebuild takes from the event published to `scoreboard.rebuilt` heard, with a debounce of 1 ms.
- Processor time is of the daemon's two processes each; that of PostgreSQL counts for nobody.
- Of the solves by random users few change what a challenge is worth. Some more are chosen so that they do, for those
  cost more: all who have solved the challenge have another score.
"""

import asyncio
import json
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import asyncpg
import numpy as np
import redis

from bench import rebuild_peer
from bench.fanout import LAG, quantile
from bench.rebuild_data import SIZES, Size, fill
from bench.servers import Platform, Scoreboardd, cpu_of

DEBOUNCE = 0.001
PATIENCE = 120.0
"Seconds that a rebuild may take."
SETTLE = 0.1
"Seconds between what is measured and what comes next."
COUNTED = 1.1
"Seconds after which PostgreSQL hands on what a connection has counted, with its next transaction."
PATHS = ("/api/leaderboard", "/api/leaderboard/teams", "/api/timeline", "/api/timeline/teams")
CODINGS = ("zstd", "gzip", "identity")
POSTGRES = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
"Settings of a server that has so much in it."

_SOLVED = "SELECT string_agg(int4send(user_id::int) || int4send(challenge_id::int), '') FROM submissions WHERE correct"
_SCANS = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'submissions'"


@dataclass(frozen=True)
class Scale:
    size: Size
    larger: Size | None
    "The same again at this size, but only one more solve."
    peers: int
    "Rebuilds by the reference's plan."
    whole: int
    solves: int
    "By random users."
    changing: int
    "That change what a challenge is worth."
    kept_up: int
    "Rebuilds after a solve each, over which memory must not grow."


FULL = Scale(SIZES["stress"], SIZES["4x"], peers=3, whole=20, solves=60, changing=20, kept_up=1000)
QUICK = Scale(SIZES["typical"], None, peers=1, whole=2, solves=10, changing=3, kept_up=20)


@dataclass(frozen=True)
class Peer:
    """Seconds, and bytes written to Redis."""

    wall: float
    cpu: float
    written: int


@dataclass(frozen=True)
class Rebuild:
    """Seconds of time, of processor time of the builder and of the process with the loop; bytes."""

    wall: float
    builder: float
    loop: float
    staged: int
    "Documents as written to Redis, says the daemon."
    received: int
    "By Redis, says Redis: from everyone, whatever it is."
    timings: dict[str, float]
    whole: bool
    told: int
    "Bytes of the event that a browser is sent, and which it is."
    event: str
    changing: bool = False
    "Whether a challenge is now worth less."


@dataclass(frozen=True)
class Memory:
    """Bytes of both processes (PSS)."""

    held: Sequence[int]
    "Every document held in every coding: at first, and after the rebuilds."
    bare: Sequence[int]
    "After a rebuild, no coding asked for yet: at the start, in the middle, at the end of the rebuilds."


@dataclass(frozen=True)
class Measured:
    peers: list[Peer]
    whole: list[Rebuild]
    lag: float
    "Of the event loop while rebuilding all: the 99th percentile is at most this many seconds."
    samples: int
    waited: float
    "Share of that time in which the process with the loop could have run and had no processor."
    solves: list[Rebuild]
    scans: int
    "Of all submissions, during all of `solves`."
    memory: Memory
    fetched: dict[str, int]
    "Bytes of the leaderboard of the teams, by coding: what a browser would have to fetch instead."
    larger: list[Rebuild]


async def measure(dsn: str, redis_url: str, scale: Scale, say: Callable[[str], None]) -> Measured:
    """At `scale.size`, in an empty database."""
    with ExitStack() as stack:
        contest, daemon = await _filled(dsn, redis_url, scale.size, stack, say)
        peers: list[Peer] = []
        whole: list[Rebuild] = []
        buckets: Counter[str] = Counter()
        waited = 0.0
        for number in range(scale.whole):
            if number * scale.peers // scale.whole == len(peers):
                peers.append(await _peer(dsn, redis_url))
                say(f"reference's plan: {peers[-1].wall:.2f} s, {peers[-1].cpu:.2f} s of processor time")
            before, began = daemon.server.metrics(), daemon.server.waited()
            await contest.rename()  # or there would be nothing to write, and what was announced would be looked for
            whole.append(daemon.rebuild("user_profile_update"))
            await asyncio.sleep(SETTLE)
            after = daemon.server.metrics()
            waited += daemon.server.waited() - began
            buckets.update({series: after[series] - before[series] for series in after if series.startswith(LAG)})
            say(f"whole: {whole[-1].wall:.2f} s, {whole[-1].builder:.2f} s of processor time")
        lag, samples = quantile(buckets, 0.99)
        solves, scans = await _solves(contest, daemon, scale, say)
        memory = await _memory(contest, daemon, scale, say)
        share = waited / sum(rebuild.wall + SETTLE for rebuild in whole)
        await contest.aclose()
        return Measured(peers, whole, lag, samples, share, solves, scans, memory, daemon.sizes(PATHS[1]), [])


async def measure_larger(dsn: str, redis_url: str, scale: Scale, say: Callable[[str], None]) -> list[Rebuild]:
    """One more solve, at `scale.larger`, in an empty database."""
    assert scale.larger is not None
    with ExitStack() as stack:
        contest, daemon = await _filled(dsn, redis_url, scale.larger, stack, say)
        solves, _ = await _solves(contest, daemon, scale, say)
        await contest.aclose()
        return solves


async def _filled(
    dsn: str, redis_url: str, size: Size, stack: ExitStack, say: Callable[[str], None]
) -> tuple["Contest", "Daemon"]:
    connection = await asyncpg.connect(dsn)
    await fill(connection, size)
    await connection.close()
    say(f"filled: {size.submissions:,} submissions")
    contest = await Contest.open(dsn)
    daemon = stack.enter_context(Daemon(dsn, redis_url))
    # The first follows the daemon's start, and what the counters of PostgreSQL had not said by then.
    for _ in range(3):
        await asyncio.sleep(COUNTED)
        await contest.solve(*contest.random_solve())
        daemon.rebuild()
    return contest, daemon


# The platform


class Contest:
    """Who has solved what, so that it is known what a solve will change without asking the database."""

    def __init__(self, connection: Any, challenges: Any, team_of: Any, solved: Any) -> None:
        self._connection = connection
        self._challenges = {row["id"]: row for row in challenges}
        self._team_of, self._solved = team_of, solved
        self._by_team = np.zeros((team_of.max() + 1, solved.shape[1]), bool)
        users, of = np.nonzero(solved)
        self._by_team[team_of[users], of] = True
        self._teams = len(np.unique(team_of[1:]))
        self._chance = random.Random(1)
        self._renamed = 0

    @classmethod
    async def open(cls, dsn: str) -> Self:
        connection = await asyncpg.connect(dsn)
        challenges = await connection.fetch("SELECT id, points, minimum_points FROM challenges")
        users = await connection.fetch("SELECT id, team_id FROM users")
        team_of = np.zeros(len(users) + 1, np.int64)
        for user in users:
            team_of[user["id"]] = user["team_id"]
        pairs = np.frombuffer(await connection.fetchval(_SOLVED), ">i4").reshape(-1, 2)
        solved = np.zeros((len(users) + 1, len(challenges) + 1), bool)
        solved[pairs[:, 0], pairs[:, 1]] = True
        return cls(connection, challenges, team_of, solved)

    def random_solve(self) -> tuple[int, int]:
        """A user, and a challenge that the user has not solved."""
        users, challenges = self._solved.shape
        while True:
            solve = self._chance.randrange(1, users), self._chance.randrange(1, challenges)
            if not self._solved[solve]:
                return solve

    def solves_to_change(self) -> list[tuple[int, int]]:
        """As few as change what a challenge is worth; the last does."""
        challenge_id = min(self._challenges, key=self._distance)
        users = np.flatnonzero(~self._by_team[self._team_of, challenge_id])
        _, first_of_team = np.unique(self._team_of[users], return_index=True)
        fresh = [int(users[at]) for at in first_of_team if users[at]]
        return [(user, challenge_id) for user in self._chance.sample(fresh, self._distance(challenge_id))]

    def changes(self, user_id: int, challenge_id: int) -> bool:
        new_to_team = not self._by_team[self._team_of[user_id], challenge_id]
        return new_to_team and self._distance(challenge_id) == 1

    def _distance(self, challenge_id: int) -> int:
        challenge = self._challenges[challenge_id]
        solves = int(self._by_team[:, challenge_id].sum())

        def worth(solves: int) -> int:
            return rebuild_peer.worth(challenge["points"], challenge["minimum_points"], self._teams, solves)

        more = range(1, self._teams - solves + 1)
        return next((number for number in more if worth(solves + number) != worth(solves)), self._teams)

    async def rename(self) -> None:
        """A user has another name."""
        self._renamed += 1
        await self._connection.execute(
            "UPDATE users SET username = username || '.' WHERE id = $1", 1 + self._renamed % (len(self._solved) - 1)
        )

    async def solve(self, user_id: int, challenge_id: int) -> None:
        await self._connection.execute(
            "INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) VALUES ($1, $2, true, now())",
            *(user_id, challenge_id),
        )
        self._solved[user_id, challenge_id] = True
        self._by_team[self._team_of[user_id], challenge_id] = True

    async def scans(self) -> int:
        scanned: int = await self._connection.fetchval(_SCANS)
        return scanned

    async def aclose(self) -> None:
        await self._connection.close()


# The daemon


class Daemon:
    """From `__enter__` to `__exit__` it runs, and rebuilds when told."""

    def __init__(self, dsn: str, redis_url: str) -> None:
        self.server = Scoreboardd(
            Platform(dsn, redis_url),
            log__level="info",
            redis__encoding="zstd",
            rebuild__debounce=DEBOUNCE,
            rebuild__max_wait=DEBOUNCE,
            rebuild__timeout=PATIENCE,
            postgres__statement_timeout=PATIENCE,
        )
        self._redis = redis.Redis.from_url(redis_url)
        self._announced = self._redis.pubsub(ignore_subscribe_messages=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.server)
            stack.callback(self._redis.close)
            stack.callback(self._announced.close)
            self._announced.subscribe(f"{self.server.prefix}scoreboard.rebuilt")
            self._log = stack.enter_context((self.server.folder / "log").open())
            self._said()
            stream = self._ask("/api/scoreboard/stream?deltas=1", {})
            self._stream = stack.enter_context(stream)
            while self._event()[0] != "ready":
                pass
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rebuild(self, reason: str = "submission_correct", *, changing: bool = False) -> Rebuild:
        main, helper = self.server.processes()
        loop, builder, received = cpu_of(main), cpu_of(helper), self._received()
        start = time.perf_counter()
        self._redis.publish(f"{self.server.prefix}scoreboard.events", json.dumps({"reason": reason}))
        while self._announced.get_message(timeout=PATIENCE) is None:
            if time.perf_counter() > start + PATIENCE:
                raise RuntimeError(f"no rebuild in {PATIENCE:g} s")
        wall = time.perf_counter() - start
        said = self._said()
        event, told = self._event()
        return Rebuild(
            wall,
            cpu_of(helper) - builder,
            cpu_of(main) - loop,
            said["staged_bytes"],
            self._received() - received,
            said["seconds"],
            said["full"],
            told,
            event,
            changing,
        )

    def _said(self) -> dict[str, Any]:
        """The next of the log's lines on a rebuild, when it is there."""
        end = time.monotonic() + PATIENCE
        part = ""
        while time.monotonic() < end:
            part += self._log.readline()
            if not part.endswith("\n"):
                time.sleep(0.002)
                continue
            line, part = json.loads(part), ""
            if line["event"] == "rebuilt":
                return dict(line)
        raise RuntimeError("the daemon's log says nothing of a rebuild")

    def _received(self) -> int:
        return int(self._redis.info("stats")["total_net_input_bytes"])

    def _event(self) -> tuple[str, int]:
        """The next on the stream: which it is, and how many bytes."""
        name, size = "", 0
        while True:
            line = self._stream.readline()
            size += len(line)
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line == b"\n":
                if name:
                    return name, size
                size = 0

    def hold_everything(self) -> int:
        """Bytes of its memory once it has each document in each coding."""
        for path in PATHS:
            self.sizes(path)
        time.sleep(SETTLE)
        return self.server.memory()

    def sizes(self, path: str) -> dict[str, int]:
        """Bytes of a document, by coding."""
        sizes = {}
        for coding in CODINGS:
            with self._ask(path, {"Accept-Encoding": coding}) as answer:
                sizes[coding] = sum(iter(lambda: len(answer.read(1 << 20)), 0))
        return sizes

    def _ask(self, path: str, headers: dict[str, str]) -> Any:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", headers=headers)
        return urllib.request.urlopen(asked, timeout=PATIENCE)


# What is measured


async def _peer(dsn: str, redis_url: str) -> Peer:
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET work_mem = '256MB'")
    with redis.Redis.from_url(redis_url) as client:
        wall, cpu = time.perf_counter(), time.process_time()
        documents = await rebuild_peer.rebuild(connection)
        with client.pipeline() as transaction:
            for number, document in enumerate(documents):
                transaction.set(f"reference:{number}", document)
            transaction.execute()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        client.delete(*(f"reference:{number}" for number in range(len(documents))))
    await connection.close()
    return Peer(wall, cpu, sum(map(len, documents)))


async def _solves(
    contest: Contest, daemon: Daemon, scale: Scale, say: Callable[[str], None]
) -> tuple[list[Rebuild], int]:
    async def counted_scans() -> int:
        await asyncio.sleep(COUNTED)
        await contest.solve(*contest.random_solve())
        daemon.rebuild()
        return await contest.scans()

    async def one_more(solve: tuple[int, int]) -> Rebuild:
        changing = contest.changes(*solve)
        await contest.solve(*solve)
        await asyncio.sleep(SETTLE)
        return daemon.rebuild(changing=changing)

    before = await counted_scans()
    made = [await one_more(contest.random_solve()) for _ in range(scale.solves)]
    for _ in range(scale.changing):
        *leading_up, last = contest.solves_to_change()
        for solve in leading_up:
            await contest.solve(*solve)
        if leading_up:
            daemon.rebuild()
        made.append(await one_more(last))
    scans = await counted_scans() - before
    for changing in (False, True):
        walls = sorted(rebuild.wall * 1e3 for rebuild in made if rebuild.changing is changing)
        say(f"one more solve, points {'changed' if changing else 'as before'}: {walls[len(walls) // 2]:.0f} ms")
    return made, scans


async def _memory(contest: Contest, daemon: Daemon, scale: Scale, say: Callable[[str], None]) -> Memory:
    held = [daemon.hold_everything()]
    bare: list[int] = []
    for number in range(scale.kept_up + 1):
        await contest.solve(*contest.random_solve())
        daemon.rebuild()
        if number % (scale.kept_up // 2) == 0:
            await asyncio.sleep(SETTLE)
            bare.append(daemon.server.memory())
            say(f"memory after {number} rebuilds: {bare[-1] / 1e6:.0f} MB")
    held.append(daemon.hold_everything())
    say(f"memory with every coding held: {held[0] / 1e6:.0f} MB, {held[1] / 1e6:.0f} MB")
    return Memory(held, bare)
