"""A laptop that slept: nobody told it that its connection is dead. Under Node, and in a real browser."""

import asyncio

import pytest
from playwright.async_api import BrowserContext, expect

from scoreboardd.model import Version
from tests.frontend.screen import TIMEOUT, live, opened, shows
from tests.frontend.scripted import PATHS, STREAM, Server, board, following, serving
from tests.nodes import until


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.mark.parametrize("set_back", [0, 7200])
async def test_what_it_missed_is_replayed_on_another_connection_at_once(server: Server, set_back: int):
    """Even if the clock was wrong before, as after an empty battery."""
    async with following(server) as follower:
        follower.do("leap", -set_back)
        follower.do("creep", 5)
        await follower.until(say="crept")
        server.forget()
        await server.step(board(2), to=2)
        await server.step(board(3), to=3)
        follower.do("leap", 600)
        await follower.until(say="state", status="reconnecting")
        await follower.holds(server, reason="delta")
        assert server.joined[1:] == ["7f3a-1"]
        assert sorted(server.asked) == sorted(PATHS)


async def test_a_fetch_that_was_under_way_is_begun_again(server: Server):
    async with following(server) as follower:
        answering, server.answering = server.answering, asyncio.Event()
        server.version, server.view = Version("7f3a", 2), board(2)
        await server.say("scoreboard", server.version, b"{}")
        await until(lambda: len(server.asked) == 4, "it fetches, and waits for ever")
        server.answering = answering
        follower.do("leap", 600)
        await follower.holds(server, reason="refetch")


async def test_a_connection_that_was_quiet_for_long_is_not_trusted_on_waking(server: Server):
    async with following(server) as follower:
        server.forget()
        await server.step(board(2), to=2)
        follower.do("creep", 30)
        await follower.until(say="crept")
        assert len(server.joined) == 1
        follower.do("wake")
        await follower.holds(server, reason="delta")
        assert server.joined[1:] == ["7f3a-1"]


async def test_a_page_whose_machine_slept(browser: BrowserContext, server: Server):
    async with serving(server) as url:
        page = await opened(await browser.new_page(), url)
        server.forget()
        await server.step(board(4), to=2)
        (worker,) = page.workers
        await worker.evaluate("() => { const clock = Date.now; Date.now = () => clock() + 3_600_000; }")
        await shows(page, 1, 4)
        await live(page)
        assert server.joined[1:] == ["7f3a-1"]


WAKING = {
    "it is seen again": "document.dispatchEvent(new Event('visibilitychange'))",
    "it is gone back to": "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))",
    "the network is back": "dispatchEvent(new Event('online'))",
}


@pytest.mark.parametrize("what", WAKING)
async def test_a_page_that_was_told_to_wait_does_not_when(browser: BrowserContext, server: Server, what: str):
    async with serving(server) as url:
        page = await opened(await browser.new_page(), url)
        server.refusing.add(STREAM)
        await server.hang_up()
        await until(lambda: server.refused, "it is told to come back in an hour")
        await expect(page.locator("#status")).to_contain_text("Reconnecting", timeout=TIMEOUT)
        server.refusing.clear()
        await page.evaluate(WAKING[what])
        await live(page)
