"""The board that follows by news, beside the one that is read and made anew: through histories in a real database.

Several writers have transactions open at once, which end in any order and not always well; everything else that happens
to a contest happens in between. Whoever reads sees only what is committed, and is told of it as a platform tells.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoreboardd.board.scoreboard import ScoreboardState, digest_of_documents
from scoreboardd.builder.loader import IncrementalLoader
from scoreboardd.builder.messages import Build
from scoreboardd.builder.timings import Timings
from scoreboardd.model import Version
from scoreboardd.platforms import tail
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.render import rows
from tests.board import reference
from tests.board.expected import plain
from tests.contests import START as BEGINNING
from tests.effort import examples

WINDOW = 4
WRITERS = 3

# No foreign keys: a writer that is waiting must not keep the others from going on.
SCHEMA = """
CREATE TABLE divisions (id bigint PRIMARY KEY, name text);
CREATE TABLE teams (id bigint PRIMARY KEY, name text, division_id bigint);
CREATE TABLE users (id bigint PRIMARY KEY, username text, role text, team_id bigint);
CREATE TABLE challenges (id bigint PRIMARY KEY, title text, category text, points int, minimum_points int);
CREATE TABLE submissions (
  id bigint PRIMARY KEY, user_id bigint, challenge_id bigint, correct boolean, is_first_blood boolean,
  submitted_at timestamptz
);
"""
START = """
TRUNCATE divisions, teams, users, challenges, submissions;
INSERT INTO divisions VALUES (1, 'open'), (2, 'students');
INSERT INTO teams SELECT n, 't' || n % 3, 1 + n % 2 FROM generate_series(1, 6) n;
INSERT INTO users SELECT n, 'u' || n, 'user', nullif(n % 7, 0) FROM generate_series(1, 12) n;
INSERT INTO challenges SELECT n, 'c' || n, 'web', 100 * n, 10 FROM generate_series(1, 4) n;
"""
CHANGES = {
    "user_blocked": "UPDATE users SET role = 'blocked' WHERE id = $1",
    "user_unblocked": "UPDATE users SET role = 'user' WHERE id = $1",
    "user_team_moved": "UPDATE users SET team_id = 1 + $1 % 6 WHERE id = $1",
    "user_profile_update": "UPDATE users SET username = username || '!' WHERE id = $1",
    "user_registered": "INSERT INTO users VALUES (20 + $1, 'new', 'user', 1 + $1 % 6) ON CONFLICT DO NOTHING",
    "team_created": "INSERT INTO teams VALUES (20 + $1, 'a', 1 + $1 % 2) ON CONFLICT DO NOTHING",
    "challenge_created": "INSERT INTO challenges VALUES (4 + $1, 'new', 'pwn', 500, 1) ON CONFLICT DO NOTHING",
    "challenge_updated": "UPDATE challenges SET points = points / 2 + $1::bigint WHERE id = 1 + $1 % 4",
    "challenge_deleted": "DELETE FROM challenges WHERE id = $1",
    "submission_moved": "UPDATE submissions SET submitted_at = submitted_at - interval '1 hour' WHERE id % 5 = $1 % 5",
    "submission_deleted": "DELETE FROM submissions WHERE id % 4 = $1 % 4",
    "division_moved": "UPDATE teams SET division_id = 3 - division_id WHERE id = 1 + $1 % 6",
}

solves = st.tuples(
    st.just("solve"),
    st.integers(0, WRITERS - 1),
    st.integers(1, 24),
    st.integers(1, 6),
    st.integers(0, 40),  # minutes
    st.sampled_from([True, True, True, False]),
    st.booleans(),
)
endings = st.tuples(st.just("end"), st.integers(0, WRITERS - 1), st.sampled_from([True, True, True, False]))
edits = st.tuples(st.just("edit"), st.sampled_from(sorted(CHANGES)), st.integers(1, 12))
builds = st.just(("build",))
histories = st.lists(solves | solves | solves | endings | endings | builds | builds | edits, min_size=10, max_size=40)


class Platform:
    """Writes, and remembers what it announced since somebody asked."""

    def __init__(self, admin: Any, writers: list[Any]) -> None:
        self._admin = admin
        self._writers = writers
        self._open: dict[int, tuple[Any, int]] = {}
        "The transaction of each writer that has one, and how many solves it has to announce."
        self._next = 1
        self.announced: set[str] = set()
        self.solves = 0

    async def solve(self, writer: int, user: int, challenge: int, minute: int, correct: bool, first: bool) -> None:
        if writer not in self._open:
            transaction = self._writers[writer].transaction()
            await transaction.start()
            self._open[writer] = transaction, 0
        transaction, solves = self._open[writer]
        await self._writers[writer].execute(
            "INSERT INTO submissions VALUES ($1, $2, $3, $4, $5, $6)",
            *(self._next, user, challenge, correct, first, BEGINNING + timedelta(minutes=minute)),
        )
        self._open[writer] = transaction, solves + correct
        self._next += 1

    async def end(self, writer: int, well: bool) -> None:
        transaction, solves = self._open.pop(writer, (None, 0))
        if transaction is None:
            return
        if not well:
            await transaction.rollback()
            return
        await transaction.commit()
        self.solves += solves

    async def edit(self, reason: str, which: int) -> None:
        await self._admin.execute(CHANGES[reason], which)
        self.announced.add(reason)

    async def end_all(self) -> None:
        for writer in range(WRITERS):
            await self.end(writer, True)


@pytest.fixture
async def writers(database: str) -> AsyncIterator[list[Any]]:
    made = [await asyncpg.connect(database, timeout=10, command_timeout=30) for _ in range(WRITERS)]
    yield made
    for connection in made:
        connection.terminate()


@given(history=histories)
@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_through_any_history_both_boards_are_equal(admin, writers, database: str, monkeypatch, history):
    monkeypatch.setattr(tail, "TAIL_SOLVES", WINDOW)
    monkeypatch.setattr(rows, "ENTRIES", 2)
    monkeypatch.setattr(rows, "BUCKETS", 3)
    if not await admin.fetchval("SELECT to_regclass('users') IS NOT NULL"):
        await admin.execute(SCHEMA)
    await admin.execute(START)
    platform = Platform(admin, writers)
    async with PostgresSource(database, "smctf", statement_timeout=10) as source:
        follower = IncrementalLoader(source)

        async def build() -> None:
            announced, platform.announced = platform.announced, set()
            solves, platform.solves = platform.solves, 0
            loaded = await follower.load(
                Timings(), Build(Version("e", 1), quiet=False, full=bool(announced), solves=solves)
            )
            rows = (await source.read()).rows
            assert plain(loaded) == reference.documents(rows)
            made = ScoreboardState(rows).documents
            assert digest_of_documents({name: loaded.documents[name] for name in made}) == digest_of_documents(made)

        await build()
        try:
            for kind, *arguments in history:
                await (build() if kind == "build" else getattr(platform, kind)(*arguments))
        finally:
            await platform.end_all()
        await build()
