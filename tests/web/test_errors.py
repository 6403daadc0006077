"""What bad requests get, and what pages of other origins may see."""

import asyncio
import time

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from scoreboardd.stream.endpoint import PATH as STREAM
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.web import errors
from scoreboardd.web.documents import PATHS, WRITE_BYTES
from scoreboardd.web.rebuild import PATH as REBUILD
from tests.snapshots import snapshot
from tests.web.client import DEADLINE, Connection, head_of_request
from tests.web.server import Node, listening, serving, version

PAGE = "https://ctf.example"


async def still_lives(node: Node) -> bool:
    return (await node.ask("/api/leaderboard")).status == 200


# --- what is not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/api",
        "/api/leaderboard/",
        "/api/leaderboards",
        "/api/timeline/users",
        "/healthz",
        "/readyz",
        "/metrics",
    ],
)
async def test_an_unknown_path(path: str) -> None:
    async with serving() as node:
        for method in ("GET", "POST", "OPTIONS"):
            answer = await node.ask(path, method=method)
            assert (answer.status, answer.json) == (404, {"error": "not found"})
        assert (await node.ask(path, method="HEAD")).status == 404


@pytest.mark.parametrize("path", ["/%00", "/%2e%2e/%2e%2e/etc/passwd", "/..%5c..", "/%ff%fe", "//api/leaderboard"])
async def test_an_odd_path(path: str) -> None:
    async with serving() as node:
        answer = await node.ask(path)
        assert (answer.status, answer.json) == (404, {"error": "not found"})


@pytest.mark.parametrize("path", [*PATHS, STREAM])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_a_wrong_method(path: str, method: str) -> None:
    async with serving() as node:
        answer = await node.ask(path, {"Content-Length": "0"}, method=method)
        assert (answer.status, answer.json) == (405, {"error": "method not allowed"})
        assert answer.headers["allow"] == "GET,HEAD"


# --- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        head_of_request("/api/leaderboard?x=" + "a" * 20_000),
        head_of_request("/api/leaderboard", {"X-Long": "a" * 20_000}),
        head_of_request("/api/leaderboard", {"X-" + "a" * 20_000: "long"}),
        head_of_request("/api/leaderboard", {f"X-{number}": "many" for number in range(1000)}),
        head_of_request("/api/leaderboard", {"X-Nul": b"a\0b"}),
        head_of_request("/api/leaderboard", protocol="HTTP/9.9"),
        head_of_request("/api/leaderboard", method="BREW"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # TLS
        b"\r\n\r\n\r\n\r\ngarbage\r\n\r\n",
        b"GET\r\n\r\n",
        head_of_request("/api/leaderboard", {"Transfer-Encoding": "chunked", "Content-Length": "5"}),
    ],
    ids=["url", "value", "name", "headers", "nul", "version", "method", "tls", "garbage", "short", "smuggling"],
)
async def test_a_head_that_makes_no_sense_is_refused_and_its_connection_closed(sent: bytes) -> None:
    async with serving() as node:
        connection = await node.connect()
        await connection.send(sent)
        said = await connection.rest()
        status = int(said.split(b" ")[1])
        assert 400 <= status < 500
        assert b"Traceback" not in said
        assert await still_lives(node)


async def test_a_head_without_end_is_not_collected_for_ever() -> None:
    async with serving() as node:
        connection = await node.connect()

        async def go_on() -> None:
            await connection.send(b"GET / HTTP/1.1\r\n")
            for _ in range(5_000):
                await connection.send(b"X: " + b"a" * 4000 + b"\r\n")

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await go_on()
        assert await still_lives(node)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /api/leader", b"GET /api/leaderboard HTTP/1.1\r\nHost: test\r\n"],
    ids=["nothing", "half a line", "half a head"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(begun: bytes) -> None:
    async with serving(idle=0.2) as node:
        start = time.monotonic()
        connection = await node.connect()
        await connection.send(begun)
        assert await connection.rest() == b""
        assert 0.15 <= time.monotonic() - start < DEADLINE
        assert await still_lives(node)


async def test_a_head_that_comes_a_byte_at_a_time_gets_no_longer() -> None:
    async with serving(idle=0.2) as node:
        start = time.monotonic()
        connection = await node.connect()

        async def drip() -> None:
            for byte in head_of_request("/api/leaderboard", {"X-Slow": "a" * 1000}):
                await connection.send(bytes([byte]))
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert await connection.rest() == b""
        assert time.monotonic() - start < DEADLINE
        await asyncio.wait([dripping])
        assert dripping.exception() is not None


async def test_an_idle_connection_is_closed() -> None:
    async with serving(idle=0.2) as node:
        connection = await node.connect()
        await connection.request("/api/leaderboard")
        assert (await connection.answer()).status == 200
        start = time.monotonic()
        assert await connection.rest() == b""
        assert 0.1 <= time.monotonic() - start < DEADLINE


# --- what is our fault --------------------------------------------------------------------------------------


async def faulty(request: web.Request) -> web.StreamResponse:
    raise ZeroDivisionError("with a secret in its text")


async def faulty_halfway(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 100
    await response.prepare(request)
    await response.write(b"{")
    raise ZeroDivisionError("with a secret in its text")


def faulty_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/faulty", errors.as_json(faulty))
    app.router.add_get("/faulty/halfway", errors.as_json(faulty_halfway))
    return app


async def test_a_fault_of_ours_is_500_and_says_no_more() -> None:
    async with listening(faulty_app()) as listener:
        connection = await listener.connect()
        for _ in range(2):
            await connection.request("/faulty")
            answer = await connection.answer()
            assert (answer.status, answer.json) == (500, {"error": "internal error"})


async def test_the_same_fault_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_may_log", LogThrottle())
    faults = iter([ZeroDivisionError("1"), ZeroDivisionError("2"), KeyError("3"), KeyError("4")])

    async def fails(request: web.Request) -> web.StreamResponse:
        raise next(faults)

    async def fails_elsewhere(request: web.Request) -> web.StreamResponse:
        raise KeyError("5")

    app = web.Application()
    app.router.add_get("/{anything:.*}", errors.as_json(fails))
    app.router.add_post("/elsewhere", errors.as_json(fails_elsewhere))
    with capture_logs() as logs:
        async with listening(app) as listener:
            for path in ("/a", "/b", "/a", "/b"):
                assert (await listener.ask(path)).status == 500
            for _ in range(2):
                assert (await listener.ask("/elsewhere", {"Content-Length": "0"}, method="POST")).status == 500
    assert [line["path"] for line in logs] == ["/a", "/a", "/elsewhere"]


async def test_an_answer_that_fails_halfway_is_cut_off_rather_than_continued_with_another() -> None:
    async with listening(faulty_app()) as listener:
        connection = await listener.connect()
        await connection.request("/faulty/halfway")
        assert (await connection.head()).status == 200
        assert await connection.rest() == b"{"


# --- other origins ------------------------------------------------------------------------------------------


async def preflight(node: Node, path: str, origin: str, method: str = "GET") -> dict[str, str]:
    answer = await node.ask(
        path,
        {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "last-event-id",
        },
        method="OPTIONS",
    )
    assert answer.body == b"" or answer.status == 405
    return {"status": str(answer.status)} | answer.headers


@pytest.mark.parametrize("path", [*PATHS, STREAM])
async def test_a_permitted_origin(path: str) -> None:
    async with serving(cors_origins=[PAGE, "http://localhost:5173"]) as node:
        for origin in (PAGE, "http://localhost:5173"):
            headers = await preflight(node, path, origin)
            assert headers["status"] == "204"
            assert headers["access-control-allow-origin"] == origin
            assert headers["access-control-allow-methods"] == "GET, HEAD"
            assert headers["access-control-allow-credentials"] == "true"
            allowed = headers["access-control-allow-headers"].split(", ")
            assert set(allowed) == {"Authorization", "Cache-Control", "If-None-Match", "Last-Event-ID", "Pragma"}
            assert int(headers["access-control-max-age"]) > 0
            assert headers["vary"] == "Origin"


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_of_a_permitted_origin_sees_what_it_needs(path: str) -> None:
    async with serving(cors_origins=[PAGE]) as node:
        answer = await node.ask(path, {"Origin": PAGE})
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"ETag", "Age", "Retry-After", "X-Scoreboard-Version", "X-Scoreboard-Cache"} <= set(exposed)
        assert answer.headers["vary"] == "Accept-Encoding, Origin"
        unchanged = await node.ask(path, {"Origin": PAGE, "If-None-Match": answer.headers["etag"]})
        assert unchanged.status == 304
        for said in (answer, unchanged):
            assert said.headers["access-control-allow-origin"] == PAGE
            assert said.headers["access-control-allow-credentials"] == "true"
            assert said.headers["vary"] == "Accept-Encoding, Origin"


@pytest.mark.parametrize("size", [10, WRITE_BYTES + 1])
@pytest.mark.parametrize("origin", [None, PAGE, "https://evil.example"])
async def test_large_and_small_say_the_same(size: int, origin: str | None) -> None:
    async with serving(cors_origins=[PAGE]) as node:
        node.serve(snapshot(version(42), {"leaderboard:users": {"x": "a" * size}}))
        answer = await node.ask("/api/leaderboard", {"Origin": origin} if origin else {})
        assert answer.headers["vary"] == "Accept-Encoding, Origin"
        assert answer.headers.get("access-control-allow-origin") == (PAGE if origin == PAGE else None)


async def test_a_page_of_a_permitted_origin_sees_errors_too() -> None:
    async with serving(cors_origins=[PAGE], first=None, max_clients=0) as node:
        for target, status in [
            ("/api/leaderboard", 503),
            ("/api/timeline?window=x", 400),
            ("/nothing", 404),
            ("/api/%6Ceaderboard", 503),
            (STREAM, 503),
        ]:
            answer = await node.ask(target, {"Origin": PAGE})
            assert answer.status == status
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "https://ctf.example.evil", "https://ctf.example:8443", "http://ctf.example", "null"],
)
async def test_another_origin(origin: str) -> None:
    async with serving(cors_origins=[PAGE]) as node:
        headers = await preflight(node, "/api/leaderboard", origin)
        assert headers["status"] == "405"
        assert not any(name.startswith("access-control") for name in headers)
        answer = await node.ask("/api/leaderboard", {"Origin": origin})
        assert answer.status == 200
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert answer.headers["vary"] == "Accept-Encoding, Origin"


async def test_any_origin() -> None:
    async with serving(cors_origins=["*"]) as node:
        assert (await preflight(node, "/api/leaderboard", "null"))["access-control-allow-origin"] == "*"
        for headers in ({}, {"Origin": "https://anyone.example"}):
            answer = await node.ask("/api/leaderboard", dict(headers))
            assert answer.headers["vary"] == "Accept-Encoding"
            assert answer.headers.get("access-control-allow-origin") == ("*" if headers else None)
        stream = (await node.stream({"Origin": "https://anyone.example"})).opening
        assert stream.headers["access-control-allow-origin"] == "*"
        assert "vary" not in stream.headers


async def test_any_origin_gets_no_credentials_and_one_that_is_named_does() -> None:
    async with serving(cors_origins=["*", PAGE]) as node:
        for target in ("/api/leaderboard", STREAM):
            for origin, allowed, credentials in (
                (PAGE, PAGE, "true"),
                ("https://x.example", "*", None),
                (None, None, None),
            ):
                connection = await node.connect()
                await connection.request(target, {"Origin": origin} if origin else {})
                headers = (await connection.head()).headers
                assert headers.get("access-control-allow-origin") == allowed
                assert headers.get("access-control-allow-credentials") == credentials
                assert headers["vary"].split(", ")[-1] == "Origin"


@pytest.mark.parametrize("path", [REBUILD, "/api/leaderboard/rebuil%64"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_no_page_of_another_origin_may_send_a_token_to_be_guessed(path: str, method: str) -> None:
    async with serving(cors_origins=[PAGE], token="t") as node:
        headers = await preflight(node, path, PAGE, method)
        assert headers["status"] == "405"
        assert not any(name.startswith("access-control-allow-headers") for name in headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "get", ""])
async def test_no_page_of_another_origin_may_do_more_than_read(method: str) -> None:
    async with serving(cors_origins=[PAGE]) as node:
        for path in ("/api/leaderboard", STREAM):
            assert (await preflight(node, path, PAGE, method))["status"] == "405"


async def test_none_by_default() -> None:
    async with serving() as node:
        assert (await preflight(node, "/api/leaderboard", PAGE))["status"] == "405"
        answer = await node.ask("/api/leaderboard", {"Origin": PAGE})
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert answer.headers["vary"] == "Accept-Encoding"


async def test_no_page_of_another_origin_may_ask_for_a_rebuild() -> None:
    async with serving(cors_origins=[PAGE], token="t") as node:
        headers = await preflight(node, REBUILD, PAGE)
        assert "POST" not in headers.get("access-control-allow-methods", "")
        assert "token" not in headers.get("access-control-allow-headers", "").lower()


async def test_a_new_connection_is_as_good_as_any() -> None:
    async with serving() as node:
        connections: list[Connection] = [await node.connect() for _ in range(100)]
        for connection in connections:
            await connection.request("/api/leaderboard")
        for connection in connections:
            assert (await connection.answer()).status == 200
