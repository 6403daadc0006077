"""Many streams at once, none of which may slow, starve or outlive its welcome at the cost of another."""

import asyncio
import gc
import re
import time
from collections.abc import Callable

import pytest

from scoreboardd.model import ChangeEvent
from scoreboardd.stream.endpoint import PATH
from scoreboardd.stream.topic import PING, SEND_BATCH, Subscriber
from tests.web.client import Stream
from tests.web.server import Node, becomes, serving, version

BULKY = ChangeEvent("all", "x" * 20_000, "2026-02-27T18:00:00Z")
"So that it takes tens of events, not thousands, until the buffers of a client that does not read are full."
SMALL = 4096
"Bytes; the least that the kernel lets such a client have."


def number_of(frame: bytes) -> int:
    match = re.match(rb"id: 7f3a-(\d+)\nevent: scoreboard\n", frame)
    assert match is not None, frame[:100]
    return int(match[1])


def clients(node: Node) -> list[Subscriber]:
    return list(node.broadcaster._subscribers)


async def publish_until(node: Node, reader: Stream, number: int, *, enough: Callable[[], bool]) -> int:
    """Publish one version after the other, each when `reader` has the one before; returns the last."""
    async with asyncio.timeout(10):
        while not enough():
            number += 1
            payload = node.publish(number, BULKY)
            assert await reader.event() == payload
    return number


# --- telling ------------------------------------------------------------------------------------------------


async def test_everyone_is_told_the_same_bytes(way: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted() for _ in range(50)]
        for number in (42, 43, 50):
            payload = node.publish(number)
            for stream in streams:
                assert await stream.frame() == payload
        assert node.value("scoreboardd_sse_events_sent_total") == 150
        assert node.value("scoreboardd_sse_clients") == 50
        assert node.dropped("coalesced") == 0


async def test_of_what_is_told_at_once_only_the_newest_is_sent(way: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted() for _ in range(3)]
        newest = [node.publish(number) for number in (42, 43, 44)][-1]
        for stream in streams:
            assert await stream.frame() == newest
        assert node.dropped("coalesced") == 2 * 3
        assert node.value("scoreboardd_sse_events_sent_total") == 3


async def test_a_fan_out_over_more_than_a_slice_reaches_everyone_in_order(way: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted() for _ in range(SEND_BATCH + 20)]
        last_sent = []
        for number in range(42, 62):
            node.publish(number)
            await asyncio.sleep(0)
            last_sent.append(number)
        for stream in streams:
            numbers = [0]
            while numbers[-1] != last_sent[-1]:
                numbers.append(number_of(await stream.frame()))
            assert numbers == sorted(set(numbers))


async def test_clients_that_leave_while_a_fan_out_goes_on_do_not_end_it(way: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted() for _ in range(SEND_BATCH + 20)]
        for number, turns in enumerate(range(8), start=42):
            # One of the second slice, whose end the loop hears of some turns before that slice is written to.
            streams.pop().reset()
            for _ in range(turns):
                await asyncio.sleep(0)
            payload = node.publish(number)
            for stream in streams:
                assert await stream.frame() == payload
        await becomes(lambda: len(node.broadcaster) == len(streams))


# --- heartbeats ---------------------------------------------------------------------------------------------


async def test_a_client_that_nothing_is_sent_to_gets_heartbeats(way: str) -> None:
    async with serving(way=way, heartbeat=0.1) as node:
        start = time.monotonic()
        stream = await node.greeted()
        for beat in range(1, 4):
            assert await stream.frame() == PING == b": ping\n\n"
            assert time.monotonic() - start >= 0.1 * beat
        before = time.monotonic()
        payload = node.publish(42)
        assert await stream.event() == payload
        assert await stream.frame() == PING
        assert time.monotonic() - before >= 0.1
        assert node.value("scoreboardd_sse_events_sent_total") == 1


async def test_a_client_that_something_is_sent_to_gets_none(way: str) -> None:
    async with serving(way=way, heartbeat=0.5) as node:
        stream = await node.greeted()
        number, end = 41, time.monotonic() + 1.2
        while (sent := time.monotonic()) < end:
            number += 1
            payload = node.publish(number)
            while (frame := await stream.frame()) != payload:
                # On a machine that is too busy to send them closely, one may be due.
                assert frame == PING and time.monotonic() - sent >= 0.4
            await asyncio.sleep(0.02)


async def test_a_heartbeat_does_not_wait_for_those_of_clients_that_came_earlier(way: str) -> None:
    async with serving(way=way, heartbeat=0.5) as node:
        first = await node.greeted()
        node.serve(42)
        second = await node.greeted()
        await asyncio.sleep(0.3)
        # `second` has this version already, so it is `first` alone that something is sent to.
        payload = node.tell(42)
        assert await first.frame() == payload
        beats = {asyncio.create_task(first.frame()): "first", asyncio.create_task(second.frame()): "second"}
        done, later = await asyncio.wait(beats, return_when=asyncio.FIRST_COMPLETED)
        assert [(beats[task], task.result()) for task in done] == [("second", PING)]
        assert [await task for task in later] == [PING]


# --- clients that lag ---------------------------------------------------------------------------------------


async def test_for_a_client_that_lags_events_coalesce_to_the_newest(way: str) -> None:
    async with serving(way=way, queue=4) as node:
        reader = await node.greeted()
        laggard = await node.greeted(receive_buffer=SMALL)
        last = await publish_until(node, reader, 41, enough=lambda: node.dropped("coalesced") >= 12)
        numbers = [41]
        while numbers[-1] != last:
            numbers.append(number_of(await laggard.frame()))
        assert numbers == sorted(set(numbers)), "in order, none twice"
        last_sent, got = last - 41, len(numbers) - 1
        assert node.dropped("coalesced") == last_sent - got
        assert node.value("scoreboardd_sse_events_sent_total") == last_sent + got
        # It has caught up, and is told of what comes next like anyone else.
        await becomes(lambda: node.broadcaster.lagging == 0)
        payload = node.publish(last + 1)
        assert await laggard.frame() == await reader.frame() == payload


async def test_a_client_that_lags_holds_no_more_than_its_queue(way: str) -> None:
    async with serving(way=way, queue=4) as node:
        reader = await node.greeted()
        await node.greeted(receive_buffer=SMALL)
        last = await publish_until(node, reader, 41, enough=lambda: node.dropped("coalesced") > 0)
        lagging = next(client for client in clients(node) if client.queue)
        held = lagging.transport.get_write_buffer_size()
        for _ in range(40):
            last += 1
            payload = node.publish(last, BULKY)
            assert await reader.frame() == payload
            assert lagging.queue is not None
            assert 1 <= len(lagging.queue) <= 4
            assert lagging.queue[-1].version == version(last)
            assert lagging.transport.get_write_buffer_size() == held


async def test_a_client_that_lags_gets_no_heartbeats_on_top(way: str) -> None:
    async with serving(way=way, queue=4, heartbeat=0.1) as node:
        reader = await node.greeted()
        laggard = await node.greeted(receive_buffer=SMALL)
        await publish_until(node, reader, 41, enough=lambda: node.dropped("coalesced") > 0)
        lagging = next(client for client in clients(node) if client.queue)
        held = lagging.transport.get_write_buffer_size()
        for _ in range(3):
            assert await reader.frame() == PING
        assert lagging.transport.get_write_buffer_size() == held
        # As soon as it reads again and nothing else is sent, it gets them like anyone else.
        while await laggard.frame() != PING:
            pass


async def test_a_client_that_never_reads_is_cut_off_and_nobody_else_notices(way: str) -> None:
    async with serving(way=way, queue=4, stall_timeout=0.5) as node:
        readers = [await node.greeted() for _ in range(5)]
        stalled = await node.stream(receive_buffer=SMALL)
        number, start = 41, time.monotonic()
        async with asyncio.timeout(10):
            while len(node.broadcaster) > len(readers):
                number += 1
                payload = node.publish(number, BULKY)
                for reader in readers:
                    assert await reader.frame() == payload
        assert time.monotonic() - start >= 0.5
        assert number > 41 + 4, "nobody waited for it"
        assert node.dropped("stalled") == 1
        assert node.value("scoreboardd_sse_clients") == len(readers)
        assert node.broadcaster.lagging == 0
        await stalled.rest()
        # And once only, and none of the others.
        for reader in readers:
            reader.close()
        await becomes(lambda: len(node.broadcaster) == 0)
        assert node.dropped("stalled") == 1


async def test_a_client_that_reads_slowly_is_not_cut_off(way: str) -> None:
    async with serving(way=way, queue=64, stall_timeout=0.4) as node:
        reader = await node.greeted()
        slow = await node.greeted(receive_buffer=SMALL, protocol="HTTP/1.0")
        last = await publish_until(node, reader, 41, enough=lambda: any(len(c.queue or ()) > 30 for c in clients(node)))
        number, start = 41, time.monotonic()
        while number < last:
            number += 1
            assert number_of(await slow.frame()) == number
            await asyncio.sleep(0.04)
        assert time.monotonic() - start > 3 * 0.4
        assert node.dropped("stalled") == node.dropped("coalesced") == 0
        payload = node.publish(last + 1)
        assert await slow.frame() == payload


# --- leaving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["close", "reset"])
async def test_who_leaves_is_forgotten(way: str, manner: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted(local=f"127.0.0.{1 + number % 5}") for number in range(20)]
        assert len(node.broadcaster._per_address) == 5
        for stream in streams[:-1]:
            getattr(stream, manner)()
        await becomes(lambda: len(node.broadcaster) == 1)
        assert node.value("scoreboardd_sse_clients") == 1
        assert node.broadcaster._per_address == {"127.0.0.5": 1}
        payload = node.publish(42)
        assert await streams[-1].frame() == payload
        getattr(streams[-1], manner)()
        await becomes(lambda: len(node.broadcaster) == 0)
        assert node.value("scoreboardd_sse_clients") == 0
        assert node.broadcaster._per_address == {}
        assert node.broadcaster.lagging == 0
        assert node.dropped("stalled") == 0
        node.publish(43)  # and nothing that is still to be told holds on to them
        await becomes(lambda: not kept(node))


def kept(node: Node) -> list[Subscriber]:
    """Clients of `node` that something holds on to."""
    gc.collect()
    return [
        thing for thing in gc.get_objects() if type(thing) is Subscriber and thing.topic is node.broadcaster.notices
    ]


async def test_who_leaves_while_it_lags_is_forgotten(way: str) -> None:
    async with serving(way=way, queue=4) as node:
        reader = await node.greeted()
        laggard = await node.greeted(receive_buffer=SMALL)
        await publish_until(node, reader, 41, enough=lambda: node.dropped("coalesced") > 0)
        laggard.reset()
        await becomes(lambda: len(node.broadcaster) == 1 and node.broadcaster.lagging == 0)
        assert node.dropped("stalled") == 0


async def test_who_leaves_before_it_is_greeted_is_forgotten(way: str) -> None:
    async with serving(way=way) as node:
        stays = await node.greeted()
        for _ in range(20):
            connection = await node.connect()
            await connection.request(PATH)
            connection.reset()
        payload = node.publish(42)
        assert await stays.frame() == payload
        await becomes(lambda: len(node.broadcaster) == 1)
        assert node.broadcaster._per_address == {"127.0.0.1": 1}


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_what_a_client_says_after_its_request_is_nobody_else_s_concern(way: str, size: int) -> None:
    async with serving(way=way, heartbeat=0.1) as node:
        quiet, loud = await node.greeted(), await node.greeted()
        talking = asyncio.create_task(loud.send(b"x" * size))
        payload = node.publish(42)
        assert await quiet.event() == payload
        talking.cancel()
        await asyncio.wait([talking])
        loud.reset()
        await becomes(lambda: len(node.broadcaster) == 1)
        payload = node.publish(43)
        assert await quiet.event() == payload


# --- draining -----------------------------------------------------------------------------------------------


async def test_a_drain_ends_all_streams_within_its_time_and_spread_over_it(way: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted() for _ in range(50)]
        start = time.monotonic()

        async def lasted(stream: Stream) -> float:
            assert await stream.end() == []
            return time.monotonic() - start

        ends = asyncio.gather(*map(lasted, streams))
        await node.broadcaster.drain(0.6)
        lengths = sorted(await ends)
        assert len(node.broadcaster) == 0
        # Even shares of the time end even shares of them.
        for quarter in (1, 2, 3):
            ended = sum(length < 0.6 * quarter / 4 for length in lengths)
            assert abs(ended - 50 * quarter / 4) <= 10
        assert node.dropped("stalled") == 0


async def test_during_a_drain_nobody_is_admitted_and_those_who_stay_are_told(way: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted() for _ in range(10)]
        draining = asyncio.create_task(node.broadcaster.drain(0.4))
        assert await streams[0].end() == []
        connection = await node.connect()
        await connection.request(PATH)
        answer = await connection.answer()
        assert answer.status == 503
        assert "retry-after" in answer.headers
        payload = node.publish(42)
        assert await streams[-1].frame() == payload
        assert await streams[-1].end() == []
        await draining


async def test_a_drain_with_nobody_there_takes_no_time(way: str) -> None:
    async with serving(way=way) as node:
        async with asyncio.timeout(1):
            await node.broadcaster.drain(60)


async def test_a_drain_does_not_wait_for_a_client_that_does_not_read(way: str) -> None:
    async with serving(way=way, queue=4) as node:
        reader = await node.greeted()
        await node.greeted(receive_buffer=SMALL)
        await publish_until(node, reader, 41, enough=lambda: node.dropped("coalesced") > 0)
        start = time.monotonic()
        await node.broadcaster.drain(0.3)
        assert time.monotonic() - start >= 0.2
        assert await reader.end() == []
        await becomes(lambda: len(node.broadcaster) == 0)
