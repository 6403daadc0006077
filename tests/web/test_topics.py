"""Streams of deltas: what is sent to whom, beside the notices, over every way of serving them."""

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.model import Version
from scoreboardd.stream.endpoint import PATH
from scoreboardd.stream.topic import PING, SEND_BATCH
from tests.snapshots import snapshot
from tests.web.client import Stream
from tests.web.follower import (
    DELTAS,
    EVERYTHING,
    Follower,
    History,
    following,
    greeting,
    publish,
    reset_event,
    solves,
)
from tests.web.server import Node, becomes, serving, version

HISTORY = solves(range(1, 101))
BULKY = solves(range(41, 141), name="x" * 20_000)
"So that it takes tens of steps until the buffers of a client that does not read are full."
SMALL = 4096
"Bytes; the least that the kernel lets such a client have."


@asynccontextmanager
async def node_at(
    number: int, history: History = HISTORY, reach: int = EVERYTHING, **options: Any
) -> AsyncIterator[Node]:
    """A node that serves this version of the history."""
    async with serving(first=None, **options) as node:
        node.serve(history.snapshot(version(number), reach))
        yield node


def followed(node: Node) -> list[int | None]:
    """Whose deltas somebody follows."""
    return [division_id for division_id, _ in node.broadcaster._deltas]


def number_of(event: bytes) -> int:
    match = re.match(rb"id: 7f3a-(\d+)\nevent: delta\n", event)
    assert match is not None, event[:100]
    return int(match[1])


async def events(stream: Stream, count: int) -> bytes:
    return b"".join([await stream.event() for _ in range(count)])


# --- what is sent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
async def test_a_client_is_greeted_and_then_told_what_changed(way: str, protocol: str) -> None:
    async with node_at(41, way=way) as node:
        stream = await node.stream(query=DELTAS, protocol=protocol)
        assert stream.opening.headers["content-type"] == "text/event-stream"
        assert stream.opening.headers["cache-control"] == "no-cache"
        assert stream.opening.headers["x-accel-buffering"] == "no"
        assert re.fullmatch(rb"retry: [1-5]\d{3}\nid: 7f3a-41\nevent: ready\ndata: \{\}\n\n", await stream.frame())
        publish(node, HISTORY, 42)
        assert await stream.frame() == (
            b'id: 7f3a-42\nevent: delta\ndata: {"from":41,"version":42,"challenges":{"points":[[1,958]]},'
            b'"teams":{"put":[[42,"t"]],"solves":[[42,1,"2026-02-27T18:00:00Z",0]]}}\n\n'
        )


async def test_who_does_not_ask_for_deltas_gets_notices_and_the_other_way_round(way: str) -> None:
    async with node_at(41, way=way) as node:
        deltas = [await following(node) for _ in range(3)]
        notices = [await node.greeted(query=query) for query in ("", "?deltas=0", "?division_id=3", "?x=y")]
        for number in (42, 43):
            node.serve(HISTORY.snapshot(version(number)))
            notice = node.tell(number)
            for stream in notices:
                assert await stream.frame() == notice
            for stream in deltas:
                assert await stream.frame() == HISTORY.events(number - 1, number)
        assert node.value("scoreboardd_sse_events_sent_total") == 14
        assert node.value("scoreboardd_sse_clients") == 7
        assert node.dropped("coalesced") == 0


async def test_deltas_are_one_line_of_json_whatever_the_names(way: str) -> None:
    nasty = solves([41, 42], name="a\nid: 9-9\r\n\ndata: \u2028\x00")
    async with node_at(41, nasty, way=way) as node:
        stream = await following(node)
        publish(node, nasty, 42)
        event = await stream.frame()
        data = event.removeprefix(b"id: 7f3a-42\nevent: delta\ndata: ")
        assert event.count(b"\n") == 4 and b"\r" not in event
        step = VersionedDelta.parse(data)
        assert delta.apply(step.delta, nasty.views[version(41)]) == nasty.views[version(42)]
        assert orjson.loads(data)["teams"]["put"] == [[42, "a\nid: 9-9\r\n\ndata: \u2028\x00"]]


async def test_versions_that_a_node_skipped_are_told_step_by_step(way: str) -> None:
    async with node_at(41, way=way) as node:
        streams = [await following(node) for _ in range(3)]
        publish(node, HISTORY, 42)
        for stream in streams:
            await stream.frame()
        publish(node, HISTORY, 45)
        for stream in streams:
            assert await events(stream, 3) == HISTORY.events(42, 45)
        assert node.value("scoreboardd_sse_events_sent_total") == 3 + 9
        assert node.dropped("coalesced") == 0


async def test_of_what_is_told_at_once_every_step_is_sent(way: str) -> None:
    async with node_at(41, way=way) as node:
        stream = await following(node)
        for number in (42, 43, 44):
            publish(node, HISTORY, number)
        assert await events(stream, 3) == HISTORY.events(41, 44)
        assert node.dropped("coalesced") == 0


async def test_more_steps_than_may_wait_are_told_as_one(way: str) -> None:
    async with node_at(41, way=way, queue=4) as node:
        stream = await following(node)
        client = Follower(version(41), HISTORY.views[version(41)])
        publish(node, HISTORY, 50)
        client.hear(await stream.frame())
        assert (client.held, client.view) == (version(50), HISTORY.views[version(50)])
        publish(node, HISTORY, 51)
        assert await stream.frame() == HISTORY.events(50, 51)


@pytest.mark.parametrize("reach", [0, 3])
async def test_if_the_ring_does_not_reach_back_clients_are_told_to_start_over(way: str, reach: int) -> None:
    async with node_at(41, way=way) as node:
        streams = [await following(node) for _ in range(3)]
        publish(node, HISTORY, 45, reach=reach)
        for stream in streams:
            assert await stream.frame() == reset_event(version(45))
        publish(node, HISTORY, 46)
        for stream in streams:
            assert await stream.frame() == HISTORY.events(45, 46)


async def test_in_a_new_epoch_everyone_starts_over_whatever_the_numbers(way: str) -> None:
    again = solves(range(1, 101), epoch="b0b")
    for number in (1, 41, 42):
        async with node_at(41, way=way) as node:
            stream = await following(node)
            node.serve(again.snapshot(version(number, "b0b")))
            node.tell(number, epoch="b0b")
            assert await stream.frame() == reset_event(version(number, "b0b"))
            node.serve(again.snapshot(version(number + 1, "b0b")))
            node.tell(number + 1, epoch="b0b")
            assert await stream.frame() == again.events(number, number + 1, "b0b")


async def test_a_fan_out_over_more_than_a_slice_leaves_out_nobody_and_nothing(way: str) -> None:
    async with node_at(41, way=way) as node:
        streams = [await following(node) for _ in range(SEND_BATCH + 20)]
        publish(node, HISTORY, 42)
        for stream in streams:
            assert await stream.frame() == HISTORY.events(41, 42)
        for number in range(43, 53):
            publish(node, HISTORY, number)
            await asyncio.sleep(0)
        for stream in streams:
            assert await events(stream, 10) == HISTORY.events(42, 52)


async def test_the_spread_grows_with_those_who_follow(way: str) -> None:
    large = {"leaderboard:teams": random.Random(1).randbytes(2_000_000)}
    async with node_at(41, way=way) as node:
        streams = [await following(node) for _ in range(10)]
        await node.greeted()
        served = snapshot(version(50), large)
        boards = ("leaderboard:teams", "leaderboard:users")
        size = sum(len(frames) for name in boards for frames in served.documents[name])
        node.serve(served)
        node.tell(50)
        spread = round(10 * size / 100_000_000, 1)
        assert spread > 0
        for stream in streams:
            assert await stream.frame() == reset_event(version(50), spread)


# --- coming back --------------------------------------------------------------------------------------------


async def comes_back(node: Node, where: str, last: str, query: str = DELTAS) -> Stream:
    if where == "header":
        stream = await node.stream({"Last-Event-ID": last}, query=query)
    else:
        name = "lastEventId" if where == "polyfill" else "last_event_id"
        stream = await node.stream(query=f"{query}&{name}={last}")
    assert await stream.greeting() == greeting(node, Version.parse(last))
    return stream


@pytest.mark.parametrize("where", ["header", "query", "polyfill"])
@pytest.mark.parametrize("last", [41, 40, 30, 26])
async def test_who_comes_back_gets_exactly_what_it_missed(way: str, where: str, last: int) -> None:
    async with node_at(42, way=way) as node:
        stream = await comes_back(node, where, f"7f3a-{last}")
        assert await events(stream, 42 - last) == HISTORY.events(last, 42)
        publish(node, HISTORY, 43)
        assert await stream.frame() == HISTORY.events(42, 43)


@pytest.mark.parametrize("where", ["header", "query"])
async def test_who_missed_much_gets_it_as_one(way: str, where: str) -> None:
    async with node_at(100, way=way) as node:
        for last in (1, 50, 83):
            stream = await comes_back(node, where, f"7f3a-{last}")
            client = Follower(version(last), HISTORY.views[version(last)])
            client.hear(await stream.frame())
            assert (client.held, client.view) == (version(100), HISTORY.views[version(100)])


@pytest.mark.parametrize("where", ["header", "query"])
@pytest.mark.parametrize("last", ["7f3a-31", "7f3a-0", "0-42", "b0b-41", "b0b-43"])
async def test_who_cannot_be_brought_here_starts_over(way: str, where: str, last: str) -> None:
    async with node_at(42, way=way, reach=10) as node:
        stream = await comes_back(node, where, last)
        assert await stream.frame() == reset_event(version(42))
        publish(node, HISTORY, 43)
        assert await stream.frame() == HISTORY.events(42, 43)


@pytest.mark.parametrize("where", ["header", "query"])
@pytest.mark.parametrize("last", ["7f3a-42", "", "42", "7F3A-41", "undefined"])
async def test_who_has_missed_nothing_or_says_nothing_gets_nothing(way: str, where: str, last: str) -> None:
    async with node_at(42, way=way) as node:
        stream = await comes_back(node, where, last)
        publish(node, HISTORY, 43)
        assert await stream.frame() == HISTORY.events(42, 43)


@pytest.mark.parametrize("where", ["header", "query", "polyfill"])
@pytest.mark.parametrize("last", ["7f3a-43", "7f3a-44", "7f3a-1999999999999", "b0b-43", "b0b-1"])
async def test_who_names_a_version_that_this_node_does_not_know_starts_over(way: str, where: str, last: str) -> None:
    async with node_at(42, way=way) as node:
        stream = await comes_back(node, where, last)
        assert await stream.frame() == reset_event(version(42))
        publish(node, HISTORY, 43)
        assert await stream.frame() == HISTORY.events(42, 43)


async def test_between_the_replay_and_what_comes_next_nothing_is_lost_or_told_twice(way: str) -> None:
    async with node_at(41, way=way) as node:
        early = await following(node, version(39))
        # What a node does between its commit and the fan-out: it serves 42 already, and clients join.
        node.serve(HISTORY.snapshot(version(42)))
        late, fresh = await following(node, version(39)), await following(node)
        node.tell(42)
        node.tell(42)
        publish(node, HISTORY, 43)
        assert await events(early, 4) == HISTORY.events(39, 43)
        assert await events(late, 4) == HISTORY.events(39, 43)
        assert await fresh.frame() == HISTORY.events(42, 43)


async def test_clients_that_come_while_versions_do_miss_none(way: str) -> None:
    async with node_at(41, way=way) as node:
        coming = []
        for number in range(42, 92):
            coming.append(asyncio.create_task(node.stream({"Last-Event-ID": f"7f3a-{number - 1}"}, query=DELTAS)))
            node.serve(HISTORY.snapshot(version(number)))
            await asyncio.sleep(0)
            node.tell(number)
            await asyncio.sleep(0)
        for number, stream in enumerate(await asyncio.gather(*coming), start=42):
            client = Follower(version(number - 1), HISTORY.views[version(number - 1)])
            assert b"event: ready\n" in await stream.frame()
            held = number - 1
            while client.held != version(91):
                client.hear(await stream.frame())
                assert client.held.number > held, "told twice"
                held = client.held.number
            assert client.view == HISTORY.views[version(91)]


async def test_before_the_first_document_there_is_no_version_to_tell_of(way: str) -> None:
    async with serving(way=way, first=None) as node:
        streams = []
        for last in (None, "7f3a-40", "b0b-40", "7f3a-43"):
            stream = await node.stream({"Last-Event-ID": last} if last else {}, query=DELTAS)
            assert await stream.greeting() == b"event: ready\ndata: {}\n\n"
            streams.append(stream)
        new, behind, foreign, ahead = streams
        publish(node, HISTORY, 42)
        assert await new.frame() == await foreign.frame() == reset_event(version(42))
        assert await events(behind, 2) == HISTORY.events(40, 42)
        publish(node, HISTORY, 44)
        assert await events(new, 2) == HISTORY.events(42, 44)
        assert await ahead.frame() == HISTORY.events(43, 44)


# --- what may be asked for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?deltas=2", ["deltas"]),
        ("?deltas=", ["deltas"]),
        ("?deltas=true", ["deltas"]),
        ("?deltas=1&deltas=1", ["deltas"]),
        ("?deltas=1&division_id=0", ["division_id"]),
        ("?deltas=1&division_id=-3", ["division_id"]),
        ("?deltas=1&division_id=x", ["division_id"]),
        ("?deltas=1&division_id=", ["division_id"]),
        ("?deltas=1&division_id=3&division_id=3", ["division_id"]),
        ("?division_id=x", ["division_id"]),
        ("?division_id=x&deltas=x", ["deltas", "division_id"]),
    ],
)
@pytest.mark.parametrize("divisions", [(), (3,)])
async def test_what_cannot_be_understood_is_refused(
    way: str, query: str, fields: list[str], divisions: tuple[int, ...]
) -> None:
    async with serving(way=way, first=None) as node:
        node.serve(snapshot(version(41), divisions=divisions))
        answer = await node.ask(PATH + query)
        assert answer.status == 400
        details = [{"field": field, "reason": "invalid"} for field in fields]
        assert answer.json == {"error": "invalid input", "details": details}
        assert (await node.ask(PATH + query, method="HEAD")).status == 400
        assert len(node.broadcaster) == 0


@pytest.mark.parametrize("query", ["?deltas=1&division_id=4", "?division_id=4", "?deltas=0&division_id=4"])
async def test_a_division_that_does_not_exist_is_not_found(way: str, query: str) -> None:
    async with serving(way=way, first=None) as node:
        node.serve(snapshot(version(41), divisions=(3, 5)))
        answer = await node.ask(PATH + query)
        assert answer.status == 404
        assert answer.json == {"error": "no such division"}
        assert node.broadcaster._deltas == {}


@pytest.mark.parametrize("query", ["?deltas=1&division_id=4", "?division_id=4"])
async def test_before_the_first_document_nobody_knows_which_divisions_there_are(way: str, query: str) -> None:
    async with serving(way=way, first=None) as node:
        answer = await node.ask(PATH + query)
        assert answer.status == 503
        assert answer.json == {"error": "no scoreboard yet"}
        assert answer.headers["retry-after"] == "2"


async def test_a_platform_without_divisions_is_one(way: str) -> None:
    async with node_at(41, way=way) as node:
        stream = await following(node, query="?deltas=1&division_id=4")
        publish(node, HISTORY, 42)
        assert await stream.frame() == HISTORY.events(41, 42)
        assert followed(node) == [None]


async def test_head_tells_of_a_stream_and_opens_none(way: str) -> None:
    async with node_at(41, way=way) as node:
        connection = await node.connect()
        await connection.request(PATH + DELTAS, method="HEAD")
        answer = await connection.head()
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert await connection.rest() == b""
        assert node.broadcaster._deltas == {}


async def test_a_page_of_a_permitted_origin_may_read_deltas(way: str) -> None:
    async with node_at(41, way=way, cors_origins=["https://ctf.example"]) as node:
        stream = await node.stream({"Origin": "https://ctf.example"}, query=DELTAS)
        assert stream.opening.headers["access-control-allow-origin"] == "https://ctf.example"
        assert stream.opening.headers["vary"] == "Origin"


# --- divisions ----------------------------------------------------------------------------------------------

DIVISIONS = (3, 5)
BOARDS = {None: HISTORY, 3: solves(range(1, 101), name="three"), 5: solves(range(1, 101), name="five")}


def publish_divided(node: Node, number: int, divisions: tuple[int, ...] = DIVISIONS) -> None:
    delta_logs = {division_id: history.delta_log(version(number)) for division_id, history in BOARDS.items()}
    node.serve(
        snapshot(version(number), divisions=divisions, delta_logs={key: delta_logs[key] for key in (None, *divisions)})
    )
    node.tell(number)


def query_for(division_id: int | None) -> str:
    return DELTAS if division_id is None else f"{DELTAS}&division_id={division_id}"


async def test_who_follows_a_division_is_told_of_that_alone(way: str) -> None:
    async with serving(way=way, first=None) as node:
        publish_divided(node, 41)
        streams = {division_id: await following(node, query=query_for(division_id)) for division_id in BOARDS}
        for before, number in ((41, 42), (42, 43), (43, 45)):
            publish_divided(node, number)
            for division_id, stream in streams.items():
                expected = BOARDS[division_id].events(before, number)
                assert await events(stream, expected.count(b"event")) == expected
        for division_id, history in BOARDS.items():
            stream = await following(node, version(40), query=query_for(division_id))
            assert await events(stream, 5) == history.events(40, 45)


async def test_a_feed_goes_with_its_last_client(way: str) -> None:
    async with serving(way=way, first=None) as node:
        publish_divided(node, 41)
        three = [await following(node, query=query_for(3)) for _ in range(2)]
        five = await following(node, query=query_for(5))
        assert followed(node) == [3, 5]
        three.pop().close()
        five.reset()
        await becomes(lambda: len(node.broadcaster) == 1)
        publish_divided(node, 42)
        assert followed(node) == [3]
        assert await three[0].frame() == BOARDS[3].events(41, 42)
        again = await following(node, version(41), query=query_for(5))
        assert await again.frame() == BOARDS[5].events(41, 42)
        publish_divided(node, 43)
        assert await again.frame() == BOARDS[5].events(42, 43)


async def test_who_follows_a_division_that_is_no_more_is_let_go(way: str) -> None:
    async with serving(way=way, first=None) as node:
        publish_divided(node, 41)
        streams = [await following(node, query=query_for(5)) for _ in range(2)]
        other = await following(node, query=query_for(3))
        publish_divided(node, 42, divisions=(3,))
        for stream in streams:
            assert await stream.end() == []
        assert await other.frame() == BOARDS[3].events(41, 42)


async def test_in_a_feed_nobody_waits_for_those_of_another(way: str) -> None:
    async with serving(way=way, first=None) as node:
        publish_divided(node, 41)
        many = [await following(node, query=query_for(3)) for _ in range(3)]
        one, notified = await following(node, query=query_for(5)), await node.greeted()
        last_sent = asyncio.Event()
        topic = node.broadcaster.deltas(3, chunked=True)
        send_to_others = topic._send_to_others

        async def slow(news: Any) -> int:
            await last_sent.wait()
            return await send_to_others(news)

        topic._send_to_others = slow
        for number in (42, 43):
            publish_divided(node, number)
            assert await one.frame() == BOARDS[5].events(number - 1, number)
            assert b"event: scoreboard\n" in await notified.frame()
        last_sent.set()
        for stream in many:
            assert await events(stream, 2) == BOARDS[3].events(41, 43)


# --- clients that lag ---------------------------------------------------------------------------------------


async def publish_until_coalesced(node: Node, reader: Stream, number: int, count: int, reach: int = EVERYTHING) -> int:
    """Publish one version after the other, each when `reader` has the one before; returns the last."""
    async with asyncio.timeout(10):
        while node.dropped("coalesced") < count:
            number += 1
            publish(node, BULKY, number, reach)
            assert await reader.event() == BULKY.events(number - 1, number)
    return number


async def test_for_a_client_that_lags_steps_become_one(way: str) -> None:
    async with node_at(41, BULKY, way=way, queue=4) as node:
        reader = await following(node)
        laggard = await following(node, receive_buffer=SMALL)
        last = await publish_until_coalesced(node, reader, 41, 12)
        client, got = Follower(version(41), BULKY.views[version(41)]), 0
        while client.held != version(last):
            before = client.held.number
            client.hear(await laggard.event())
            assert client.held.number > before and not client.lost
            got += 1
        assert client.view == BULKY.views[version(last)]
        last_sent = last - 41
        assert got < last_sent
        assert node.dropped("coalesced") == last_sent - got
        assert node.value("scoreboardd_sse_events_sent_total") == last_sent + got
        # It has caught up, and is told of what comes next like anyone else.
        await becomes(lambda: node.broadcaster.lagging == 0)
        publish(node, BULKY, last + 1)
        assert await laggard.frame() == await reader.frame() == BULKY.events(last, last + 1)


async def test_if_the_ring_does_not_reach_back_to_what_it_was_given_it_starts_over(way: str) -> None:
    async with node_at(41, BULKY, way=way, queue=4) as node:
        reader = await following(node)
        laggard = await following(node, receive_buffer=SMALL)
        last = await publish_until_coalesced(node, reader, 41, 12, reach=3)
        client = Follower(version(41), BULKY.views[version(41)])
        while not client.lost:
            client.hear(await laggard.event())
        client.fetch(node, BULKY)
        assert client.held == version(last)
        publish(node, BULKY, last + 1)
        while client.held != version(last + 1):
            client.hear(await laggard.event())
        assert client.view == BULKY.views[version(last + 1)]


async def test_a_client_that_lags_holds_no_more_than_its_queue(way: str) -> None:
    async with node_at(41, BULKY, way=way, queue=4) as node:
        reader = await following(node)
        await following(node, receive_buffer=SMALL)
        last = await publish_until_coalesced(node, reader, 41, 1)
        lagging = next(client for client in node.broadcaster._subscribers if client.queue)
        held, given = lagging.transport.get_write_buffer_size(), lagging.version
        for number in range(last + 1, last + 20):
            publish(node, BULKY, number)
            assert await reader.frame() == BULKY.events(number - 1, number)
            assert lagging.queue is not None and 1 <= len(lagging.queue) <= 4
            assert (lagging.version, lagging.last_sent) == (given, version(number))
            assert lagging.transport.get_write_buffer_size() == held


async def test_who_never_reads_is_cut_off_in_whatever_feed(way: str) -> None:
    async with node_at(41, BULKY, way=way, queue=4, stall_timeout=0.3) as node:
        reader = await following(node)
        stalled = await following(node, receive_buffer=SMALL)
        last = await publish_until_coalesced(node, reader, 41, 1)
        await becomes(lambda: len(node.broadcaster) == 1)
        assert node.dropped("stalled") == 1
        assert node.broadcaster.lagging == 0
        await stalled.rest()
        publish(node, BULKY, last + 1)
        assert await reader.event() == BULKY.events(last, last + 1)


async def test_what_comes_while_a_replay_is_being_taken_comes_after_it(way: str) -> None:
    async with node_at(56, BULKY, way=way) as node:
        stream = await node.stream({"Last-Event-ID": "7f3a-41"}, query=DELTAS, receive_buffer=SMALL)
        await becomes(lambda: len(node.broadcaster) == 1)
        (client,) = node.broadcaster._subscribers
        await becomes(lambda: client.blocked)
        publish(node, BULKY, 57)
        await becomes(lambda: client.last_sent == version(57))
        assert b"event: ready\n" in await stream.frame()
        assert await events(stream, 16) == BULKY.events(41, 57)


# --- room, heartbeats, the end --------------------------------------------------------------------------------


async def test_there_is_room_for_so_many_whatever_they_are_told(way: str) -> None:
    async with node_at(41, way=way, max_clients=2) as node:
        await node.greeted()
        stream = await following(node)
        for query in ("", DELTAS):
            answer = await node.ask(PATH + query)
            assert answer.status == 503
            assert answer.json == {"error": "too many streams"}
        assert node.dropped("limit") == 2
        stream.close()
        await becomes(lambda: len(node.broadcaster) == 1)
        await following(node)


async def test_addresses_are_counted_over_all_feeds(way: str) -> None:
    async with node_at(41, way=way, max_clients_per_ip=2) as node:
        await node.greeted()
        await following(node)
        assert (await node.ask(PATH + DELTAS)).status == 503
        await following(node, local="127.0.0.2")
        assert node.broadcaster._per_address == {"127.0.0.1": 2, "127.0.0.2": 1}


async def test_quiet_ones_get_heartbeats(way: str) -> None:
    async with node_at(41, way=way, heartbeat=0.1) as node:
        stream, notified = await following(node), await node.greeted()
        for _ in range(2):
            assert await stream.frame() == await notified.frame() == PING
        publish(node, HISTORY, 42)
        assert await stream.event() == HISTORY.events(41, 42)
        assert await stream.frame() == PING


async def test_a_drain_ends_them_too(way: str) -> None:
    async with node_at(41, way=way) as node:
        streams = [await following(node), await node.greeted(), await following(node)]
        await node.broadcaster.drain(0.2)
        assert [await stream.end() for stream in streams] == [[], [], []]
        assert len(node.broadcaster) == 0
        assert (await node.ask(PATH + DELTAS)).status == 503


async def test_who_leaves_is_forgotten(way: str) -> None:
    async with node_at(41, way=way) as node:
        streams = [await following(node) for _ in range(5)]
        topic = node.broadcaster.deltas(None, chunked=True)
        publish(node, HISTORY, 42)
        for stream in streams:
            assert await stream.frame() == HISTORY.events(41, 42)
            stream.reset()
        await becomes(lambda: len(node.broadcaster) == 0)
        publish(node, HISTORY, 43)
        assert len(topic) == topic.lagging == 0
        assert node.broadcaster._deltas == node.broadcaster._per_address == {}
        assert node.value("scoreboardd_sse_clients") == 0


# --- the door -----------------------------------------------------------------------------------------------


def asked_of_aiohttp(node: Node) -> int:
    """Requests that aiohttp was shown."""
    assert node.runner.server is not None
    return node.runner.server.requests_count


@pytest.mark.parametrize("division_id", [None, 3])
@pytest.mark.parametrize("last", [None, version(40)])
async def test_a_plain_request_for_deltas_is_let_in(division_id: int | None, last: Version | None) -> None:
    async with serving(first=None) as node:
        publish_divided(node, 41)
        stream = await following(node, last, query=query_for(division_id))
        publish_divided(node, 42)
        assert await events(stream, 1 if last is None else 2) == BOARDS[division_id].events(
            last.number if last else 41, 42
        )
        assert asked_of_aiohttp(node) == 0


@pytest.mark.parametrize("name", ["last_event_id", "lastEventId"])
async def test_a_plain_query_is_let_in_in_any_order(name: str) -> None:
    parameters = ("deltas=1", "division_id=3", f"{name}=7f3a-39")
    async with serving(first=None) as node:
        publish_divided(node, 41)
        for order in itertools.permutations(parameters):
            stream = await node.stream(query="?" + "&".join(order))
            assert await stream.greeting() == b"id: 7f3a-39\nevent: ready\ndata: {}\n\n"
            assert await events(stream, 2) == BOARDS[3].events(39, 41)
        assert asked_of_aiohttp(node) == 0


@pytest.mark.parametrize(
    ("query", "status", "division_id"),
    [
        ("?deltas=0", 200, ()),
        ("?", 200, ()),
        ("?deltas=%31", 200, (None,)),
        ("?deltas=1&", 200, (None,)),
        ("?deltas=1&x=y", 200, (None,)),
        ("?deltas=1&division_id=03", 200, (3,)),
        ("?deltas=1&last_event_id=7f3a-x", 200, (None,)),
        ("?deltas=1&last_event_id=7f3a-41&last_event_id=7f3a-41", 200, (None,)),
        ("?deltas=1&division_id=4", 404, ()),
        ("?deltas=1&division_id=1234567890123456789", 404, ()),
        ("?deltas=1&division_id=12345678901234567890", 400, ()),
        ("?deltas=1&division_id=+3", 400, ()),
        ("?deltas=1#x", 200, (None,)),
    ],
)
async def test_one_that_is_odd_is_aiohttp_s(query: str, status: int, division_id: tuple[int | None, ...]) -> None:
    async with serving(first=None) as node:
        publish_divided(node, 41)
        connection = await node.connect()
        await connection.request(PATH + query)
        assert (await connection.head()).status == status
        assert asked_of_aiohttp(node) == 1
        assert tuple(followed(node)) == division_id
