"""Asking for a rebuild by hand, or from a timer."""

import asyncio
import time
from collections.abc import Iterable

import orjson
import pytest
from aiohttp import web

from scoreboardd.backends.base import Unavailable
from scoreboardd.web import rebuild
from scoreboardd.web.address import ClientAddressResolver
from scoreboardd.web.rebuild import HEADER, MAX_WRONG_TOKENS, PATH
from tests.snapshots import snapshot
from tests.web.client import Answer
from tests.web.server import Node, becomes, serving, version

TOKEN = "s3cr3t-\u00fc"
ASK = {HEADER: TOKEN}


class Runner:
    """Takes requests as a node does, once the bus is `open`, and rebuilds when `rebuild` says so, for all who wait."""

    def __init__(self) -> None:
        self.requests = 0
        self.reachable = True
        self.open = asyncio.Event()
        self.open.set()
        self._contained = asyncio.Condition()
        self._upto = 0

    async def request(self) -> int:
        if not self.reachable:
            raise Unavailable("redis: connection refused")
        self.requests += 1
        number = self.requests
        await self.open.wait()
        return number

    async def contained(self, change: int) -> None:
        async with self._contained:
            await self._contained.wait_for(lambda: self._upto >= change)

    async def rebuild(self) -> None:
        async with self._contained:
            self._upto = self.requests
            self._contained.notify_all()


async def post(node: Node, headers: dict[str, str | bytes] | None = None, query: str = "") -> Answer:
    return await node.ask(PATH + query, headers, method="POST")


# --- who may ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {HEADER: TOKEN},
        {HEADER.lower(): TOKEN},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN}"},
        {HEADER: TOKEN, "Authorization": "Bearer wrong"},
    ],
)
async def test_with_the_token_a_rebuild_is_queued(headers: dict[str, str | bytes]) -> None:
    runner = Runner()
    async with serving(runner=runner, token=TOKEN) as node:
        answer = await post(node, headers)
        assert (answer.status, answer.json) == (202, {"ok": True, "version": 41})
        assert runner.requests == 1


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({HEADER: ""}, ""),
        ({HEADER: "wrong"}, ""),
        ({HEADER: TOKEN + "x"}, ""),
        ({HEADER: TOKEN[:-1]}, ""),
        ({HEADER: f"Bearer {TOKEN}"}, ""),
        ({HEADER: b"s3cr3t-\xff\xfe"}, ""),
        ({HEADER: "\U0001f600"}, ""),
        ({"Authorization": ""}, ""),
        ({"Authorization": TOKEN}, ""),
        ({"Authorization": "Bearer"}, ""),
        ({"Authorization": f"Basic {TOKEN}"}, ""),
        ({"Authorization": b"Bearer \xff"}, ""),
        ({HEADER: "wrong", "Authorization": f"Bearer {TOKEN}"}, ""),
        ({}, "?token=s3cr3t-%C3%BC"),
        ({}, "?X-Scoreboard-Rebuild-Token=s3cr3t-%C3%BC&access_token=s3cr3t-%C3%BC"),
    ],
)
async def test_without_it_nothing_is(headers: dict[str, str | bytes], query: str) -> None:
    runner = Runner()
    async with serving(runner=runner, token=TOKEN) as node:
        answer = await post(node, headers, query)
        assert (answer.status, answer.json) == (401, {"error": "unauthorized"})
        assert answer.headers["www-authenticate"] == "Bearer"
        assert runner.requests == 0


@pytest.mark.parametrize("headers", [{}, {HEADER: ""}, {HEADER: "x"}, {"Authorization": "Bearer "}])
async def test_where_no_token_is_configured_there_is_no_such_thing(headers: dict[str, str | bytes]) -> None:
    runner = Runner()
    async with serving(runner=runner) as node:
        answer = await post(node, headers)
        assert (answer.status, answer.json) == (404, {"error": "not found"})
        assert runner.requests == 0


async def test_it_is_for_post_only() -> None:
    async with serving(runner=Runner(), token=TOKEN) as node:
        for method in ("GET", "PUT", "DELETE"):
            answer = await node.ask(PATH, ASK, method=method)
            assert answer.status == 405
            assert answer.headers["allow"] == "POST"


# --- guessing --------------------------------------------------------------------------------------------

WRONG = {HEADER: "wrong"}


@pytest.fixture(autouse=True)
def _no_attempt_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "REFILL_SECONDS", 3600.0)


async def guess(node: Node, headers: dict[str, str | bytes] = WRONG) -> None:
    """As often as one may."""
    for _ in range(MAX_WRONG_TOKENS):
        assert (await post(node, headers)).status == 401


async def test_who_has_guessed_too_often_is_refused_whatever_it_says() -> None:
    runner = Runner()
    async with serving(runner=runner, token=TOKEN) as node:
        await guess(node)
        for headers in (WRONG, ASK, {}):
            answer = await post(node, headers)
            assert (answer.status, answer.json) == (429, {"error": "too many attempts"})
            assert 3590 < int(answer.headers["retry-after"]) <= 3600
        assert runner.requests == 0


async def test_the_right_token_is_no_attempt_and_neither_is_none() -> None:
    async with serving(runner=Runner(), token=TOKEN) as node:
        for _ in range(MAX_WRONG_TOKENS + 1):
            assert (await post(node, ASK)).status == 202
            assert (await post(node)).status == 401
            assert (await post(node, {HEADER: ""})).status == 401
        await guess(node)


async def test_others_may_go_on_behind_the_same_proxy_too() -> None:
    async with serving(runner=Runner(), token=TOKEN, trusted=["127.0.0.1"]) as node:
        await guess(node, WRONG | {"X-Forwarded-For": "2001:db8::1"})
        for forwarded, status in (("2001:db8::ffff:1", 429), ("2001:db8:0:1::1", 202), ("203.0.113.7", 202)):
            assert (await post(node, ASK | {"X-Forwarded-For": forwarded})).status == status
        assert (await node.ask(PATH, ASK, method="POST", local="127.0.0.2")).status == 202


async def test_who_claims_another_address_is_still_itself() -> None:
    async with serving(runner=Runner(), token=TOKEN) as node:
        for number in range(MAX_WRONG_TOKENS):
            await post(node, WRONG | {"X-Forwarded-For": f"203.0.113.{number}"})
        assert (await post(node, ASK | {"X-Forwarded-For": "203.0.113.99"})).status == 429


# --- waiting -----------------------------------------------------------------------------------------------


async def test_who_waits_is_answered_when_what_it_asked_for_is_served() -> None:
    runner = Runner()
    async with serving(runner=runner, token=TOKEN) as node:
        asking = asyncio.create_task(post(node, ASK, "?wait=1"))
        await becomes(lambda: runner.requests == 1)
        node.serve(snapshot(version(42), as_of=1_772_215_200.25))
        assert not asking.done()
        await runner.rebuild()
        answer = await asking
        assert (answer.status, answer.json) == (
            200,
            {"ok": True, "version": 42, "generated_at": "2026-02-27T18:00:00.25Z"},
        )


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[web.Request]:
    """The requests that are being handled, or were."""
    requests: list[web.Request] = []
    of = ClientAddressResolver.of

    def noting(addresses: ClientAddressResolver, request: web.Request) -> str:
        requests.append(request)
        return of(addresses, request)

    monkeypatch.setattr(ClientAddressResolver, "of", noting)
    return requests


async def test_all_who_ask_while_a_request_is_on_its_way_share_the_next(arrived: list[web.Request]) -> None:
    runner = Runner()
    runner.open.clear()
    async with serving(runner=runner, token=TOKEN) as node:
        asking = [asyncio.create_task(post(node, ASK, "?wait=1")) for _ in range(100)]
        asking += [asyncio.create_task(post(node, ASK)) for _ in range(100)]
        await becomes(lambda: len(arrived) == 200)
        assert runner.requests == 1
        node.serve(42)
        runner.open.set()
        await becomes(lambda: runner.requests == 2)
        await runner.rebuild()
        answers = await asyncio.gather(*asking)
        assert [answer.status for answer in answers] == [200] * 100 + [202] * 100
        assert {orjson.loads(answer.body)["version"] for answer in answers} == {42}
        assert runner.requests == 2


async def test_who_leaves_takes_nothing_from_the_others(arrived: list[web.Request]) -> None:
    runner = Runner()
    runner.open.clear()
    async with serving(runner=runner, token=TOKEN) as node:
        leaver = await node.connect()
        await leaver.request(f"{PATH}?wait=1", ASK, method="POST")
        await becomes(lambda: runner.requests == 1)
        others = [asyncio.create_task(post(node, ASK)) for _ in range(10)]
        await becomes(lambda: len(arrived) == 11)
        leaver.close()
        await becomes(lambda: runner.requests == 2)
        runner.open.set()
        assert {answer.status for answer in await asyncio.gather(*others)} == {202}
        assert runner.requests == 2


async def test_nobody_waits_longer_than_a_rebuild_may_take() -> None:
    async with serving(runner=Runner(), token=TOKEN, rebuild_timeout=0.2) as node:
        start = time.monotonic()
        answer = await post(node, ASK, "?wait=1")
        assert time.monotonic() - start >= 0.2
        assert (answer.status, answer.json) == (504, {"error": "not rebuilt within 0.2 s"})


@pytest.mark.parametrize("wait", ["", "2", "-1", "true", "01", "1%00"])
async def test_a_wait_that_makes_no_sense_queues_nothing(wait: str) -> None:
    runner = Runner()
    async with serving(runner=runner, token=TOKEN) as node:
        answer = await post(node, ASK, f"?wait={wait}")
        assert (answer.status, answer.json) == (
            400,
            {"error": "invalid input", "details": [{"field": "wait", "reason": "invalid"}]},
        )
        assert runner.requests == 0


@pytest.mark.parametrize("query", ["", "?wait=0", "?wait=1"])
async def test_without_the_bus_it_says_that_nothing_was_queued(query: str) -> None:
    runner = Runner()
    runner.reachable = False
    async with serving(runner=runner, token=TOKEN) as node:
        answer = await post(node, ASK, query)
        assert (answer.status, answer.json) == (503, {"error": "the bus cannot be reached, nothing was queued"})
        assert int(answer.headers["retry-after"]) > 0


async def test_before_the_first_document_the_version_is_zero() -> None:
    async with serving(runner=Runner(), token=TOKEN, first=None) as node:
        answer = await post(node, ASK)
        assert (answer.status, answer.json) == (202, {"ok": True, "version": 0})


@pytest.mark.parametrize("bodies", [[b"{}"], [b"x" * 100_000, b"y" * 100_000]])
async def test_a_body_is_not_looked_at(bodies: Iterable[bytes]) -> None:
    runner = Runner()
    async with serving(runner=runner, token=TOKEN) as node:
        connection = await node.connect()
        for body in bodies:
            await connection.request(PATH, ASK | {"Content-Length": str(len(body))}, method="POST")
            await connection.send(body)
            assert (await connection.answer()).status == 202
