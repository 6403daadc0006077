"""What is new since an earlier read, and what makes it say: read all again."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from scoreboardd.platforms import postgres, tail
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.source import FullRead, Increment
from tests.contests import EPOCH, MICROSECOND, START, insert
from tests.platforms.conftest import Role
from tests.platforms.test_postgres import CONTEST

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


async def increment(source: PostgresSource, reading: FullRead) -> Increment | None:
    return await source.read_since(reading.cursor)


async def solve(admin: Any, id: int, user_id: int, challenge_id: int = 1, *, correct: bool = True) -> None:
    await admin.execute(
        "INSERT INTO submissions VALUES ($1, $2, $3, $4, false, $5)", id, user_id, challenge_id, correct, START
    )


async def test_solves_are(source: PostgresSource, admin):
    reading = await source.read()
    assert (await increment(source, reading)).solves.tolist() == [(1, 1, AT, True)]  # known already
    await solve(admin, 2, 3)
    await solve(admin, 3, 3, correct=False)
    found = await increment(source, reading)
    assert sorted(found.solves.tolist()) == [(1, 1, AT, True), (3, 1, AT, False)]
    assert found.added == 1
    assert (await source.read_since(found.cursor)).added == 0
    assert found.as_of > reading.as_of


async def test_those_that_became_visible_late_are(source: PostgresSource, admin, monkeypatch):
    monkeypatch.setattr(tail, "TAIL_SOLVES", 3)
    for id in (10, 20, 30):
        await solve(admin, id, 1)
    reading = await source.read()
    await solve(admin, 9, 3)  # three are above it
    assert (await increment(source, reading)).added == 0
    await solve(admin, 19, 3)
    assert (await increment(source, reading)).added == 1
    assert len((await source.read()).rows.solves) == 6


async def test_one_id_far_above_the_others_hides_nothing(source: PostgresSource, admin):
    await solve(admin, 1_000_000, 1)
    cursor = (await source.read()).cursor
    for id in range(2, 30):
        await solve(admin, id, 3)
        found = await source.read_since(cursor)
        assert found.added == 1
        cursor = found.cursor


async def test_ids_with_the_clocks_of_several_servers_in_them_hide_nothing(source: PostgresSource, admin):
    cursor = (await source.read()).cursor
    for step in range(20):
        late = step % 2 * 2_000  # milliseconds
        await solve(admin, (1_772_000_000_000 + 100 * step - late) << 22, 3)
        found = await source.read_since(cursor)
        assert found.added == 1
        cursor = found.cursor


async def test_there_is_none_if_a_newcomer_solved(source: PostgresSource, admin):
    reading = await source.read()
    async with admin.transaction():
        await admin.execute("INSERT INTO users VALUES (4, 'new', 'user', 1)")
        await solve(admin, 2, 4)
    assert await increment(source, reading) is None


async def test_there_is_none_if_a_new_challenge_was_solved(source: PostgresSource, admin):
    reading = await source.read()
    async with admin.transaction():
        await admin.execute("INSERT INTO challenges VALUES (9, 'new', 'misc', 1, 1)")
        await solve(admin, 2, 1, 9)
    assert await increment(source, reading) is None


async def test_who_may_not_be_seen_may_solve_what_they_like(source: PostgresSource, admin):
    reading = await source.read()
    await solve(admin, 2, 2)
    assert (await increment(source, reading)).added == 1


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
    assert await increment(source, reading) is None
    assert await increment(source, await source.read()) is not None


async def test_what_no_document_shows_may_change(source: PostgresSource, admin):
    await admin.execute("ALTER TABLE users ADD COLUMN seen_at timestamptz")
    reading = await source.read()
    await admin.execute("UPDATE users SET seen_at = now()")
    await admin.execute(FLUSH)
    found = await increment(source, reading)
    assert found is not None
    assert found.cursor.evidence != reading.cursor.evidence


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
        assert await increment(theirs, await theirs.read()) is not None


async def test_looks_at_no_more_of_the_submissions_than_an_index_leads_to(source: PostgresSource, admin):
    await admin.execute(
        "INSERT INTO submissions SELECT n, 1, 1, n % 4 = 0, false, now() FROM generate_series(2, 99999) n"
    )
    await admin.execute("VACUUM ANALYZE")
    await source.read()
    connection = await source._connected()
    for query, arguments in [(postgres._PACK_ABOVE, [99_000]), (postgres._PACK_NEWEST, [])]:
        async with source._transaction(connection):
            explained = await connection.fetch("EXPLAIN " + query.format(source._sql["solves"]), *arguments)
        plan = "\n".join(line for (line,) in explained)
        assert "Index" in plan
        assert "Seq Scan" not in plan


class TestThereIsNone:
    """What an increment could not see makes it give up, whether or not it is announced, and at once."""

    @pytest.mark.parametrize(
        "change",
        [
            "TRUNCATE submissions RESTART IDENTITY",
            "TRUNCATE submissions; INSERT INTO submissions VALUES (1, 3, 1, true, false, now())",
            "DELETE FROM submissions WHERE id = 1",
            "DELETE FROM submissions WHERE id = 1; INSERT INTO submissions VALUES (9, 3, 1, true, false, now())",
            "UPDATE submissions SET submitted_at = submitted_at - interval '1 hour' WHERE id = 1",
            "UPDATE submissions SET correct = false",
            "UPDATE submissions SET user_id = 3",
            "UPDATE submissions SET id = 2",
            "ALTER TABLE submissions RENAME TO old; CREATE TABLE submissions AS SELECT * FROM old",
            "TRUNCATE divisions CASCADE",
        ],
    )
    async def test_if_what_was_known_is_gone_or_changed(self, source: PostgresSource, admin, change: str):
        reading = await source.read()
        await admin.execute(change)
        assert await increment(source, reading) is None

    async def test_if_the_counters_were_reset(self, source: PostgresSource, admin):
        await admin.execute("UPDATE submissions SET correct = true")
        await admin.execute(FLUSH)
        reading = await source.read()
        await admin.execute("SELECT pg_stat_reset()")
        assert await increment(source, reading) is None

    @pytest.mark.parametrize(
        "change",
        [
            "ALTER TABLE {0} RENAME TO real; CREATE VIEW {0} AS SELECT * FROM real",
            "ALTER TABLE {0} RENAME TO real; CREATE MATERIALIZED VIEW {0} AS SELECT * FROM real",
        ],
        ids=["view", "materialized view"],
    )
    @pytest.mark.parametrize("table", ["submissions", "users", "challenges"])
    async def test_of_what_is_not_counted(self, source: PostgresSource, admin, table: str, change: str):
        await admin.execute(change.format(table))
        assert await increment(source, await source.read()) is None

    async def test_if_a_partition_is_on_another_server(self, admin, source: PostgresSource):
        await admin.execute("""
            CREATE EXTENSION file_fdw;
            CREATE SERVER elsewhere FOREIGN DATA WRAPPER file_fdw;
            CREATE FOREIGN TABLE other (id bigint NOT NULL, username text NOT NULL, role text, team_id bigint)
                SERVER elsewhere OPTIONS (program 'true');
            ALTER FOREIGN TABLE other INHERIT users;
        """)
        assert await increment(source, await source.read()) is None

    async def test_if_nothing_is_counted(self, admin, source: PostgresSource, database: str):
        name = urlsplit(database).path[1:]
        await admin.execute(f"ALTER DATABASE {name} SET track_counts = off")
        async with PostgresSource(database, "smctf", statement_timeout=10) as theirs:
            assert await increment(theirs, await theirs.read()) is None

    @pytest.mark.parametrize("type", ["uuid USING gen_random_uuid()", "text", "numeric"])
    async def test_if_the_ids_have_no_order(self, admin, source: PostgresSource, type: str):
        await admin.execute(f"ALTER TABLE submissions ALTER COLUMN id TYPE {type}")
        assert await increment(source, await source.read()) is None

    async def test_once_a_solve_has_come_up_below_the_window(self, admin, source: PostgresSource, monkeypatch):
        monkeypatch.setattr(tail, "TAIL_SOLVES", 3)
        for id in (100, 200, 300):
            await solve(admin, id, 1)
        before = (await source.read()).cursor
        await solve(admin, 50, 3)
        await solve(admin, 400, 3)
        after = (await source.read(before)).cursor
        assert await source.read_since(after) is None
        assert await source.read_since((await source.read(after)).cursor) is None  # nothing speaks for the order yet
        await solve(admin, 500, 3)
        assert (await source.read_since((await source.read(after)).cursor)).added == 0


class TestPartitions:
    @pytest.fixture
    async def partitioned(self, admin, source: PostgresSource) -> None:
        await admin.execute("""
            ALTER TABLE submissions RENAME TO real;
            CREATE TABLE submissions (LIKE real INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY RANGE (id);
            CREATE TABLE low PARTITION OF submissions FOR VALUES FROM (0) TO (1000);
            CREATE TABLE high PARTITION OF submissions FOR VALUES FROM (1000) TO (100000);
            INSERT INTO submissions SELECT * FROM real;
        """)
        for id in range(2, 8):
            await solve(admin, id, 1)

    async def test_are_counted(self, admin, source: PostgresSource, partitioned, monkeypatch):
        monkeypatch.setattr(tail, "TAIL_SOLVES", 3)
        await admin.execute(FLUSH)
        reading = await source.read()
        await solve(admin, 2000, 3)
        assert (await increment(source, reading)).added == 1
        await admin.execute("UPDATE submissions SET submitted_at = submitted_at - interval '1 hour' WHERE id = 1")
        await admin.execute(FLUSH)
        assert await increment(source, reading) is None

    @pytest.mark.parametrize("change", ["TRUNCATE low", "ALTER TABLE submissions DETACH PARTITION low"])
    async def test_that_go_are_noticed(self, admin, source: PostgresSource, partitioned, monkeypatch, change: str):
        monkeypatch.setattr(tail, "TAIL_SOLVES", 3)
        await solve(admin, 1001, 1)
        await solve(admin, 1002, 1)
        await solve(admin, 1003, 1)
        reading = await source.read()
        await admin.execute(change)
        assert await increment(source, reading) is None


class TestAnInactiveChallenge:
    @pytest.fixture(autouse=True)
    async def column(self, source: PostgresSource, admin) -> None:
        await admin.execute("ALTER TABLE challenges ADD COLUMN is_active boolean NOT NULL DEFAULT true")
        await admin.execute("INSERT INTO challenges VALUES (2, 'secret', 'misc', 500, 100, false)")

    async def listed(self, source: PostgresSource) -> list[int]:
        return [challenge.id for challenge in (await source.read()).rows.roster.challenges]

    async def test_is_not_listed_until_somebody_solves_it(self, source: PostgresSource, admin):
        reading = await source.read()
        assert [challenge.id for challenge in reading.rows.roster.challenges] == [1]
        await solve(admin, 2, 3, 2, correct=False)
        assert (await increment(source, reading)).added == 0
        await solve(admin, 3, 3, 2)
        assert await increment(source, reading) is None
        assert await self.listed(source) == [1, 2]

    async def test_is_not_listed_for_those_who_may_not_be_seen(self, source: PostgresSource, admin):
        reading = await source.read()
        await solve(admin, 2, 2, 2)  # an organiser tries it
        found = await increment(source, reading)
        assert found is not None
        assert (await source.read_since(found.cursor)) is not None
        assert await self.listed(source) == [1]

    async def test_stays_if_it_was_solved(self, source: PostgresSource, admin):
        await admin.execute("UPDATE challenges SET is_active = false")
        assert await self.listed(source) == [1]

    async def test_is_listed_when_it_becomes_active(self, source: PostgresSource, admin):
        reading = await source.read()
        await admin.execute("UPDATE challenges SET is_active = true")
        await admin.execute(FLUSH)
        assert await increment(source, reading) is None
        assert await self.listed(source) == [1, 2]

    @pytest.mark.parametrize(
        ("type", "listed"),
        [("integer USING is_active::int", [1]), ("text USING is_active::text", [1]), ("boolean USING NULL", [1, 2])],
    )
    async def test_is_what_the_column_says(self, source: PostgresSource, admin, type: str, listed: list[int]):
        await admin.execute(f"""
            ALTER TABLE challenges ALTER COLUMN is_active DROP DEFAULT, ALTER COLUMN is_active DROP NOT NULL,
                ALTER COLUMN is_active TYPE {type}
        """)
        assert await self.listed(source) == listed
