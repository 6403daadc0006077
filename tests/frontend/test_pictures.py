"""The page on a board in the middle of an event, as a person sees it: `docs/screenshots`, made anew by every run."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from playwright.async_api import Browser, Page, expect
from redis.asyncio import Redis

from scoreboardd.demo.contest import SimulatedContest
from tests.frontend.conftest import watched
from tests.frontend.screen import opened, rows
from tests.nodes import nodes

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
START = datetime(2026, 2, 27, 10, 0, tzinfo=UTC)
HOURS = 24
MOST = 300_000
"Bytes of one picture: they are kept in the repository."

PICTURES: dict[str, tuple[str, tuple[int, int], str]] = {
    "board-dark": ("/", (1440, 1000), "dark"),
    "board-light": ("/", (1440, 1000), "light"),
    "phone": ("/", (390, 844), "dark"),
    "projector": ("/?view=projector", (1600, 900), "dark"),
    "first-blood": ("/?view=projector", (1600, 900), "dark"),
    "overlay": ("/?view=overlay", (1280, 720), "dark"),
}


async def event(dsn: str) -> tuple[int, int]:
    """A day of a contest of 80 teams, always the same. Returns a user and a challenge that nobody has solved yet."""
    draw = random.Random(6)
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        await SimulatedContest(teams=80, challenges=30, seed=5).seed(connection)
        users: list[Any] = await connection.fetch("SELECT id, team_id FROM users WHERE role = 'user' ORDER BY id")
        challenges = [row["id"] for row in await connection.fetch("SELECT id FROM challenges ORDER BY id")]
        strength = {team: draw.gauss(0, 1) for team in sorted({row["team_id"] for row in users})}
        difficulty = {challenge: draw.gauss(0.6, 1.1) for challenge in challenges[:-1]}
        taken: set[tuple[int, int]] = set()
        bloody: set[int] = set()
        for minute in sorted(draw.uniform(3, HOURS * 60) for _ in range(4_000)):
            user = draw.choice(users)
            challenge = draw.choice(list(difficulty))
            better = strength[user["team_id"]] - difficulty[challenge]
            if (user["team_id"], challenge) in taken or draw.random() > 1 / (1 + pow(2.7, -2.2 * better)) / 2:
                continue
            taken.add((user["team_id"], challenge))
            await connection.execute(
                "INSERT INTO submissions (user_id, challenge_id, correct, is_first_blood, submitted_at)"
                " VALUES ($1, $2, true, $3, $4)",
                user["id"],
                challenge,
                challenge not in bloody,
                START + timedelta(minutes=minute),
            )
            bloody.add(challenge)
        return users[0]["id"], challenges[-1]
    finally:
        await connection.close()


@pytest.mark.parametrize("name", PICTURES)
async def test_a_picture(
    name: str, chromium: Browser, database: str, redis_url: str, redis_client: Redis, key_prefix: str
):
    user, challenge = await event(database)
    path, (width, height), scheme = PICTURES[name]
    context = await chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        locale="en-GB",
        timezone_id="UTC",
        reduced_motion="reduce",
        is_mobile=name == "phone",
    )
    environment = {"redis__url": redis_url, "redis__key_prefix": key_prefix, "postgres__dsn": database}
    async with nodes(1, server__name="Midnight CTF", **environment) as (node,), watched(context):
        page = await opened(await context.new_page(), node.url + path)
        if name == "first-blood":
            await _draw_first_blood(database, user, challenge)
            await redis_client.publish(f"{key_prefix}scoreboard.events", "{}")
            await expect(page.locator("#blood")).to_be_visible(timeout=60_000)
        assert (await rows(page))[0]["rank"] == 1
        await _no_wider_than_the_screen(page)
        picture = await page.screenshot(omit_background=name == "overlay", animations="disabled")
    assert len(picture) < MOST
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(picture)


async def _draw_first_blood(dsn: str, user: int, challenge: int) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    await connection.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct, is_first_blood, submitted_at)"
        " VALUES ($1, $2, true, true, $3)",
        user,
        challenge,
        START + timedelta(hours=HOURS, minutes=1),
    )
    await connection.close()


async def _no_wider_than_the_screen(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
