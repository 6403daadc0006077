"""The example platform of the documentation: points by events, without challenges and teams."""

import sqlite3
from contextlib import closing
from pathlib import Path

import orjson

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.scoreboard import ScoreboardState
from scoreboardd.platforms.platform import load_platform
from scoreboardd.platforms.snapshots import SnapshotSource

FOLDER = Path(__file__).parents[2] / "examples/devtrack"


async def test_points_by_events_make_a_board(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "devtrack.db")) as connection, connection:
        connection.executescript((FOLDER / "schema.sql").read_text())
        connection.executemany(
            "INSERT INTO people VALUES (?, ?, ?)", [(1, "Ada", 1), (2, "Grace", 1), (3, "Alan", 0), (4, "Edsger", 1)]
        )
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            [(1, 1, 5, 1000), (2, 2, 8, 1100), (3, 3, 99, 1200), (4, 1, 3, 1300)],
        )
    platform = load_platform(str(FOLDER))
    source = SnapshotSource(f"sqlite:///{tmp_path}/devtrack.db", platform, statement_timeout=10)
    scoreboard = ScoreboardState((await source.read()).rows, platform.rules)
    board, timeline = (
        orjson.loads(b"".join(scoreboard.documents[key(ParticipantKind.USERS)].text()))
        for key in (leaderboard_key, timeline_key)
    )
    assert [(entry["username"], entry["score"]) for entry in board["entries"]] == [("Grace", 8), ("Ada", 8)]
    assert board["entries"][1]["adjustments"] == [
        {"at": "1970-01-01T00:16:40Z", "points": 5, "sequence": 1},
        {"at": "1970-01-01T00:21:40Z", "points": 3, "sequence": 4},
    ]
    assert [(row["username"], row["points"]) for row in timeline["submissions"]] == [
        ("Ada", 5),
        ("Grace", 8),
        ("Ada", 3),
    ]
    assert not await source.is_changed()
    with closing(sqlite3.connect(tmp_path / "devtrack.db")) as connection, connection:
        connection.execute("INSERT INTO events VALUES (5, 4, 1, 1400)")
    assert await source.is_changed()
    assert not await source.is_changed()
