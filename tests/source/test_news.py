"""What is new since an earlier read, and what makes it say: read all again."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from scoreboardd.source import postgres
from scoreboardd.source.postgres import News, PostgresSource, Reading
from tests.contests import EPOCH, MICROSECOND, START, insert
from tests.source.conftest import Role
from tests.source.test_postgres import CONTEST

AT = (START - EPOCH) // MICROSECOND
FLUSH = "SELECT pg_stat_force_next_flush()"
"Makes the server count what this connection wrote, as it does by itself within seconds."


@pytest.fixture
async def source(platform: str, admin: Any) -> AsyncIterator[PostgresSource]:
    await insert(admin, CONTEST)
    await admin.execute("INSERT INTO users VALUES (2, 'eve', 'blocked', 1), (3, 'bob', 'user', NULL)")
    await admin.execute(FLUSH)
    async with PostgresSource(platform, "smctf", statement_timeout=10) as source:
        yield source


async def news(source: PostgresSource, reading: Reading) -> News | None:
    return await source.news(reading.rows.roster, reading.mark)


async def solve(admin: Any, id: int, user_id: int, challenge_id: int = 1, *, correct: bool = True) -> None:
    await admin.execute(
        "INSERT INTO submissions VALUES ($1, $2, $3, $4, false, $5)", id, user_id, challenge_id, correct, START
    )


async def test_solves_are(source: PostgresSource, admin):
    reading = await source.read()
    assert (await news(source, reading)).solves.tolist() == [(1, 1, AT, True)]  # known already
    await solve(admin, 2, 3)
    await solve(admin, 3, 3, correct=False)
    found = await news(source, reading)
    assert sorted(found.solves.tolist()) == [(1, 1, AT, True), (3, 1, AT, False)]
    assert found.mark.highest == 2
    assert found.as_of > reading.as_of


async def test_those_overtaken_by_no_more_than_the_tail_are(source: PostgresSource, admin, monkeypatch):
    monkeypatch.setattr(postgres, "TAIL", 10)
    await solve(admin, 20, 1)
    reading = await source.read()
    await solve(admin, 10, 3)
    assert len((await news(source, reading)).solves) == 1
    await solve(admin, 11, 3)
    assert len((await news(source, reading)).solves) == 2
    assert len((await source.read()).rows.solves) == 4


async def test_the_mark_does_not_go_back(source: PostgresSource, admin):
    await solve(admin, 20, 1)
    reading = await source.read()
    await admin.execute("TRUNCATE submissions")  # which nothing counts
    assert (await news(source, reading)).mark.highest == 20


async def test_there_is_none_if_a_newcomer_solved(source: PostgresSource, admin):
    reading = await source.read()
    async with admin.transaction():
        await admin.execute("INSERT INTO users VALUES (4, 'new', 'user', 1)")
        await solve(admin, 2, 4)
    assert await news(source, reading) is None


async def test_there_is_none_if_a_new_challenge_was_solved(source: PostgresSource, admin):
    reading = await source.read()
    async with admin.transaction():
        await admin.execute("INSERT INTO challenges VALUES (9, 'new', 'misc', 1, 1)")
        await solve(admin, 2, 1, 9)
    assert await news(source, reading) is None


async def test_who_may_not_be_seen_may_solve_what_they_like(source: PostgresSource, admin):
    reading = await source.read()
    await solve(admin, 2, 2)
    assert (await news(source, reading)).mark.highest == 2


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET role = 'blocked' WHERE id = 1",
        "UPDATE users SET team_id = NULL WHERE id = 1",
        "INSERT INTO users VALUES (4, 'new', 'user', 1)",
        "DELETE FROM users WHERE id = 3",
        "INSERT INTO teams VALUES (2, 'looms', 1)",
        "UPDATE challenges SET points = 1",
        "INSERT INTO divisions VALUES (2, 'closed')",
        "UPDATE submissions SET submitted_at = submitted_at - interval '1 hour'",
        "DELETE FROM submissions",
    ],
)
async def test_there_is_none_if_anything_else_changed_even_unannounced(source: PostgresSource, admin, change: str):
    reading = await source.read()
    await admin.execute(change)
    await admin.execute(FLUSH)
    assert await news(source, reading) is None
    assert await news(source, await source.read()) is not None


async def test_what_no_document_shows_may_change(source: PostgresSource, admin):
    await admin.execute("ALTER TABLE users ADD COLUMN seen_at timestamptz")
    reading = await source.read()
    await admin.execute("UPDATE users SET seen_at = now()")
    await admin.execute(FLUSH)
    found = await news(source, reading)
    assert found is not None
    assert found.mark.counters != reading.mark.counters


async def test_needs_no_more_rights_than_the_whole(source: PostgresSource, role: Role, admin):
    for columns, table in [
        ("id, user_id, challenge_id, correct, is_first_blood, submitted_at", "submissions"),
        ("id, username, role, team_id", "users"),
        ("id, name, division_id", "teams"),
        ("id, title, category, points, minimum_points", "challenges"),
        ("id, name", "divisions"),
    ]:
        await admin.execute(f"GRANT SELECT ({columns}) ON {table} TO {role.name}")
    async with PostgresSource(role.dsn, "smctf", statement_timeout=10) as theirs:
        assert await news(theirs, await theirs.read()) is not None


async def test_looks_at_no_more_of_the_submissions_than_an_index_leads_to(source: PostgresSource, admin):
    await admin.execute(
        "INSERT INTO submissions SELECT n, 1, 1, n % 4 = 0, false, now() FROM generate_series(2, 99999) n"
    )
    await admin.execute("VACUUM ANALYZE")
    await source.read()
    for query, arguments in [(postgres._PACK_AFTER, [99_000]), (postgres._HIGHEST, [])]:
        connection = await source._connected()  # the same settings: a plan for these very arguments
        explained = await connection.fetch("EXPLAIN " + query.format(source._sql["solves"]), *arguments)
        plan = "\n".join(line for (line,) in explained)
        assert "Index" in plan
        assert "Seq Scan" not in plan
