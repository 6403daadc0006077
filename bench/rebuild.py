"""`python -m bench.rebuild [typical|stress|4x] [--solves N] [--dsn DSN]`: what a rebuild costs.

Three things, in one run on one machine: a whole rebuild; N times one more solve, by a random user, and a rebuild after
each; the reference's own plan (`bench.rebuild_peer`). All times are from "asked to rebuild" to "all that a commit needs
is there": documents compressed, digest made. The solves are written into the database, which is thrown away unless it
was given with --dsn.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from bench import rebuild_peer
from bench.rebuild_data import SIZES, fill
from scoreboardd.board.scoreboard import Scoreboard
from scoreboardd.board.sheet import Document, Piece
from scoreboardd.builder.follower import Follower
from scoreboardd.builder.stages import Stages
from scoreboardd.demo.servers import Postgres
from scoreboardd.source.postgres import PostgresSource

WHOLE = 5
"Whole rebuilds measured; the quickest counts, for whoever shares the machine makes the others slower."


class Stopwatch:
    """Wall-clock and CPU seconds of this process, stopped when first read."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


@dataclass(frozen=True, slots=True)
class Solve:
    """What one more solve cost."""

    wall: float
    cpu: float
    pieces: int
    "Those that are new."
    written: int
    "Bytes of their frames."
    heavy: bool
    "Whether a challenge is now worth less, so that all who have it have other scores."


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


def pieces(documents: Mapping[str, Document]) -> set[Piece]:
    return {piece for document in documents.values() for piece in document}


async def measure_peer(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET work_mem = '256MB'")
    watch = Stopwatch()
    documents = await rebuild_peer.rebuild(connection)
    wall, cpu = watch.read()
    print(f"reference plan     {wall:8.3f} s wall {cpu:8.3f} s CPU   {sum(map(len, documents)) / 1e6:.1f} MB")
    await connection.close()


async def measure_whole(follower: Follower) -> Scoreboard:
    best = (0.0, 0.0)
    for number in range(WHOLE):
        followed = None  # two would not be there at once in the daemon either
        watch = Stopwatch()
        followed = await follower.follow(Stages(), whole=True)
        digest = followed.scoreboard.digest
        took = watch.read()
        best = took if number == 0 else min(best, took, key=lambda wall_cpu: wall_cpu[1])
    documents = followed.scoreboard.documents
    size = sum(document.size for document in documents.values())
    frames = sum(len(piece.frame) for document in documents.values() for piece in document)
    print(
        f"whole rebuild      {best[0]:8.3f} s wall {best[1]:8.3f} s CPU   {size / 1e6:.1f} MB, "
        f"{frames / 1e6:.1f} MB as {sum(map(len, documents.values()))} frames, digest {digest[:8]}"
    )
    return followed.scoreboard


async def one_more(follower: Follower, writer: Any, user_id: int, challenge_id: int, before: set[Piece]) -> Solve:
    await writer.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) VALUES ($1, $2, true, now())",
        *(user_id, challenge_id),
    )
    watch = Stopwatch()
    followed = await follower.follow(Stages(), whole=False)
    followed.scoreboard.digest  # noqa: B018
    wall, cpu = watch.read()
    new = pieces(followed.scoreboard.documents) - before
    # The list of challenges, and what each is worth, is the first piece of a leaderboard.
    heavy = followed.scoreboard.documents["leaderboard:users"].opening not in before
    return Solve(wall, cpu, len(new), sum(len(piece.frame) for piece in new), heavy)


def summary(name: str, solves: Iterable[Solve]) -> None:
    solves = list(solves)
    if not solves:
        return
    wall, cpu = ([getattr(solve, field) * 1000 for solve in solves] for field in ("wall", "cpu"))
    print(
        f"{name:18s} {statistics.median(wall):8.1f} ms wall {statistics.median(cpu):8.1f} ms CPU   "
        f"quickest {min(wall):.1f}, slowest {max(wall):.1f} ms wall; {len(solves)} of them; "
        f"{statistics.median(s.pieces for s in solves):.0f} pieces, "
        f"{statistics.median(s.written for s in solves) / 1e3:.1f} kB of frames (medians)"
    )


async def measure(dsn: str, number: int) -> None:
    print(f"memory at first    {megabytes():8.0f} MB")
    async with PostgresSource(dsn, "smctf", statement_timeout=120) as source:
        follower = Follower(source)
        scoreboard = await measure_whole(follower)
        print(f"memory             {megabytes():8.0f} MB")
        writer = await asyncpg.connect(dsn)
        users = await writer.fetchval("SELECT max(id) FROM users")
        challenges = await writer.fetchval("SELECT max(id) FROM challenges")
        scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'submissions'"
        await asyncio.sleep(1.5)  # the server counts with delay
        scanned = await writer.fetchval(scans)
        chance = random.Random(1)
        solves = []

        async def unsolved() -> tuple[int, int]:
            while True:
                who = chance.randint(1, users), chance.randint(1, challenges)
                solved = "SELECT EXISTS (SELECT FROM submissions WHERE user_id = $1 AND challenge_id = $2 AND correct)"
                if not await writer.fetchval(solved, *who):
                    return who

        for _ in range(number):
            before = pieces(scoreboard.documents)
            solves.append(await one_more(follower, writer, *await unsolved(), before))
        summary("one more solve", solves)
        summary("  points as before", (solve for solve in solves if not solve.heavy))
        summary("  points changed", (solve for solve in solves if solve.heavy))
        await asyncio.sleep(1.5)
        print(f"sequential scans of submissions for these: {await writer.fetchval(scans) - scanned}")
        print(f"memory             {megabytes():8.0f} MB")
        followed = await follower.follow(Stages(), whole=False)
        rows, *_ = await source.read()
        print("equal to one made anew:", Scoreboard(rows).digest == followed.scoreboard.digest)
        await writer.close()


async def prepare(dsn: str, size: str) -> None:
    connection = await asyncpg.connect(dsn)
    await fill(connection, SIZES[size])
    await connection.close()


async def run(dsn: str, options: argparse.Namespace) -> None:
    await measure(dsn, options.solves)
    if options.peer:
        await measure_peer(dsn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES, default="stress", nargs="?")
    parser.add_argument("--solves", type=int, default=100, help="how many times one more")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave the reference's plan out")
    parser.add_argument("--dsn", help="a database that is filled already")
    options = parser.parse_args()
    if options.dsn:
        asyncio.run(run(options.dsn, options))
        return
    with Postgres(settings={"shared_buffers": "1GB", "max_wal_size": "4GB"}) as server:
        asyncio.run(prepare(server.dsn(), options.size))
        asyncio.run(run(server.dsn(), options))


if __name__ == "__main__":
    main()
