"""The simulated contest keeps the rules of a platform."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from scoreboardd.demo.contest import SimulatedContest
from scoreboardd.demo.servers import Postgres, Valkey

TABLES = ("divisions", "teams", "users", "challenges", "submissions")

#: A log of what the platform has to announce, as Postgres sees it: one row per committed change.
WITNESS = """
CREATE TABLE witness (id bigint GENERATED ALWAYS AS IDENTITY);
CREATE FUNCTION bear_witness() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO witness DEFAULT VALUES; RETURN NULL; END';
CREATE TRIGGER solved AFTER INSERT ON submissions FOR EACH ROW WHEN (NEW.correct) EXECUTE FUNCTION bear_witness();
CREATE TRIGGER changed AFTER INSERT OR UPDATE ON challenges FOR EACH ROW EXECUTE FUNCTION bear_witness();
CREATE TRIGGER changed AFTER INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION bear_witness();
"""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def running(contest: SimulatedContest, dsn: str, redis: Redis, key_prefix: str = "") -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(contest.run(dsn, redis, key_prefix))
        yield
        task.cancel()


@asynccontextmanager
async def subscribed(redis_url: str, key_prefix: str = "") -> AsyncIterator[PubSub]:
    async with Redis.from_url(redis_url, socket_timeout=None) as redis, redis.pubsub() as channel:
        await channel.subscribe(f"{key_prefix}scoreboard.events")
        assert await channel.get_message(timeout=10)
        yield channel


async def event(channel: PubSub) -> dict[str, str]:
    """The next one; fails if there is none for 10 s."""
    async with asyncio.timeout(10):
        while (message := await channel.get_message(timeout=10)) is None or message["type"] != "message":
            pass
    return json.loads(message["data"])


async def dump(connection: asyncpg.Connection) -> dict[str, list[asyncpg.Record]]:
    return {table: await connection.fetch(f"SELECT * FROM {table} ORDER BY id") for table in TABLES}


async def test_the_same_seed_gives_the_same_tables(database: str) -> None:
    async with connected(database) as connection:
        dumps = []
        for seed in (1, 1, 2):
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            await SimulatedContest(teams=12, challenges=8, seed=seed).seed(connection)
            dumps.append(await dump(connection))
    assert dumps[0] == dumps[1]
    assert dumps[0] != dumps[2]


async def test_what_a_seeded_contest_looks_like(database: str) -> None:
    async with connected(database) as connection:
        await SimulatedContest().seed(connection)
        tables = await dump(connection)
    assert {table: len(tables[table]) for table in ("divisions", "teams", "challenges", "submissions")} == {
        "divisions": 2,
        "teams": 40,
        "challenges": 24,
        "submissions": 0,
    }
    names = [team["name"] for team in tables["teams"]]
    assert len(set(names)) == 40
    assert any("<script>" in name for name in names)
    assert any(not name.isascii() for name in names)
    assert {row["division_id"] for row in tables["teams"]} == {row["id"] for row in tables["divisions"]}
    assert {row["category"] for row in tables["challenges"]} == {"web", "pwn", "crypto", "rev", "misc", "forensics"}
    assert len({row["title"] for row in tables["challenges"]}) == 24
    players = [row for row in tables["users"] if row["role"] == "user"]
    sizes = [sum(row["team_id"] == team["id"] for row in players) for team in tables["teams"]]
    assert set(sizes) == {1, 2, 3, 4}
    assert [row["role"] for row in tables["users"] if row["team_id"] is None] == ["admin"]


async def test_names_and_titles_do_not_run_out(database: str) -> None:
    async with connected(database) as connection:
        await SimulatedContest(teams=500, challenges=80).seed(connection)
        for column, table in (("name", "teams"), ("title", "challenges"), ("username", "users")):
            assert await connection.fetchval(f"SELECT count(*) = count(DISTINCT {column}) FROM {table}")


async def test_an_event_follows_its_commit_and_the_tables_keep_the_rules(
    database: str, redis_url: str, redis_client: Redis, key_prefix: str
) -> None:
    contest = SimulatedContest(rate=100)
    reasons = set()
    async with connected(database) as connection:
        await contest.seed(connection)
        await connection.execute(WITNESS)
        async with (
            subscribed(redis_url, key_prefix) as channel,
            running(contest, database, redis_client, key_prefix),
        ):
            for received in range(1, 401):
                happened = await event(channel)
                assert happened["scope"] == "all"
                assert happened["ts"].endswith("Z")
                reasons.add(happened["reason"])
                assert await connection.fetchval("SELECT count(*) FROM witness") >= received
        committed = await connection.fetchval("SELECT count(*) FROM witness")
        tables = await dump(connection)

    # Cancelled at any point, it may have committed one change that it did not come to publish.
    assert contest.published <= committed <= contest.published + 1
    assert contest.dropped == contest.outages == 0
    assert contest.solves + contest.bans + contest.edits in (committed, committed - 1)
    assert reasons == {
        "submission_correct",
        "user_blocked",
        "user_unblocked",
        "user_team_moved",
        "user_profile_update",
        "challenge_updated",
        "challenge_created",
    }

    solves = [row for row in tables["submissions"] if row["correct"]]
    wrong = len(tables["submissions"]) - len(solves)
    assert 2 < wrong / len(solves) < 4
    first = {}
    for row in solves:
        first.setdefault(row["challenge_id"], row["id"])
    assert {row["id"] for row in tables["submissions"] if row["is_first_blood"]} == set(first.values())
    assert len({(row["user_id"], row["challenge_id"]) for row in solves}) == len(solves)

    team = {row["id"]: row["team_id"] for row in tables["users"]}
    per_team = sorted(sum(team[row["user_id"]] == row_team["id"] for row in solves) for row_team in tables["teams"])
    assert sum(per_team[-10:]) > 2 * sum(per_team[:10])


async def test_a_contest_with_everything_solved_does_not_spin(
    database: str, redis_url: str, redis_client: Redis, key_prefix: str
) -> None:
    contest = SimulatedContest(teams=1, challenges=1, rate=20)
    async with connected(database) as connection:
        await contest.seed(connection)
        async with (
            subscribed(redis_url, key_prefix) as channel,
            running(contest, database, redis_client, key_prefix),
        ):
            while (await event(channel))["reason"] != "submission_correct":
                pass
            began, busy = time.monotonic(), time.process_time()
            await event(channel)
            elapsed, busy = time.monotonic() - began, time.process_time() - busy
        solves = await connection.fetchval("SELECT count(*) FROM submissions WHERE correct")
        challenges = await connection.fetchval("SELECT count(*) FROM challenges")
    assert solves <= challenges
    assert busy < 0.05 + elapsed / 2


@pytest.mark.timeout(60)
async def test_it_plays_on_after_either_server_was_away(tmp_path: Path) -> None:
    contest = SimulatedContest(rate=50)
    with Postgres(tmp_path) as postgres, Valkey(tmp_path) as valkey:
        async with connected(postgres.dsn()) as connection:
            await contest.seed(connection)
        async with (
            Redis.from_url(valkey.url(), socket_timeout=1, socket_connect_timeout=1) as redis,
            running(contest, postgres.dsn(), redis),
        ):
            for restart in (
                lambda: valkey.restart(keep_data=False),
                postgres.restart,
                lambda: (postgres.kill(), postgres.start()),
            ):
                async with subscribed(valkey.url()) as channel:
                    await event(channel)
                await asyncio.to_thread(restart)
                solves = contest.solves
                async with subscribed(valkey.url()) as channel:
                    while contest.solves <= solves:
                        await event(channel)
        async with connected(postgres.dsn()) as connection:
            assert await connection.fetchval("SELECT count(*) FROM submissions WHERE correct") >= contest.solves
    assert contest.outages >= 2
