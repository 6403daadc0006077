"""The client before a real daemon, on a real PostgreSQL and Valkey."""

import asyncio
import signal
from collections.abc import AsyncIterator

import aiohttp

from scoreboardd.client import Board, Scoreboard
from scoreboardd.demo.servers import free_port
from tests.integration.conftest import Platform, platform, session, settings  # noqa: F401  fixtures
from tests.nodes import DEADLINE, nodes


async def solved(boards: AsyncIterator[Board], user: int, *challenges: int) -> Board:
    """The first board on which the user, and so its team, has these challenges."""
    async with asyncio.timeout(DEADLINE):
        while True:
            board = await anext(boards)
            assert [row.rank for row in board.teams] == [*range(1, len(board.teams) + 1)]
            if all(set(challenges) <= set(board.view.of(owner)[user].solves) for owner in ("users", "teams")):
                return board


async def is_served(session: aiohttp.ClientSession, url: str, board: Board) -> None:  # noqa: F811
    for path, document in zip(("/api/leaderboard", "/api/leaderboard/teams"), board.documents, strict=True):
        async with session.get(url + path) as response:
            assert response.headers["X-Scoreboard-Version"] == str(board.version)
            assert await response.read() == document


async def test_it_holds_what_is_served_to_the_byte(platform: Platform, session, settings):  # noqa: F811
    async with nodes(1, **settings) as (node,), Scoreboard(node.url) as scoreboard:
        boards = aiter(scoreboard)
        await solved(boards, 3)
        for solves in range(1, 5):
            await platform.solve(3, solves)
            await is_served(session, node.url, await solved(boards, 3, *range(1, solves + 1)))
        await platform.connection.execute("UPDATE teams SET name = 'Ünïcode \U0001f4a9' WHERE id = 2")
        await platform.connection.execute("UPDATE challenges SET points = 1000 WHERE id = 5")
        await platform.publish("challenge_updated")
        async with asyncio.timeout(DEADLINE):
            board = await anext(boards)
        assert {row.name for row in board.teams} >= {"Ünïcode \U0001f4a9"}
        await is_served(session, node.url, board)


async def test_it_catches_up_with_a_node_that_was_killed_and_comes_back(platform: Platform, session, settings):  # noqa: F811
    retry = {"sse__retry_min": 0.1, "sse__retry_max": 0.2}
    async with nodes(1, server__port=free_port(), **retry, **settings) as (node,), Scoreboard(node.url) as scoreboard:
        boards = aiter(scoreboard)
        await platform.solve(1, 1)
        await solved(boards, 1, 1)
        await node.end(signal.SIGKILL)
        await platform.solve(1, 2)
        await node.start()
        await is_served(session, node.url, await solved(boards, 1, 1, 2))
