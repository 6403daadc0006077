"""`python -m bench.ctfd [TEAMS CHALLENGES SOLVES]`: what CTFd on MariaDB costs, in processor time.

Reading everything, making the boards, adding one more solve, and the probe. It starts a MariaDB of its own.
"""

import argparse
import asyncio
import random
import resource
import sys
import tempfile
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from scoreboardd.board.scoreboard import Addition, ScoreboardState
from scoreboardd.platforms.platform import load_platform
from scoreboardd.platforms.snapshots import SnapshotSource
from scoreboardd.platforms.source import Increment
from tests.platforms.ctfd import MysqlDatabase
from tests.platforms.mariadb import Mariadb

START = datetime(2026, 11, 20)  # noqa: DTZ001  as CTFd stores it: UTC without a zone
MEMBERS = 3
ROUNDS = 3
PROBES = 20
POLL_SECONDS = 2.0


class Meter:
    """Seconds of processor time, of this process and of a server."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._before = self._now()

    def _now(self) -> tuple[float, float]:
        own, server = resource.getrusage(resource.RUSAGE_SELF), self._server.cpu_times()
        return own.ru_utime + own.ru_stime, server.user + server.system

    def lap(self) -> tuple[float, float]:
        """Return the seconds since the last call."""
        before, self._before = self._before, self._now()
        return self._before[0] - before[0], self._before[1] - before[1]


def say(what: str, own: float, server: float, more: str = "") -> None:
    sys.stdout.write(f"{what:24} {own:8.3f} s here {server:8.3f} s in MariaDB  {more}\n")
    sys.stdout.flush()


def fill(connection: Any, teams: int, challenges: int, solves: int) -> None:
    cells = [(team, challenge) for team in range(1, teams + 1) for challenge in range(1, challenges + 1)]
    random.Random(1).shuffle(cells)
    solved = list(enumerate(cells[:solves], start=1))
    rows: dict[str, list[tuple[Any, ...]]] = {
        "teams (id, name, hidden, banned)": [(n, f"team {n}", 0, 0) for n in range(1, teams + 1)],
        "users (id, name, hidden, banned, team_id)": [
            (n, f"user {n}", 0, 0, (n - 1) // MEMBERS + 1) for n in range(1, teams * MEMBERS + 1)
        ],
        "challenges (id, name, category, value, state)": [
            (n, f"challenge {n}", "misc", 500, "visible") for n in range(1, challenges + 1)
        ],
        "submissions (id, challenge_id, user_id, team_id, type, date)": [
            (n, challenge, team * MEMBERS, team, "correct", START + timedelta(seconds=n / 4))
            for n, (team, challenge) in solved
        ],
        "solves (id, challenge_id, user_id, team_id)": [
            (n, challenge, team * MEMBERS, team) for n, (team, challenge) in solved
        ],
        "config (id, `key`, value)": [(1, "user_mode", "teams")],
    }
    with connection.cursor() as cursor:
        connection.begin()
        for table, values in rows.items():
            marks = ", ".join(["%s"] * len(values[0]))
            for start in range(0, len(values), 5000):
                cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", values[start : start + 5000])
        connection.commit()


async def main(teams: int, challenges: int, solves: int) -> None:
    folder = Path(tempfile.mkdtemp())
    with Mariadb(folder, "--innodb-buffer-pool-size=512M") as server, closing(server.connect()) as admin:
        database = MysqlDatabase(server, "ctfd")
        admin.select_db("ctfd")
        fill(admin, teams, challenges, solves)
        platform = load_platform("ctfd")
        source = SnapshotSource(database.dsn, platform, statement_timeout=60)
        meter = Meter(server.pid)
        for _ in range(ROUNDS):
            read = await source.read()
            say("read everything", *meter.lap(), f"{len(read.rows.solves)} solves")
        scoreboard = ScoreboardState(read.rows, platform.rules)
        say("make the boards", *meter.lap(), f"{scoreboard.size / 1e6:.1f} MB")
        for number in range(1, ROUNDS + 1):
            await database.execute(
                f"INSERT INTO awards (id, team_id, user_id, value, date) VALUES ({number}, 1, 1, 5, '2026-11-21')",
                f"UPDATE challenges SET value = value - 1 WHERE id = {number}",
            )
            meter.lap()
            new = await source.read_since(read.cursor)
            assert isinstance(new, Increment) and new.read is not None
            say("read and compare", *meter.lap())
            scoreboard.add(Addition(new.solves, new.adjustments, new.challenges))
            say("add what is new", *meter.lap())
            read = new.read
        for _ in range(PROBES):
            await source.is_changed()
        own, its = meter.lap()
        say("a probe", own / PROBES, its / PROBES, f"{its / PROBES / POLL_SECONDS:.2%} of a core of the server")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m bench.ctfd", description=__doc__)
    parser.add_argument("teams", type=int, nargs="?", default=1500)
    parser.add_argument("challenges", type=int, nargs="?", default=50)
    parser.add_argument("solves", type=int, nargs="?", default=15_000)
    given = parser.parse_args()
    asyncio.run(main(given.teams, given.challenges, given.solves))
