"""`GET /api/scoreboard`."""

from scoreboardd.board.document_names import DIVISIONS
from tests.snapshots import snapshot
from tests.web.server import serving, version


async def test_it_says_what_there_is() -> None:
    async with serving(first=None, name="CTF") as node:
        answer = await node.ask("/api/scoreboard")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.json == {"name": "CTF", "version": None, "divisions": []}
        named = [{"id": 3, "name": "students"}, {"id": 12, "name": "open"}]
        node.serve(snapshot(version(42), {DIVISIONS: named}, divisions=(3, 12)))
        assert (await node.ask("/api/scoreboard")).json == {"name": "CTF", "version": "7f3a-42", "divisions": named}
