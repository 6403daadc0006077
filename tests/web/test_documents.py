"""The four documents as the contract (§5) wants them served, and timelines cut to a window."""

import asyncio
import gzip
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.cache.document_cache import _MADE, CONTENT_ENCODINGS, DocumentCache
from scoreboardd.system.clock import Clock, ClockReading
from scoreboardd.system.compression import Frames, compressed, plain
from scoreboardd.web import windows
from scoreboardd.web.documents import WRITE_BYTES
from tests import oracle
from tests.contests import START, contests, questions
from tests.snapshots import edition_of, snapshot
from tests.web.client import Answer
from tests.web.server import Node, becomes, serving, version

NAMES = {
    "/api/leaderboard": "leaderboard:users",
    "/api/leaderboard/teams": "leaderboard:teams",
    "/api/timeline": "timeline:users",
    "/api/timeline/teams": "timeline:teams",
}
ALL_CODINGS = ("identity", *CONTENT_ENCODINGS)
LARGE = orjson.dumps({"noise": os.urandom(900_000).hex()})
"1.8 MB that compress to half of it: more than a part in each coding."
HUGE = orjson.dumps({"noise": os.urandom(5_000_000).hex()})
"Likewise more than the kernel takes for a reader that does not read."


def decoded(answer: Answer) -> bytes:
    match answer.headers.get("content-encoding"):
        case None:
            return answer.body
        case "gzip":
            return gzip.decompress(answer.body)
        case "zstd":
            return plain(answer.body)
        case other:
            raise AssertionError(other)


# --- what is answered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NAMES)
async def test_each_path_has_its_document(path: str) -> None:
    async with serving() as node:
        body = orjson.dumps({"of": path, "names": ["<script>", "\u202e\U0001f600", 'a"b\\', "\\u0000"]})
        node.serve(snapshot(version(42), {NAMES[path]: body}))
        answer = await node.ask(path)
        assert answer.status == 200
        assert answer.body == body
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["x-scoreboard-version"] == "7f3a-42"
        assert answer.headers["x-scoreboard-cache"] == "memory"
        assert answer.headers["age"] == "0"
        assert answer.headers["etag"]


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_before_the_first_document(path: str, method: str) -> None:
    async with serving(first=None) as node:
        answer = await node.ask(path, method=method)
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
        if method == "GET":
            assert answer.json == {"error": "no scoreboard yet"}
        node.serve(1)
        assert (await node.ask(path, method=method)).status == 200


@pytest.mark.parametrize("coding", ["identity", *CONTENT_ENCODINGS])
@pytest.mark.parametrize("body", [b'{"small":true}', LARGE], ids=["small", "large"])
async def test_head_is_get_without_the_body(body: bytes, coding: str) -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), {"leaderboard:users": body}))
        connection = await node.connect()
        answers = []
        for method in ("HEAD", "GET", "HEAD"):
            await connection.request("/api/leaderboard", {"Accept-Encoding": coding}, method=method)
            answers.append(await connection.answer(to=method))
        head, get, _ = answers
        assert get.status == head.status == 200
        assert decoded(get) == body
        assert head.headers["content-length"] == str(len(get.body))
        del head.headers["date"], get.headers["date"]
        assert head.headers == get.headers


async def test_age_is_how_long_ago_it_was_known_to_be_true() -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), as_of=time.time() - 100))
        assert (await node.ask("/api/timeline")).headers["age"] in ("100", "101")
        node.cache.confirm(time.time() - 50)
        assert (await node.ask("/api/timeline")).headers["age"] in ("50", "51")
        node.cache.confirm(time.time() - 70)
        assert (await node.ask("/api/timeline")).headers["age"] in ("50", "51")
        # A database whose clock is ahead of ours makes nothing younger than now.
        node.serve(snapshot(version(43), as_of=time.time() + 100))
        assert (await node.ask("/api/timeline")).headers["age"] == "0"


async def test_what_is_out_of_date_says_so() -> None:
    stale = False
    async with serving(stale=lambda: stale) as node:
        for path in NAMES:
            for stale, label in ((False, "memory"), (True, "stale-memory")):  # noqa: B007
                answer = await node.ask(path)
                assert answer.headers["x-scoreboard-cache"] == label
                unchanged = await node.ask(path, {"If-None-Match": answer.headers["etag"]})
                assert unchanged.status == 304
                assert unchanged.headers["x-scoreboard-cache"] == label


async def test_what_is_answered_never_goes_backwards() -> None:
    async with serving(first=42) as node:
        for older in (41, 42):
            node.cache.install(snapshot(version(older)))
            assert (await node.ask("/api/leaderboard")).headers["x-scoreboard-version"] == "7f3a-42"
        node.serve(43)
        assert (await node.ask("/api/leaderboard")).headers["x-scoreboard-version"] == "7f3a-43"


# --- what has not changed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("{etag}", 304),
        ("{strong}", 304),
        ('"other", {etag}', 304),
        ('{strong},"other"', 304),
        ('W/"other" ,\t{etag}', 304),
        ("*", 304),
        ('"other"', 200),
        ('W/"7f3a-40", W/"7f3a-4"', 200),
        ("7f3a-41", 200),
        ("", 200),
        (",,", 200),
        ("\u00ff", 200),
    ],
)
async def test_if_none_match(method: str, asked: str, status: int) -> None:
    async with serving() as node:
        first = await node.ask("/api/leaderboard")
        etag = first.headers["etag"]
        if_none_match = asked.format(etag=etag, strong=etag.removeprefix("W/"))
        answer = await node.ask("/api/leaderboard", {"If-None-Match": if_none_match}, method=method)
        assert answer.status == status
        if status == 304:
            assert answer.body == b""
            for name in ("etag", "cache-control", "vary", "x-scoreboard-version", "x-scoreboard-cache", "age"):
                assert answer.headers[name] == first.headers[name]
            assert "content-encoding" not in answer.headers


async def test_a_304_leaves_the_connection_usable() -> None:
    async with serving() as node:
        connection = await node.connect()
        etag = (await node.ask("/api/leaderboard")).headers["etag"]
        for _ in range(3):
            await connection.request("/api/leaderboard", {"If-None-Match": etag})
            assert (await connection.answer()).status == 304
        await connection.request("/api/leaderboard")
        assert (await connection.answer()).status == 200


async def test_the_etag_changes_with_the_version() -> None:
    async with serving() as node:
        for path in NAMES:
            seen = set()
            for number in (100, 101, 102):
                node.cache.install(snapshot(version(number, epoch=path.replace("/", ""))))
                etag = (await node.ask(path)).headers["etag"]
                assert (await node.ask(path, {"If-None-Match": ", ".join(seen)})).status == 200
                seen.add(etag)
            assert len(seen) == 3


# --- codings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"{}", LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("GZip", "gzip"),
        ("gzip, zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("br, deflate, compress", None),
        ("x-gzip", None),
        ("*", "zstd"),
        ("zstd;q=0, *", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip; q=0.5", "gzip"),
        ("gzip ;q=0.001", "gzip"),
        ("gzip;Q=0", None),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("zstd;q=0.5, gzip;q=0.5", "zstd"),
        ("gzip, zstd;q=0, br", "gzip"),
        ("identity;q=0.5, gzip;q=0.4", None),
        ("identity;q=0.4, gzip;q=0.5", "gzip"),
        ("identity, gzip", "gzip"),
        ("identity;q=0", None),  # what is served least unwillingly, since 406 helps nobody
        # No quality, so nothing that was asked for.
        ("zstd;q=nan", None),
        ("gzip;q=nan, zstd;q=nan", None),
        ("gzip;q=inf", None),
        ("gzip;q=-1", None),
        ("gzip;q=x", None),
        ("gzip;q=", None),
        (";;;,,=,q=1", None),
        (", gzip ,", "gzip"),
        ("\u00ff, gzip", "gzip"),
        ("x, " * 2000 + "gzip", "gzip"),
    ],
)
async def test_accept_encoding(accepted: str | None, coding: str | None, body: bytes) -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), {"timeline:teams": body}))
        answer = await node.ask("/api/timeline/teams", {} if accepted is None else {"Accept-Encoding": accepted})
        assert answer.status == 200
        assert answer.headers.get("content-encoding") == coding
        assert answer.headers["vary"] == "Accept-Encoding"
        assert decoded(answer) == body


async def test_each_coding_is_made_once_per_version_and_not_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, bytes]] = []
    for coding, make in _MADE.items():

        def counted(document: Frames, coding: str = coding, make: Any = make) -> bytes:
            assert threading.current_thread() is not threading.main_thread()
            made.append((coding, plain(document)))
            return make(document)

        monkeypatch.setitem(_MADE, coding, counted)
    async with serving() as node:
        for number in (42, 43):
            bodies = {name: orjson.dumps([name, number]) for name in NAMES.values()}
            node.serve(snapshot(version(number), bodies))
            for path, name in NAMES.items():
                for coding in ("identity", "gzip", "zstd"):
                    asking = [node.ask(path, {"Accept-Encoding": coding}) for _ in range(10)]
                    answers = await asyncio.gather(*asking)
                    assert {decoded(answer) for answer in answers} == {bodies[name]}
                    await node.ask(path, {"Accept-Encoding": coding}, method="HEAD")
            await node.ask("/api/leaderboard")
        expected = [
            (coding, orjson.dumps([name, n]))
            for n in (42, 43)
            for name in NAMES.values()
            for coding in ("identity", "gzip", "zstd")
        ]
        assert sorted(made) == sorted(expected)


async def test_many_frames_go_out_as_one() -> None:
    """There are clients that read only the first, and say nothing."""
    frames = [compressed(part) for part in (b'{"submissions":[', b"1,", b"2", b"]}")]
    served = snapshot(version(42))
    async with serving() as node:
        node.serve(replace(served, documents=dict(served.documents) | {"timeline:users": frames}))
        answer = await node.ask("/api/timeline", {"Accept-Encoding": "zstd"})
    reader = zstandard.ZstdDecompressor().decompressobj()
    assert reader.decompress(answer.body) == b'{"submissions":[1,2]}'
    assert reader.eof
    assert not reader.unused_data


async def test_a_document_of_many_frames_is_one_document() -> None:
    opening, *rest = (compressed(part) for part in (b'{"submissions":[', b"", b"1,", b"2", b"]}"))
    served = snapshot(version(42))
    documents = dict(served.documents) | {"timeline:users": [opening, memoryview(b"".join(rest))]}
    async with serving() as node:
        node.serve(replace(served, documents=documents))
        for coding in ("identity", *CONTENT_ENCODINGS):
            answer = await node.ask("/api/timeline?window=5", {"Accept-Encoding": coding})
            assert decoded(answer) == b'{"submissions":[1,2]}'


async def test_what_nobody_needs_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Frames] = []
    for coding in _MADE:
        monkeypatch.setitem(_MADE, coding, lambda document: made.append(document) or b"")
    async with serving() as node:
        etag = (await node.ask("/api/leaderboard")).headers["etag"]
        made.clear()
        for coding in ("identity", *CONTENT_ENCODINGS):
            answer = await node.ask("/api/leaderboard", {"Accept-Encoding": coding, "If-None-Match": etag})
            assert answer.status == 304
        assert made == []


async def test_a_client_that_leaves_takes_no_coding_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    compress = _MADE["gzip"]

    def slow(document: Frames) -> bytes:
        begun.set()
        assert go_on.wait(10)
        return compress(document)

    monkeypatch.setitem(_MADE, "gzip", slow)
    async with serving() as node:
        leaves = await node.connect()
        await leaves.request("/api/leaderboard", {"Accept-Encoding": "gzip"})
        await becomes(begun.is_set)
        stays = asyncio.create_task(node.ask("/api/leaderboard", {"Accept-Encoding": "gzip"}))
        leaves.reset()
        assert (await node.ask("/api/leaderboard")).status == 200  # and the loop turns meanwhile
        go_on.set()
        answer = await stays
        assert answer.status == 200
        assert decoded(answer) == (await node.ask("/api/leaderboard")).body


# --- large documents ----------------------------------------------------------------------------------------


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nobody finds anything worth logging."""
    with capture_logs() as said:
        yield
    assert said == caplog.get_records("call") == []


@pytest.mark.parametrize("coding", ["identity", *CONTENT_ENCODINGS])
async def test_a_large_document_reaches_a_slow_reader_whole(coding: str) -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), {"leaderboard:users": HUGE}))
        connection = await node.connect(receive_buffer=8192)
        await connection.request("/api/leaderboard", {"Accept-Encoding": coding})
        head = await connection.head()
        # What is installed meanwhile does not get into it.
        node.serve(snapshot(version(43), {"leaderboard:users": b"[]"}))
        size = int(head.headers["content-length"])
        body = b""
        while len(body) < size:
            body += await connection.exactly(min(10_000, size - len(body)))
            if len(body) % 1_000_000 < 10_000:
                assert (await node.ask("/api/leaderboard")).body == b"[]"
        assert decoded(Answer(head.protocol, 200, head.headers, body)) == HUGE
        assert head.headers["x-scoreboard-version"] == "7f3a-42"


async def test_many_read_a_large_document_at_once() -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), {"leaderboard:users": LARGE}))
        asking = [
            node.ask("/api/leaderboard", {"Accept-Encoding": coding}) for coding in ("identity", "gzip", "zstd") * 7
        ]
        for answer in await asyncio.gather(*asking):
            assert decoded(answer) == LARGE


async def test_a_reader_that_stops_is_cut_off_and_holds_a_part_at_most(quiet: None) -> None:
    async with serving(stall_timeout=0.3) as node:
        node.serve(snapshot(version(42), {"leaderboard:users": HUGE}))
        connection = await node.connect(receive_buffer=4096)
        await connection.request("/api/leaderboard")
        start = time.monotonic()
        await connection.head()
        assert node.runner.server is not None
        (handler,) = node.runner.server.connections
        assert handler.transport is not None
        assert handler.transport.get_write_buffer_size() <= WRITE_BYTES
        assert (await node.ask("/api/leaderboard/teams")).status == 200
        await becomes(lambda: node.runner.server is not None and node.runner.server.connections == [])
        assert time.monotonic() - start >= 0.25
        assert len(await connection.rest()) < len(HUGE)


@pytest.mark.parametrize("manner", ["close", "reset"])
async def test_a_reader_that_leaves_is_no_error(manner: str, quiet: None) -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), {"leaderboard:users": HUGE}))
        for coding in ("identity", "zstd") * 5:
            connection = await node.connect(receive_buffer=4096)
            await connection.request("/api/leaderboard", {"Accept-Encoding": coding})
            await connection.head()
            getattr(connection, manner)()
        assert (await node.ask("/api/leaderboard")).body == HUGE
        await becomes(lambda: node.runner.server is not None and node.runner.server.connections == [])


# --- what is asked wrongly ----------------------------------------------------------------------------------


def invalid(*fields: str) -> dict[str, Any]:
    return {"error": "invalid input", "details": [{"field": field, "reason": "invalid"} for field in fields]}


@pytest.mark.parametrize(
    "value",
    ["", "0", "00", "-1", "+1", "1.0", "1e3", " 1", "1 ", "0x10", "one", "NaN", "1,2", "1_0", "1\0", "1\n",
     "\u0661", "\uff11", "\u00b2", "9" * 30, "1' OR 1=1; --", "null", "true"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["window", "division_id"])
async def test_a_bad_value(field: str, value: str) -> None:
    async with serving(first=None) as node:
        for first in (None, snapshot(version(42), divisions=(1, 2))):
            if first is not None:
                node.serve(first)
            for path in NAMES if field == "division_id" else ("/api/timeline", "/api/timeline/teams"):
                answer = await node.ask(f"{path}?{field}={quote(value)}")
                assert (answer.status, answer.json) == (400, invalid(field))


async def test_all_bad_values_are_named() -> None:
    async with serving() as node:
        answer = await node.ask("/api/timeline?window=0&division_id=x")
        assert (answer.status, answer.json) == (400, invalid("division_id", "window"))
        answer = await node.ask("/api/timeline?window=1&window=2")
        assert (answer.status, answer.json) == (400, invalid("window"))
        answer = await node.ask("/api/leaderboard?division_id=1&division_id=1")
        assert (answer.status, answer.json) == (400, invalid("division_id"))
        answer = await node.ask("/api/timeline?window=%FF")
        assert (answer.status, answer.json) == (400, invalid("window"))


async def test_a_leaderboard_has_no_window_and_other_parameters_mean_nothing() -> None:
    async with serving() as node:
        whole = await node.ask("/api/leaderboard")
        for query in ("window=x", "window=5", "page=2", "_=1772215200000", "&&=", "division=1"):
            answer = await node.ask(f"/api/leaderboard?{query}")
            assert (answer.status, answer.body) == (200, whole.body)


# --- divisions ----------------------------------------------------------------------------------------------


async def test_each_division_has_its_documents() -> None:
    ids = (1, 7, 2**63 - 1)
    async with serving() as node:
        node.serve(snapshot(version(42), divisions=ids))
        for path, name in NAMES.items():
            assert (await node.ask(path)).json == {"name": name, "version": "7f3a-42"}
            for division_id in ids:
                answer = await node.ask(f"{path}?division_id={division_id}")
                assert answer.status == 200
                assert answer.json == {"name": f"{name}:div:{division_id}", "version": "7f3a-42"}
            for division_id in (2, 17, 10**15):
                answer = await node.ask(f"{path}?division_id={division_id}")
                assert (answer.status, answer.json) == (404, {"error": "no such division"})


async def test_where_there_are_no_divisions_there_is_one() -> None:
    async with serving() as node:
        for path, name in NAMES.items():
            answer = await node.ask(f"{path}?division_id=3")
            assert (answer.status, answer.json) == (200, {"name": name, "version": "7f3a-41"})


# --- windows ------------------------------------------------------------------------------------------------


class Time:
    """The time of day, stopped."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def time(self) -> float:
        return self.now.timestamp()


@pytest.fixture
def clock() -> Time:
    return Time(START)


@asynccontextmanager
async def cutting(clock: Time) -> AsyncIterator[Node]:
    async with serving(clock=Clock(wall=clock.time)) as node:
        yield node


def begun(node: Node) -> float:
    """How many cuts have been begun."""
    return node.value("scoreboardd_windows_total", result="begun")


def contest(*solved: datetime) -> oracle.Tables:
    """One user, one team; a challenge solved at each of these times."""
    return oracle.Tables(
        submissions=[oracle.Submission(n, 1, n, True, False, at) for n, at in enumerate(solved, start=1)],
        users=[oracle.User(1, "ann", "user", 1)],
        teams=[oracle.Team(1, "a-team")],
        challenges=[oracle.Challenge(n, f"c{n}", "web", 100 * n, 100 * n) for n in range(1, len(solved) + 1)],
    )


def drawn(count: int) -> list[tuple[oracle.Tables, list[dict[str, Any]]]]:
    """Contests and what is asked of them. Collected first: Hypothesis cannot wait for an answer."""
    found = []

    @st.composite
    def asked(draw: st.DrawFn) -> tuple[oracle.Tables, list[dict[str, Any]]]:
        tables = draw(contests())
        return tables, [draw(questions(tables)) for _ in range(3)]

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(asked())
    def collect(example: tuple[oracle.Tables, list[dict[str, Any]]]) -> None:
        found.append(example)

    collect()
    return found


async def test_every_document_of_every_window_is_what_the_oracle_says(clock: Time) -> None:
    async with cutting(clock) as node:
        for number, (tables, asked) in enumerate(drawn(60), start=100):
            node.serve(edition_of(version(number), tables))
            for question in asked:
                # To the second: whoever asks within one shares a cut.
                now = question["now"] and question["now"].replace(microsecond=0)
                clock.now = now or START
                expected = oracle.documents(tables, **question | {"now": now})
                query = "&".join(f"{name}={question[name]}" for name in ("division_id", "window") if question[name])
                for path, name in NAMES.items():
                    answer = await node.ask(f"{path}?{query}")
                    assert answer.status == 200
                    assert answer.json == expected[name]
        assert begun(node) > 20


async def test_a_window_begins_on_the_microsecond(clock: Time) -> None:
    edge, a_microsecond = START, timedelta(microseconds=1)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(edge - a_microsecond, edge, edge + a_microsecond)))
        clock.now = edge + timedelta(minutes=30)
        answer = await node.ask("/api/timeline?window=30")
        assert answer.json == {
            "submissions": [
                {
                    "timestamp": "2026-02-27T18:00:00Z",
                    "user_id": 1,
                    "username": "ann",
                    "points": 500,
                    "challenge_count": 2,
                }
            ]
        }
        clock.now = edge + timedelta(minutes=30, seconds=1)
        assert (await node.ask("/api/timeline?window=30")).json == {"submissions": []}


@pytest.mark.parametrize("window", [10**9, 10**12, 2**63 - 1])
async def test_a_window_longer_than_time_is_no_window(clock: Time, window: int) -> None:
    clock.now = datetime.now(UTC)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(START, datetime(1970, 1, 1, tzinfo=UTC))))
        whole = await node.ask("/api/timeline")
        answer = await node.ask(f"/api/timeline?window={window}")
        assert (answer.status, answer.body) == (200, whole.body)
        assert answer.headers["etag"] == whole.headers["etag"]
        assert begun(node) == 0


async def test_a_windowed_timeline_is_served_as_any_document(clock: Time) -> None:
    clock.now = START + timedelta(minutes=30)
    old, new = START, START + timedelta(minutes=20)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(old, new)))
        whole = await node.ask("/api/timeline")
        answer = await node.ask("/api/timeline?window=15", {"Accept-Encoding": "gzip"})
        assert orjson.loads(decoded(answer))["submissions"][0]["points"] == 200
        for name in ("content-type", "cache-control", "vary", "x-scoreboard-version", "x-scoreboard-cache", "age"):
            assert answer.headers[name] == whole.headers[name]
        assert answer.headers["etag"] != whole.headers["etag"]
        assert (await node.ask("/api/timeline?window=15", method="HEAD")).headers["etag"] == answer.headers["etag"]
        again = {"If-None-Match": answer.headers["etag"]}
        assert (await node.ask("/api/timeline?window=15", again)).status == 304
        # Time goes by, first without a difference, then with one.
        clock.now += timedelta(minutes=1)
        assert (await node.ask("/api/timeline?window=15", again)).status == 304
        clock.now += timedelta(minutes=10)
        changed = await node.ask("/api/timeline?window=15", again)
        assert (changed.status, changed.json) == (200, {"submissions": []})
        # And a version makes one in any case.
        node.serve(edition_of(version(43), contest(old, new)))
        again = {"If-None-Match": changed.headers["etag"]}
        assert (await node.ask("/api/timeline?window=15", again)).status == 200


async def test_who_asks_within_a_second_shares_a_cut(clock: Time) -> None:
    clock.now = START + timedelta(minutes=30)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(START, START + timedelta(minutes=20))))
        for _ in range(2):
            answers = await asyncio.gather(*(node.ask("/api/timeline?window=15") for _ in range(10)))
            assert len({answer.body for answer in answers}) == 1
        assert begun(node) == 1
        await node.ask("/api/timeline/teams?window=15")
        await node.ask("/api/timeline?window=16")
        assert begun(node) == 3
        clock.now += timedelta(seconds=1)
        await node.ask("/api/timeline?window=15")
        assert begun(node) == 4


async def test_many_windows_are_each_their_own(clock: Time) -> None:
    clock.now = START + timedelta(hours=5)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(*(START + timedelta(minutes=n) for n in range(0, 300, 3)))))
        for window in range(1, 300, 4):
            answer = await node.ask(f"/api/timeline?window={window}")
            count = sum(row["challenge_count"] for row in orjson.loads(answer.body)["submissions"])
            assert count == sum(1 for n in range(0, 300, 3) if 300 - n <= window)


async def test_all_codings_of_a_window_are_the_same_text_and_have_the_same_tag(clock: Time) -> None:
    clock.now = START + timedelta(minutes=30)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(START, START + timedelta(minutes=20))))
        answers = [await node.ask("/api/timeline?window=15", {"Accept-Encoding": coding}) for coding in ALL_CODINGS]
        assert len({decoded(answer) for answer in answers}) == 1
        assert len({answer.headers["etag"] for answer in answers}) == 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The thread that cuts waits for this before each cut."""
    go_on, real = threading.Event(), windows.window.rows_in

    def held(bucket: int, owner: ParticipantKind, leaderboard: Iterator[bytes]) -> Any:
        go_on.wait()
        return real(bucket, owner, leaderboard)

    monkeypatch.setattr(windows.window, "rows_in", held)
    yield go_on
    go_on.set()


async def test_a_client_that_leaves_takes_no_cut_from_the_others(clock: Time, held: threading.Event) -> None:
    clock.now = START + timedelta(minutes=30)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(START, START + timedelta(minutes=20))))
        leaves, stays = await node.connect(), await node.connect()
        for connection in (leaves, stays):
            await connection.request("/api/timeline?window=15")
        await becomes(lambda: sum(cut.clients for cut in node.documents.windows.cuts) == 2)
        leaves.reset()
        await becomes(lambda: sum(cut.clients for cut in node.documents.windows.cuts) == 1)
        held.set()
        answer = await stays.answer()
        assert answer.status == 200
        assert orjson.loads(answer.body)["submissions"][0]["points"] == 200
        assert begun(node) == 1


async def test_strangers_that_left_cost_no_more_than_the_cut_under_way(clock: Time, held: threading.Event) -> None:
    clock.now = START + timedelta(hours=5)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(*(START + timedelta(minutes=n) for n in range(0, 300, 3)))))
        for window in range(1, 200):
            stranger = await node.connect()
            await stranger.request(f"/api/timeline?window={window}")
            await becomes(lambda: node.documents.windows.cuts)
            stranger.reset()
            await becomes(lambda: not node.documents.windows.cuts)
        assert begun(node) == 1
        assert node.value("scoreboardd_windows_total", result="abandoned") == 199
        held.set()
        assert (await node.ask("/api/timeline?window=299")).status == 200
        assert begun(node) == 2


async def test_few_windows_wait_and_the_rest_are_asked_to_come_back(clock: Time, held: threading.Event) -> None:
    clock.now = START + timedelta(hours=5)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(*(START + timedelta(minutes=n) for n in range(0, 300, 3)))))
        waiting = [await node.connect() for _ in range(windows.MAX_UNFINISHED_CUTS)]
        for window, connection in enumerate(waiting, start=100):
            await connection.request(f"/api/timeline?window={window}")
        await becomes(lambda: len(node.documents.windows.cuts) == windows.MAX_UNFINISHED_CUTS)
        refused = await node.ask("/api/timeline?window=99")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        assert (await node.ask("/api/timeline")).status == 200
        assert (await node.ask("/api/timeline?window=100000")).status == 200  # all of it: nothing is cut
        held.set()
        for connection in waiting:
            assert (await connection.answer()).status == 200
        assert (await node.ask("/api/timeline?window=99")).status == 200


async def test_windows_that_begin_in_one_bucket_read_the_leaderboard_once(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = windows.window.rows_in, []
    monkeypatch.setattr(windows.window, "rows_in", lambda *about: read.append(about) or real(*about))
    clock.now = START + timedelta(hours=5)
    async with cutting(clock) as node:
        node.serve(edition_of(version(42), contest(*(START + timedelta(minutes=n) for n in range(0, 300, 3)))))
        for window in range(11, 20):
            assert (await node.ask(f"/api/timeline?window={window}")).status == 200
        assert len(read) == 1


async def test_what_slow_clients_hold_of_windows_is_bounded(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_HELD_BYTES", 100)
    clock.now = START + timedelta(hours=5)
    async with cutting(clock) as node:
        served = edition_of(version(42), contest(*(START + timedelta(minutes=n) for n in range(0, 300, 3))))
        node.serve(served)
        cut, about = node.documents.windows.cut, (served, ParticipantKind.USERS, None)
        since = round((START + timedelta(minutes=100)).timestamp()) * 1_000_000
        async with cut(*about, minutes=200, since=since, coding="identity") as reading:
            assert len(reading.payload) > 100
            assert (await node.ask("/api/timeline?window=100")).status == 503
        assert (await node.ask("/api/timeline?window=100")).status == 200


async def test_documents_that_cannot_be_cut_are_a_503_and_the_next_version_heals_it(clock: Time) -> None:
    clock.now = START + timedelta(minutes=30)
    async with cutting(clock) as node:
        whole = edition_of(version(42), contest(START, START + timedelta(minutes=20)))
        documents = {name: b"".join(frames) for name, frames in whole.documents.items()}
        node.serve(replace(whole, documents={**whole.documents, "leaderboard:users": [documents["timeline:teams"]]}))
        with capture_logs() as logs:
            answers = [await node.ask("/api/timeline?window=15") for _ in range(3)]
        assert [answer.status for answer in answers] == [503, 503, 503]
        assert len(logs) == 1
        node.serve(replace(whole, version=version(43)))
        assert (await node.ask("/api/timeline?window=15")).status == 200


async def test_age_and_windows_follow_the_clock_of_the_database_and_not_the_node_s(clock: Time) -> None:
    an_hour = 3600.0
    now = (START + timedelta(minutes=30)).timestamp()
    clock.now = START + timedelta(minutes=30) + timedelta(seconds=an_hour)
    seconds = 1000.0
    ours = Clock(wall=clock.time, monotonic=lambda: seconds)
    async with serving(clock=ours) as node:
        tables = contest(START, START + timedelta(minutes=20))
        node.serve(replace(edition_of(version(42), tables), as_of=now))
        assert (await node.ask("/api/timeline?window=15")).headers["age"] == "3600"  # nobody has been asked yet
        ours.learn(ClockReading(offset=now - seconds, error=0.001))
        answer = await node.ask("/api/timeline?window=15")
        assert answer.headers["age"] == "0"
        assert answer.json == oracle.documents(tables, window=15, now=START + timedelta(minutes=30))["timeline:users"]
        seconds += 7
        assert (await node.ask("/api/timeline")).headers["age"] == "7"


@pytest.mark.parametrize("as_of", [float("nan"), float("inf"), -float("inf"), 1e308, -1.0, -1e308])
async def test_an_impossible_time_reaches_no_answer(as_of: float) -> None:
    async with serving() as node:
        node.serve(snapshot(version(42), as_of=as_of))
        assert int((await node.ask("/api/timeline")).headers["age"]) > 10**9
        true = time.time() - 10
        node.cache.confirm(true)
        node.cache.confirm(as_of)
        assert node.cache.as_of == true


async def test_a_node_whose_clock_is_ahead_makes_nothing_look_young_for_long(clock: Time) -> None:
    ours = Clock(wall=clock.time)
    ours.learn(ClockReading(offset=time.time() - time.monotonic(), error=0.001))
    async with serving(clock=ours) as node:
        node.cache.confirm(time.time() + 3600)
        assert node.cache.as_of <= time.time() + 1


@pytest.mark.parametrize("is_known_before", [True, False])
def test_a_stored_time_in_the_far_future_does_not_make_documents_look_fresh(*, is_known_before: bool) -> None:
    now, seconds = 1_772_215_200.0, 1000.0
    ours = Clock(wall=lambda: now, monotonic=lambda: seconds)
    reading = ClockReading(offset=now - seconds, error=0.001)
    if is_known_before:
        ours.learn(reading)
    cache = DocumentCache(ours, stale_after=60)
    cache.install(snapshot(version(42), as_of=now + 1e9))
    cache.confirm(now + 2e9)
    ours.learn(reading)
    assert cache.age > 60
    assert cache.stale
    cache.confirm(now + 5)  # a little ahead, as the clock of another database server may be
    assert cache.age == 0
    seconds += 10
    assert cache.age == 10
