"""A real browser, headless, and a page that tells of everything that went wrong in it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.external_tools import require
from tests.integration.conftest import platform, session, settings  # noqa: F401  fixtures

DESKTOP = {"width": 1440, "height": 900}


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    path = require("chromium")
    # Its sandbox does not work for root, who runs CI.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


@pytest.fixture
async def browser(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """One person's browser: its tabs share connections, storage and channels."""
    context = await chromium.new_context(viewport=DESKTOP, locale="en-GB", timezone_id="UTC", reduced_motion="reduce")
    async with watched(context):
        yield context


@asynccontextmanager
async def watched(context: BrowserContext) -> AsyncIterator[None]:
    """Nothing may be logged as an error, break the policy, throw, or open a dialog, but for servers that are away."""
    wrong: list[str] = []

    def heard(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def opened(page: Page) -> None:
        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(str(error)))

    context.on("page", opened)
    context.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
    yield
    await context.close()
    assert wrong == []
