"""The loops the tests run on, and the ways to serve a stream."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.web.server import WAYS

BOTH_LOOPS = {"test_hijack"}
"""Taking a connection from aiohttp depends on the transport, so that runs on asyncio's own loop too. All else runs on
uvloop alone, as in production."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.stem in BOTH_LOOPS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param
