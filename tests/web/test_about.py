"""`GET /api/scoreboard`."""

from tests.editions import edition
from tests.web.server import serving, version


async def test_it_says_what_there_is() -> None:
    async with serving(first=None, name="CTF") as node:
        answer = await node.ask("/api/scoreboard")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.json == {"name": "CTF", "version": None, "divisions": []}
        node.serve(edition(version(42), divisions=(3, 12)))
        assert (await node.ask("/api/scoreboard")).json == {
            "name": "CTF",
            "version": "7f3a-42",
            "divisions": [{"id": 3, "name": "Division 3"}, {"id": 12, "name": "Division 12"}],
        }
