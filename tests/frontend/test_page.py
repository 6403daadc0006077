"""The page in a real browser, on real daemons."""

import signal

import pytest
from playwright.async_api import BrowserContext, expect

from scoreboardd.demo.servers import free_port
from tests.frontend.screen import TIMEOUT, chart, live, opened, row, rows, shows
from tests.integration.conftest import Platform, document
from tests.nodes import metric, nodes, until

PIXEL = 20
"Points that one pixel of the chart may stand for."


async def test_a_solve_shows_on_the_open_page_without_a_reload(browser, platform, session, settings):
    async with nodes(1, **settings) as (node,):
        page = await opened(await browser.new_page(), node.url)
        await page.evaluate("window.still = true")
        fetched: list[str] = []
        browser.on("request", lambda request: fetched.append(request.url))
        for user, challenge in ((3, 1), (2, 1), (3, 2)):
            await platform.solve(user, challenge)
        await shows(page, 3, 2)
        await shows(page, 2, 1)
        assert await page.evaluate("window.still"), "it was not reloaded"
        # A page that is opened before the first document asks again for the contest's name and divisions.
        assert [url for url in fetched if not url.endswith("/api/scoreboard")] == [], "deltas said it all"
        told = await document(session, node.url)
        seen = await rows(page)
        assert [(each["id"], each["name"], each["score"]) for each in seen] == [
            (entry["team_id"], entry["team_name"], entry["score"]) for entry in told["entries"]
        ]
        assert [each["rank"] for each in seen] == [1, 2, 3, 4, 5]
        assert seen[0]["marks"] == ["solved", "solved", "", "", ""]
        drawn = await chart(page)
        assert drawn == pytest.approx({each["name"]: each["score"] for each in seen if each["solves"]}, abs=PIXEL)
        assert await page.locator("#feed li").count() == 3


async def test_a_node_that_is_killed_and_comes_back(browser, platform, settings):
    async with nodes(1, server__port=free_port(), sse__retry_min=0.1, sse__retry_max=0.2, **settings) as (node,):
        page = await opened(await browser.new_page(), node.url)
        await node.end(signal.SIGKILL)
        await expect(page.locator("#status")).to_contain_text("Reconnecting, stale since", timeout=TIMEOUT)
        await platform.solve(4, 1)
        await node.start()
        await shows(page, 4, 1)
        await live(page)


async def test_seven_tabs_share_one_connection_and_stay_live(browser, platform, session, settings):
    async with nodes(1, **settings) as (node,):
        tabs = [await opened(await browser.new_page(), node.url) for _ in range(7)]
        await platform.solve(5, 1)
        for tab in tabs:
            await shows(tab, 5, 1)
        assert await metric(session, node, "scoreboardd_sse_clients") == 1
        # The first has the stream, until it goes; and so on.
        for solves, (going, left) in enumerate([(tabs[:3], tabs[3:]), (tabs[3:6], tabs[6:])], start=2):
            for tab in going:
                await tab.close()
            await platform.solve(5, solves)
            for tab in left:
                await shows(tab, 5, solves)
                await live(tab)
        await until(lambda: _one_stream(session, node), "the last tab has the only stream")


async def _one_stream(session, node) -> bool:
    return await metric(session, node, "scoreboardd_sse_clients") == 1


MARKUP = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "{{parts}} ${alert(1)} %s",
    "\u202egnp.exe",
    "javascript:alert(1)",
]


async def test_names_with_markup_stay_text(browser, platform, settings):
    for number, name in enumerate(MARKUP, start=1):
        await platform.connection.execute("UPDATE teams SET name = $1 WHERE id = $2", name, number)
        await platform.connection.execute("UPDATE challenges SET title = $1, category = $1 WHERE id = $2", name, number)
        await platform.solve(number, number, publish=False)
    async with nodes(1, **settings) as (node,):
        for view in ("board", "projector"):
            page = await opened(await browser.new_page(), f"{node.url}/?view={view}")
            await expect(page.locator("#feed li")).to_have_count(5)
            assert {each["name"] for each in await rows(page)} == set(MARKUP)
            assert set(await page.locator("#feed .who").all_text_contents()) == set(MARKUP)
            assert set(await page.locator("#feed .what").all_text_contents()) == set(MARKUP)
            assert set(await page.locator("#legend bdi").all_text_contents()) == set(MARKUP)
            assert await page.locator("body img, body script").count() == 0


async def test_first_bloods_are_announced(browser, platform, settings):
    async with nodes(1, **settings) as (node,):
        board = await opened(await browser.new_page(), node.url)
        projector = await opened(await browser.new_page(), f"{node.url}/?view=projector")
        await _first_blood(platform, user=2, challenge=3)
        said = board.locator("#announcer[aria-live=polite]")
        await expect(said).to_have_text("First blood: team 2 solved challenge 3 in misc.", timeout=TIMEOUT)
        await expect(projector.locator("#blood")).to_be_visible(timeout=TIMEOUT)
        await expect(projector.locator("#blood-name")).to_have_text("team 2")
        await expect(projector.locator("#blood")).to_be_hidden(timeout=TIMEOUT)
        await expect(board.locator("#blood")).to_be_hidden()
        assert "first blood" in (await rows(board))[0]["marks"]
        # Who opens the page now missed it.
        late = await opened(await browser.new_page(), node.url)
        await expect(late.locator("#feed .blood")).to_have_count(1)
        await expect(late.locator("#announcer")).to_be_empty()


async def _first_blood(platform: Platform, user: int, challenge: int) -> None:
    await platform.connection.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct, is_first_blood) VALUES ($1, $2, true, true)",
        user,
        challenge,
    )
    await platform.publish()


async def test_search_players_divisions_and_a_pinned_team_by_keyboard_alone(browser, platform, settings):
    await platform.connection.execute("INSERT INTO divisions (id, name) VALUES (1, 'Open'), (2, 'Students')")
    await platform.connection.execute("UPDATE teams SET division_id = 1 + id % 2")
    async with nodes(1, **settings) as (node,):
        page = await opened(await browser.new_page(), node.url)
        await page.keyboard.press("/")
        await page.keyboard.type("TEAM 4")
        await expect(page.locator(".body .row")).to_have_count(1)
        await expect(page.locator("#found")).to_have_text("1 match")
        await row(page, 4).locator(".pin").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator(".pinned .name")).to_have_text("team 4")
        await page.locator("#search").fill("")
        await expect(page.locator(".body .row")).to_have_count(5)

        await page.locator("#division").select_option("2")
        await expect(page.locator(".body .row")).to_have_count(3, timeout=TIMEOUT)
        assert {each["id"] for each in await rows(page)} == {1, 3, 5}
        await expect(page.locator(".pinned .row")).to_have_count(0)  # not of this division

        await page.locator("input[value=teams]").focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator(".head .name")).to_have_text("Player", timeout=TIMEOUT)
        assert {each["name"] for each in await rows(page)} == {"user 1", "user 3", "user 5"}

        # A link says all of it, and the browser remembers whom it pinned.
        await page.reload()
        await live(page)
        await expect(page.locator(".head .name")).to_have_text("Player", timeout=TIMEOUT)
        await expect(page.locator(".body .row")).to_have_count(3)
        await page.goto(node.url)
        await expect(page.locator(".pinned .name")).to_have_text("team 4", timeout=TIMEOUT)


async def test_the_chart_tells_its_values_by_keyboard(browser, platform, settings):
    await platform.solve(1, 1, publish=False)
    async with nodes(1, **settings) as (node,):
        page = await opened(await browser.new_page(), node.url)
        slider = page.get_by_role("slider", name="Scores over time")
        await slider.focus()
        await page.keyboard.press("Home")
        await expect(page.locator("#chart .tip")).to_be_visible()
        await page.keyboard.press("End")
        await expect(slider).to_have_attribute("aria-valuenow", "100")
        assert "team 1" in (await slider.get_attribute("aria-valuetext") or "")
        await page.keyboard.press("Escape")
        await expect(page.locator("#chart .tip")).to_be_hidden()


async def test_a_network_that_was_away(browser: BrowserContext, platform, settings):
    async with nodes(1, **settings) as (node,):
        page = await opened(await browser.new_page(), node.url)
        await browser.set_offline(True)
        await platform.solve(1, 1)
        await browser.set_offline(False)
        await shows(page, 1, 1)
        await live(page)


async def test_a_page_that_is_opened_before_there_is_a_board(browser, platform, settings):
    await platform.connection.execute("ALTER TABLE teams RENAME TO later")
    async with nodes(1, **settings) as (node,):
        page = await browser.new_page()
        await page.goto(node.url)
        await expect(page.locator("#status")).to_contain_text("No board yet", timeout=TIMEOUT)
        await platform.connection.execute("ALTER TABLE later RENAME TO teams")
        await platform.publish()
        await live(page)
        await expect(page.locator(".body .row")).to_have_count(5)
