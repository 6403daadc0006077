"""The recorded contests of CTFd, read from each database that CTFd runs on, beside what CTFd itself said."""

import re
import secrets
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.scoreboard import Addition, ScoreboardState
from scoreboardd.platforms import snapshot_check
from scoreboardd.platforms.engines import EngineError, Query
from scoreboardd.platforms.engines.mysql import MysqlEngine
from scoreboardd.platforms.engines.postgresql import PostgresEngine
from scoreboardd.platforms.platform import Platform, load_platform
from scoreboardd.platforms.snapshots import SnapshotSource
from scoreboardd.platforms.source import FullRead, SourceError
from tests.platforms.ctfd import (
    CONTESTS,
    Database,
    MysqlDatabase,
    PostgresDatabase,
    platform_with_recorded_clock,
    recorded,
)
from tests.platforms.mariadb import PASSWORD, Mariadb

ENGINES = ("sqlite", "mysql", "postgresql")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return load_platform(str(platform_with_recorded_clock(tmp_path / "platform")))


def board(read: FullRead, platform: Platform) -> dict[str, Any]:
    scoreboard = ScoreboardState(read.rows, platform.rules)
    kind = read.settings.mode
    assert kind is not None
    return orjson.loads(b"".join(scoreboard.documents[leaderboard_key(kind)].text()))


@pytest.mark.parametrize("ctfd_database", ENGINES, indirect=True)
@pytest.mark.parametrize("contest", CONTESTS)
async def test_the_board_is_ctfd_s(contest: str, ctfd_database: Database, platform: Platform):
    source = SnapshotSource(ctfd_database.dsn, platform, statement_timeout=30)
    for snapshot in recorded(contest)["snapshots"]:
        await ctfd_database.fill(snapshot)
        read = await source.read()
        kind = ParticipantKind(snapshot["mode"])
        assert read.settings.mode is kind
        found = board(read, platform)
        answers = snapshot["answers"]
        entries = [(entry[kind.id_field], entry[kind.name_field], entry["score"]) for entry in found["entries"]]
        if answers["top50"]["status"] == 200:
            assert entries[:50] == [tuple(row[:3]) for row in answers["top50"]["rows"]]
        if answers["scoreboard"]["status"] == 200:
            assert entries == [tuple(row[1:4]) for row in answers["scoreboard"]["rows"]]
        assert (read.settings.visibility == "public") == (answers["top50"]["status"] == 200)
        if answers["challenges"]["status"] == 200:
            points = {challenge["id"]: challenge["points"] for challenge in found["challenges"] if challenge["title"]}
            assert points == {id: value for id, value, _ in answers["challenges"]["rows"]}


@pytest.mark.parametrize("ctfd_database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("contest", CONTESTS)
async def test_what_is_new_makes_the_board_of_all(contest: str, ctfd_database: Database, platform: Platform):
    source = SnapshotSource(ctfd_database.dsn, platform, statement_timeout=30)
    state = cursor = None
    for snapshot in recorded(contest)["snapshots"]:
        await ctfd_database.fill(snapshot)
        full = await source.read()
        if state is not None and cursor is not None:
            new = await source.read_since(cursor)
            if isinstance(new, FullRead) or new is None:
                state = ScoreboardState(full.rows, platform.rules)
            else:
                state.add(Addition(new.solves, new.adjustments, new.challenges))
        else:
            state = ScoreboardState(full.rows, platform.rules)
        cursor = full.cursor
        assert state.digest == ScoreboardState(full.rows, platform.rules).digest


async def problems(dsn: str, platform: Platform) -> list[str]:
    source = SnapshotSource(dsn, platform, statement_timeout=30)
    return [problem async for problem in snapshot_check.problems(source, statement_timeout=30)]


@pytest.mark.parametrize("ctfd_database", ENGINES, indirect=True)
async def test_check_finds_nothing_in_a_database_of_ctfd_s(ctfd_database: Database):
    await ctfd_database.fill(recorded("ctfd_teams_1")["snapshots"][-1])
    assert await problems(ctfd_database.dsn, load_platform("ctfd")) == []


@pytest.mark.parametrize("ctfd_database", ENGINES, indirect=True)
async def test_a_database_of_another_version_is_told_by_column_and_query(ctfd_database: Database, platform: Platform):
    await ctfd_database.execute("ALTER TABLE challenges DROP COLUMN scheduled_at", "DROP TABLE brackets")
    found = await problems(ctfd_database.dsn, platform)
    assert [line for line in found if "scheduled_at" in line and "challenges.sql needs it" in line]
    assert [line for line in found if "brackets" in line and "divisions.sql needs it" in line]
    assert all("\n" not in line and "version" in line for line in found)


@pytest.mark.parametrize("ctfd_database", ENGINES, indirect=True)
async def test_one_bad_row_affects_itself_alone(ctfd_database: Database, platform: Platform):
    snapshot = recorded("ctfd_teams_1")["snapshots"][2]
    await ctfd_database.fill(snapshot)
    before = board(await SnapshotSource(ctfd_database.dsn, platform, statement_timeout=30).read(), platform)
    await ctfd_database.execute(
        "UPDATE config SET value = 'soon' WHERE \"key\" = 'freeze'",
        "UPDATE config SET value = NULL WHERE \"key\" = 'end'",
        "INSERT INTO submissions (id, challenge_id, user_id, team_id, type) VALUES (90001, 1, 2, 1, 'correct')",
        "INSERT INTO solves (id, challenge_id, user_id, team_id) VALUES (90001, 1, 2, 1)",
        "INSERT INTO teams (id, name, hidden, banned) VALUES (90001, NULL, false, false)",
        "INSERT INTO teams (id, name, hidden, banned) VALUES (90002, '', NULL, false)",
        "INSERT INTO awards (id, user_id, team_id, value, date) VALUES (90001, NULL, NULL, 5, '2026-01-01 00:00:00')",
        "INSERT INTO awards (id, team_id, value, date) VALUES (90002, 90001, 5, '1969-07-20 20:17:40')",
    )
    read = await SnapshotSource(ctfd_database.dsn, platform, statement_timeout=30).read()
    assert read.settings.freezes_at is None
    found = board(read, platform)
    frozen = recorded("ctfd_teams_1")["snapshots"][2]["tables"]["config"]["rows"]
    assert dict(frozen)["freeze"]  # so more counts now than before
    added = [entry for entry in found["entries"] if entry["team_id"] == 90001]
    assert [(entry["team_name"], entry["score"]) for entry in added] == [("", 5)]
    assert added[0]["adjustments"][0]["at"] == "1969-07-20T20:17:40Z"
    assert len(found["entries"]) >= len(before["entries"])
    assert sorted(str(finding).partition(": ")[2] for finding in read.findings) == [
        "settings: 1 row, id freezes_at: freezes_at is not a Unix time in seconds, and counts as not set; correct it",
        "solves: 1 row, id 90001: the row has no time from year 1 to 9999, and is left out; correct it",
    ]


async def test_a_user_without_a_grant_is_told_what_to_grant(mariadb_server: Mariadb, platform: Platform):
    name = f"test_{secrets.token_hex(8)}"
    database = MysqlDatabase(mariadb_server, name)
    await database.execute(
        f"CREATE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'",
        f"GRANT SELECT (id, name, hidden, banned) ON {name}.teams TO {name}@'%'",
    )
    found = await problems(mariadb_server.dsn(name, user=name), platform)
    assert [
        line for line in found if "teams" in line and "bracket_id" in line and "GRANT SELECT on its columns" in line
    ]
    assert [line for line in found if "solves" in line and "solves.sql reads it: GRANT SELECT" in line]
    wrong = mariadb_server.dsn(name, user="nobody")
    assert all("check the user and the password in source.dsn" in line for line in await problems(wrong, platform))
    assert PASSWORD not in "".join(found)


async def test_a_small_packet_makes_smaller_blocks(tmp_path: Path, platform: Platform):
    with Mariadb(tmp_path) as server:
        database = MysqlDatabase(server, "ctfd")
        snapshot = recorded("ctfd_large")["snapshots"][0]
        await database.fill(snapshot)
        await database.execute("SET GLOBAL max_allowed_packet = 16384")
        read = await SnapshotSource(database.dsn, platform, statement_timeout=30).read()
        assert len(read.rows.solves) == len(snapshot["tables"]["solves"]["rows"])


async def test_a_server_that_stops_is_told_in_one_line(tmp_path: Path, platform: Platform):
    with Mariadb(tmp_path) as server:
        database = MysqlDatabase(server, "ctfd")
        server.stop()
        with pytest.raises(SourceError, match=r"check that it runs, and that source\.dsn is right"):
            await SnapshotSource(database.dsn, platform, statement_timeout=30).read()


def documented(number: int) -> list[str]:
    """The statements of the SQL block of that number in the documentation, for a database of that name."""
    text = (Path(__file__).parents[2] / "docs/platforms/ctfd.md").read_text()
    block = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)[number]
    return [statement for statement in block.split(";\n") if statement.strip()]


async def test_the_documented_grants_suffice_on_mariadb_and_show_no_password(mariadb_server: Mariadb):
    name = f"test_{secrets.token_hex(4)}"
    database = MysqlDatabase(mariadb_server, name)
    await database.fill(recorded("ctfd_teams_1")["snapshots"][2])
    ours = f"{name}_board"
    statements = [
        statement.replace("scoreboardd", ours).replace("ctfd.", f"{name}.").replace("choose-a-password", PASSWORD)
        for statement in documented(0)
    ]
    with closing(mariadb_server.connect()) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    dsn = mariadb_server.dsn(ours, user=ours)
    assert await problems(dsn, load_platform("ctfd")) == []
    for forbidden in (f"{name}.users", f"{name}.config"):
        engine = MysqlEngine(dsn, statement_timeout_seconds=10)
        with pytest.raises(EngineError, match="denied"):
            await engine.read({"q": Query(f"SELECT * FROM {forbidden}", (), is_packed=False)})


async def test_the_documented_grants_suffice_on_postgresql_and_show_no_password(postgres_dsn: str):
    name = f"test_{secrets.token_hex(4)}"
    database = PostgresDatabase(postgres_dsn, name)
    await database.create()
    await database.fill(recorded("ctfd_teams_1")["snapshots"][2])
    role = f"{name}_board"
    await database.execute(
        *(statement.replace("scoreboardd", role).replace("choose-a-password", "secret") for statement in documented(1))
    )
    url = urlsplit(database.dsn)
    dsn = url._replace(netloc=f"{role}:secret@{url.hostname}:{url.port}").geturl()
    assert await problems(dsn, load_platform("ctfd")) == []
    engine = PostgresEngine(dsn, statement_timeout_seconds=10)
    with pytest.raises(EngineError, match="permission denied"):
        await engine.read({"q": Query("SELECT * FROM public.users", (), is_packed=False)})
    await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
