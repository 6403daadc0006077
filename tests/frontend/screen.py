"""What is to be seen on a page."""

import re
from typing import Any

from playwright.async_api import Page, expect

TIMEOUT = 15_000
"Milliseconds that anything may take to show."


async def opened(page: Page, url: str) -> Page:
    """The page at `url`, once it is live and shows rows."""
    await page.goto(url)
    await live(page)
    await expect(page.locator(".body .row").first).to_be_attached(timeout=TIMEOUT)
    return page


async def live(page: Page) -> None:
    await expect(page.locator("#status")).to_have_text("Live", timeout=TIMEOUT)


async def rows(page: Page) -> list[dict[str, Any]]:
    """The rows that are there, in order: rank, name, score, number of solves, and the marks of the challenges."""
    found: list[dict[str, Any]] = await page.evaluate(
        """() => [...document.querySelectorAll(".body .row")]
            .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)
            .map((row) => ({
                index: Number(row.ariaRowIndex),
                rank: Number(row.querySelector(".rank").textContent),
                id: Number(row.dataset.id),
                name: row.querySelector(".name").textContent,
                score: Number(row.querySelector(".score").textContent.replace(/\\D/g, "")),
                solves: Number(row.querySelector(".solves").textContent),
                marks: [...row.querySelectorAll(".mark")].map((mark) => mark.getAttribute("aria-label") ?? ""),
            }))"""
    )
    return found


def row(page: Page, owner: int) -> Any:
    return page.locator(f'.body .row[data-id="{owner}"]')


async def shows(page: Page, owner: int, solves: int) -> None:
    """Wait until the owner's row has so many solves."""
    await expect(row(page, owner).locator(".solves")).to_have_text(str(solves), timeout=TIMEOUT)


async def chart(page: Page) -> dict[str, int]:
    """The score at which each line of the chart ends, by name, measured against the grid."""
    drawn = await page.evaluate(
        """() => {
            const labels = [...document.querySelectorAll("#chart .grid text[text-anchor=end]")];
            const score = (label) => Number(label.textContent.replace(/\\D/g, ""));
            const grid = labels.map((label) => [score(label), Number(label.getAttribute("y"))]);
            return {
                grid: [grid.at(0), grid.at(-1)],
                names: [...document.querySelectorAll("#legend bdi")].map((name) => name.textContent),
                ends: [...document.querySelectorAll("#chart .lines path")]
                    .map((line) => [line.getAttribute("class"), line.getAttribute("d")]),
            };
        }"""
    )
    (_, bottom), (top, y_of_top) = drawn["grid"]
    found = {}
    for series, path in drawn["ends"]:
        y = float(re.findall(r"V([\d.]+)", path)[-1])
        found[drawn["names"][int(series.removeprefix("series-"))]] = round((bottom - y) / (bottom - y_of_top) * top)
    return found
