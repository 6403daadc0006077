"""Bytes that no well-behaved client sends: none of them is answered 500, and the node goes on.

A stream is asked for in two ways, of aiohttp or before aiohttp sees a byte. The same bytes must get the same answer.
"""

import asyncio
import random
import re
from contextlib import suppress

import pytest

from scoreboardd.stream.endpoint import PATH as STREAM
from scoreboardd.web.documents import PATHS
from scoreboardd.web.frontend import LIBRARY
from scoreboardd.web.rebuild import PATH as REBUILD
from tests.web.client import head_of_request
from tests.web.server import Listener, Node, serving

HOST = b"Host: test\r\n"
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
AT_ONCE = 100
"Connections."

TARGETS = [*PATHS, STREAM, REBUILD, "/", "/api/scoreboard", *(f"/{name}" for name in LIBRARY)]
QUERIES = [
    "",
    "?division_id=3",
    "?window=60",
    "?deltas=1",
    "?deltas=1&division_id=3",
    "?lastEventId=7f3a-41",
    "?wait=1",
]
HEADERS: list[dict[str, str | bytes]] = [
    {},
    {"Last-Event-ID": "7f3a-41", "User-Agent": "x", "Accept": "text/event-stream"},
    {"If-None-Match": 'W/"7f3a-41"', "Accept-Encoding": "gzip, zstd;q=0.5"},
    {"Origin": "https://ctf.example", "Access-Control-Request-Method": "GET"},
    {"X-Forwarded-For": "203.0.113.7:1234, [2001:db8::1]:443", "Content-Length": "0"},
    {"Authorization": "Bearer t", "Transfer-Encoding": "chunked"},
]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b"%",
    b"?",
    b"&",
    b"=",
    b";",
    b"#",
    b"//",
    b"\r\n ",
]
PIECES += [
    b"%00",
    b"%ff",
    b"%2f",
    b"%6C",
    b"%",
    b"/../",
    b"HTTP/1.2",
    b"HTTP/0.9",
    b"get",
    b"http://x",
    b"9" * 30,
    HOST,
]


def mutated(dice: random.Random, request: bytes) -> bytes:
    data = bytearray(request)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
        match dice.randrange(6):
            case 0:
                data[at:at] = dice.choice(PIECES)
            case 1:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 2:
                del data[at : min(end, at + 20)]
            case 3:
                data[at:at] = data[at : min(end, at + 40)]  # twice
            case 4:
                data[:] = data.replace(b"\r\n", b"\n", dice.choice((1, -1)))
            case 5:
                # The same path in other words.
                path = slice(data.find(b"/") + 1, max(data.find(b" HTTP"), data.find(b"/") + 2))
                place = dice.randrange(path.start, path.stop)
                data[place : place + 1] = b"%%%02X" % data[place] if place < len(data) else b"%"
    return bytes(data)


async def answers(node: Listener, request: bytes) -> list[int]:
    """The status of each answer to these bytes."""
    return [int(status) for status in STATUS.findall(await said_to(node, request))]


async def said_to(node: Listener, request: bytes) -> bytes:
    """All that the node says to these bytes until it ends the connection; of a stream no more than its greeting.

    It may wait for more of a body than will come: one that says nothing for a second is left alone.
    """
    connection = await node.connect()
    said = b""
    with suppress(ConnectionError, TimeoutError):
        await connection.send(request)
        while b"event: ready" not in said and await asyncio.wait_for(connection.more(), 1):
            said += connection._take(len(connection._read))
    node.connections.remove(connection)
    connection.close()
    return said


async def test_no_request_answers_500() -> None:
    dice = random.Random(27)
    async with serving(idle=0.3, token="t", cors_origins=["https://ctf.example"], trusted=["127.0.0.1"]) as node:
        for _ in range(10):
            requests = [
                mutated(
                    dice,
                    head_of_request(
                        dice.choice(TARGETS) + dice.choice(QUERIES),
                        dice.choice(HEADERS),
                        method=dice.choice(["GET", "GET", "GET", "HEAD", "POST", "OPTIONS"]),
                    ),
                )
                for _ in range(AT_ONCE)
            ]
            for request, statuses in zip(
                requests, await asyncio.gather(*(answers(node, request) for request in requests)), strict=True
            ):
                assert not {status for status in statuses if status >= 500 and status != 503}, request
        assert (await node.ask("/api/leaderboard")).status == 200
        stream = await node.greeted()
        payload = node.publish(42)
        assert await stream.event() == payload


@pytest.mark.parametrize("path", TARGETS)
async def test_a_path_may_be_spelt_in_other_ways(path: str) -> None:
    async with serving() as node:
        plain = await node.ask(path, method="HEAD")
        for spelt in (
            path[:-1] + f"%{ord(path[-1]):02X}" if path != "/" else path,
            path[:-1] + f"%{ord(path[-1]):02x}" if path != "/" else path,
            "".join(f"%{ord(letter):02X}" if letter != "/" else letter for letter in path),
            f"http://other.example{path}",
        ):
            answer = await node.ask(spelt, method="HEAD")
            assert answer.status == plain.status, spelt
            assert answer.headers.get("content-length") == plain.headers.get("content-length"), spelt


GET = b"GET " + STREAM.encode()
ODD = [
    GET + b" HTTP/1.1\r\n\r\n",
    GET + b" HTTP/1.0\r\n\r\n",
    GET + b" HTTP/1.0\r\n" + HOST + b"\r\n",
    GET + b" HTTP/1.0\r\n" + HOST + HOST + b"\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"host: other\r\n\r\n",
    GET + b" HTTP/1.1\r\nHost:\r\n\r\n",
    GET + b" HTTP/1.1\r\nHost: a b\r\n\r\n",
    GET + b" HTTP/1.1\r\nHost: a/b?c#d\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\r\n\tfolded\r\n\r\n",
    GET + b" HTTP/1.1\n" + HOST.replace(b"\r", b"") + b"\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\r\n\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: \xff\xfe\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\x0bb\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X:\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"User-Agent: a\r\nUser-Agent: b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Content-Type: a\r\nContent-Type: b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"ETag: a\r\netag: b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Max-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Server: a\r\nServer: b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Cookie: a\r\nCookie: b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Origin: a\r\nOrigin: b\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Last-Event-ID: 7f3a-40\r\nLast-Event-ID: 7f3a-41\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n",
    GET + b" HTTP/1.2\r\n" + HOST + b"\r\n",
    GET + b" HTTP/2.0\r\n" + HOST + b"\r\n",
    GET + b" HTTP/0.9\r\n\r\n",
    GET + b" HTTP/1.1 \r\n" + HOST + b"\r\n",
    GET + b"  HTTP/1.1\r\n" + HOST + b"\r\n",
    GET + b" http/1.1\r\n" + HOST + b"\r\n",
    GET + b"\r\n\r\n",
    b"get" + GET[3:] + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GeT" + GET[3:] + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET\t" + GET[4:] + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"\r\n" + GET + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://test" + GET[4:] + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET https://other:1" + GET[4:] + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET //test" + GET[4:] + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    GET + b"/ HTTP/1.1\r\n" + HOST + b"\r\n",
    GET + b"; HTTP/1.1\r\n" + HOST + b"\r\n",
    GET + b"# HTTP/1.1\r\n" + HOST + b"\r\n",
    GET.replace(b"stream", b"%73tream") + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 9000 + b"\r\n\r\n",
    GET + b" HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 300 + b"\r\n",
    *(
        GET + query + b" HTTP/1.1\r\n" + HOST + b"\r\n"
        for query in (
            b"?",
            b"??",
            b"?&",
            b"?deltas=1&",
            b"?&deltas=1",
            b"?deltas",
            b"?deltas=",
            b"?deltas==1",
            b"?deltas=1&deltas=1",
            b"?Deltas=1",
            b"?deltas=01",
            b"?deltas=1&division_id=0",
            b"?deltas=1&division_id=3&division_id=3",
            b"?division_id=3",
            b"?division_id=999999999999999999",
            b"?division_id=9999999999999999999",
            b"?last_event_id=7f3a-40",
            b"?lastEventId=7f3a-40&last_event_id=7f3a-39",
            b"?lastEventId=7f3a-40&lastEventId=7f3a-39",
            b"?lastEventId=",
            b"?lastEventId=7f3a-" + b"9" * 18,
            b"?lastEventId=7f3a-" + b"9" * 19,
            b"?lastEventId=7f3a-40;deltas=1",
            b"?lastEventId=7f3a-40+deltas=1",
        )
    ),
]


async def outcome(node: Node, request: bytes) -> tuple[object, ...]:
    """What these bytes get: of a stream the framing, and what it begins with."""
    said = await said_to(node, request)
    statuses = STATUS.findall(said)
    if b"event: ready" not in said:
        return tuple(status[:1] for status in statuses)
    head, _, body = said.partition(b"\r\n\r\n")
    fields = sorted(
        re.findall(rb"(?im)^(transfer-encoding|content-type|cache-control|vary|access-[a-z-]+): (.*?)\r?$", head)
    )
    return (
        statuses,
        fields,
        re.sub(rb"retry: \d+", b"", re.sub(rb"(?m)^[0-9a-f]+\r\n", b"", body)).split(b"event:")[0],
    )


async def assert_same(requests: list[bytes]) -> None:
    origins = ["https://ctf.example"]
    async with (
        serving(idle=0.5, cors_origins=origins) as door,
        serving(way="hand-over", idle=0.5, cors_origins=origins) as aiohttp,
    ):
        for start in range(0, len(requests), AT_ONCE):
            part = requests[start : start + AT_ONCE]
            ones = await asyncio.gather(*(outcome(door, request) for request in part))
            others = await asyncio.gather(*(outcome(aiohttp, request) for request in part))
            for request, one, other in zip(part, ones, others, strict=True):
                assert one == other, request


async def test_odd_requests_get_the_same_with_and_without_the_short_cut() -> None:
    await assert_same(ODD)


async def test_mutated_requests_get_the_same_with_and_without_the_short_cut() -> None:
    dice = random.Random(27)
    plain = [head_of_request(STREAM + query, headers) for query in QUERIES for headers in HEADERS[:4]]
    await assert_same([mutated(dice, dice.choice(plain)) for _ in range(400)])


@pytest.mark.parametrize("host", [b"", HOST + HOST])
@pytest.mark.parametrize("query", [b"", b"?deltas=1"])
async def test_without_exactly_one_host_there_is_no_stream(host: bytes, query: bytes) -> None:
    async with serving() as node:
        assert await answers(node, GET + query + b" HTTP/1.1\r\n" + host + b"\r\n") == [400]
        assert len(node.broadcaster) == 0
