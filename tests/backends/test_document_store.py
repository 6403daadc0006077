"""What a reader and a committer do to each other once in a thousand runs, made to happen, on a fake server."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from fakeredis import FakeAsyncRedis

from scoreboardd.backends.redis import connection, documents
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.board import document_names
from scoreboardd.system.compression import compressed, digest_of


class Interrupted(FakeAsyncRedis):
    """Runs `interrupt` before its `number`-th GETRANGE, once."""

    primary, leave = connection.Client.primary, connection.Client.leave

    interrupt: Callable[[], Awaitable[None]] | None = None
    number = 0

    async def getrange(self, *arguments: Any, **options: Any) -> Any:
        self.number -= 1
        if self.number == 0 and self.interrupt is not None:
            await self.interrupt()
        return await super().getrange(*arguments, **options)


@pytest.fixture
async def server():
    async with Interrupted() as server:
        yield server


@pytest.fixture
def document_store(server, monkeypatch):
    monkeypatch.setattr(documents, "connect", lambda url: server)
    return RedisDocumentStore("redis://fake", prefix="", encoding="identity", stage_ttl=60)


async def commit(server: FakeAsyncRedis, number: int) -> None:
    """What `commit.lua` leaves: every document says its version."""
    for name in document_names.document_names(()):
        await server.set(name, f"{number}")
    await server.set("scoreboard:version", f"e-{number}")
    values = {key: {"length": 1, "digest": digest_of(b"%d" % number)} for key in document_names.document_names(())}
    metadata = {"digest": f"digest {number}", "as_of": 1.5, "divisions": [], "full": 1, "complete": True}
    metadata["documents"] = values
    metadata = {name: orjson.dumps(value) for name, value in (metadata | {"confirmed": number}).items()}
    await server.hset("scoreboard:metadata", mapping=metadata)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
async def test_a_commit_between_two_reads_starts_the_load_over(server, document_store, at):
    await commit(server, 1)
    server.number, server.interrupt = at, lambda: commit(server, 2)
    stored = await document_store.load(None)
    assert stored is not None
    assert stored.head.version.number == 2
    assert {content for _, content in stored.documents} == {compressed(b"2")}
    assert stored.head.metadata.digest == "digest 2"


async def test_a_store_that_is_emptied_meanwhile_has_nothing(server, document_store):
    await commit(server, 1)
    server.number, server.interrupt = 3, server.flushall
    assert (await document_store.load(None)).documents is None
