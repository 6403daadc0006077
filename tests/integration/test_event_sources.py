"""One node with the local backend beside PostgreSQL: the events it receives from there, and from a Redis."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from scoreboardd.demo.servers import Postgres, Valkey
from tests.integration.conftest import SCHEMA, SOLVED, Platform, score, version
from tests.nodes import Node, metric, nodes, until

Session = aiohttp.ClientSession
NEVER = 3600
"Of `rebuild.reconcile`: what is found, is found for another reason."


@pytest.fixture
def settings(database: str, key_prefix: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "coordination__backend": "local",
        "cache__directory": tmp_path,
        "postgres__dsn": database,
        "redis__key_prefix": key_prefix,
        "rebuild__reconcile": NEVER,
        "rebuild__debounce": 0.01,
        "rebuild__lock_ttl": 1,
    }


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


async def readyz(session: Session, node: Node) -> tuple[int, dict[str, Any]]:
    async with session.get(f"{node.admin_url}/readyz") as response:
        return response.status, await response.json()


async def tier(session: Session, node: Node) -> str:
    async with session.get(f"{node.url}/api/leaderboard") as response:
        return response.headers.get("X-Scoreboard-Cache", "")


async def in_memory(session: Session, node: Node) -> bool:
    return await tier(session, node) == "memory"


async def receives_from(node: Node, source: str) -> bool:
    return any(line["source"] == source for line in node.said("receiving the platform's events"))


async def shows(session: Session, node: Node, team: int) -> bool:
    return await score(session, node.url, team) == SOLVED


async def test_a_notification_of_postgres_is_received(
    session: Session, settings: dict[str, Any], platform: Platform, key_prefix: str
):
    async with nodes(1, **settings) as [node]:
        await until(lambda: in_memory(session, node), "the first board")
        await until(lambda: receives_from(node, "postgres"), "the subscription")
        assert (await readyz(session, node))[1]["redis"] == "not used"
        await platform.solve(1, 1, publish=False)
        await platform.connection.execute(
            "SELECT pg_notify($1, $2)", f"{key_prefix}scoreboard_events", '{"reason":"submission_correct"}'
        )
        await until(lambda: shows(session, node, 1), "the solve")
        assert await metric(session, node, 'scoreboardd_event_source_connected{source="postgres"}') == 1


async def test_the_connection_for_events_may_break(session: Session, settings: dict[str, Any], platform: Platform):
    async with nodes(1, **settings) as [node]:
        await until(lambda: in_memory(session, node), "the first board")
        await until(lambda: receives_from(node, "postgres"), "the subscription")
        await platform.solve(1, 1, publish=False)  # and its announcement is lost
        await platform.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'scoreboardd' AND query LIKE 'LISTEN%' AND datname = current_database()"
        )
        await until(lambda: shows(session, node, 1), "the solve, after the connection is made again")
        assert node.said("cannot receive the platform's events, retrying")


async def test_what_a_redis_that_was_away_has_lost_is_found(
    session: Session, settings: dict[str, Any], database: str, platform: Platform, valkey: Valkey
):
    async with nodes(1, **settings | {"redis__url": valkey.url()}) as [node]:
        await until(lambda: in_memory(session, node), "the first board")
        await until(lambda: receives_from(node, "redis"), "the subscription")
        status, body = await readyz(session, node)
        assert (status, body["redis"], body["local"]) == (200, "ok", "ok")

        valkey.kill()
        await until(lambda: node.said("cannot receive the platform's events, retrying"), "the loss is logged")
        status, body = await readyz(session, node)
        assert status == 200
        assert body["redis"].startswith("redis: ")
        assert await metric(session, node, 'scoreboardd_event_source_connected{source="redis"}') == 0
        await platform.solve(1, 1, publish=False)
        valkey.start()
        await until(lambda: shows(session, node, 1), "the solve")
        assert len(node.said("cannot receive the platform's events, retrying")) == 1
        async with Redis.from_url(valkey.url(), socket_timeout=None) as client:
            await platform.solve(2, 2, publish=False)
            channel = f"{settings['redis__key_prefix']}scoreboard.events"
            await client.publish(channel, '{"reason":"submission_correct"}')
            await until(lambda: shows(session, node, 2), "the next solve")


async def test_a_start_makes_no_version_of_what_is_known(
    session: Session, settings: dict[str, Any], platform: Platform, valkey: Valkey
):
    async with nodes(1, **settings | {"redis__url": valkey.url()}) as [node]:
        await until(lambda: in_memory(session, node), "the first board")
        before = await version(session, node.url)
        await node.end(signal.SIGKILL)
        node.log.clear()
        await node.start()
        for source in ("redis", "postgres"):
            await until(lambda source=source: receives_from(node, source), "the subscription")
        await until(lambda: in_memory(session, node), "the board is confirmed")
        assert await metric(session, node, 'scoreboardd_rebuilds_total{result="committed"}') == 0
        assert await version(session, node.url) == before


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    with Postgres(tmp_path) as server:
        connection = await asyncpg.connect(server.dsn(), timeout=10, command_timeout=60)
        await connection.execute(SCHEMA)
        await connection.execute("INSERT INTO users (id, username) VALUES (1, 'ann')")
        await connection.close()
        yield server


async def test_a_restart_answers_at_once_while_postgres_is_down(
    session: Session, settings: dict[str, Any], postgres: Postgres
):
    async with nodes(1, **settings | {"postgres__dsn": postgres.dsn()}) as [node]:
        await until(lambda: in_memory(session, node), "the first board")
        before, documents = await version(session, node.url), await _documents(session, node)
        postgres.kill()
        await node.end(signal.SIGKILL)
        await node.start()
        await until(lambda: tier(session, node), "the board of the file")
        assert await version(session, node.url) == before
        assert await _documents(session, node) == documents
        assert (await tier(session, node)).removeprefix("stale-") == "local"
        postgres.start()
        await until(lambda: in_memory(session, node), "the board is confirmed")
        assert await version(session, node.url) == before


async def _documents(session: Session, node: Node) -> list[bytes]:
    found = []
    for path in ("/api/leaderboard", "/api/leaderboard/teams", "/api/timeline", "/api/timeline/teams"):
        async with session.get(f"{node.url}{path}") as response:
            assert response.status == 200
            found.append(await response.read())
    return found
