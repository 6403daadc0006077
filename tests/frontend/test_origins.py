"""A page of another origin in a real browser, as a platform's front end is one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser

from tests.web.server import Node, becomes, serving

ASK = """async ([url, options]) => {
    const response = await fetch(url, options);
    return [response.status, response.headers.get("X-Scoreboard-Version")];
}"""
LISTEN = """(url) => {
    window.told = [];
    const source = new EventSource(url, { withCredentials: true });
    const note = (event) => window.told.push(event.lastEventId);
    for (const name of ["ready", "scoreboard"]) source.addEventListener(name, note);
}"""
ASKED = {
    "with cookies": {"credentials": "include"},
    "with a token": {"headers": {"Authorization": "Bearer of-the-platform"}},
    "with both": {"credentials": "include", "headers": {"Authorization": "Bearer of-the-platform"}},
    "uncached": {
        "credentials": "include",
        "cache": "no-store",
        "headers": {"Cache-Control": "no-cache", "Pragma": "no-cache"},
    },
    "conditionally": {"credentials": "include", "headers": {"If-None-Match": 'W/"7f3a-40"'}},
    "as a client of streams": {"credentials": "include", "headers": {"Last-Event-ID": "7f3a-40"}},
}


@asynccontextmanager
async def front_end() -> AsyncIterator[str]:
    """The origin of an empty page."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>A platform</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def visited(chromium: Browser, *, listed: bool, anyone: bool = False) -> AsyncIterator[tuple[Any, Node, str]]:
    """A page of another origin, the node, and its address; the page's browser has a cookie for both."""
    async with front_end() as origin, serving(cors_origins=[origin] * listed + ["*"] * anyone) as node:
        url = "http://{}:{}".format(*node.address)
        context = await chromium.new_context()
        await context.add_cookies([{"name": "session", "value": "secret", "url": url}])
        page = await context.new_page()
        await page.goto(origin)
        yield page, node, url
        await context.close()


async def test_a_page_of_a_listed_origin_may_ask(chromium: Browser) -> None:
    async with visited(chromium, listed=True) as (page, _, url):
        for how, options in ASKED.items():
            for path in ("/api/leaderboard", "/api/timeline/teams", "/api/scoreboard"):
                status, version = await page.evaluate(ASK, [url + path, options])
                assert (status, version) == (200, None if path == "/api/scoreboard" else "7f3a-41"), how


async def test_a_page_of_a_listed_origin_may_follow_with_credentials(chromium: Browser) -> None:
    async with visited(chromium, listed=True) as (page, node, url):
        await page.evaluate(LISTEN, f"{url}/api/scoreboard/stream")
        await becomes(lambda: len(node.broadcaster) == 1)
        node.publish(42)
        await page.wait_for_function("window.told.length === 2")
        assert await page.evaluate("window.told") == ["7f3a-41", "7f3a-42"]


@pytest.mark.parametrize("anyone", [False, True])
async def test_a_page_of_another_origin_may_not(chromium: Browser, anyone: bool) -> None:
    async with visited(chromium, listed=False, anyone=anyone) as (page, _, url):
        refused = "() => fetch(%r, %s).then(() => null, String)"
        asked = f"{url}/api/leaderboard"
        assert "TypeError" in await page.evaluate(refused % (asked, '{credentials: "include"}'))
        answer = await page.evaluate(refused % (asked, "{}"))
        assert (answer is None) is anyone


async def test_no_page_may_send_a_token_of_the_rebuild(chromium: Browser) -> None:
    async with visited(chromium, listed=True) as (page, _, url):
        # A preflight for something harmless must not open the way for this.
        await page.evaluate(ASK, [f"{url}/api/leaderboard", ASKED["with a token"]])
        options = '{method: "POST", headers: {Authorization: "Bearer guess"}}'
        refused = f"() => fetch('{url}/api/leaderboard/rebuild', {options}).then(() => null, String)"
        assert "TypeError" in await page.evaluate(refused)
