"""The stream as the contract (§6) words it, byte for byte, over both ways of serving it."""

import asyncio
import re

import orjson
import pytest

from scoreboardd.model import ChangeEvent
from scoreboardd.stream.endpoint import PATH
from scoreboardd.stream.topic import PING
from tests.web.client import Connection, Stream
from tests.web.server import Node, becomes, serving

RESUME = re.compile(
    rb'id: 7f3a-42\nevent: scoreboard\ndata: (\{"scope":"all","reason":"resume",'
    rb'"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","version":42\})\n\n'
)


READY = re.compile(rb"retry: (\d+)\n(?:id: 7f3a-\d+\n)?event: ready\ndata: \{\}\n\n")


async def retry_of(stream: Stream) -> int:
    match = READY.fullmatch(await stream.frame())
    assert match is not None
    return int(match[1])


# --- what is sent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
async def test_a_client_is_greeted_and_then_told(way: str, protocol: str) -> None:
    async with serving(way=way) as node:
        stream = await node.stream(protocol=protocol)
        match = re.fullmatch(rb"retry: (\d+)\nid: 7f3a-41\nevent: ready\ndata: \{\}\n\n", await stream.frame())
        assert match is not None and 1000 <= int(match[1]) <= 5000
        node.publish(42)
        assert await stream.frame() == (
            b"id: 7f3a-42\nevent: scoreboard\n"
            b'data: {"scope":"all","reason":"submission_correct","ts":"2026-02-27T18:00:00Z","version":42}\n\n'
        )


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
async def test_the_head_of_the_answer(way: str, protocol: str) -> None:
    async with serving(way=way) as node:
        opening = (await node.stream(protocol=protocol)).opening
        assert opening.headers["content-type"] == "text/event-stream"
        assert opening.headers["cache-control"] == "no-cache"
        assert opening.headers["x-accel-buffering"] == "no"
        assert "content-length" not in opening.headers
        assert "content-encoding" not in opening.headers
        assert opening.headers.get("transfer-encoding") == (None if protocol == "HTTP/1.0" else "chunked")


async def test_a_frame_stays_a_frame_whatever_the_event_says(way: str) -> None:
    event = ChangeEvent("a\nid: 9-9\n\ndata: {}", "</script>\r\r\u2028\U0001f600\x00", "\u202e")
    async with serving(way=way) as node:
        stream = await node.greeted()
        node.publish(42, event)
        frame = await stream.frame()
        assert frame.count(b"\n") == 4
        assert b"\r" not in frame
        data = frame.removeprefix(b"id: 7f3a-42\nevent: scoreboard\ndata: ")
        assert orjson.loads(data) == event.as_dict() | {"version": 42}


async def test_browsers_are_told_to_come_back_at_different_times(way: str) -> None:
    async with serving(way=way, retry=(0.5, 0.75)) as node:
        retries = [await retry_of(await node.stream()) for _ in range(20)]
        assert all(500 <= retry <= 750 for retry in retries)
        assert len(set(retries)) > 10


async def test_head_tells_of_a_stream_and_opens_none(way: str) -> None:
    async with serving(way=way, max_clients=1) as node:
        await node.greeted()
        connection = await node.connect()
        await connection.request(PATH, method="HEAD")
        answer = await connection.head()
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers.get("content-length") is None
        assert await connection.rest() == b""
        assert len(node.broadcaster) == 1


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
async def test_a_stream_ends_as_its_http_has_it(way: str, protocol: str) -> None:
    async with serving(way=way) as node:
        streams = [await node.greeted(protocol=protocol) for _ in range(3)]
        for number in (42, 43):  # the second is sent past the transport
            payload = node.publish(number)
            for stream in streams:
                assert await stream.frame() == payload
        await node.broadcaster.drain(0.1)
        # `end` reads the last chunk, and sees that nothing comes after it.
        assert [await stream.end() for stream in streams] == [[], [], []]


async def test_clients_of_both_protocols_are_told_the_same(way: str) -> None:
    async with serving(way=way, heartbeat=0.2) as node:
        streams = [await node.greeted(protocol=f"HTTP/1.{number % 2}") for number in range(10)]
        for number in range(42, 52):
            payload = node.publish(number)
            for stream in streams:
                assert await stream.event() == payload
        for stream in streams:
            assert await stream.frame() == PING


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
async def test_an_empty_line_after_the_request_says_nothing(way: str, protocol: str) -> None:
    async with serving(way=way) as node:
        stream = await node.greeted(protocol=protocol)
        for said in (b"\r\n", b"\n", b"\r\n\r\n"):
            await stream.send(said)
            payload = node.publish(node.cache.version.number + 1)
            assert await stream.event() == payload


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("way", ["door", "hand-over"])
async def test_a_client_that_has_nothing_more_to_say_may_listen(way: str, protocol: str) -> None:
    async with serving(way=way) as node:
        stream = await node.greeted(protocol=protocol)
        stream.finish()
        for number in (42, 43, 44):
            payload = node.publish(number)
            assert await stream.event() == payload
        stream.close()
        number = 44
        async with asyncio.timeout(10):
            while len(node.broadcaster):
                number += 1
                node.publish(number)
                await asyncio.sleep(0.01)


# --- what was missed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["header", "query", "polyfill"])
@pytest.mark.parametrize(
    "last",
    ["7f3a-41", "7f3a-1", "7f3a-43", "0-42", "b0b-42", "b0b-7", "0-0"],
)
async def test_who_comes_back_from_another_version_is_told_of_this_one(way: str, where: str, last: str) -> None:
    async with serving(way=way, first=42) as node:
        stream = await comes_back(node, where, last)
        match = RESUME.fullmatch(await stream.frame())
        assert match is not None
        assert orjson.loads(match[1])["version"] == 42
        assert await stream_goes_on(node, stream)


@pytest.mark.parametrize("where", ["header", "query", "polyfill"])
@pytest.mark.parametrize(
    "last",
    [
        "7f3a-42",
        "",
        "42",
        "-",
        "7f3a-",
        "-42",
        "7f3a-41;",
        "7f3a--41",
        "7F3A-41",
        "7f3a-4x",
        "7f3a-41, 7f3a-40",
        "undefined",
        "7f3a-" + "9" * 4000,
        "a" * 8000,
        "7f3a-\u0664\u0661",
        "\U0001f600-1",
        b"\xff\xfe-41",
    ],
    ids=lambda last: repr(last[:20]),
)
async def test_who_has_this_version_or_none_that_can_be_read_has_missed_nothing(
    way: str, where: str, last: str | bytes
) -> None:
    async with serving(way=way, first=42) as node:
        stream = await comes_back(node, where, last)
        assert await stream_goes_on(node, stream)


async def comes_back(node: Node, where: str, last: str | bytes) -> Stream:
    raw = last if isinstance(last, bytes) else last.encode()
    if where == "header":
        stream = await node.stream({"Last-Event-ID": raw})
    else:
        name = "lastEventId" if where == "polyfill" else "last_event_id"
        stream = await node.stream(query=f"?{name}=" + "".join(f"%{byte:02X}" for byte in raw[:2500]))
    assert await stream.greeting() == b"id: 7f3a-42\nevent: ready\ndata: {}\n\n"
    return stream


@pytest.mark.parametrize(
    ("query", "missed"),
    [
        ("last_event_id=7f3a-41&last_event_id=7f3a-41", False),
        ("lastEventId=7f3a-41&lastEventId=7f3a-40", False),
        ("lasteventid=7f3a-41", False),
        ("last_event_id=x&lastEventId=7f3a-41", True),
        ("lastEventId=7f3a-41&last_event_id=7f3a-40", True),
        ("x=y&lastEventId=7f3a-41", True),
    ],
)
async def test_of_several_parameters_one_that_is_there_once_and_can_be_read_counts(
    way: str, query: str, missed: bool
) -> None:
    async with serving(way=way, first=42) as node:
        stream = await node.stream(query=f"?{query}")
        assert await stream.greeting() == b"id: 7f3a-42\nevent: ready\ndata: {}\n\n"
        if missed:
            assert RESUME.fullmatch(await stream.frame())
        assert await stream_goes_on(node, stream)


async def test_the_header_counts_before_the_query(way: str) -> None:
    async with serving(way=way, first=42) as node:
        stream = await node.stream({"Last-Event-ID": "7f3a-42"}, query="?lastEventId=7f3a-41")
        await stream.greeting()
        assert await stream_goes_on(node, stream)


async def stream_goes_on(node: Node, stream: Stream) -> bool:
    """Whether the next that it is told is the next version."""
    payload = node.publish(43)
    return await stream.frame() == payload


@pytest.mark.parametrize("last", [None, "7f3a-41"])
async def test_before_the_first_document_there_is_no_version_to_tell_of(way: str, last: str | None) -> None:
    async with serving(way=way, first=None) as node:
        stream = await node.stream({"Last-Event-ID": last} if last else {})
        assert await stream.greeting() == b"event: ready\ndata: {}\n\n"
        payload = node.publish(42)
        assert await stream.frame() == payload


# --- the version that greeted it ----------------------------------------------------------------------------


async def test_a_version_is_told_once(way: str) -> None:
    async with serving(way=way) as node:
        early = await node.greeted()
        # What a node does between its commit and the fan-out: it serves 42 already, and a client joins.
        node.serve(42)
        late = await node.stream()
        assert await late.greeting() == b"id: 7f3a-42\nevent: ready\ndata: {}\n\n"
        first = node.tell(42)
        assert await early.frame() == first
        again = node.tell(42)
        second = node.publish(43)
        assert again == first
        for stream in (early, late):
            assert await stream.frame() == second
        assert node.value("scoreboardd_sse_events_sent_total") == 3


async def test_a_version_that_is_behind_is_not_told(way: str) -> None:
    async with serving(way=way) as node:
        witness = await node.greeted()
        node.serve(43)
        stream = await node.greeted()
        seen_by_witness = node.tell(42)
        assert await witness.frame() == seen_by_witness
        payload = node.publish(44)
        assert await stream.frame() == payload


async def test_another_epoch_is_news_whatever_its_number(way: str) -> None:
    async with serving(way=way) as node:
        stream = await node.greeted()
        node.serve(1, "b0b")
        greeted = await node.stream()
        assert await greeted.greeting() == b"id: b0b-1\nevent: ready\ndata: {}\n\n"
        payload = node.tell(1, epoch="b0b")
        assert await stream.frame() == payload


# --- divisions ----------------------------------------------------------------------------------------------


def of_divisions(*ids: int) -> ChangeEvent:
    return ChangeEvent("division", "submission_correct", "2026-02-27T18:00:00Z", ids)


def divisions_in(frame: bytes) -> tuple[str, list[int] | None]:
    data = orjson.loads(frame.partition(b"data: ")[2])
    return data["scope"], data.get("division_ids")


async def test_clients_are_told_which_divisions_it_is_about(way: str) -> None:
    async with serving(way=way) as node:
        stream = await node.greeted()
        for number, event in enumerate((of_divisions(2), of_divisions(1, 3), of_divisions(2)), start=42):
            node.publish(number, event)
            assert divisions_in(await stream.frame()) == ("division", list(event.division_ids or ()))


async def test_a_notice_that_stands_for_others_is_about_all(way: str) -> None:
    async with serving(way=way) as node:
        stream = await node.greeted()
        node.publish(42, of_divisions(1))
        node.publish(43, of_divisions(2))  # at once: the client never hears of 42
        assert divisions_in(await stream.frame()) == ("all", None)
        node.publish(44, of_divisions(2))
        assert divisions_in(await stream.frame()) == ("division", [2])


async def test_who_comes_between_a_version_and_its_notice_is_not_misled(way: str) -> None:
    async with serving(way=way) as node:
        early = await node.greeted()
        node.serve(42)
        late = await node.greeted()
        node.tell(42, of_divisions(1))
        assert divisions_in(await early.frame()) == ("division", [1])
        node.publish(43, of_divisions(2))
        for stream in (early, late):
            assert divisions_in(await stream.frame()) == ("division", [2])


async def test_who_was_told_of_no_version_is_told_of_all(way: str) -> None:
    async with serving(way=way, first=None) as node:
        stream = await node.greeted()
        node.publish(42, of_divisions(1))
        assert divisions_in(await stream.frame()) == ("all", None)


async def test_of_another_epoch_everyone_is_told_that_it_is_about_all(way: str) -> None:
    async with serving(way=way) as node:
        stream = await node.greeted()
        node.serve(42, "b0b")
        node.tell(42, of_divisions(1), "b0b")
        assert divisions_in(await stream.frame()) == ("all", None)


# --- room ---------------------------------------------------------------------------------------------------


async def assert_refused(connection: Connection) -> None:
    await connection.request(PATH)
    answer = await connection.answer()
    assert answer.status == 503
    assert answer.json == {"error": "too many streams"}
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["cache-control"] == "no-store"


async def test_more_than_max_clients_are_refused(way: str) -> None:
    async with serving(way=way, max_clients=2) as node:
        first, second = await node.greeted(), await node.greeted()
        await assert_refused(await node.connect())
        await assert_refused(await node.connect(local="127.0.0.2"))
        assert node.dropped("limit") == 2
        assert node.value("scoreboardd_sse_clients") == 2
        first.close()
        await becomes(lambda: len(node.broadcaster) == 1)
        third = await node.greeted()
        payload = node.publish(42)
        assert await second.frame() == await third.frame() == payload


async def test_more_than_max_clients_per_ip_are_refused(way: str) -> None:
    async with serving(way=way, max_clients_per_ip=2) as node:
        mine = [await node.greeted() for _ in range(2)]
        await assert_refused(await node.connect())
        await node.greeted(local="127.0.0.2")
        assert node.dropped("limit") == 1
        mine.pop().close()
        await becomes(lambda: len(node.broadcaster) == 2)
        await node.greeted()


async def test_behind_a_trusted_proxy_it_is_the_client_s_address_that_counts(way: str) -> None:
    async with serving(way=way, max_clients_per_ip=1, trusted=["127.0.0.1"]) as node:
        await node.greeted(headers={"X-Forwarded-For": "203.0.113.1"})
        await node.greeted(headers={"X-Forwarded-For": "203.0.113.2"})
        connection = await node.connect()
        await connection.request(PATH, {"X-Forwarded-For": "203.0.113.1"})
        assert (await connection.answer()).status == 503
        # From an address that is no proxy's, the header is hearsay.
        await node.greeted(headers={"X-Forwarded-For": "203.0.113.1"}, local="127.0.0.2")
        connection = await node.connect(local="127.0.0.2")
        await connection.request(PATH, {"X-Forwarded-For": "203.0.113.9"})
        assert (await connection.answer()).status == 503


async def test_a_refused_client_may_use_its_connection_for_reads(way: str) -> None:
    async with serving(way=way, max_clients=1) as node:
        await node.greeted()
        connection = await node.connect()
        await assert_refused(connection)
        await connection.request("/api/leaderboard")
        assert (await connection.answer()).status == 200


@pytest.mark.parametrize("query", ["", "?lastEventId=x"])
async def test_of_an_ipv6_client_it_is_the_network_that_counts(way: str, query: str) -> None:
    async with serving(way=way, max_clients_per_ip=2, trusted=["127.0.0.1"]) as node:

        async def status(address: str) -> int:
            connection = await node.connect(Stream)
            await connection.request(PATH + query, {"X-Forwarded-For": address})
            return (await connection.head()).status

        assert await status("2001:db8::1") == 200
        assert await status("[2001:db8::2:3]:443") == 200
        assert await status("2001:db8::3") == 503
        assert await status("2001:db8:0:1::3") == 200
        assert await status("203.0.113.7:51234") == 200
        assert await status("::ffff:203.0.113.7") == 200
        assert await status("203.0.113.7") == 503
        assert await status("203.0.113.8") == 200


# --- who may read -------------------------------------------------------------------------------------------


async def test_a_page_of_a_permitted_origin_may_read_the_stream(way: str) -> None:
    async with serving(way=way, cors_origins=["https://ctf.example"]) as node:
        permitted = (await node.stream({"Origin": "https://ctf.example"})).opening
        assert permitted.headers["access-control-allow-origin"] == "https://ctf.example"
        assert permitted.headers["access-control-allow-credentials"] == "true"
        assert permitted.headers["vary"] == "Origin"
        other = (await node.stream({"Origin": "https://evil.example"})).opening
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "Origin"
