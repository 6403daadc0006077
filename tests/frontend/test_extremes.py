"""What a page shows of dates that cannot be and of numbers that a browser cannot hold."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import BrowserContext, Page, expect

from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, Solve
from scoreboardd.model import Version
from tests.frontend.screen import TIMEOUT, live, opened
from tests.frontend.scripted import Server, serving

CHALLENGES = {id: Challenge(f"challenge {id}", "misc", 100) for id in range(1, 21)}
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


@pytest.fixture
def server() -> Server:
    return Server()


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def contest(*wrong: str, days: int = 1) -> Leaderboards:
    """Three teams with a solve every ten minutes of an hour a day, and the first also at the times that are wrong."""
    minutes = [24 * 60 * day + 10 * number for day in range(days) for number in range(7)]
    solves = {id: Solve(at(when), False) for id, when in enumerate(minutes, start=1)}
    teams = {id: Entry(f"team {id}", dict(solves)) for id in (1, 2, 3)}
    teams[1].solves.update({20 - number: Solve(when, False) for number, when in enumerate(wrong)})
    return Leaderboards(CHALLENGES, teams, teams)


async def steps(page: Page, series: int) -> list[float]:
    """Where the line of the chart climbs: the share of the width that is to the left of each step."""
    path = await page.locator(f"#chart .lines path.series-{series}").get_attribute("d") or ""
    start, end = re.findall(r"^M([\d.]+)|H([\d.]+)$", path)
    left, right = float(start[0]), float(end[1])
    return [(float(x) - left) / (right - left) for x in re.findall(r"H([\d.]+)V", path)]


@pytest.mark.parametrize("wrong", ["2099-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2031-05-05T05:05:05.5Z"])
async def test_one_wrong_date_does_not_make_the_hour_of_play_a_hair(
    browser: BrowserContext, server: Server, wrong: str
):
    server.view = contest(wrong)
    async with serving(server) as url:
        page = await opened(await browser.new_page(), url)
        found = await steps(page, 1)
        assert found == pytest.approx([number / 6 for number in range(7)], abs=0.01)
        titles = await page.locator("#chart .outliers title").all_text_contents()
        assert len(titles) == 1
        assert titles[0].startswith("team 1: 1 solve dated outside of the time shown")
        assert wrong[:4] in titles[0]
        await expect(page.locator("#outliers")).to_contain_text("1 solve is dated outside of the time shown.")
        await expect(page.locator("#since")).not_to_be_empty()


async def test_both_days_of_a_contest_are_shown(browser: BrowserContext, server: Server):
    server.view = contest(days=2)
    async with serving(server) as url:
        page = await opened(await browser.new_page(), url)
        found = await steps(page, 1)
        assert len(found) == 14
        assert found[0] < 0.01
        assert found[-1] > 0.99
        await expect(page.locator("#outliers")).to_be_empty()


async def test_movement_goes_on_after_a_solve_that_is_dated_ahead(browser: BrowserContext, server: Server):
    server.view = contest("2099-01-01T00:00:00Z")
    async with serving(server) as url:
        page = await opened(await browser.new_page(), url)
        view = contest("2099-01-01T00:00:00Z")
        view.teams[3].solves.update({id: Solve(at(61 + id / 10), False) for id in (15, 16, 17)})
        await server.step(view, to=2)
        moved = page.locator('.body .row[data-id="3"] .move')
        await expect(moved).to_have_attribute("data-moved", "up", timeout=TIMEOUT)


@pytest.mark.parametrize("url", ["/", "/?kind=users"])
async def test_ids_that_a_browser_would_round_are_refused_in_words(browser: BrowserContext, server: Server, url: str):
    two = {2**53: Entry("one", {}), 2**53 + 1: Entry("another", {})}
    server.view = Leaderboards(CHALLENGES, two, two)
    async with serving(server) as origin:
        page = await browser.new_page()
        await page.goto(origin + url)
        await expect(page.locator("#status")).to_contain_text(
            "is beyond 2^53 - 1: browsers cannot tell", timeout=TIMEOUT
        )
        assert await page.locator(".body .row").count() == 0
        server.version, server.view = Version("7f3a", 2), contest()
        await server.say("scoreboard", server.version, b"{}")
        await live(page)
        await expect(page.locator(".body .row")).to_have_count(3)


async def test_a_division_whose_id_a_browser_would_round_cannot_be_chosen(browser: BrowserContext, server: Server):
    server.divisions = [{"id": 3, "name": "Open"}, {"id": 2**53 + 1, "name": "Students"}]
    async with serving(server) as url:
        page = await opened(await browser.new_page(), url)
        options = page.locator("#division option")
        await expect(options).to_have_count(3, timeout=TIMEOUT)
        await expect(options.nth(1)).to_be_enabled()
        await expect(options.nth(2)).to_be_disabled()
        await expect(options.nth(2)).to_have_text("Students: its id is too large for a browser")
        await opened(page, f"{url}/?division={2**53 + 1}")
        assert server.queries[-1] == f"division_id={2**53 + 1}", "a link is passed on as it is"
