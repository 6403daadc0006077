"""Ten thousand teams: the page's thread has next to nothing to do, whatever the size of the board."""

from collections.abc import Coroutine
from typing import Any

from playwright.async_api import Page, expect

from tests.frontend.screen import TIMEOUT, live, rows
from tests.integration.conftest import SCHEMA, Platform
from tests.nodes import nodes

TEAMS, CHALLENGES = 10_000, 70
PARSE = """async () => {
    const read = async (path) => (await fetch("/api/leaderboard" + path)).text();
    const texts = await Promise.all(["", "/teams"].map(read));
    const began = performance.now();
    for (const text of texts) JSON.parse(text);
    return performance.now() - began;
}"""
"What a page that fetched the leaderboards and had no worker would do on its thread at least, in milliseconds."

OBSERVE = """() => {
    window.tasks = [];
    window.observer = new PerformanceObserver((list) =>
        window.tasks.push(...list.getEntries().map(({ duration }) => duration)));
    window.observer.observe({ type: "longtask" });
}"""


async def large(platform: Platform) -> None:
    """Team n has every challenge whose number its own can be divided by, and the first three: 70,000 solves."""
    connection = platform.connection
    await connection.execute("TRUNCATE submissions, users, teams, challenges CASCADE")
    await connection.execute(SCHEMA)
    await platform.create(TEAMS, CHALLENGES)
    await connection.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) "
        "SELECT team, challenge, true, '2026-02-27T18:00:00Z'::timestamptz + (team * 7 + challenge) * interval '1 s' "
        "FROM generate_series(1, $1::int) team, generate_series(1, $2::int) challenge "
        "WHERE challenge <= 3 OR team % challenge = 0",
        TEAMS,
        CHALLENGES,
    )
    await connection.execute("ANALYZE")


async def test_an_update_is_no_long_task_and_every_row_can_be_seen(browser, platform, settings):
    await large(platform)
    async with nodes(1, **settings) as (node,):
        page = await browser.new_page()
        await page.goto(node.url)
        await live(page)
        await expect(page.locator("#facts")).to_contain_text("10,000 teams", timeout=60_000)
        assert await page.locator(".body .row").count() < 60

        longest = [await _longest(page, _update(page, platform, team)) for team in (9_991, 9_973, 9_967, 9_949)]
        # A busy machine delays both alike.
        parsing = [await page.evaluate(PARSE) for _ in range(4)]
        assert sorted(longest)[1] <= 2 * sorted(parsing)[1], (longest, parsing)

        await _scroll(page)
        await expect(page.locator("#table")).to_have_attribute("aria-rowcount", str(TEAMS + 1))
        seen = await rows(page)
        assert all(each["index"] == each["rank"] + 1 for each in seen)
        assert seen[-1]["rank"] == TEAMS


async def _longest(page: Page, act: Coroutine[Any, Any, None]) -> float:
    """Milliseconds of the longest of the long tasks while it acts; 0 if there are none."""
    await page.evaluate(OBSERVE)
    await act
    tasks = await page.evaluate("() => { window.observer.disconnect(); return window.tasks; }")
    return max(tasks, default=0.0)


async def _update(page: Page, platform: Platform, team: int) -> None:
    before = await page.evaluate("document.documentElement.dataset.version")
    await platform.solve(team, CHALLENGES)
    await page.wait_for_function(
        "(before) => document.documentElement.dataset.version !== before", arg=before, timeout=60_000
    )
    await expect(page.locator("#feed .who").first).to_have_text(f"team {team}", timeout=TIMEOUT)


async def _scroll(page: Page) -> None:
    for share in (0.1, 0.5, 0.9, 1):
        await page.evaluate("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", share)
        await page.wait_for_function(
            """() => {
                const seen = [...document.querySelectorAll(".body .row")].map((row) => row.getBoundingClientRect());
                const [top, bottom] = [seen.map(({ top }) => top), seen.map(({ bottom }) => bottom)];
                return Math.min(...top) <= 300 && Math.max(...bottom) >= innerHeight - 100;
            }""",
            timeout=TIMEOUT,
        )
