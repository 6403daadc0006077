"""Whatever happens to nodes and connections: whoever follows deltas ends with the board as it is, by steps that fit."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoreboardd.board.leaderboards import NOTHING, Challenge, Entry, Leaderboards, Solve
from scoreboardd.model import Snapshot, Version
from scoreboardd.stream import topic
from tests.effort import examples
from tests.web.client import Stream
from tests.web.follower import DELTAS, EVERYTHING, Follower, History
from tests.web.server import EPOCH, SOLVED, Node, serving

QUEUE = 2
SMALL = 2048
"Bytes that the kernel is asked to hold for a client that reads little; a few bulky steps are more."


class Bulk(str):
    """A long name, which an example that fails shows as a short one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "BULK"


BULK = Bulk("c" * 30_000)
NAMES = st.sampled_from(["a", "b", BULK])
IDS = st.integers(1, 4)
TIMES = st.sampled_from(["2026-02-27T18:00:00Z", "2026-02-27T18:00:01Z"])
SOLVES = st.builds(Solve, TIMES, st.booleans(), st.none() | st.integers(0, 2**63 - 1))


@st.composite
def views(draw: st.DrawFn) -> Leaderboards:
    challenges = draw(st.dictionaries(IDS, st.builds(Challenge, NAMES, st.just("web"), st.integers(1, 3)), max_size=3))
    solves = st.dictionaries(st.sampled_from(sorted(challenges)), SOLVES) if challenges else st.just({})
    owners = st.dictionaries(IDS, st.builds(Entry, NAMES, solves), max_size=3)
    return Leaderboards(challenges, draw(owners), draw(owners))


CLIENTS, NODES = st.integers(0, 1), st.integers(0, 1)
REACHES = st.sampled_from([*[EVERYTHING] * 8, 4, 0])
COMMITS = st.tuples(st.just("commit"), st.lists(views(), min_size=1, max_size=5), REACHES, st.booleans())
ACTIONS = st.one_of(
    *[COMMITS] * 7,
    *[st.tuples(st.just("tell"), NODES)] * 3,
    *[st.tuples(st.just("read"), CLIENTS, st.sampled_from([500, 10_000, 1_000_000]))] * 2,
    *[st.tuples(st.just("move"), CLIENTS, NODES)] * 2,
    st.tuples(st.just("lose_state"), views(), st.integers(1, 60)),
)


class World:
    """Two nodes, which may lag behind what the cluster has committed, and two clients, of which one reads little."""

    def __init__(self, nodes: list[Node]) -> None:
        self.history = History()
        self.nodes = nodes
        self.committed: Snapshot | None = None
        "The newest, if a node has got it."
        self.reach = 0
        self.add(Version(EPOCH, 41), NOTHING, 0)
        for node in nodes:
            self.load(node)
        first = self.history.newest
        self.followers = [Follower(first, NOTHING), Follower(first, NOTHING)]
        self.streams: list[Stream] = []
        self.at = [nodes[0], nodes[0]]

    async def commit(self, views: list[Leaderboards], reach: int, tell: bool) -> None:
        """One version after the other; the first node tells of each, or of none yet."""
        for view in views:
            self.add(Version(self.history.newest.epoch, self.history.newest.number + len(views)), view, reach)
            if tell:
                await self.tell(0)
                await asyncio.sleep(0.001)

    async def lose_state(self, view: Leaderboards, number: int) -> None:
        self.add(Version(f"e{len(self.history.views)}", number), view, 0)

    def add(self, version: Version, view: Leaderboards, reach: int) -> None:
        self.history.add(version, view)
        self.committed, self.reach = None, reach

    def load(self, node: Node) -> None:
        if node.cache.version != self.history.newest:
            if self.committed is None:
                self.committed = self.history.snapshot(self.history.newest, self.reach)
            node.serve(self.committed)

    async def tell(self, which: int) -> None:
        node = self.nodes[which]
        self.load(node)
        node.streams.publish(self.history.newest, SOLVED)
        await asyncio.sleep(0)

    async def connect(self, which: int) -> Stream:
        options = {"receive_buffer": SMALL} if which == 1 else {}
        headers = {"Last-Event-ID": str(self.followers[which].held)}
        return await self.at[which].stream(headers, query=DELTAS, protocol="HTTP/1.0", **options)

    async def move(self, which: int, to: int) -> None:
        self.streams[which].close()
        self.at[which] = self.nodes[to]
        self.streams[which] = await self.connect(which)

    async def read(self, which: int, size: int) -> None:
        """What is there by now, and no more than `size` bytes of it."""
        for event in self.streams[which].there(size):
            self.hear(which, event)
        if self.followers[which].lost:
            self.followers[which].fetch(self.at[which], self.history)

    async def settle(self) -> None:
        for which in range(2):
            await self.tell(which)
        for which, follower in enumerate(self.followers):
            while follower.held != self.history.newest:
                self.hear(which, await self.streams[which].event())
                if follower.lost:
                    follower.fetch(self.at[which], self.history)

    def hear(self, which: int, event: bytes) -> None:
        if b"\nevent: ready\n" not in event:
            self.followers[which].hear(event)


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=5, max_size=30))
async def test_whoever_follows_has_the_board(
    way: str, monkeypatch: pytest.MonkeyPatch, actions: list[tuple[object, ...]]
) -> None:
    monkeypatch.setattr(topic, "SEND_BUFFER_BYTES", SMALL)
    options = {"way": way, "first": None, "queue": QUEUE, "page": False}
    async with serving(**options) as first, serving(**options) as second:
        world = World([first, second])
        world.streams = [await world.connect(which) for which in range(2)]
        for name, *arguments in actions:
            await getattr(world, name)(*arguments)
        await world.settle()
        for follower in world.followers:
            assert (follower.held, follower.view) == (world.history.newest, world.history.views[world.history.newest])
