"""Reading from a hot standby, and from a server behind a name that leads elsewhere."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from scoreboardd.builder.loader import IncrementalLoader
from scoreboardd.builder.messages import Build
from scoreboardd.builder.timings import Timings
from scoreboardd.demo.servers import Postgres
from scoreboardd.model import Version
from scoreboardd.platforms import postgres
from scoreboardd.platforms.postgres import PostgresSource
from tests.contests import SCHEMA_SQL, START, insert
from tests.more_servers import PRIMARY, Standby
from tests.nodes import until
from tests.platforms.test_postgres import CONTEST


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("primary"), PRIMARY) as server:
        yield server


@pytest.fixture
async def platform(primary: Postgres) -> AsyncIterator[Any]:
    """The platform's connection to the primary."""
    connection = await asyncpg.connect(primary.dsn(), timeout=10, command_timeout=30)
    await connection.execute("DROP TABLE IF EXISTS submissions, users, teams, challenges, divisions")
    await connection.execute(SCHEMA_SQL(divisions=True))
    await insert(connection, CONTEST)
    yield connection
    connection.terminate()


async def solve(platform: Any, id: int) -> None:
    await platform.execute("INSERT INTO submissions VALUES ($1, 1, 1, true, false, $2)", id, START)


async def received(platform: Any) -> int:
    """How many standbys have received all that the primary wrote."""
    return await platform.fetchval("SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_lsn()")


async def test_a_read_waits_until_what_was_received_is_replayed(primary, platform, tmp_path: Path):
    with Standby(primary, tmp_path, delay=0.7) as standby:
        async with PostgresSource(standby.dsn(), "smctf", statement_timeout=10) as source:
            await source.read()
            await solve(platform, 2)
            await until(lambda: received(platform), "the standby has received it")
            reading = await source.read()
            assert reading.is_current
            assert len(reading.rows.solves) == 2


async def test_a_standby_that_lags_says_so_and_is_read_again(primary, platform, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(postgres, "REPLAY_SECONDS", 0.2)
    with Standby(primary, tmp_path, delay=3) as standby:
        async with PostgresSource(standby.dsn(), "smctf", statement_timeout=10) as source:
            follower = IncrementalLoader(source)
            await follower.load(Timings(), Build(Version("e", 1), quiet=False, full=True))
            await platform.execute("UPDATE users SET role = 'blocked'")
            await until(lambda: received(platform), "the standby has received it")
            made = await follower.load(Timings(), Build(Version("e", 2), quiet=False, full=True, announced=True))
            assert made.rows["users"] == 1
            assert not made.complete

            async def complete() -> bool:
                nonlocal made
                made = await follower.load(Timings(), Build(Version("e", 3), quiet=False, full=True))
                return made.complete

            await until(complete, "the standby has replayed it")
            assert made.rows["users"] == 0


async def test_there_are_no_increments_from_a_standby(primary, platform, tmp_path: Path):
    with Standby(primary, tmp_path) as standby:
        async with PostgresSource(standby.dsn(), "smctf", statement_timeout=10) as source:
            assert await source.read_since((await source.read()).cursor) is None


async def test_a_standby_that_has_lost_its_primary_is_read(primary, platform, tmp_path: Path):
    with Standby(primary, tmp_path) as standby:
        async with PostgresSource(standby.dsn(), "smctf", statement_timeout=10) as source:
            promoted = await asyncpg.connect(standby.dsn(), timeout=10, command_timeout=30)
            await promoted.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await promoted.execute("SELECT pg_reload_conf()")
            assert (await source.read()).is_current
            cursor = (await source.read()).cursor
            await promoted.fetchval("SELECT pg_promote()")
            assert await source.read_since(cursor) is None  # it is a primary now
            cursor = (await source.read()).cursor
            await solve(promoted, 2)
            assert (await source.read_since(cursor)).added == 1
            promoted.terminate()


async def test_a_standby_that_receives_nothing_is_not_known_to_be_current(primary, platform, tmp_path: Path):
    with Standby(primary, tmp_path, streams=False) as standby:
        async with PostgresSource(standby.dsn(), "smctf", statement_timeout=10) as source:
            await solve(platform, 2)
            reading = await source.read()
            assert len(reading.rows.solves) == 1
            assert not reading.is_current
            promoted = await asyncpg.connect(standby.dsn(), timeout=10, command_timeout=30)
            await promoted.fetchval("SELECT pg_promote()")
            promoted.terminate()
            assert (await source.read()).is_current


class TestAConnectionToTheWrongServer:
    @pytest.fixture
    async def source(self, primary: Postgres, platform: Any) -> AsyncIterator[PostgresSource]:
        async with PostgresSource(primary.dsn(), "smctf", statement_timeout=10) as source:
            yield source

    async def test_is_replaced_if_it_is_not_to_be_written_to_any_more(self, primary, source, platform):
        await source.read()
        before = source._connection
        await source.read()
        assert source._connection is before
        await platform.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await platform.execute("SELECT pg_reload_conf()")
        try:

            async def replaced() -> bool:
                await source.read()
                return source._connection is not before

            await until(replaced, "it has dialled again")
        finally:
            await platform.execute("SET default_transaction_read_only = off")
            await platform.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await platform.execute("SELECT pg_reload_conf()")

    async def test_is_replaced_after_a_while(self, source, platform, monkeypatch):
        await source.read()
        before = source._connection
        monkeypatch.setattr(postgres, "CONNECTION_SECONDS", 0)
        await source.read()
        assert source._connection is not before

    async def test_is_replaced_when_an_announced_solve_is_missing(self, source, platform):
        follower = IncrementalLoader(source)
        await follower.load(Timings(), Build(Version("e", 1), quiet=False, full=True))
        before = source._connection
        await follower.load(Timings(), Build(Version("e", 2), quiet=False, solves=1))
        assert source._connection is not before

    async def test_has_no_mark_in_common_with_the_right_one(self, primary, source, platform, tmp_path: Path):
        cursor = (await source.read()).cursor
        with Standby(primary, tmp_path) as other:
            promoted = await asyncpg.connect(other.dsn(), timeout=10, command_timeout=30)
            await promoted.fetchval("SELECT pg_promote()")
            promoted.terminate()
            async with PostgresSource(other.dsn(), "smctf", statement_timeout=10) as theirs:
                assert (await theirs.read()).rows.solves.tolist() == (await source.read()).rows.solves.tolist()
                assert await theirs.read_since(cursor) is None
