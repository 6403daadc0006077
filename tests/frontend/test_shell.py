"""The shell of `scoreboard.js` under Node: how it follows a server that says deltas, gaps and resets."""

import json

import pytest

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.leaderboards import Entry, Leaderboards
from scoreboardd.model import Version
from tests.frontend.scripted import PATHS, Server, board, following
from tests.nodes import until


@pytest.fixture
def server() -> Server:
    return Server()


async def test_deltas_are_followed_without_another_fetch(server: Server):
    async with following(server) as follower:
        for version, solves in ((2, 2), (3, 5), (9, 4)):
            await server.step(board(solves), to=version)
            await follower.holds(server, reason="delta")
        assert sorted(server.asked) == sorted(PATHS)
        assert await follower.verify()


async def test_what_is_known_is_ignored(server: Server):
    async with following(server) as follower:
        step = await server.step(board(2), to=2)
        await follower.holds(server)
        await server.say("delta", server.version, step.data())
        await server.step(board(3), to=3)
        await follower.holds(server)
        assert sorted(server.asked) == sorted(PATHS)


@pytest.mark.parametrize("event", ["scoreboard", "delta", "reset"])
async def test_what_cannot_be_applied_is_fetched(server: Server, event: str):
    async with following(server) as follower:
        server.version, server.view = Version("7f3a", 7), board(6)
        data = {"from": 6, "version": 7, "spread": 0.1}
        await server.say(event, server.version, json.dumps(data).encode())
        await follower.holds(server, reason="refetch")
        assert sorted(server.asked) == sorted([*PATHS, *PATHS])


async def test_who_is_past_the_beginning_of_a_delta_takes_it_too(server: Server):
    async with following(server) as follower:
        first = await server.step(board(2), to=2)
        await follower.holds(server)
        second = VersionedDelta(2, 3, delta.diff(board(2), board(4)))
        server.version, server.view = Version("7f3a", 3), board(4)
        await server.say("delta", server.version, first.then(second).data())
        await follower.holds(server, reason="delta")


async def test_a_delta_that_does_not_fit_what_is_held_is_a_reason_to_fetch(server: Server):
    async with following(server) as follower:
        server.version, server.view = Version("7f3a", 2), board(3)
        stranger = {"solves": [[99, 1, "2026-02-27T18:00:00Z", 0]]}
        data = {"from": 1, "version": 2, "users": stranger, "teams": stranger}
        await server.say("delta", server.version, json.dumps(data).encode())
        await follower.holds(server, reason="refetch")
        assert len(server.joined) == 1


GARBAGE = [
    b"",
    b"garbage",
    b"null",
    b"7",
    b"[]",
    b"{}",
    b'{"from":null,"version":2}',
    b'{"from":1,"version":99}',
    b'{"from":1,"version":2,"teams":{"put":[["1","one"]]},"users":{"put":[["1","one"]]}}',
    b'{"from":1,"version":2,"teams":{"put":[[9007199254740993,"one"]]},"users":{"put":[[9007199254740993,"one"]]}}',
    b'{"from":1,"version":2,"challenges":{"points":[[1,"many"]]}}',
    b'{"from":1,"version":2,"challenges":{"drop":7}}',
]


@pytest.mark.parametrize("data", GARBAGE)
async def test_garbage_in_a_delta_is_a_reason_to_fetch(server: Server, data: bytes):
    async with following(server) as follower:
        server.version, server.view = Version("7f3a", 2), board(3)
        await server.say("delta", server.version, data)
        await follower.holds(server, reason="refetch")
        await server.step(board(4), to=3)
        await follower.holds(server, reason="delta")
        assert len(server.joined) == 1


async def test_a_document_that_is_refused_is_not_fetched_again(server: Server):
    async with following(server) as follower:
        large = Entry("large", {})
        facts = server.view
        server.version, server.view = Version("7f3a", 2), Leaderboards(facts.challenges, {2**53: large}, {2**53: large})
        await server.say("scoreboard", server.version, b"{}")
        problem = "the id of a user is beyond 2^53 - 1: browsers cannot tell such numbers apart"
        await follower.until(say="state", status="reconnecting", problem=problem)
        follower.do("creep", 30)
        await follower.until(say="crept")
        assert sorted(server.asked) == sorted([*PATHS, *PATHS])
        server.version, server.view = Version("7f3a", 3), facts
        await server.say("scoreboard", server.version, b"{}")
        await follower.holds(server, reason="refetch")
        await follower.until(say="state", status="live", problem=None)


async def test_a_stream_without_line_ends_is_given_up(server: Server):
    async with following(server) as follower:
        (endless,) = server.streams
        server.forget()
        await endless.write(b"x" * 9_000_000)
        await until(lambda: server.streams, "it follows another")
        await follower.until(say="state", status="live")
        await server.step(board(2), to=2)
        await follower.holds(server, reason="delta")


async def test_what_cannot_be_fetched_is_no_problem_once_a_delta_brought_it(server: Server):
    async with following(server) as follower:
        server.refusing |= PATHS.keys()
        await server.say("scoreboard", Version("7f3a", 2), b"{}")
        await follower.until(say="state", problem="the server answers 503")
        await server.step(board(2), to=2)
        await follower.until(say="state", status="live", since=None, problem=None)


async def test_a_reset_to_what_is_held_costs_nothing(server: Server):
    async with following(server) as follower:
        await server.say("reset", server.version, b'{"version": 1, "spread": 0}')
        await server.step(board(2), to=2)
        await follower.holds(server, reason="delta")
        assert sorted(server.asked) == sorted(PATHS)


async def test_what_is_told_while_a_reset_is_spread_brings_nobody_back_at_once(server: Server):
    async with following(server) as follower:
        await server.say("reset", Version("7f3a", 7), b'{"version": 7, "spread": 1e9}')
        await server.say("scoreboard", Version("7f3a", 8), b"{}")
        await follower.until(say="state", status="live")  # and not of now any more
        follower.do("creep", 5)
        await follower.until(say="crept")
        assert sorted(server.asked) == sorted(PATHS)


async def test_a_new_epoch_replaces_what_is_held_however_small_its_number(server: Server):
    async with following(server) as follower:
        await server.step(board(2), to=100)
        await follower.holds(server)
        server.version, server.view = Version("b", 1), board(0)
        await server.say("scoreboard", server.version, b"{}")
        await follower.holds(server)


async def test_deltas_that_come_during_a_fetch_are_applied_to_what_it_brings(server: Server):
    async with following(server) as follower:
        server.answering.clear()
        server.version, server.view = Version("7f3a", 7), board(1)
        await server.say("scoreboard", server.version, b"{}")
        await until(lambda: len(server.asked) == 4, "it fetches")
        await server.step(board(2), to=8)
        await server.step(board(3), to=9)
        server.answering.set()
        await follower.holds(server)
        assert len(server.asked) == 4


async def test_a_stream_that_ends_is_resumed_where_it_was(server: Server):
    async with following(server) as follower:
        await server.step(board(2), to=2)
        await follower.holds(server)
        await server.hang_up()
        await follower.until(say="state", status="reconnecting")
        await follower.until(say="state", status="live")
        assert server.joined[1:] == ["7f3a-2"]
        await server.step(board(3), to=3)
        await follower.holds(server)
        assert sorted(server.asked) == sorted(PATHS)


async def test_a_stream_that_does_not_begin_is_given_up(server: Server):
    async with following(server) as follower:
        server.greeting = False
        await server.hang_up()
        await until(lambda: len(server.joined) == 2, "it comes back")
        server.greeting = True
        follower.do("creep", 20)
        await follower.until(say="state", status="live")


async def test_what_was_missed_and_never_told_is_found_out(server: Server):
    """As for a tab that follows another, whose stream missed less."""
    async with following(server) as follower:
        await server.hang_up()
        server.version, server.view = Version("7f3a", 5), board(4)
        await follower.holds(server, reason="refetch")


async def test_verify_tells_and_mends(server: Server):
    async with following(server) as follower:
        server.view = board(7)  # the same version, and another board: what must never be
        assert not await follower.verify()
        assert await follower.verify()


async def test_verify_is_not_misled_by_what_is_on_its_way(server: Server):
    async with following(server) as follower:
        step = VersionedDelta(1, 2, delta.diff(board(1), board(3)))
        server.version, server.view = Version("7f3a", 2), board(3)  # served before it is told
        follower.do("verify")
        await until(lambda: len(server.asked) == 4, "it asks")
        await server.say("delta", server.version, step.data())
        assert (await follower.until(say="verified"))["same"]


async def test_verify_compares_what_was_held_when_it_was_served(server: Server):
    async with following(server) as follower:
        server.answering.clear()
        follower.do("verify")
        await until(lambda: len(server.asked) == 4, "it asks")
        await server.step(board(2), to=2)  # the answer is older than that
        await follower.holds(server)
        server.answering.set()
        assert (await follower.until(say="verified"))["same"]
