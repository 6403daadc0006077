"""The model of the store does what each backend does: the same steps on both, every answer and message compared.

Epochs are random in one and counted in the other, and a number that was passed over to is the time of day: both are
compared by the order in which they appear. TTLs are long; a lock ends when a step says so.
"""

import asyncio
import itertools
import re
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from scoreboardd.backends.base import (
    Busy,
    Changed,
    Damaged,
    Head,
    Lease,
    Message,
    SnapshotMetadata,
    StoredSnapshot,
    Subscribed,
    Value,
)
from scoreboardd.backends.local.cluster import LocalClusterBackend
from scoreboardd.backends.local.documents import LocalDocumentStore
from scoreboardd.backends.local.file import NAME
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.model import ChangeEvent, Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import plain
from tests.documents import document_of
from tests.effort import examples
from tests.simulation.store import Data, Store

SOLVE = ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z")
LONG = 600.0
TIME_OF_DAY = 10**12
"No smaller number is one; no number counted by a test is as large."
DAMAGED = "damaged"
TOKENS = ("a", "b", "c")
DIVISIONS = ((), (1,), (1, 2))


class Model:
    """The model, asked as the real one is."""

    def __init__(self, *, notices_another_run: bool) -> None:
        self._notices_another_run = notices_another_run
        self._time = 0.0
        self._heard: list[Message] = []
        epochs = (f"e{number}" for number in itertools.count(1))
        self.store = Store(
            clock=lambda: self._time, lock_ttl=LONG, stage_ttl=LONG, epochs=epochs, say=self._heard.append
        )
        self._dump = Data()

    async def heard(self) -> list[Message]:
        heard = list(self._heard)
        self._heard.clear()
        return heard

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        return self.store.acquire(token, seen)

    async def renew(self, lease: Lease) -> bool:
        return self.store.renew(lease)

    async def commit(self, lease: Lease, metadata: SnapshotMetadata) -> bool:
        return self.store.commit(lease, metadata, SOLVE)

    async def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        return self.store.confirm(lease, as_of, full=full, complete=complete)

    async def abandon(self, lease: Lease) -> None:
        self.store.abandon(lease)

    async def stage(self, lease: Lease, documents: dict[str, Document]) -> None:
        for name, document in documents.items():
            self.store.stage(lease, name, b"".join(document.text()))

    async def load(self) -> StoredSnapshot | str:
        head = self.store.committed()
        if head.metadata is None:
            return StoredSnapshot(head, None)
        documents = [(name, self.store.document(name)) for name in document_names(head.metadata.divisions)]
        if None not in (document for _, document in documents):
            return StoredSnapshot(head, documents)
        assert head.version is not None
        self.store.forget(head.version)
        return DAMAGED

    async def head(self) -> Head:
        return self.store.head()

    async def expire(self) -> None:
        self.store.data.lock = None

    async def lose(self) -> None:
        self.store.lose()

    async def lose_one(self, what: str) -> None:
        match what:
            case "fence":
                self.store.data.fence = None
            case "version":
                self.store.data.version = None
            case "metadata":
                self.store.data.metadata = None
            case name:
                self.store.data.documents.pop(name, None)

    async def dump(self) -> None:
        self._dump = self.store.dump()

    async def fail_over(self) -> None:
        self.store.restore(replace(self._dump, documents=dict(self._dump.documents), staged=dict(self._dump.staged)))
        if self._notices_another_run:
            self.store.restart()
        self._time += 1.0


class Real:
    """A backend, through the code that the daemon uses; how to lose what it has is each one's own."""

    notices_another_run = True
    "It passes over numbers if another server has taken over, or the same one was restarted."

    def __init__(self, prefix: str, store: Any, document_store: Any, messages: AsyncIterator[Message]) -> None:
        self._messages = messages
        self._marks = itertools.count()
        self.names = Names(prefix)
        self.store = store
        self.acquire = store.acquire
        self.renew = store.renew
        self.confirm = store.confirm
        self.abandon = store.abandon
        self._document_store = document_store
        self._values: dict[str, dict[str, Value]] = {}
        "What was staged, by token."

    async def heard(self) -> list[Message]:
        mark, heard = f"mark {next(self._marks)}", list[Message]()
        await self.store.publish(SOLVE, mark)
        while (message := await anext(self._messages)) != Changed(SOLVE, mark):
            heard.append(message)
        return heard

    async def commit(self, lease: Lease, metadata: SnapshotMetadata) -> bool:
        staged = self._values.get(lease.token, {})
        values = {name: staged.get(name, Value(0, "")) for name in document_names(metadata.divisions)}
        return await self.store.commit(lease, replace(metadata, documents=values), SOLVE)

    async def stage(self, lease: Lease, documents: dict[str, Document]) -> None:
        _, values = await self._document_store.stage(lease, documents)
        self._values.setdefault(lease.token, {}).update(values)

    async def load(self) -> StoredSnapshot | str:
        try:
            stored = await self._document_store.load(None)
        except Damaged:
            return DAMAGED
        assert (await self._document_store.load(stored.head.version)).documents is None
        documents = stored.documents and [(name, plain(content)) for name, content in stored.documents]
        return StoredSnapshot(self._alike(stored.head), documents)

    async def head(self) -> Head:
        return self._alike(await self._document_store.head())

    @staticmethod
    def _alike(head: Head) -> Head:
        """The model's documents are as they are: there is nothing to compare."""
        return replace(head, metadata=head.metadata and replace(head.metadata, documents={}))


class RealRedis(Real):
    def __init__(self, client: Redis, *parts: Any) -> None:
        super().__init__(*parts)
        self._client = client
        self._dump: dict[bytes, tuple[bytes, int]] = {}

    async def expire(self) -> None:
        await self._client.delete(self.names.lock)

    async def _keys(self) -> list[bytes]:
        return [key async for key in self._client.scan_iter(match=f"{self.names.prefix}*")]

    async def lose(self) -> None:
        if found := await self._keys():
            await self._client.delete(*found)

    async def lose_one(self, what: str) -> None:
        named = {"fence": self.names.fence, "version": self.names.version, "metadata": self.names.metadata}
        await self._client.delete(named.get(what, self.names.document(what)))

    async def dump(self) -> None:
        self._dump = {key: (await self._client.dump(key), await self._client.pttl(key)) for key in await self._keys()}

    async def fail_over(self) -> None:
        await self.lose()
        for key, (value, ttl) in self._dump.items():
            await self._client.restore(key, max(ttl, 0), value)
        if await self._client.exists(self.names.fence):
            await self._client.hset(self.names.fence, "run", "another")
        await asyncio.sleep(0.002)  # no failover is as quick, and the time of day is told in milliseconds

    async def run_kept(self) -> str:
        return (await self._client.hget(self.names.fence, "run")).decode()


class RealPostgres(Real):
    def __init__(self, client: asyncpg.Connection, *parts: Any) -> None:
        super().__init__(*parts)
        self._client = client
        self._dump: list[Any] = []

    async def expire(self) -> None:
        await self._client.execute(
            "UPDATE leaderboard_cache SET building_until = now() - interval '1 ms' WHERE cache_key = $1",
            self.names.lock,
        )

    async def lose(self) -> None:
        await self._client.execute("DELETE FROM leaderboard_cache WHERE starts_with(cache_key, $1)", self.names.prefix)

    async def lose_one(self, what: str) -> None:
        lost = {
            "fence": ("UPDATE leaderboard_cache SET epoch = NULL, version = NULL, payload = NULL", self.names.lock),
            "version": ("UPDATE leaderboard_cache SET epoch = NULL, version = NULL", self.names.version),
            "metadata": ("UPDATE leaderboard_cache SET payload = NULL", self.names.version),
        }
        statement, key = lost.get(what, ("DELETE FROM leaderboard_cache", self.names.document(what)))
        await self._client.execute(f"{statement} WHERE cache_key = $1", key)

    async def dump(self) -> None:
        self._dump = await self._client.fetch(
            "SELECT * FROM leaderboard_cache WHERE starts_with(cache_key, $1)", self.names.prefix
        )

    async def fail_over(self) -> None:
        await self.lose()
        await self._client.executemany(
            "INSERT INTO leaderboard_cache VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", self._dump
        )
        await self._client.execute(
            "UPDATE leaderboard_cache SET payload = 'another' WHERE cache_key = $1 AND payload IS NOT NULL",
            self.names.lock,
        )
        await asyncio.sleep(0.002)  # no failover is as quick, and the time of day is told in milliseconds

    async def run_kept(self) -> str:
        return await self._client.fetchval(
            "SELECT convert_from(payload, 'UTF8') FROM leaderboard_cache WHERE cache_key = $1", self.names.lock
        )


class RealLocal(Real):
    """A file has no runs: `fail_over` puts an older copy of it back."""

    notices_another_run = False

    def __init__(self, client: sqlite3.Connection, *parts: Any) -> None:
        super().__init__(*parts)
        self._client = client
        self._dump: list[Any] = []

    async def expire(self) -> None:
        self._client.execute("UPDATE entries SET until = 1 WHERE key = ?", (self.names.lock,))

    async def lose(self) -> None:
        self._client.execute("DELETE FROM entries")

    async def lose_one(self, what: str) -> None:
        lost = {
            "fence": ("UPDATE entries SET epoch = NULL, number = NULL", self.names.lock),
            "version": ("UPDATE entries SET epoch = NULL, number = NULL", self.names.version),
            "metadata": ("UPDATE entries SET payload = NULL", self.names.version),
        }
        statement, key = lost.get(what, ("DELETE FROM entries", self.names.document(what)))
        self._client.execute(f"{statement} WHERE key = ?", (key,))

    async def dump(self) -> None:
        self._dump = self._client.execute("SELECT * FROM entries").fetchall()

    async def fail_over(self) -> None:
        await self.lose()
        self._client.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", self._dump)


@dataclass
class Side:
    """One of the two, with what it has answered, and how to say that so that the two can be compared."""

    store: Any
    leases: list[Lease] = field(default_factory=list)
    _epochs: dict[str, int] = field(default_factory=dict)
    _late: dict[int, int] = field(default_factory=dict)

    def plain(self, said: Any) -> Any:
        match said:
            case Version(epoch, number):
                return self._epochs.setdefault(epoch, len(self._epochs)), self.plain(number)
            case int() if said >= TIME_OF_DAY:
                return f"passed over to, {self._late.setdefault(said, len(self._late))}"
            case Busy(remaining):
                assert 0 < remaining <= LONG
                return "busy"
            case list() | tuple():
                return [self.plain(part) for part in said]
            case _ if is_dataclass(said) and not isinstance(said, type):
                return type(said).__name__, [self.plain(getattr(said, name)) for name in said.__dataclass_fields__]
            case _:
                return said

    async def do(self, number: int, step: tuple[Any, ...]) -> Any:
        """The answer to a step; None if it is about a lease and there is none."""
        name, *arguments = step
        if name == "acquire":
            token, seen = arguments
            answer = await self.store.acquire(token, self._seen(seen))
            if isinstance(answer, Lease):
                self.leases.append(answer)
            return answer
        if name in ("renew", "commit", "confirm", "abandon", "stage"):
            if not self.leases:
                return None
            lease = self.leases[-1 - arguments[0] % len(self.leases)]
            return await self._with(lease, number, name, *arguments[1:])
        return await getattr(self.store, name)(*arguments)

    async def _with(self, lease: Lease, number: int, name: str, *arguments: Any) -> Any:
        match name, arguments:
            case "commit", (divisions,):
                return await self.store.commit(
                    lease,
                    SnapshotMetadata(f"digest {number}", number + 0.5, divisions, number, complete=number % 2 == 0),
                )
            case "confirm", (full,):
                return await self.store.confirm(lease, number + 0.5, full=full, complete=number % 3 == 0)
            case "stage", (divisions, missing):
                documents = {key: self._document(key, number) for key in document_names(divisions)[missing:]}
                return await self.store.stage(lease, documents)
        return await getattr(self.store, name)(lease)

    @staticmethod
    def _document(key: str, number: int) -> Document:
        """Most of which is as it was."""
        return document_of(*(b"%b %d" % (key.encode(), part) for part in range(9)), b"of %d" % number)

    def _seen(self, seen: tuple[int, int] | None) -> Version | None:
        """`seen` is which lease, counted from the last, and how much more than its version."""
        if seen is None or not self.leases:
            return None
        version = self.leases[-1 - seen[0] % len(self.leases)].version
        return replace(version, number=version.number + seen[1])


recent = st.sampled_from((0, 0, 0, 1, 2))
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("acquire"),
            st.sampled_from(TOKENS),
            st.none() | st.tuples(recent, st.sampled_from((0, 0, 2))),
        ),
        st.tuples(st.sampled_from(("renew", "abandon")), recent),
        st.tuples(st.just("confirm"), recent, st.booleans()),
        st.tuples(st.just("commit"), recent, st.sampled_from(DIVISIONS)),
        st.tuples(st.just("stage"), recent, st.sampled_from(DIVISIONS), st.sampled_from((0, 0, 0, 1))),
        st.tuples(st.sampled_from(("expire", "lose", "dump", "fail_over"))),
        st.tuples(st.just("lose_one"), st.sampled_from(("fence", "version", "metadata", *document_names((1,))))),
    ),
    max_size=25,
)

BUILD = [("acquire", "a", None), ("stage", 0, (), 0), ("commit", 0, ())]
B = ("acquire", "b", None)
C = ("acquire", "c", None)
STAGE, COMMIT, CONFIRM, ABANDON = ("stage", 0, (), 0), ("commit", 0, ()), ("confirm", 0, True), ("abandon", 0)

STORIES = {
    "nobody disturbs": [*BUILD, B, B, C, ("renew", 0), ("stage", 0, (1,), 0), ("commit", 0, (1,)), C, CONFIRM],
    "a commit said twice": [*BUILD, COMMIT, B, ("commit", 1, ())],
    "a confirmation said twice": [*BUILD, B, CONFIRM, CONFIRM],
    "an abandonment said twice": [*BUILD, B, ABANDON, ABANDON, C],
    "a division that goes": [*BUILD, B, ("stage", 0, (1, 2), 0), ("commit", 0, (1, 2)), *BUILD],
    "a lock that ran out": [*BUILD, B, STAGE, ("expire",), ("renew", 0), COMMIT, CONFIRM, ABANDON],
    "a takeover": [*BUILD, B, ("stage", 0, (), 0), ("expire",), C, ("renew", 1), ("commit", 1, ()), ("abandon", 1)],
    "the same token again, late": [*BUILD, B, ("expire",), B, STAGE, ("commit", 1, ()), COMMIT],
    "a document that was not staged": [*BUILD, B, ("stage", 0, (), 1), COMMIT],
    "all is lost": [*BUILD, ("lose",), ("acquire", "b", (0, 0)), C, STAGE, COMMIT],
    "all is lost during a build": [*BUILD, B, ("lose",), STAGE, COMMIT, CONFIRM],
    "the number is lost": [*BUILD, B, ("lose_one", "fence"), B, CONFIRM],
    "the version is lost": [*BUILD, ("lose_one", "version"), ("acquire", "b", (0, 0)), CONFIRM],
    "a document is lost": [*BUILD, ("lose_one", document_names(())[0]), B, CONFIRM],
    "back in time, unnoticed": [*BUILD, ("dump",), *BUILD, ("fail_over",), B, ("expire",), ("acquire", "b", (1, 0))],
    "back in time, noticed": [*BUILD, ("dump",), *BUILD, ("fail_over",), ("acquire", "b", (0, 0)), STAGE, COMMIT],
    "back in time twice": [*BUILD, ("dump",), ("fail_over",), B, ABANDON, ("fail_over",), B, ABANDON],
    "back in time to a lock that was released": [*BUILD, B, STAGE, ("dump",), COMMIT, ("fail_over",), C, COMMIT],
}


Backend = Callable[[], AbstractAsyncContextManager[Any]]


@pytest.fixture(params=["redis", "redis-zstd", "postgres", "local"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Makes a backend that nobody has used."""
    if request.param == "redis":
        return partial(on_redis, request.getfixturevalue("redis_url"))
    if request.param == "redis-zstd":
        return partial(on_redis, request.getfixturevalue("redis_url"), "zstd")
    if request.param == "local":
        return partial(on_local, request.getfixturevalue("tmp_path"))
    return partial(on_postgres, request.getfixturevalue("cache_dsn"))


@asynccontextmanager
async def on_redis(url: str, encoding: str = "identity") -> AsyncIterator[Real]:
    prefix = f"t-{secrets.token_hex(4)}:"
    store = RedisClusterBackend(url, prefix=prefix, lock_ttl=LONG, encoding=encoding)
    document_store = RedisDocumentStore(url, prefix=prefix, encoding=encoding, stage_ttl=LONG)
    async with (
        Redis.from_url(url, socket_timeout=None, socket_connect_timeout=10) as client,
        _used(store, document_store) as messages,
    ):
        side = RealRedis(client, prefix, store, document_store, messages)
        yield side
        await side.lose()


@asynccontextmanager
async def on_postgres(dsn: str) -> AsyncIterator[Real]:
    prefix = f"t-{secrets.token_hex(4)}:"
    store = PostgresClusterBackend(dsn, prefix=prefix, lock_ttl=LONG)
    document_store = PostgresDocumentStore(dsn, prefix=prefix, stage_ttl=LONG)
    client = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        async with _used(store, document_store) as messages:
            yield RealPostgres(client, prefix, store, document_store, messages)
    finally:
        client.terminate()


@asynccontextmanager
async def on_local(parent: Path) -> AsyncIterator[Real]:
    directory = parent / secrets.token_hex(4)
    directory.mkdir()
    store = LocalClusterBackend(directory, prefix="", lock_ttl=LONG)
    document_store = LocalDocumentStore(str(directory), prefix="", stage_ttl=LONG)
    async with _used(store, document_store) as messages:
        with closing(sqlite3.connect(directory / NAME, isolation_level=None)) as client:
            yield RealLocal(client, "", store, document_store, messages)


@asynccontextmanager
async def _used(store: Any, document_store: Any) -> AsyncIterator[AsyncIterator[Message]]:
    async with asyncio.timeout(60), store.subscribe() as messages:
        assert await anext(messages) == Subscribed()
        try:
            yield messages
        finally:
            await document_store.aclose()
            await store.aclose()


async def compare(backend: Backend, steps: list[tuple[Any, ...]]) -> None:
    async with backend() as real:
        sides = Side(Model(notices_another_run=real.notices_another_run)), Side(real)
        for number, step in enumerate(steps):
            for what in (
                lambda side, number=number, step=step: side.do(number, step),
                lambda side: side.store.heard(),
                lambda side: side.store.load(),
                lambda side: side.store.head(),
            ):
                model, truth = [side.plain(await what(side)) for side in sides]
                assert model == truth, f"step {number}, {step}"


@pytest.mark.parametrize("story", STORIES)
async def test_in_every_story_the_model_does_what_the_backend_does(backend: Backend, story: str):
    await compare(backend, STORIES[story])


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_whatever_is_asked_the_model_does_what_the_backend_does(backend: Backend, steps: list[tuple[Any, ...]]):
    await compare(backend, steps)


async def test_a_number_is_kept_with_the_run_that_gave_it_out(redis_client: Redis, redis_url: str):
    async with on_redis(redis_url) as redis:
        await redis.acquire("a", None)
        assert await redis.run_kept() == (await redis_client.info("server"))["run_id"]


async def test_a_number_is_kept_with_the_system_timeline_and_table_that_gave_it_out(cache_dsn: str):
    async with on_postgres(cache_dsn) as postgres:
        await postgres.acquire("a", None)
        assert re.fullmatch(r"[0-9]+-00000001-[0-9]+", await postgres.run_kept())


async def test_a_model_that_drifts_is_found_out(backend: Backend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Store, "_release" if backend.func is on_local else "restart", lambda *_: None)
    with pytest.raises(AssertionError, match="step"):
        await compare(backend, STORIES["back in time twice"])
