"""The benchmarks' own machinery, at a tiny size: it counts what it says it counts."""

import asyncio
import dataclasses
import json
from importlib.resources import files

import asyncpg
import pytest

from bench import fanout, load, rebuild, rebuild_peer, rebuild_report, report
from bench.rebuild_data import Size, fill
from bench.servers import Floor, Platform, Scoreboardd, Server
from tests.external_tools import require

CLIENTS = 50
STALLED_EVERY = 10


@pytest.fixture
async def platform(database: str, redis_url: str) -> Platform:
    require("gcc")
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    await connection.execute((files("scoreboardd.demo") / "schema.sql").read_text())
    await connection.close()
    return Platform(database, redis_url)


@pytest.mark.parametrize("kind", [Floor, Scoreboardd])
async def test_every_client_is_counted_once(platform: Platform, kind: type[Server]) -> None:
    def measure() -> None:
        with kind(platform) if kind is Scoreboardd else kind() as server, load.Clients(server) as clients:
            storm = clients.connect(CLIENTS, stalled_every=STALLED_EVERY)
            reading = CLIENTS - CLIENTS // STALLED_EVERY
            assert (storm.ready, storm.refused) == (reading, 0)
            for _ in range(3):
                heard = clients.round(server.publish)
                assert (heard.told, heard.deliveries, heard.lost) == (reading, reading, 0)
                assert 0 <= heard.p50 <= heard.p99 <= heard.last
            clients.close()
            assert clients.connect(CLIENTS).ready == CLIENTS
            delivery = fanout.delivery_of(server, clients)
            assert 0 < delivery.cpu <= delivery.whole
            assert server.memory() > 0

    await asyncio.to_thread(measure)


async def test_reads_are_counted_with_their_bodies(platform: Platform) -> None:
    def measure() -> None:
        with Scoreboardd(platform) as server:
            done = load.request(server.port, "/api/leaderboard/teams", {}, connections=3, count=20)
            assert (done.answers, done.status) == (20, 200)
            assert done.body == len(b'{"challenges":[],"entries":[]}')
            some = load.request(server.port, "/nothing", {}, connections=1, count=2)
            assert some.status == 404
            every = {"If-None-Match": "*"}
            done = load.request(server.port, "/api/leaderboard", every, connections=2, count=10)
            assert (done.answers, done.status, done.body) == (10, 304, 0)

    await asyncio.to_thread(measure)


async def test_the_load_generator_says_who_was_refused(platform: Platform) -> None:
    def measure() -> None:
        with Scoreboardd(platform, sse__max_clients=20) as server, load.Clients(server) as clients:
            storm = clients.connect(CLIENTS)
            assert (storm.ready, storm.refused) == (20, CLIENTS - 20)

    await asyncio.to_thread(measure)


async def test_each_rebuild_is_measured_and_does_what_it_is_measured_for(database: str, redis_url: str) -> None:
    size = Size(teams=100, users=300, challenges=10, submissions=3_000, correct=1_000)
    scale = rebuild.Scale(size, None, peers=1, whole=2, solves=4, changing=2, kept_up=2)
    measured = await rebuild.measure(database, redis_url, scale, lambda line: None)
    assert len(measured.peers) == 1
    assert [whole.whole for whole in measured.whole] == [True, True]
    assert [solve.whole for solve in measured.solves] == [False] * 6
    assert [solve.changing for solve in measured.solves[-2:]] == [True, True]
    for each in [*measured.whole, *measured.solves]:
        assert 0 < each.staged <= each.received
        assert set(each.timings) == set(rebuild_report.STAGES)
        assert min(each.builder, each.loop) > 0
    assert len(measured.memory.bare) == 3
    text = rebuild_report.said(
        dataclasses.replace(measured, larger=measured.solves, scans=0), scale=dataclasses.replace(scale, larger=size)
    )
    assert (
        "| sequential scans of submissions for 6 solves | 0 | 0 (and 0 of them rebuilt all) | scans all | – | yes |"
        in text
    )
    assert len(rebuild_report.bars(measured)) == 4


async def test_who_changes_what_a_challenge_is_worth_is_known_beforehand(database: str) -> None:
    connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    await fill(connection, Size(teams=100, users=300, challenges=10, submissions=3_000, correct=1_000))

    async def worth(challenge_id: int) -> int:
        (board, *_) = await rebuild_peer.rebuild(connection)
        return next(c["points"] for c in json.loads(board)["challenges"] if c["id"] == challenge_id)

    contest = await rebuild.Contest.open(database)
    for _ in range(5):
        *leading_up, last = contest.solves_to_change()
        for solve in leading_up:
            before = await worth(solve[1])
            assert not contest.changes(*solve)
            await contest.solve(*solve)
            assert await worth(solve[1]) == before
        assert contest.changes(*last)
        before = await worth(last[1])
        await contest.solve(*last)
        assert await worth(last[1]) < before
    await contest.aclose()
    await connection.close()


def test_a_quantile_of_a_histogram_is_the_bound_that_it_is_below() -> None:
    buckets = {
        f'lag_bucket{{le="{bound}"}}': count for bound, count in [("0.001", 90.0), ("0.002", 99.0), ("+Inf", 100.0)]
    }
    assert fanout.quantile(buckets, 0.5) == (0.001, 100)
    assert fanout.quantile(buckets, 0.99) == (0.002, 100)
    assert fanout.quantile(buckets, 0.995) == (float("inf"), 100)


def test_what_is_reported() -> None:
    assert report.spread([3.0], "µs") == "3.0 µs"
    assert report.spread([5.0, 1.0, 4.0, 2.0, 3.0], "µs", 0) == "3 µs (2–4)"
    rows = [
        report.Row("this", "≤ 1 ×", "2 µs", "peer 1 µs", "2.00", met=False),
        report.Row("that", "stated", "2 µs", "peer 1 µs", "2.00", met=None),
    ]
    assert [line.split(" | ")[-1] for line in report.goals(rows).splitlines()[2:]] == ["**no** |", "– |"]
    drawn = report.chart([("Time", "µs", {"ours": 1.0, "<peer>": 4.0})], "a machine")
    assert drawn.startswith("<svg")
    assert "&lt;peer&gt;" in drawn
    drawn = report.chart([("Time", "ms", {"a": 100.0, "b": 1000.0, "c": 10000.0})], "", ours=2, logarithmic=True)
    assert (drawn.count('class="ours"'), drawn.count('class="peer"')) == (2, 1)
    assert drawn.count('class="line"') == 3
