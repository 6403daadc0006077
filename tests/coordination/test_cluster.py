"""Clusters of real coordinators in a modelled world (`model`): what has to come true in the end, and what it costs.

What must never happen is asserted by the model, at every step of every one of these.
"""

import itertools

import pytest

from scoreboardd.edition import Event
from tests.coordination.model import TIMING, Changed, Faults, Node, Store, World

SLACK = 1.0
"Seconds for requests, builds and messages where nothing is slow."
BOUND = 60.0
"""Seconds after the last fault within which every published change is served by all: a node may still be frozen (20)
or not yet back (15); then the lock runs out (10), the longest pause after failures passes (15), and it is built."""


class Cluster:
    """Nodes over one store, and a platform that writes and publishes."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.world = World(seed)
        self.store = Store(self.world)
        self._names = itertools.count()
        self.nodes = [self.start() for _ in range(nodes)]
        self.published = 0
        "What the database stood at when last somebody published."

    def start(self) -> Node:
        # Clocks of nodes do not agree on how long a second is.
        return Node(f"n{next(self._names)}", self.world, self.store, rate=self.world.random.uniform(0.8, 1.25))

    def change(self) -> None:
        """The platform commits a change. It publishes soon after, unless it dies in between, once in twenty."""
        self.world.database += 1
        if self.world.chance(0.95):
            self.world.after(self.world.random.expovariate(100), self.publish)

    def publish(self) -> None:
        self.published = self.world.database
        reason = self.world.random.choice(["submission_correct", "user_blocked"])
        self.store.publish(Changed(Event("all", reason, "2026-02-27T18:00:00Z"), self.world.database))

    def solve(self) -> None:
        """A change, published at once."""
        self.world.database += 1
        self.publish()

    def settle(self) -> None:
        """Let the first documents come, and forget what they cost."""
        self.world.run(self.world.now + 5)
        assert all(node.memory.version == self.store.version for node in self.nodes)
        self.store.builds = 0


def misfortune(cluster: Cluster, *, losing_data: bool) -> None:
    """One fault of those that strike a node, or all."""
    world, random = cluster.world, cluster.world.random
    index = random.randrange(len(cluster.nodes))
    node = cluster.nodes[index]

    def restart() -> None:
        cluster.nodes[index] = cluster.start()

    if not node.alive:
        return
    match random.choice(["crash", "freeze", "reset", "reset", "restart of the store"]):
        case "crash":
            node.crash()
            world.after(random.uniform(0, 15), restart)
        case "freeze":
            node.freeze(random.uniform(0.1, 20))
        case "reset":
            node.reset()
        case "restart of the store":
            if losing_data:
                world.note("the store loses everything")
                cluster.store.lose()
            if not losing_data or world.chance(0.5):
                for each in cluster.nodes:
                    each.reset()


def unlucky(seed: int, *, losing_data: bool) -> Cluster:
    """A cluster that has just come through a minute of changes and faults."""
    cluster = Cluster(seed, nodes=seed % 4 + 1)
    world, random = cluster.world, cluster.world.random
    world.faults = Faults(
        lost=random.choice([0, 0.02, 0.2]), slow=random.choice([0, 0.02, 0.2]), failing=random.choice([0, 0.1, 0.5])
    )
    end = random.uniform(20, 60)
    time = 0.0
    while time < end:
        world.at(time, cluster.change)
        time += random.choice([0.02, 0.6, 4, 16]) * random.random()
    time = random.expovariate(1 / 5)
    while time < end:
        world.at(time, lambda: misfortune(cluster, losing_data=losing_data))
        time += random.expovariate(1 / 5)
    world.run(end)
    world.faults = Faults()
    return cluster


@pytest.mark.parametrize("losing_data", [False, True], ids=["", "losing data"])
@pytest.mark.parametrize("block", range(4))
def test_whatever_happens_all_comes_right_in_the_end(block: int, losing_data: bool):
    for seed in range(block * 50, block * 50 + 50):
        cluster = unlucky(seed, losing_data=losing_data)
        world, store = cluster.world, cluster.store
        world.run(world.now + BOUND)
        for node in cluster.nodes:
            world.demand(node.content >= cluster.published, f"seed {seed}: {node} has {node.content}")
        # What nobody was told of is found by looking now and then.
        world.run(world.now + TIMING.reconcile * 1.25 / 0.8 + SLACK)
        world.demand(store.content == world.database, f"seed {seed}: {store.content} of {world.database}")
        for node in cluster.nodes:
            served, told = node.memory.version, node.told
            world.demand(served == told == store.version, f"seed {seed}: {node} serves {served}, told {told}")


@pytest.mark.parametrize("seed", range(10))
def test_a_burst_costs_a_few_rebuilds_and_not_one_a_node(seed: int):
    cluster = Cluster(seed, nodes=3)
    cluster.settle()
    for number in range(1000):
        cluster.world.after(number / 1000, cluster.solve)
    cluster.world.run(cluster.world.now + 1 + TIMING.max_wait + SLACK)
    assert all(node.content == 1000 for node in cluster.nodes)
    assert cluster.store.builds <= 3


@pytest.mark.parametrize("nodes", range(1, 8))
def test_one_event_is_one_rebuild_however_many_nodes_hear_it(nodes: int):
    cluster = Cluster(nodes, nodes)
    cluster.settle()
    cluster.solve()
    cluster.world.run(cluster.world.now + TIMING.debounce / 0.8 + SLACK)
    assert all(node.content == 1 for node in cluster.nodes)
    assert cluster.store.builds == 1
    cluster.world.run(cluster.world.now + TIMING.lock_ttl * 2)
    assert cluster.store.builds == 1


@pytest.mark.parametrize("nodes", [1, 3])
def test_under_a_steady_stream_nothing_waits_longer_than_max_wait(nodes: int):
    cluster = Cluster(nodes, nodes)
    cluster.settle()
    world, lags = cluster.world, []

    def look(database: int) -> None:
        lags.append(all(node.content >= database for node in cluster.nodes))

    def solve() -> None:
        cluster.solve()
        database = world.database
        # Once for the build under way, which may just have missed it, and once for its own.
        world.after(2 * SLACK + TIMING.max_wait / 0.8, lambda: look(database))

    start, length = world.now, 60
    for number in range(length * 20):
        world.at(start + number / 20, solve)
    world.run(start + length + 10)
    assert len(lags) == length * 20
    assert all(lags)
    assert cluster.store.builds <= length / (TIMING.max_wait / 1.25) + 1


def test_an_idle_cluster_looks_into_the_database_once_a_period_and_not_once_a_node():
    cluster = Cluster(1, nodes=4)
    cluster.settle()
    version = cluster.store.version
    cluster.world.run(cluster.world.now + 10 * TIMING.reconcile / 0.8)
    assert 6 <= cluster.store.builds <= 14
    assert cluster.store.version == version


def test_a_change_that_nobody_published_is_found():
    cluster = Cluster(1, nodes=3)
    cluster.settle()
    cluster.world.database += 1
    cluster.world.run(cluster.world.now + TIMING.reconcile * 1.25 / 0.8 + SLACK)
    assert all(node.content == 1 for node in cluster.nodes)


@pytest.mark.parametrize("seed", range(10))
def test_the_others_take_over_from_a_holder_that_dies(seed: int):
    cluster = Cluster(seed, nodes=3)
    cluster.settle()
    world = cluster.world
    cluster.solve()
    while not (holders := [node for node in cluster.nodes if node.coordinator.lease]):
        world.run(world.now + 0.001)
    holders[0].crash()
    cluster.nodes.remove(holders[0])
    world.run(world.now + (TIMING.lock_ttl + TIMING.debounce) / 0.8 + SLACK)
    assert all(node.content == 1 for node in cluster.nodes)


def test_a_database_that_is_down_is_asked_ever_more_seldom_and_its_return_is_noticed():
    cluster = Cluster(1, nodes=3)
    cluster.settle()
    world = cluster.world
    world.faults = Faults(failing=1)
    cluster.solve()
    world.run(world.now + 600)
    assert cluster.store.builds <= 3 * (600 / (TIMING.backoff_max / 1.25 / 2) + 10)
    world.faults = Faults()
    world.run(world.now + TIMING.backoff_max / 0.8 + SLACK)
    assert all(node.content == 1 for node in cluster.nodes)


def test_a_store_that_lost_everything_starts_a_new_epoch():
    cluster = Cluster(1, nodes=3)
    cluster.settle()
    before = cluster.store.version
    cluster.store.lose()
    cluster.solve()
    cluster.world.run(cluster.world.now + TIMING.debounce / 0.8 + SLACK)
    after = cluster.store.version
    assert before is not None
    assert after is not None
    assert before.epoch != after.epoch
    assert all(node.told == after for node in cluster.nodes)
