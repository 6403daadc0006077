"""What depends on other servers outlives them: the board answers on, says how it is, and recovers by itself."""

import asyncio

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from scoreboardd.demo.servers import Postgres, Valkey, free_port
from tests.integration.conftest import SOLVED, Platform, document, score
from tests.nodes import Node, listening, nodes, until


@pytest.fixture
def servers(tmp_path):
    """Of this test alone, to be restarted."""
    with Postgres(tmp_path) as postgres, Valkey(tmp_path) as valkey:
        yield postgres, valkey


async def test_restarts_of_valkey_and_postgres_under_load(servers, session):
    postgres, valkey = servers
    async with (
        nodes(2, redis__url=valkey.url(), postgres__dsn=postgres.dsn(), rebuild__lock_ttl=2) as cluster,
        asyncio.TaskGroup() as tasks,
    ):
        platform = await _platform(postgres, valkey)
        for node in cluster:
            await until(lambda node=node: _documents(session, node), "a first document")
        wrong: list[int] = []
        readers = [tasks.create_task(_read_on(session, node, wrong)) for node in cluster]
        async with listening(session, *(node.url for node in cluster)) as listeners:
            await until(lambda: all(listener.version for listener in listeners), "every listener is greeted")
            epoch = listeners[0].last.id.split("-")[0]

            await asyncio.to_thread(valkey.restart, keep_data=False)
            await platform.solve(1, 1, publish=False)  # nobody is told: the nodes find out as they reconnect
            for node in cluster:
                await until(lambda node=node: _score(session, node, 1, SOLVED), "the change while Valkey was down")
            await until(lambda: all(_epoch(x) != epoch for x in listeners), "a new epoch, and all are told of it")

            await asyncio.to_thread(postgres.restart)
            platform.connection.terminate()
            platform = await _platform(postgres, valkey, create=False)
            await platform.solve(2, 2)
            for node in cluster:
                await until(lambda node=node: _score(session, node, 2, SOLVED), "the change after Postgres came back")
        for reader in readers:
            reader.cancel()
        platform.connection.terminate()
        assert not wrong, "every read of a document was answered with 200"
        for node in cluster:
            warnings = [line for line in node.log if line["level"] in ("warning", "error")]
            assert 1 <= len(warnings) <= 10, "the log says what happened, in a few lines"


async def _read_on(session: aiohttp.ClientSession, node: Node, wrong: list[int]) -> None:
    while True:
        async with session.get(f"{node.url}/api/leaderboard") as response:
            if response.status != 200:
                wrong.append(response.status)
        await asyncio.sleep(0.01)


async def _platform(postgres: Postgres, valkey: Valkey, *, create: bool = True) -> Platform:
    connection = await asyncpg.connect(postgres.dsn(), timeout=10, command_timeout=60)
    redis = Redis.from_url(valkey.url(), single_connection_client=False)
    platform = _Own(connection, redis, "")
    if create:
        await platform.create()
    return platform


class _Own(Platform):
    async def say(self, payload: bytes) -> None:
        async with self._redis:
            await super().say(payload)


async def _documents(session: aiohttp.ClientSession, node: Node) -> bool:
    async with session.get(f"{node.url}/api/leaderboard") as response:
        return response.status == 200


async def _score(session: aiohttp.ClientSession, node: Node, team: int, points: int) -> bool:
    return await score(session, node.url, team) == points


def _epoch(listener) -> str:
    return listener.last.id.split("-")[0]


async def test_nothing_is_up_at_the_start(tmp_path, session):
    with Postgres(tmp_path) as postgres, Valkey(tmp_path) as valkey:
        await (await _platform(postgres, valkey)).connection.close()
        postgres.stop()
        valkey.stop()
        async with nodes(1, redis__url=valkey.url(), postgres__dsn=postgres.dsn()) as (node,):
            async with session.get(f"{node.url}/api/leaderboard") as response:
                assert response.status == 503
                assert "Retry-After" in response.headers
            async with session.get(f"{node.admin_url}/readyz") as response:
                body = await response.json()
            assert response.status == 503
            assert body["redis"].startswith("redis: ")
            async with session.get(f"{node.admin_url}/healthz") as response:
                assert response.status == 200

            valkey.start()
            await until(lambda: _part(session, node, "redis", "ok"), "Redis is seen to be up")
            await until(lambda: _part(session, node, "postgres", "postgres: "), "Postgres is seen to be down")

            postgres.start()
            await until(lambda: _documents(session, node), "a document at last")
            assert await _part(session, node, "postgres", "ok")


async def _part(session: aiohttp.ClientSession, node: Node, part: str, begins: str) -> bool:
    async with session.get(f"{node.admin_url}/readyz") as response:
        said = (await response.json())[part]
    # Not the state before anything was tried.
    return said.startswith(begins) and not said.endswith("yet")


async def test_a_missing_table_is_named(platform, session, settings):
    await platform.connection.execute("ALTER TABLE submissions RENAME TO elsewhere")
    async with nodes(1, **settings) as (node,):
        await until(
            lambda: _part(session, node, "postgres", 'postgres: relation "submissions" does not exist'), "named"
        )
        failed = await until(lambda: node.said("rebuild failed, retrying"), "logged")
        assert "scoreboardd check" in failed[0]["error"]
        await platform.connection.execute("ALTER TABLE elsewhere RENAME TO submissions")
        await until(lambda: _documents(session, node), "mended without a restart")


async def test_a_wrong_password_is_not_in_the_log(session, settings):
    secret = "hunter2-in-the-dsn"
    settings |= {
        "postgres__dsn": f"postgresql://nobody:{secret}@127.0.0.1:{free_port()}/ctf",
        "redis__url": f"redis://:{secret}@127.0.0.1:{free_port()}/0",
    }
    async with nodes(1, **settings) as (node,):
        await until(lambda: node.said("cannot reach the bus, retrying"), "it says that it cannot connect")
        async with session.get(f"{node.admin_url}/readyz") as response:
            assert secret not in await response.text()
        assert secret not in str(node.log)


async def test_garbage_on_the_channel(platform, session, settings):
    async with nodes(1, **settings) as (node,), listening(session, node.url) as (listener,):
        await until(lambda: listener.version, "greeted")
        for payload in (b"", b"\x00\xff\xfe" * 99, b"{", b"[1]", b"null", b'{"reason": 7}', b"x" * 1_000_000):
            await platform.say(payload)
        for _ in range(100):
            await asyncio.gather(*(platform.say(b"\xff garbage") for _ in range(100)))
        await platform.solve(1, 1)
        await until(lambda: _score(session, node, 1, SOLVED), "the change among the garbage")
        assert len(node.said("an event could not be read and counts as a change; at most one such line a minute")) == 1
        async with session.get(f"{node.admin_url}/healthz") as response:
            assert response.status == 200


async def test_names_come_through_exactly(platform, session, settings):
    names = [
        '<script>alert("1")</script>',
        "'; DROP TABLE teams; --",
        "🦊🏴‍☠️",
        "\\u0000 \\x00",
        "שלום مرحبا",
        "\t\n\x7f",
    ]
    await platform.connection.executemany(
        "UPDATE teams SET name = $2 WHERE id = $1", list(enumerate(names[:5], start=1))
    )
    await platform.connection.execute("INSERT INTO teams (id, name) VALUES (6, $1)", names[5])
    async with nodes(1, **settings) as (node,):
        await until(lambda: _documents(session, node), "a document")
        entries = (await document(session, node.url))["entries"]
        assert {entry["team_name"] for entry in entries} == set(names)
