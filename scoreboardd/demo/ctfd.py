"""A simulated contest of CTFd: an SQLite file with CTFd's tables, in which teams solve, buy hints and win awards.

Nothing is announced: the daemon notices each change by its probe.
"""

import asyncio
import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from scoreboardd.board.rules.ctfd import DynamicPoints
from scoreboardd.demo.contest import ADJECTIVES, ANIMALS, DIVISIONS, HANDLES, TITLES

SCHEMA = Path(__file__).with_name("ctfd_schema.sql").read_text()
RULE = DynamicPoints("logarithmic", initial=500, minimum=100, decay=20)
MEMBERS = 3
HINT_COST = -20
AWARD = 50
HINTS_PER_SOLVE = 0.15
AWARDS_PER_SOLVE = 0.05
BANS_PER_SOLVE = 0.01


class CtfdContest:
    """Creates the tables in `path`, and plays. The counters count what was committed."""

    def __init__(self, path: Path, teams: int, challenges: int, rate: float, seed: int) -> None:
        """`rate` is the number of solves per second; `seed` makes the contest reproducible."""
        self.path = path
        self.dsn = f"sqlite:///{path}"
        self.solves = self.hints = self.awards = self.bans = 0
        self._sizes = (teams, challenges)
        self._rate = rate
        self._random = random.Random(seed)
        self._open = [(team, challenge) for team in range(1, teams + 1) for challenge in range(1, challenges + 1)]
        "The challenges that each team has not solved."
        self._random.shuffle(self._open)

    def __str__(self) -> str:
        return f"{self.solves} solves, {self.hints} hints, {self.awards} awards, {self.bans} bans"

    def seed(self) -> None:
        """Create the tables, and add teams, users and challenges."""
        choose = self._random.choice
        teams, challenges = self._sizes
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(SCHEMA)
            database.executemany(
                'INSERT INTO config ("key", value) VALUES (?, ?)', [("user_mode", "teams"), ("ctf_name", "CTFd demo")]
            )
            database.executemany("INSERT INTO brackets (name, type) VALUES (?, 'teams')", [(n,) for n in DIVISIONS])
            for team in range(1, teams + 1):
                name = f"{choose(ADJECTIVES)} {choose(ANIMALS)} {team}"
                bracket = choose([None, 1, 2])
                database.execute("INSERT INTO teams VALUES (?, ?, '', false, false, ?)", (team, name, bracket))
                database.executemany(
                    "INSERT INTO users VALUES (?, ?, '', 'user', false, false, ?, NULL)",
                    [(team * MEMBERS - member, f"{choose(HANDLES)}{team}{member}", team) for member in range(MEMBERS)],
                )
            names = [(category, title) for category, titles in TITLES.items() for title in titles]
            for number in range(1, challenges + 1):
                category, title = names[(number - 1) % len(names)]
                title = title if number <= len(names) else f"{title} {number}"
                database.execute(
                    "INSERT INTO challenges (id, name, category, value, state, type) "
                    "VALUES (?, ?, ?, ?, 'visible', 'dynamic')",
                    (number, title, category, RULE.initial),
                )
                database.execute(
                    "INSERT INTO dynamic_challenge VALUES (?, ?, ?, ?, ?)",
                    (number, RULE.initial, RULE.minimum, RULE.decay, RULE.function),
                )

    async def run(self) -> None:
        """Play until cancelled."""
        while True:
            await asyncio.sleep(self._random.expovariate(self._rate))
            with closing(sqlite3.connect(self.path)) as database, database:
                self._play(database)

    def _play(self, database: sqlite3.Connection) -> None:
        draw = self._random.random
        team = self._random.randint(1, self._sizes[0])
        if self._open:
            self._solve(database, *self._open.pop())
        if draw() < HINTS_PER_SOLVE:
            self._award(database, team, "Hint", HINT_COST, "hints")
            self.hints += 1
        if draw() < AWARDS_PER_SOLVE:
            self._award(database, team, "Write-up", AWARD, "write-ups")
            self.awards += 1
        if draw() < BANS_PER_SOLVE:
            database.execute("UPDATE teams SET banned = NOT banned WHERE id = ?", (team,))
            self.bans += 1

    def _solve(self, database: sqlite3.Connection, team: int, challenge: int) -> None:
        user = team * MEMBERS - self._random.randrange(MEMBERS)
        done = database.execute(
            "INSERT INTO submissions (challenge_id, user_id, team_id, type, date) VALUES (?, ?, ?, 'correct', ?)",
            (challenge, user, team, _now()),
        )
        database.execute("INSERT INTO solves VALUES (?, ?, ?, ?)", (done.lastrowid, challenge, user, team))
        (count,) = database.execute(
            "SELECT count(*) FROM solves s JOIN teams t ON t.id = s.team_id "
            "WHERE s.challenge_id = ? AND t.hidden = false AND t.banned = false",
            (challenge,),
        ).fetchone()
        database.execute("UPDATE challenges SET value = ? WHERE id = ?", (RULE.after(count), challenge))
        self.solves += 1

    def _award(self, database: sqlite3.Connection, team: int, name: str, value: int, category: str) -> None:
        database.execute(
            "INSERT INTO awards (user_id, team_id, name, value, date, category) VALUES (?, ?, ?, ?, ?, ?)",
            (team * MEMBERS, team, name, value, _now(), category),
        )


def _now() -> str:
    """The time, as SQLAlchemy writes a `DateTime` into SQLite."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
