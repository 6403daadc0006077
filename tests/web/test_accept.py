"""Who is let in before aiohttp has seen a byte, and who is shown to it."""

import pytest

from scoreboardd.stream.endpoint import PATH
from tests.web.client import Stream, head_of_request
from tests.web.server import Node, becomes, serving

PLAIN = head_of_request(PATH)
READY = b"id: 7f3a-41\nevent: ready\ndata: {}\n\n"


def asked_of_aiohttp(node: Node) -> int:
    """Requests that aiohttp was shown."""
    assert node.runner.server is not None
    return node.runner.server.requests_count


async def opened(node: Node, *pieces: bytes) -> Stream:
    """A stream that was asked for in these words, each of which is heard before the next is said."""
    stream = await node.connect(Stream)
    assert node.runner.server is not None
    for piece in pieces[:-1]:
        await stream.send(piece)
        await becomes(lambda: node.runner.server.connections)
    await stream.send(pieces[-1])
    await stream.greet()
    assert await stream.greeting() == READY
    payload = node.publish(42)
    assert payload.startswith(b"id: 7f3a-42\n")
    assert await stream.frame() == payload
    return stream


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN,
        head_of_request(PATH, protocol="HTTP/1.0"),
        head_of_request(PATH, {"LAST-EVENT-ID": "7f3a-41", "Cookie": "a=b; c=d", "Accept": "text/event-stream"}),
        f"GET {PATH} HTTP/1.0\r\n\r\n".encode(),
        head_of_request(f"{PATH}?last_event_id=7f3a-41"),
        head_of_request(f"{PATH}?lastEventId=7f3a-41"),
    ],
)
async def test_a_plain_request_is_let_in(request_: bytes) -> None:
    async with serving() as node:
        await opened(node, request_)
        assert asked_of_aiohttp(node) == 0
        assert len(node.broadcaster) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [PLAIN[:10], PLAIN[10:]],
        [PLAIN[:-2], PLAIN[-2:]],
        [head_of_request(f"{PATH}?last_event_id=7f3a%2D41")],
        [head_of_request(PATH, {"Content-Length": "0"})],
        [head_of_request(PATH, {"Last-Event-ID": "7f3a-41", "last-event-id": "7f3a-41"})],
        [head_of_request(PATH, {"Last-Event-ID": b"\xff"})],
        [head_of_request(PATH, {"X-Padding": "x" * 5000, "X-More": "x" * 5000})],
    ],
)
async def test_one_that_is_more_than_plain_is_aiohttp_s_and_gets_the_same(pieces: list[bytes]) -> None:
    async with serving() as node:
        await opened(node, *pieces)
        assert asked_of_aiohttp(node) == 1


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/3.1"),
        head_of_request(PATH, {"No Name": "x"}),
        head_of_request(PATH, {"X": b"a\x00b"}),
        head_of_request(PATH, {"Transfer-Encoding": "chunked", "Content-Length": "3"}),
    ],
)
async def test_what_is_wrong_is_for_aiohttp_to_answer(request_: bytes) -> None:
    async with serving() as door, serving(way="hand-over") as aiohttp:
        answers = []
        for node in (door, aiohttp):
            connection = await node.connect()
            await connection.send(request_)
            answers.append((await connection.head()).status)
            await becomes(lambda node=node: len(node.broadcaster) == (answers[-1] == 200))
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "request_", [PLAIN, head_of_request(PATH, {"Content-Length": "0"}), head_of_request(f"{PATH}?deltas=0")]
)
@pytest.mark.parametrize("plainly", [False, True])
async def test_a_client_may_say_at_once_that_it_will_say_nothing_more(request_: bytes, plainly: bool) -> None:
    async with serving() as node:
        node.streams.plainly = plainly
        stream = await node.connect(Stream)
        await stream.send(request_)
        stream.finish()
        await stream.greet()
        assert await stream.greeting() == READY
        payload = node.publish(42)
        assert await stream.event() == payload


@pytest.mark.parametrize("target", [f"{PATH}?division_id=x", "/api/leaderboard"])
async def test_where_there_is_no_stream_that_is_the_end(target: str) -> None:
    async with serving(idle=0.2) as node:
        connection = await node.connect()
        await connection.request(target)
        await connection.head()
        connection.finish()
        await connection.rest()
        assert node.runner.server is not None
        await becomes(lambda: not node.runner.server.connections)


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with serving(idle=0.1) as node:
        silent = [await node.connect() for _ in range(3)]
        stream = await node.greeted()
        assert [await connection.rest() for connection in silent] == [b""] * 3
        payload = node.publish(42)
        assert await stream.frame() == payload


async def test_a_connection_that_leaves_without_a_word_is_forgotten() -> None:
    async with serving() as node:
        (await node.connect()).reset()
        (await node.connect()).close()
        await node.greeted()
        assert asked_of_aiohttp(node) == 0
