"""One node with the local backend: what ends its processes or damages its file, and events from elsewhere."""

import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from redis.asyncio import Redis

from scoreboardd.backends.local.file import NAME
from tests.nodes import Node, nodes, until
from tests.platforms.ctfd import SqliteDatabase, platform_with_recorded_clock, recorded

SNAPSHOTS = recorded("ctfd_ties_teams")["snapshots"]


@pytest.fixture
def ctfd(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(tmp_path / "ctfd.db")


@asynccontextmanager
async def serving(ctfd: SqliteDatabase, tmp_path: Path, **settings: Any) -> AsyncIterator[Node]:
    await ctfd.fill(SNAPSHOTS[1])
    options = {
        "source__kind": platform_with_recorded_clock(tmp_path / "platform"),
        "source__dsn": ctfd.dsn,
        "source__poll": 0.1,
        "rebuild__debounce": 0.01,
        "rebuild__lock_ttl": 1,
        "coordination__backend": "local",
        "cache__directory": tmp_path,
    }
    async with nodes(1, **options | settings) as [node]:
        await until(lambda: board(node), "the first board")
        yield node


async def board(node: Node) -> tuple[str, bytes, str] | None:
    """The version, the teams' document and where it was found; None if there is none."""
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/api/leaderboard/teams") as response:
        if response.status != 200:
            return None
        headers = response.headers
        return headers["X-Scoreboard-Version"], await response.read(), headers["X-Scoreboard-Cache"]


async def changed(node: Node, before: bytes) -> Any:
    found = await board(node)
    return found is not None and found[1] != before and found


async def test_a_restart_answers_from_the_file_while_the_database_is_away(ctfd: SqliteDatabase, tmp_path: Path):
    async with serving(ctfd, tmp_path) as node:
        first = await board(node)
        assert first is not None
        await node.end(signal.SIGKILL)
        away = ctfd.path.rename(ctfd.path.with_suffix(".away"))
        await node.start()
        again = await until(lambda: board(node), "the board of the file")
        assert again[:2] == first[:2]
        assert again[2] == "local"
        away.rename(ctfd.path)
        await ctfd.fill(SNAPSHOTS[2])
        later = await until(lambda: changed(node, first[1]), "the next version")
        assert _number(later) > _number(first)
        assert _epoch(later) == _epoch(first)


@pytest.mark.parametrize("what", ["builder killed", "builder stopped", "file deleted", "file torn", "file garbage"])
async def test_no_change_is_lost(what: str, ctfd: SqliteDatabase, tmp_path: Path):
    async with serving(ctfd, tmp_path) as node:
        first = await board(node)
        assert first is not None
        file = tmp_path / NAME
        match what:
            case "builder killed":
                psutil.Process(node.builder_pid).kill()
            case "builder stopped":
                psutil.Process(node.builder_pid).suspend()
            case "file deleted":
                file.unlink()
            case "file torn":
                _replace(file, file.read_bytes()[:5000])
            case "file garbage":
                _replace(file, b"garbage" * 5000)
        await ctfd.fill(SNAPSHOTS[2])
        later = await until(lambda: changed(node, first[1]), "the next version")
        assert (_epoch(later) == _epoch(first)) == what.startswith("builder")
        assert not [line for line in node.log if "Traceback" in json.dumps(line)]
        if what in ("file torn", "file garbage"):
            assert file.with_suffix(".damaged").exists()
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _replace(file: Path, content: bytes) -> None:
    """In one step: a file that is empty for a moment is a new database to the daemon."""
    other = file.with_suffix(".other")
    other.write_bytes(content)
    other.replace(file)


async def test_a_second_daemon_in_the_folder_says_so(ctfd: SqliteDatabase, tmp_path: Path):
    async with serving(ctfd, tmp_path):
        options = {"coordination__backend": "local", "cache__directory": tmp_path}
        async with nodes(1, source__kind=tmp_path / "platform", source__dsn=ctfd.dsn, **options) as [second]:
            refused = await until(lambda: second.said("cannot reach the bus, retrying"), "the second is refused")
            assert "another daemon uses" in refused[0]["error"]
            assert await board(second) is None


async def test_a_rebuild_is_asked_for_over_http(ctfd: SqliteDatabase, tmp_path: Path):
    async with serving(ctfd, tmp_path, source__poll=0, rebuild__token="secret") as node:
        first = await board(node)
        assert first is not None
        await ctfd.fill(SNAPSHOTS[2])
        headers = {"Authorization": "Bearer secret"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{node.url}/api/leaderboard/rebuild?wait=1") as response,
        ):
            assert response.status == 200
        assert await changed(node, first[1])


async def test_a_folder_that_is_lost_for_a_while_stops_new_versions_only(ctfd: SqliteDatabase, tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir()
    async with serving(ctfd, tmp_path, cache__directory=state) as node:
        first = await board(node)
        assert first is not None
        away = state.rename(tmp_path / "away")
        await ctfd.fill(SNAPSHOTS[2])
        problem = await until(lambda: store_problem(node), "the loss is shown")
        assert problem.startswith(f"local: there is no such folder ({state}); create it")
        assert (await board(node) or first)[:2] == first[:2]
        away.rename(state)
        later = await until(lambda: changed(node, first[1]), "the next version")
        assert _epoch(later) == _epoch(first)
        assert not [line for line in node.log if "Traceback" in json.dumps(line)]


async def store_problem(node: Node) -> str | None:
    async with aiohttp.ClientSession() as session, session.get(f"{node.admin_url}/readyz") as response:
        problem = (await response.json())["local"]
        return None if problem == "ok" else problem


async def test_events_in_redis_are_received_though_it_is_no_store(
    ctfd: SqliteDatabase, tmp_path: Path, redis_url: str, redis_client: Redis, key_prefix: str
):
    options = {"redis__url": redis_url, "redis__key_prefix": key_prefix}
    async with serving(ctfd, tmp_path, source__poll=0, **options) as node:
        first = await board(node)
        assert first is not None
        await until(lambda: node.said("receiving the platform's events"), "the subscription")
        await ctfd.fill(SNAPSHOTS[2])
        event = {"scope": "all", "reason": "challenge_updated", "ts": "2026-02-27T18:00:00Z"}
        await redis_client.publish(f"{key_prefix}scoreboard.events", json.dumps(event))
        await until(lambda: changed(node, first[1]), "the next version")
        assert await redis_client.keys(f"{key_prefix}*") == []


def _number(found: tuple[str, bytes, str]) -> int:
    return int(found[0].rpartition("-")[2])


def _epoch(found: tuple[str, bytes, str]) -> str:
    return found[0].rpartition("-")[0]
