"""What the hand-over leans on in aiohttp, pinned: a release that changes any of it fails here first."""

import asyncio
import itertools

import pytest
from aiohttp.web_protocol import RequestHandler

from scoreboardd.model import ChangeEvent
from scoreboardd.stream import hijack
from scoreboardd.stream.endpoint import PATH
from scoreboardd.stream.topic import PING, Subscriber
from tests.web.client import head_of_request
from tests.web.server import Node, becomes, serving


def connections_of(node: Node) -> list[RequestHandler]:
    assert node.runner.server is not None
    return node.runner.server.connections


async def test_aiohttp_forgets_the_connection() -> None:
    async with serving(way="hand-over") as node:
        (await node.greeted()).close()
        await becomes(lambda: len(node.broadcaster) == 0)
        tasks = asyncio.all_tasks()
        streams = [await node.greeted() for _ in range(10)]
        await becomes(lambda: connections_of(node) == [] and asyncio.all_tasks() == tasks)
        payload = node.publish(42)
        for stream in streams:
            assert await stream.frame() == payload


async def test_the_connection_is_the_client_s_own() -> None:
    async with serving(way="hand-over") as node:
        await node.greeted()
        (client,) = node.broadcaster._subscribers
        assert type(client) is Subscriber
        assert client.transport.get_protocol() is client
        assert client.transport.is_reading()
        assert not client.transport.is_closing()


async def test_aiohttp_s_timeouts_do_not_end_it() -> None:
    async with serving(way="hand-over", idle=0.1, heartbeat=0.15) as node:
        stream = await node.greeted()
        for _ in range(3):
            assert await stream.frame() == PING


async def test_a_connection_that_served_reads_before_can_become_a_stream() -> None:
    async with serving(way="hand-over", idle=0.2, heartbeat=0.3) as node:
        stream = await node.stream()
        stream.close()
        again = await node.connect(type(stream))
        for _ in range(3):
            await again.request("/api/leaderboard")
            assert (await again.answer()).status == 200
        await again.request(PATH)
        await again.greet()
        await again.frame()
        await again.frame()
        assert await again.frame() == PING


async def test_cleanup_neither_waits_for_streams_nor_ends_them() -> None:
    async with serving(way="hand-over") as node:
        streams = [await node.greeted() for _ in range(10)]
        await node.runner.cleanup()
        payload = node.publish(42)
        for stream in streams:
            assert await stream.frame() == payload
        await node.broadcaster.drain(0.1)
        assert [await stream.end() for stream in streams] == [[]] * 10


@pytest.mark.parametrize("manner", ["close", "reset"])
async def test_a_client_that_leaves_is_noticed(manner: str) -> None:
    async with serving(way="hand-over") as node:
        getattr(await node.greeted(), manner)()
        await becomes(lambda: len(node.broadcaster) == 0)


async def test_a_client_that_leaves_is_noticed_even_if_aiohttp_had_stopped_reading() -> None:
    async with serving(way="hand-over") as node:
        connection = await node.connect()
        # More than aiohttp parses ahead, so that it pauses the transport before the first of them is handled.
        await connection.send(head_of_request(PATH) * 500)
        assert (await connection.head()).status == 200
        connection.close()
        await becomes(lambda: len(node.broadcaster) == 0)


async def test_a_client_that_the_kernel_gives_up_on_has_stalled() -> None:
    async with serving(way="hand-over", user_timeout=0.3, queue=4) as node:
        stalled = await node.stream(receive_buffer=4096)
        for number in itertools.count(42):
            node.publish(number, ChangeEvent("all", "x" * 20_000, ""))
            await asyncio.sleep(0)
            if node.broadcaster.lagging:
                break
        await becomes(lambda: len(node.broadcaster) == 0)
        assert node.dropped("stalled") == 1
        await stalled.rest()


async def test_what_a_client_says_after_its_request_ends_the_stream() -> None:
    async with serving(way="hand-over") as node:
        stream = await node.greeted()
        await stream.send(b"GET /api/leaderboard HTTP/1.1\r\n\r\n")
        assert await stream.rest() == b""
        assert len(node.broadcaster) == 0


async def test_a_client_that_was_gone_before_is_not_taken() -> None:
    async with serving(way="hand-over") as node:
        for _ in range(20):
            connection = await node.connect()
            await connection.request(PATH)
            connection.reset()
        await node.greeted()
        await becomes(lambda: len(node.broadcaster) == 1 and connections_of(node) == [])


async def test_should_it_fail_halfway_the_client_is_not_left_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(way="hand-over") as node:
        with monkeypatch.context() as patch:
            patch.setattr(RequestHandler, "connection_lost", changed)
            unlucky = await node.connect()
            await unlucky.request(PATH)
            await unlucky.rest()
        assert len(node.broadcaster) == 0
        stream = await node.greeted()
        payload = node.publish(42)
        assert await stream.frame() == payload


async def test_the_installed_aiohttp_passes_the_check_at_the_start() -> None:
    tasks = asyncio.all_tasks()
    await hijack.check()
    await becomes(lambda: asyncio.all_tasks() == tasks)


def changed(*args: object) -> None:
    raise AttributeError("not what it was")


def keeps_its_connection(self: RequestHandler, exc: BaseException | None) -> None:
    self.transport = None


@pytest.mark.parametrize("instead", [changed, keeps_its_connection])
async def test_an_aiohttp_that_does_not_let_go_is_refused(monkeypatch: pytest.MonkeyPatch, instead: object) -> None:
    monkeypatch.setattr(hijack, "CHECK_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(RequestHandler, "connection_lost", instead)
    with pytest.raises(hijack.Incompatible, match=r"aiohttp 3\.[0-9.]+ .*install"):
        await hijack.check()
