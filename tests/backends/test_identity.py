"""A server that answers and is the wrong one, a user with few rights, a server that is full."""

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from scoreboardd.backends.base import Changed, Lease, Subscribed, Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres import cluster as postgres_cluster
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.redis import cluster as redis_cluster
from scoreboardd.backends.redis.check import acl
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.demo.servers import Valkey
from tests.backends.test_redis import SOLVE, commit
from tests.chaos.proxy import Proxy


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Valkey, Valkey]]:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with Valkey(tmp_path / "old") as old, Valkey(tmp_path / "new") as new:
        yield old, new


@asynccontextmanager
async def opened(url: str, prefix: str = "") -> AsyncIterator[RedisClusterBackend]:
    store = RedisClusterBackend(url, prefix=prefix, lock_ttl=5, encoding="identity")
    try:
        yield store
    finally:
        await store.aclose()


def lead(proxy: Proxy, server: Valkey) -> None:
    """New connections go to this server; old ones stay open."""
    proxy._upstream = ("127.0.0.1", server.port)


class TestAfterAFailover:
    async def test_a_subscription_on_the_old_primary_ends(self, two, monkeypatch):
        monkeypatch.setattr(redis_cluster, "COMMAND_TIMEOUT_SECONDS", 1.0)
        old, new = two
        async with Proxy(("127.0.0.1", old.port)) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
            await store.acquire("before", None)
            async with asyncio.timeout(30), store.subscribe() as messages:
                assert isinstance(await anext(messages), Subscribed)
                async with Redis.from_url(old.url()) as client:
                    await client.replicaof("127.0.0.1", str(new.port))
                lead(proxy, new)
                with pytest.raises(Unavailable):
                    await anext(messages)
            await self._is_well(store, new)

    async def test_a_command_that_the_old_primary_refuses_ends_the_subscription(self, two):
        old, new = two
        async with Proxy(("127.0.0.1", old.port)) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
            async with asyncio.timeout(30), store.subscribe() as messages:
                assert isinstance(await anext(messages), Subscribed)
                await store.publish(SOLVE)
                assert await anext(messages) == Changed(SOLVE)
                async with Redis.from_url(old.url()) as client:
                    await client.replicaof("127.0.0.1", str(new.port))
                lead(proxy, new)
                with pytest.raises(Unavailable, match="takes no writes now"):
                    await store.acquire("after", None)
                with pytest.raises(Unavailable):
                    await anext(messages)
            await self._is_well(store, new)

    @pytest.mark.parametrize("info", [True, False])
    @pytest.mark.parametrize("idle_are_closed", [True, False])
    async def test_an_address_that_leads_to_another_server_ends_the_subscription(
        self, two, info, idle_are_closed, monkeypatch
    ):
        monkeypatch.setattr(redis_cluster, "COMMAND_TIMEOUT_SECONDS", 1.0)
        old, new = two
        if not info:
            for server in two:
                async with Redis.from_url(server.url()) as client:
                    await client.execute_command("ACL", "SETUSER", "default", "-info")
        async with Proxy(("127.0.0.1", old.port)) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
            async with asyncio.timeout(30), store.subscribe() as messages:
                assert isinstance(await anext(messages), Subscribed)
                lead(proxy, new)
                # The old one is still a primary, and answers on every connection that is open.
                if idle_are_closed:
                    await store._redis.connection_pool.disconnect(inuse_connections=False)
                with pytest.raises(Unavailable, match="does not answer" if not info else "another server"):
                    await anext(messages)
            await self._is_well(store, new)

    async def test_a_quiet_subscription_on_the_right_server_stays(self, own, monkeypatch):
        monkeypatch.setattr(redis_cluster, "COMMAND_TIMEOUT_SECONDS", 0.3)
        async with opened(own.url()) as store, asyncio.timeout(30), store.subscribe() as messages:
            assert isinstance(await anext(messages), Subscribed)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await anext(messages)

    @staticmethod
    async def _is_well(store: RedisClusterBackend, server: Valkey) -> None:
        async with asyncio.timeout(20), store.subscribe() as messages:
            assert isinstance(await anext(messages), Subscribed)
            async with Redis.from_url(server.url()) as client:
                await client.publish("scoreboard.events", "{}")
            assert isinstance(await anext(messages), Changed)
        assert isinstance(await store.acquire(secrets.token_hex(4), None), Lease)


class TestPostgres:
    async def test_check_leaves_nothing(self, cache_dsn, key_prefix):
        store = PostgresClusterBackend(cache_dsn, prefix=key_prefix, lock_ttl=5)
        assert await store.check() == []
        left = await store._link.run("SELECT FROM leaderboard_cache WHERE starts_with(cache_key, $1)", key_prefix)
        assert left == []
        await store.aclose()

    async def test_a_subscription_that_hears_nothing_of_ours_ends(self, cache_dsn, database, key_prefix, monkeypatch):
        monkeypatch.setattr(postgres_cluster, "COMMAND_TIMEOUT_SECONDS", 1.0)
        store = PostgresClusterBackend(cache_dsn, prefix=key_prefix, lock_ttl=5)
        async with asyncio.timeout(30), store.subscribe() as messages:
            assert isinstance(await anext(messages), Subscribed)
            store._link._dsn = database  # as a name that leads to another server for new connections
            store._link.close()
            with pytest.raises(Unavailable, match="does not answer"):
                await anext(messages)
        await store.aclose()

    async def test_a_server_that_became_read_only_ends_the_subscription(self, database, admin, monkeypatch):
        monkeypatch.setattr(postgres_cluster, "COMMAND_TIMEOUT_SECONDS", 1.0)
        await admin.execute((files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text())
        store = PostgresClusterBackend(database, prefix="", lock_ttl=5)
        async with asyncio.timeout(30), store.subscribe() as messages:
            assert isinstance(await anext(messages), Subscribed)
            name = await admin.fetchval("SELECT current_database()")
            await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            store._link.close()  # settings of a database are those of new sessions
            with pytest.raises(Unavailable, match=r"takes no writes now; .* point postgres.dsn at the primary"):
                await anext(messages)
        await store.aclose()


async def user(server: Valkey, *rights: str) -> str:
    async with Redis.from_url(server.url()) as client:
        await client.execute_command("ACL", "SETUSER", "board", "reset", "on", ">secret", *rights)
    return f"redis://board:secret@127.0.0.1:{server.port}/0"


class TestRights:
    @pytest.mark.parametrize("prefix", ["", "ctf:"])
    @pytest.mark.parametrize("encoding", ["identity", "zstd"])
    async def test_those_that_the_documentation_names_suffice(self, own, prefix, encoding):
        url = await user(own, *acl(prefix).split())
        async with opened(url, prefix) as store:
            assert await store.check() == []
            document_store = RedisDocumentStore(url, prefix=prefix, encoding=encoding, stage_ttl=30)
            async with asyncio.timeout(20), store.subscribe() as messages:
                assert isinstance(await anext(messages), Subscribed)
                for _ in range(3):
                    version = await commit(store, document_store)
                    assert (await document_store.head()).version == version
                    assert (await document_store.load(None)).documents is not None
                await store.publish(SOLVE)
            await document_store.aclose()

    def test_the_documentation_names_them(self):
        assert acl("") in Path("docs/operate.md").read_text()

    async def test_it_does_not_need_info(self, own):
        async with opened(await user(own, *acl("").split(), "-info")) as store:
            assert await store.check() == []

    @pytest.mark.parametrize(
        "missing",
        [
            "resetchannels",
            "resetkeys",
            "-eval",
            "-evalsha",
            "-script|load",
            "-publish",
            "-subscribe",
            "-set",
            "-setrange",
            "-time",
        ],
    )
    async def test_one_that_is_missing_is_found(self, own, missing: str):
        async with opened(await user(own, *acl("").split(), missing)) as store:
            wrong = await store.check()
        assert wrong
        assert all("ACL SETUSER" in line and "\n" not in line for line in wrong)

    async def test_check_leaves_nothing_and_disturbs_nobody(self, own):
        async with opened(own.url()) as store, Redis.from_url(own.url()) as client:
            async with asyncio.timeout(20), store.subscribe() as messages:
                assert isinstance(await anext(messages), Subscribed)
                assert await store.check() == []
                await store.publish(SOLVE)
                assert await anext(messages) == Changed(SOLVE)
            assert await client.keys("*") == []


class TestForeignValues:
    @pytest.mark.parametrize(
        ("put", "said"),
        [
            (lambda client, key, names: client.set(key, "[]", ex=60), "TTL"),
            (lambda client, key, names: client.set(key, "[]"), "another program"),
            (lambda client, key, names: client.lpush(key, "x"), "is a list"),
            (lambda client, key, names: client.set(names.metadata, "x"), "is a string"),
            (lambda client, key, names: client.hset(names.version, "x", "y"), "is a hash"),
        ],
    )
    async def test_are_found(self, own, put: Callable[..., Any], said: str):
        names = Names("")
        async with opened(own.url()) as store, Redis.from_url(own.url()) as client:
            await put(client, names.document(document_names(())[0]), names)
            assert any(said in line and "key_prefix" in line for line in await store.check())


class TestFull:
    async def test_documents_are_loaded_and_check_says_so(self, own):
        async with opened(own.url()) as store, Redis.from_url(own.url()) as client:
            document_store = RedisDocumentStore(own.url(), prefix="", encoding="identity", stage_ttl=30)
            version = await commit(store, document_store)
            await client.config_set("maxmemory", "1mb")
            with pytest.raises(Exception, match=r"OOM|maxmemory"):
                await client.set("x", "y")
            fresh = RedisDocumentStore(own.url(), prefix="", encoding="identity", stage_ttl=30)
            stored = await fresh.load(None)
            assert stored.head.version == version
            assert stored.documents
            assert (await fresh.head()).version == version
            assert any("maxmemory" in line for line in await store.check())
            await document_store.aclose()
            await fresh.aclose()


async def test_a_certificate_that_cannot_be_verified_is_told_as_that(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    making = await asyncio.create_subprocess_exec(
        *command, "-keyout", str(key), "-out", str(certificate), stderr=asyncio.subprocess.DEVNULL
    )
    assert await making.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(f"rediss://127.0.0.1:{port}/0") as store:
        with pytest.raises(Unavailable, match=r"certificate cannot be verified: self.signed .*; see that ssl_ca_certs"):
            await store.publish(SOLVE)
