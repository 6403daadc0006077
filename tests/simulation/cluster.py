"""A cluster under test: nodes, store, bus and database, a platform that writes, browsers, and the end of it all.

`unlucky` is a run of a seed: a time of changes and faults, then the faults stop, and what was promised must come true
within the bounds below.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scoreboardd.coordination.coordinator import Coordinator, Timing
from scoreboardd.edition import Event
from tests.simulation import faults as calamities
from tests.simulation.bus import Bus
from tests.simulation.clients import Client
from tests.simulation.faults import LATE, Faults
from tests.simulation.judge import Judge
from tests.simulation.node import ANSWER, BUILD_TIMEOUT, BULK, NAMES, RECONNECT_MAX, Node
from tests.simulation.store import Data, Store
from tests.simulation.world import World

SLOWEST, FASTEST = 0.5, 2.0
"Rates of the nodes' clocks: seconds of theirs in one of the store's."
SELDOM, OFTEN = 800.0, 8.0
"`reconcile`, in seconds. Seldom enough that within the bounds nothing is found by it: what is found, is found by rule."
CALM = 0.5
"Seconds in which a build is made, committed and loaded, if nothing is slow."
REASONS = ("submission_correct", "user_blocked")


@dataclass(frozen=True)
class Parts:
    """What a cluster is made of; mutants replace one."""

    coordinator: Callable[..., Any] = Coordinator
    node: type[Node] = Node
    store: type[Store] = Store


@dataclass(frozen=True)
class Bounds:
    """Seconds within which what was promised has come true; argued where they are used."""

    timing: Timing

    @property
    def told(self) -> float:
        """For a published change, from the end of the faults on. In the worst case one after the other, with all that a
        node times by its own clock taking `1/SLOWEST` as long:

        - the last late request arrives, and takes the lock for nobody: `LATE`, then the lock runs out;
        - meanwhile the subscription is found to be dead (asking, answering) and made again: within that time;
        - a request or a document of before has to run out of time, and a node to sit out its longest back-off; twice,
          as a load may fail for the reason for which the build before it did;
        - a node that relies on a builder that is no more looks when the lock could have run out;
        - `max_wait`, a build, a load.
        """
        timing = self.timing
        reconnect = 3 * ANSWER + RECONNECT_MAX
        own = max(reconnect, 2 * (BULK + timing.backoff_max)) + 2 * timing.debounce + timing.lock_ttl + timing.max_wait
        return LATE + timing.lock_ttl + own / SLOWEST + 2.0

    @property
    def found(self) -> float:
        """For any change: a node looks into the database by itself, then as above."""
        return 1.25 * self.timing.reconcile / SLOWEST + self.told

    @property
    def fresh(self) -> float:
        """For a change published while nothing fails: it came just too late for the build under way, and its first
        `max_wait` is that of the slowest clock; then one build, and one load by the others, of at most `CALM` together.
        """
        return self.timing.max_wait / SLOWEST + CALM

    def builds(self, burst: float, rates: list[float]) -> int:
        """How many builds a burst of so many seconds may cost if nothing fails and its events come closer than the
        debounce (I3): burst / max_wait + 1, but for clocks that disagree.

        Who asks for the lock because of `max_wait` has a first waiting change that came after the build before had
        begun. So such builds begin `max_wait` apart, the first of them no earlier than that after the first event, and
        none later than a debounce after the last event, when the debounce would have begun it. One more, begun by the
        debounce, takes what came after the last of those had begun.
        """
        longest = burst + self.timing.debounce / min(rates)
        return int(longest * max(rates) / self.timing.max_wait) + 1


class Cluster:
    def __init__(
        self, world: World, timing: Timing, *, parts: Parts | None = None, faults: Faults | None = None
    ) -> None:
        parts = parts or Parts()
        self.world = world
        self.timing = timing
        self.bounds = Bounds(timing)
        self.faults = faults or Faults()
        self.make_coordinator = parts.coordinator
        self._make_node = parts.node
        self.down = False
        "The store."
        self.missed = False
        "Something happened that nobody was told of: only looking finds it."
        self._mended = False
        self._changes: list[float] = []
        "When each change was committed to the database."
        self.published = 0
        "What the database had when last somebody published."
        self.bus = Bus(world, self.faults, lambda: self.database)
        epochs = (f"e{number}" for number in itertools.count(1))
        self.store = parts.store(
            clock=lambda: world.now,
            lock_ttl=timing.lock_ttl,
            stage_ttl=BUILD_TIMEOUT + timing.lock_ttl,
            epochs=epochs,
            say=self.bus.publish,
        )
        self.judge = Judge(world, self.store, timing.lock_ttl, lambda: self.committed)
        self.nodes: list[Node] = []
        self.clients: list[Client] = []
        self._names = itertools.count(1)

    # The database, and the platform that writes to it

    @property
    def database(self) -> int:
        """How many changes were ever committed to it: that is all there is to know about it, and about a document."""
        return len(self._changes)

    def database_at(self, time: float) -> int:
        return bisect_right(self._changes, time)

    @property
    def committed(self) -> int:
        """What the committed version contains."""
        document = self.store.document(NAMES[0])
        return 0 if document is None else document

    def change(self) -> None:
        """The platform commits a change. It publishes soon after, unless it dies in between, once in twenty."""
        if self.world.random.random() < 0.05:
            self.commit_in_silence()
        else:
            self._changes.append(self.world.now)
            self.world.after(self.world.random.expovariate(100), self.publish)

    def commit_in_silence(self) -> None:
        self._changes.append(self.world.now)
        self.world.note("the platform commits change {}, and dies", self.database)
        self.missed = True

    def publish(self) -> None:
        if self.down:
            self.missed = True
            return
        self.published = self.database
        self.store.publish(Event("all", self.world.random.choice(REASONS), "2026-02-27T18:00:00Z"))

    def solve(self) -> None:
        """A change, published at once."""
        self._changes.append(self.world.now)
        self.publish()

    # Who comes and goes

    def start(self, rate: float = 1.0) -> Node:
        node = self._make_node(f"n{next(self._names)}", self, rate=rate)
        self.world.note("{} starts, at {:.2f} seconds a second", node, rate)
        self.nodes.append(node)
        return node

    def some_node(self) -> Node:
        return self.world.random.choice(self.nodes)

    def restart_dead(self) -> None:
        for node in [node for node in self.nodes if not node.alive]:
            self.nodes.remove(node)
            self.start(node.rate)

    def come(self) -> Client:
        client = Client(f"c{len(self.clients) + 1}", self.world)
        self.clients.append(client)
        self._place(client)
        return client

    def move_clients(self) -> None:
        """One leaves; those that were cut off come back, anywhere."""
        random = self.world.random
        if self.clients and random.random() < 0.3:
            random.choice(self.clients).leave()
        for client in self.clients:
            if client.node is None and random.random() < 0.7:
                self._place(client)

    def _place(self, client: Client) -> None:
        living = [node for node in self.nodes if node.alive and not node.frozen]
        if living:
            client.connect(self.world.random.choice(living))

    # What befalls the store

    def restart_store(self, data: Data | str | None) -> None:
        """`data` is what it comes back with: an older state, nothing ("empty"), or what it had (None)."""
        world = self.world
        if self.down or self._mended:
            return
        seconds = world.random.choice((0.0, 1.0, 10.0)) * world.random.random()
        kept = "an older state" if isinstance(data, Data) else data or "all"
        world.note("the store restarts within {:.1f} s, with {}", seconds, kept)
        self.down = True
        for node in self.nodes:
            node.reset()
        self.bus.close_all()
        self.store.restart()
        if isinstance(data, Data):
            self.store.restore(data)
        elif data is not None:
            self.store.lose()
        if data is not None:
            self.judge.amnesia()
        world.after(seconds, self._store_is_back)

    def _store_is_back(self) -> None:
        self.world.note("the store is back")
        self.down = False

    def flush(self) -> None:
        self.world.note("somebody empties the store")
        self.missed = True
        self.store.lose()
        self.judge.amnesia()

    # The end of it

    def mend(self) -> None:
        """From now on nothing fails, though what was late before is still on its way."""
        self.world.note("the faults stop")
        self._mended = True
        self.faults.cease()
        self.down = False
        for node in self.nodes:
            node.reunite()
            node.thaw()
        self.restart_dead()
        for client in self.clients:
            if client.node is None:
                self._place(client)

    def settle(self) -> None:
        """Let everything come true, and demand that it has."""
        world, published = self.world, self.published
        world.run(world.now + self.bounds.told)
        if not (self.missed or self.bus.swallowed):
            world.demand(self.committed >= published, "published {}, committed {}", published, self.committed)
            for node in self.nodes:
                world.demand(node.content >= published, "published {}, {} has {}", published, node, node.content)
            self._demand_agreement()
        world.run(world.now + self.bounds.found - self.bounds.told)
        world.demand(self.committed == self.database, "{} of {} committed", self.committed, self.database)
        self._demand_agreement()
        for node in self.nodes:
            world.demand(node.content == self.database, "{} has {} of {}", node, node.content, self.database)
            world.demand(not node.coordinator.stale, "{} still calls itself stale", node)
        for client in self.clients:
            world.demand(client.content == self.database, "{} shows {} of {}", client, client.content, self.database)

    def _demand_agreement(self) -> None:
        version, demand = self.store.data.version, self.world.demand
        for node in self.nodes:
            served = node.memory.version
            demand(served == node.told == version, "{} serves {} and told {}, not {}", node, served, node.told, version)
        for client in self.clients:
            demand(client.last == client.shown == version, "{} knows of {}, not {}", client, client.last, version)


def unlucky(seed: int, *, parts: Parts | None = None, recording: bool = False) -> World:
    """Run a seed to its end. Raises `Violation`."""
    world = World(seed, recording=recording)
    try:
        _run(world, parts)
    except Exception as error:
        if not recording and parts is None:
            raise type(error)(f"seed {seed}: {error}") from error
        raise
    return world


def _run(world: World, parts: Parts | None) -> None:
    random = world.random
    if random.random() < 0.1:
        _run_calmly(world, parts)
        return
    timing = Timing(
        debounce=0.3,
        max_wait=2.0,
        lock_ttl=random.choice((1.0, 3.0, 10.0)),
        reconcile=random.choice((SELDOM, SELDOM, SELDOM, OFTEN)),
    )
    cluster = Cluster(world, timing, parts=parts, faults=calamities.draw(random))
    agree = random.random() < 0.4
    for _ in range(random.randint(1, 7)):
        cluster.start(1.0 if agree else random.uniform(SLOWEST, FASTEST))
    for _ in range(random.randint(1, 4)):
        world.at(random.uniform(0, 10), cluster.come)
    end = random.uniform(10, 40)
    _plan_changes(cluster, end)
    strikes = calamities.LOSING_DATA if random.random() < 0.6 else calamities.HARMLESS_TO_DATA
    mean = random.choice((2.0, 6.0, 20.0))
    time = random.expovariate(1 / mean)
    while time < end:
        world.at(time, random.choice(strikes), cluster)
        time += random.expovariate(1 / mean)
    for number in range(int(end / 2)):
        world.at(number * 2.0, cluster.move_clients)
        if number % 3 == 0:
            world.at(number * 2.0 + random.random(), cluster.restart_dead)
    world.run(end)
    cluster.mend()
    cluster.settle()


def _run_calmly(world: World, parts: Parts | None) -> None:
    """A burst or a steady stream, and nothing fails: no change waits long, and few builds are made."""
    random = world.random
    cluster = Cluster(world, Timing(debounce=0.3, max_wait=2.0, lock_ttl=10.0, reconcile=SELDOM), parts=parts)
    agree = random.random() < 0.5
    rates = [1.0 if agree else random.uniform(SLOWEST, FASTEST) for _ in range(random.randint(1, 7))]
    for rate in rates:
        cluster.start(rate)
    world.run(5.0)
    before = cluster.judge.builds
    events = random.randint(1, 80)
    gap = random.choice((0.001, 0.02, 0.14))

    def demand_fresh(database: int) -> None:
        for node in cluster.nodes:
            world.demand(node.content >= database, "{} had no {} in time, but {}", node, database, node.content)

    def solve() -> None:
        cluster.solve()
        world.after(cluster.bounds.fresh, demand_fresh, cluster.database)

    for number in range(events):
        world.at(5.0 + number * gap, solve)
    world.run(5.0 + events * gap + cluster.bounds.fresh)
    built, bound = cluster.judge.builds - before, cluster.bounds.builds((events - 1) * gap, rates)
    world.demand(built <= bound, "{} builds for {} events in {} s, not {}", built, events, events * gap, bound)
    cluster.mend()
    cluster.settle()


def _plan_changes(cluster: Cluster, end: float) -> None:
    """Now and then one, a burst, or a stream for a while."""
    world, random = cluster.world, cluster.world.random
    time = random.random()
    while time < end:
        kind = random.random()
        if kind < 0.75:
            world.at(time, cluster.change)
        elif kind < 0.95:
            for _ in range(random.randint(2, 10)):
                world.at(time + 0.3 * random.random(), cluster.change)
        else:
            for number in range(random.randint(10, 40)):
                world.at(time + number * 0.15, cluster.change)
        time += random.choice((0.2, 3, 12)) * random.random()
