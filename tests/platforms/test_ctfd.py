"""The recorded contests of CTFd, read from each database that CTFd runs on, beside what CTFd itself said."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.scoreboard import Addition, ScoreboardState
from scoreboardd.platforms.platform import Platform, load_platform
from scoreboardd.platforms.snapshots import SnapshotSource
from scoreboardd.platforms.source import FullRead
from tests.platforms.ctfd import (
    CONTESTS,
    Database,
    platform_with_recorded_clock,
    recorded,
)

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
