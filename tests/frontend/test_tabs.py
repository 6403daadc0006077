"""The tabs of one browser, of which one holds the stream for all: the shells of `scoreboard.js` under Node."""

import pytest

from scoreboardd.model import Version
from tests.frontend.scripted import Follower, Server, board, following


@pytest.fixture
def server() -> Server:
    return Server()


async def another(follower: Follower) -> None:
    """A second tab, that is live."""
    follower.do("open")
    await follower.until(say="state", tab=1, status="live", since=None)


async def behind(server: Server, follower: Follower) -> None:
    """The first tab has version 2; a second one was answered by a node that had only the first, and serves 2 since."""
    await server.step(board(2), to=2)
    await follower.holds(server)
    current = server.version, server.view
    server.version, server.view = Version("7f3a", 1), board(1)
    follower.do("open")
    await follower.holds(server, tab=1)
    server.version, server.view = current


async def test_one_stream_is_enough_for_two(server: Server):
    async with following(server) as follower:
        await another(follower)
        await server.step(board(2), to=2)
        await follower.holds(server, tab=0, reason="delta")
        await follower.holds(server, tab=1, reason="delta")
        assert len(server.joined) == 1


async def test_a_newcomer_learns_from_the_leader_what_it_lacks(server: Server):
    async with following(server) as follower:
        await behind(server, follower)
        await follower.holds(server, tab=1, reason="refetch")
        assert len(server.joined) == 1


async def test_who_has_less_than_the_leader_fetches_what_it_cannot_apply(server: Server):
    async with following(server) as follower:
        await behind(server, follower)
        await server.step(board(3), to=3)
        await follower.holds(server, tab=0, reason="delta")
        await follower.holds(server, tab=1, reason="refetch")
        await server.step(board(4), to=4)
        await follower.holds(server, tab=0, reason="delta")
        await follower.holds(server, tab=1, reason="delta")


async def test_another_goes_on_from_what_it_has_when_the_leader_leaves(server: Server):
    async with following(server) as follower:
        await another(follower)
        await server.step(board(2), to=2)
        await follower.holds(server, tab=1, reason="delta")
        await server.hang_up()
        follower.do("close", 0)
        await server.step(board(3), to=3)
        await follower.holds(server, tab=1, reason="delta")
        await follower.until(say="state", tab=1, status="live", leading=True)
        assert server.joined[-1] in ("7f3a-2", "7f3a-3")


async def test_a_tab_is_as_honest_as_the_leader_about_the_connection(server: Server):
    async with following(server) as follower:
        await another(follower)
        server.greeting = False
        await server.hang_up()
        await follower.until(say="state", tab=1, status="reconnecting")
        server.greeting = True
        await server.hang_up()
        await follower.until(say="state", tab=1, status="live")
