"""A platform's database behind PgBouncer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from scoreboardd.backends.base import Unavailable
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.platforms import check
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.source import SourceError
from tests.contests import START, insert
from tests.more_servers import PgBouncer
from tests.platforms.test_postgres import CONTEST, ROSTER, SOLVES


@pytest.fixture(scope="module")
def poolers(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PgBouncer]]:
    folder = tmp_path_factory.mktemp("pgbouncer")
    ignored = "statement_timeout, default_transaction_isolation, synchronous_commit, timezone, "
    ignored += "idle_in_transaction_session_timeout, plan_cache_mode, scoreboardd.own_session"
    with (
        PgBouncer(postgres_dsn, "session", folder) as session,
        PgBouncer(postgres_dsn, "transaction", folder) as transaction,
        PgBouncer(postgres_dsn, "statement", folder) as statement,
        PgBouncer(postgres_dsn, "transaction", folder, ignored=ignored) as tolerant,
    ):
        yield {"session": session, "transaction": transaction, "statement": statement, "tolerant": tolerant}


@pytest.fixture(params=["session", "transaction", "tolerant"])
def pooled(request: pytest.FixtureRequest, poolers: dict[str, PgBouncer], platform: str) -> str:
    return poolers[request.param].dsn(urlsplit(platform).path[1:])


@pytest.fixture
async def others(pooled: str) -> AsyncIterator[list[Any]]:
    """Other clients, which take sessions from the pool and leave them to the next client."""
    made = [await asyncpg.connect(pooled, statement_cache_size=0, timeout=10) for _ in range(2)]
    yield made
    for connection in made:
        connection.terminate()


async def test_the_source_reads_through_it(pooled: str, admin: Any, others: list[Any]):
    await insert(admin, CONTEST)
    async with PostgresSource(pooled, "smctf", statement_timeout=10) as source:
        for id in range(2, 8):
            reading = await source.read()
            assert reading.rows.roster == ROSTER
            assert reading.rows.solves.tolist()[:1] == SOLVES
            # The others hold other sessions each time.
            held = [other.transaction() for other in others[: id % 3]]
            for transaction in held:
                await transaction.start()
            await admin.execute("INSERT INTO submissions VALUES ($1, 1, 1, true, false, $2)", id, START)
            news = await source.read_since(reading.cursor)
            assert news is not None
            assert news.added == 1
            for transaction in held:
                await transaction.rollback()


async def test_several_sources_share_one_pool(pooled: str, admin: Any):
    await insert(admin, CONTEST)

    async def read() -> None:
        async with PostgresSource(pooled, "smctf", statement_timeout=10) as source:
            for _ in range(5):
                assert (await source.read()).rows.roster == ROSTER

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(read())


async def test_the_clock_is_read_through_it(pooled: str, others: list[Any]):
    async with PostgresSource(pooled, "smctf", statement_timeout=10) as source:
        for _ in range(3):
            assert (await source.clock()).error < 10


async def test_each_statement_has_its_time_limit(pooled: str, admin: Any):
    async with PostgresSource(pooled, "smctf", statement_timeout=0.2) as source, admin.transaction():
        await admin.execute("LOCK TABLE submissions IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceError, match="statement timeout"):
            await source.read()


async def test_it_is_left_as_it_was(pooled: str, admin: Any, others: list[Any]):
    async with PostgresSource(pooled, "smctf", statement_timeout=7) as source:
        await source.read()
        for other in others:
            assert await other.fetchval("SELECT current_setting('statement_timeout')") == "0"
            assert await other.fetchval("SELECT current_setting('transaction_read_only')") == "off"


async def test_check_looks_through_it(pooled: str, admin: Any):
    await insert(admin, CONTEST)
    await admin.execute(
        "CREATE INDEX ON submissions (user_id, challenge_id) INCLUDE (submitted_at, is_first_blood) WHERE correct"
    )
    assert [problem async for problem in check.problems(pooled, "smctf", statement_timeout=10)] == []
    await admin.execute("ALTER TABLE users DROP COLUMN username")
    (problem,) = [problem async for problem in check.problems(pooled, "smctf", statement_timeout=10)]
    assert "users.username" in problem


async def test_statement_pooling_is_told(poolers: dict[str, PgBouncer], platform: str):
    dsn = poolers["statement"].dsn(urlsplit(platform).path[1:])
    async with PostgresSource(dsn, "smctf", statement_timeout=10) as source:
        with pytest.raises(SourceError, match="set pool_mode = transaction or session in PgBouncer"):
            await source.read()


class TestWhatNeedsASessionOfItsOwn:
    """Says so in one line, whatever the pooler does to our settings."""

    async def test_the_bus(self, pooled: str):
        store = PostgresClusterBackend(pooled, prefix="", lock_ttl=10)
        with pytest.raises(Unavailable, match=r"^postgres: [^\n]*pooler[^\n]*LISTEN[^\n]*$"):
            async with store.subscribe():
                pass

    async def test_the_lock(self, pooled: str):
        store = PostgresClusterBackend(pooled, prefix="", lock_ttl=10)
        with pytest.raises(Unavailable, match=r"^postgres: [^\n]*pooler[^\n]*$"):
            await store.acquire("token", None)

    async def test_the_documents(self, pooled: str):
        document_store = PostgresDocumentStore(pooled, prefix="", stage_ttl=10)
        with pytest.raises(Unavailable, match=r"^postgres: [^\n]*pooler[^\n]*$"):
            await document_store.load(None)
