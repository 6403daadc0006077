"""A daemon beside a CTFd database, with the local backend and nothing but the probe to learn of changes."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from scoreboardd.board.document_names import ParticipantKind
from tests.nodes import Node, nodes, until
from tests.platforms.ctfd import CONTESTS, Database, SqliteDatabase, platform_with_recorded_clock, recorded
from tests.platforms.test_ctfd import ENGINES

FEEDS = ("/api/v1/scoreboard", "/api/v1/scoreboard/top/50", "/api/ctftime")
PATHS = ("/api/leaderboard", "/api/leaderboard/teams", "/api/timeline", "/api/timeline/teams")


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Served:
    """A node, and what it answers."""

    node: Node
    session: aiohttp.ClientSession

    async def get(self, path: str) -> Answer:
        async with self.session.get(self.node.url + path) as response:
            is_stream = response.content_type == "text/event-stream"
            return Answer(response.status, b"" if is_stream else await response.read(), response.headers)

    async def json(self, path: str) -> Any:
        answer = await self.get(path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    async def standings(self, kind: ParticipantKind) -> list[tuple[int, str, int]]:
        path = PATHS[0] if kind is ParticipantKind.USERS else PATHS[1]
        entries = (await self.json(path))["entries"]
        return [(entry[kind.id_field], entry[kind.name_field], entry["score"]) for entry in entries]

    async def state(self) -> list[tuple[Any, ...]]:
        """Everything by which a client could notice that something has happened."""
        answers = [await self.get(path) for path in PATHS]
        headers = ("ETag", "X-Scoreboard-Version", "X-Scoreboard-Cache")
        return [(answer.status, answer.body, *map(answer.headers.get, headers)) for answer in answers]


@pytest.fixture
def ctfd(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(tmp_path / "ctfd.db")


@asynccontextmanager
async def serving(database: Database, tmp_path: Path, **settings: Any) -> AsyncIterator[Served]:
    folder = tmp_path / "platform"
    options = {
        "source__kind": folder if folder.exists() else platform_with_recorded_clock(folder),
        "source__dsn": database.dsn,
        "source__poll": 0.1,
        "rebuild__debounce": 0.01,
        "coordination__backend": "local",
        "cache__directory": tmp_path,
    }
    async with nodes(1, **options | settings) as [node], aiohttp.ClientSession() as session:
        served = Served(node, session)

        async def has_board() -> bool:
            return (await served.get(PATHS[0])).status != 503

        await until(has_board, "the first board")
        yield served


@pytest.mark.parametrize(
    ("contest", "ctfd_database"), list(zip(CONTESTS, cycle(ENGINES), strict=False)), indirect=["ctfd_database"]
)
async def test_each_change_is_served_with_the_probe_alone(contest: str, ctfd_database: Database, tmp_path: Path):
    """Whole contests, as CTFd's own API told of them when it was recorded; each on one of the engines."""
    snapshots = recorded(contest)["snapshots"]
    await ctfd_database.fill(snapshots[0])
    async with serving(ctfd_database, tmp_path, source__freeze="platform", server__feeds="ctfd,ctftime") as served:
        for snapshot in snapshots:
            await ctfd_database.fill(snapshot)
            kind, answer = ParticipantKind(snapshot["mode"]), snapshot["answers"]["top50"]
            if answer["status"] != 200:

                async def is_hidden() -> bool:
                    paths = (*PATHS, *FEEDS, "/api/scoreboard/stream")
                    return {(await served.get(path)).status for path in paths} == {403}

                await until(is_hidden, "the board is hidden")
                continue
            expected = [tuple(row[:3]) for row in answer["rows"]]

            async def is_shown(expected: Any = expected, kind: ParticipantKind = kind) -> bool:
                return (await served.standings(kind))[:50] == expected

            await until(is_shown, f"the board of {snapshot['note']}")
            await _compare_feeds(served, snapshot["answers"], kind)


async def _compare_feeds(served: Served, answers: dict[str, Any], kind: ParticipantKind) -> None:
    scoreboard, top, ctftime = [await served.json(path) for path in FEEDS]
    names = answers["top50"]["columns"]
    rows = [[entry[name] for name in names] for entry in top["data"].values()]
    assert list(top["data"]) == [str(place) for place in range(1, len(rows) + 1)]
    assert rows == answers["top50"]["rows"]
    columns = answers["top50"]["solves_columns"]
    for entry, solves in zip(top["data"].values(), answers["top50"]["solves"], strict=True):
        found = [[solve[name] for name in columns] for solve in entry["solves"]]
        assert sorted(map(repr, found)) == sorted(map(repr, solves))
    for bracket in answers["top50_by_bracket"]:
        data = (await served.json(f"{FEEDS[1]}?bracket_id={bracket['bracket_id']}"))["data"]
        assert [[entry[name] for name in bracket["columns"]] for entry in data.values()] == bracket["rows"]
    if answers["scoreboard"]["status"] == 200:
        names = answers["scoreboard"]["columns"]
        assert [[entry[name] for name in names] for entry in scoreboard["data"]] == answers["scoreboard"]["rows"]
        if kind is ParticipantKind.TEAMS and "members" in answers["scoreboard"]:
            for entry, members in zip(scoreboard["data"], answers["scoreboard"]["members"], strict=True):
                assert sorted([m["id"], m["score"]] for m in entry["members"]) == sorted(members)
    assert [row["score"] for row in ctftime["standings"]][:50] == [row[2] for row in answers["top50"]["rows"]]


async def test_nothing_tells_of_what_happens_during_a_sealed_freeze(ctfd: SqliteDatabase, tmp_path: Path):
    """Recorded: a freeze is set; then others solve, challenges fall, accounts are banned and renamed."""
    snapshots = recorded("ctfd_ties_teams")["snapshots"]
    before, frozen, later = snapshots[2], snapshots[4], snapshots[5]
    assert _config(frozen)["freeze"] == _config(later)["freeze"]
    await ctfd.fill(before)
    async with serving(ctfd, tmp_path, rebuild__reconcile=0.5) as served:
        version = (await served.json("/api/scoreboard"))["version"]
        await ctfd.fill(frozen)

        async def is_frozen() -> bool:
            return "frozen_at" in await served.json("/api/scoreboard")

        await until(is_frozen, "the freeze")
        info, state = await served.json("/api/scoreboard"), await served.state()
        assert info["version"] != version
        async with served.session.get(served.node.url + "/api/scoreboard/stream?deltas=1") as stream:
            greeting = await stream.content.readuntil(b"\n\n")
            builds = await _builds(served)
            await ctfd.fill(later)
            await until(lambda: _more_builds(served, builds + 2), "builds that have seen what happened")
            assert await served.json("/api/scoreboard") == info
            assert await served.state() == state
            await _shows_the_live_board(served, later)
            # A restarted node serves and keeps the boards of the freeze.
            await served.node.end()
            assert info["version"].encode() in greeting
            assert await stream.content.read() in (b"", b"0\r\n\r\n")
        await served.node.start()

        async def answers() -> bool:
            return (await served.get(PATHS[0])).status == 200

        await until(answers, "the restarted node serves")
        await until(lambda: _more_builds(served, 2), "it has built")
        assert await served.json("/api/scoreboard") == info
        assert [answer[:4] for answer in await served.state()] == [answer[:4] for answer in state]
        # The end of the freeze shows everything at once.
        lifted = {**later, "tables": {**later["tables"], "config": _without_freeze(later)}}
        await ctfd.fill(lifted)

        async def is_lifted() -> bool:
            return "frozen_at" not in await served.json("/api/scoreboard")

        await until(is_lifted, "the end of the freeze")
        assert await served.state() != state


async def _shows_the_live_board(served: Served, snapshot: dict[str, Any]) -> None:
    """The admin listener has the board without the freeze."""
    live = f"{served.node.admin_url}/live"

    async def entries() -> Any:
        async with served.session.get(f"{live}/api/leaderboard/teams") as response:
            return (await response.json())["entries"] if response.status == 200 else None

    found = await until(entries, "the live board")
    public = await served.standings(ParticipantKind.TEAMS)
    names = {entry["team_name"] for entry in found}
    renamed = {name for _, name, hidden, banned, _ in snapshot["tables"]["teams"]["rows"] if not (hidden or banned)}
    assert names <= renamed
    assert [(entry["team_id"], entry["team_name"], entry["score"]) for entry in found] != public
    async with served.session.get(f"{live}/api/scoreboard") as response:
        assert "frozen_at" not in await response.json()
    async with served.session.get(f"{live}/") as response:
        assert (response.status, response.content_type) == (200, "text/html")
    async with served.session.get(f"{live}/api/scoreboard/stream?deltas=1") as response:
        assert b"event: ready" in await response.content.readuntil(b"\n\n")
    async with served.session.get(f"{served.node.url}/live/api/leaderboard") as response:
        assert response.status == 404


def _config(snapshot: dict[str, Any]) -> dict[str, Any]:
    return dict(snapshot["tables"]["config"]["rows"])


def _without_freeze(snapshot: dict[str, Any]) -> dict[str, Any]:
    config = snapshot["tables"]["config"]
    return {**config, "rows": [row for row in config["rows"] if row[0] != "freeze"]}


async def _builds(served: Served) -> int:
    async with served.session.get(served.node.admin_url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return round(
        sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("scoreboardd_rebuild_duration_seconds_count") and "read" in line
        )
    )


async def _more_builds(served: Served, than: int) -> bool:
    return await _builds(served) > than


async def test_a_broken_database_is_told_in_one_line_and_the_board_stays(ctfd: SqliteDatabase, tmp_path: Path):
    await ctfd.fill(recorded("ctfd_ties_teams")["snapshots"][1])
    async with serving(ctfd, tmp_path, rebuild__reconcile=0.2) as served:
        state = await served.state()
        ctfd.path.rename(ctfd.path.with_suffix(".away"))
        failed = await until(lambda: served.node.said("rebuild failed, retrying"), "a failed build")
        assert "there is no such file" in json.dumps(failed[0])
        assert [answer[:4] for answer in await served.state()] == [answer[:4] for answer in state]
