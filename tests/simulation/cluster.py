"""A cluster under test: nodes, store, bus and database, a platform that writes, browsers, and the end of it all.

`unlucky` is a run of a seed: a time of changes and faults, then the faults stop, and what was promised must come true
within the bounds below.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scoreboardd.backends.base import Abandoned, Begun, Confirmed, Rebuilt
from scoreboardd.cluster.coordinator import LOOK_AGAIN_SECONDS, Coordinator, Timing
from scoreboardd.model import ChangeEvent, Version
from tests.simulation.backends import REDIS, Backend
from tests.simulation.bus import Bus
from tests.simulation.clients import Client
from tests.simulation.faults import EARLY, LATE, Faults
from tests.simulation.invariant_checker import STRANGER, InvariantChecker
from tests.simulation.node import ANSWER, BUILD_TIMEOUT, BULK, RECONNECT_MAX, Node
from tests.simulation.persister import Archive
from tests.simulation.store import Data, Store
from tests.simulation.world import World

SLOWEST, FASTEST = 0.5, 2.0
"Rates of the nodes' clocks: seconds of theirs in one of the store's."
SELDOM, OFTEN = 800.0, 8.0
"`reconcile`, in seconds. Seldom enough that within the bounds nothing is found by it: what is found, is found by rule."
CALM = 0.5
"Seconds in which a build is made, committed and loaded, if nothing is slow."
KEEP_EVERY, KEEP_OFTEN = 15.0, 1.0
"`persist_interval`, in seconds."
SOLVED, OTHER = "submission_correct", "user_blocked"


@dataclass(frozen=True)
class Parts:
    """What a cluster is made of; mutants replace one."""

    coordinator: Callable[..., Any] = Coordinator
    node: type[Node] = Node
    store: type[Store] = Store
    bus: type[Bus] = Bus
    archive: type[Archive] = Archive


@dataclass(frozen=True)
class Dump:
    """What a replica has, or a dump. Where the database is another server's, it plays no part."""

    data: Data
    database: int


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
        - what was published before it was committed is looked for again, after the longest pause at the latest;
        - `max_wait`, the handicap, as who made the last version may be gone, a build, a load;
        - a lock that somebody set for long is given `lock_ttl` by the first who asks for it.
        """
        timing = self.timing
        reconnect = 3 * ANSWER + RECONNECT_MAX
        own = max(reconnect, 2 * (BULK + timing.backoff_max)) + 2 * timing.debounce + timing.lock_ttl
        own += timing.max_wait + timing.non_builder_delay + LOOK_AGAIN_SECONDS[-1]
        return LATE + 2 * timing.lock_ttl + own / SLOWEST + EARLY + 2.0

    @property
    def found(self) -> float:
        """For any change: a node looks into the database by itself, then as above."""
        return 1.25 * self.timing.reconcile / SLOWEST + self.told

    @property
    def fresh(self) -> float:
        """For a change published while nothing fails: it came just too late for the build under way, and its first
        `max_wait` is that of the slowest clock; then one build, and one load by the others, of at most `CALM` together.
        No handicap: who made the last version is there.
        """
        return self.timing.max_wait / SLOWEST + CALM

    def beset(self, *, reads_everything: bool) -> float:
        """For a change while somebody publishes what is not true: a builder that is made up is waited for until its
        lock could have run out, once before the node asks and once when another has been faster. What is hidden, and
        all that comes after it, is found by reading everything."""
        timing = self.timing
        own = 2 * (timing.lock_ttl + timing.debounce) + timing.max_wait + timing.non_builder_delay
        if reads_everything:
            own += timing.reconcile
        return own / SLOWEST + 2 * CALM

    def attempts(self, seconds: float, nodes: int) -> int:
        """How often so many nodes may ask for the lock in so many seconds, and so build, whatever they hear: each once
        a debounce of its own."""
        return nodes * (int(seconds * FASTEST / self.timing.debounce) + 1)

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
        self,
        world: World,
        timing: Timing,
        *,
        backend: Backend = REDIS,
        parts: Parts | None = None,
        faults: Faults | None = None,
    ) -> None:
        parts = parts or Parts()
        self.world = world
        self.backend = backend
        self.timing = timing
        self.bounds = Bounds(timing)
        self.faults = faults or Faults()
        self.make_coordinator = parts.coordinator
        self._make_node = parts.node
        self.down = False
        "The store."
        self.starts = 1
        "How often it was started: no connection outlives one."
        self.triggers = False
        "The database publishes by itself."
        self._began: float | None = None
        "When the statement began that is being executed, if it took its time."
        self.missed = False
        "Something happened that nobody was told of: only looking finds it."
        self._mended = False
        self._changes = 0
        "How many there ever were."
        self._times: list[float] = []
        self._states: list[int] = []
        "What the database had from each of the times on."
        self._lost: list[tuple[int, int]] = []
        "Each time the database was taken back: to which change, and what the last was by then."
        self._others: list[int] = []
        "Changes that are no solves."
        self.hidden: list[int] = []
        "Changes that a reader of what is new does not see."
        self.forged = False
        "Somebody has published what no node did, or has repeated it."
        self._forged: Version | None = None
        "The last version that somebody made up."
        self.to_come = 0
        "Changes that were published and are not committed yet."
        self.overtaken = 0
        "How often the answer to a node's asking for the lock overtook an announcement."
        self.interruptions = 0
        "How often a node ended, or a subscription."
        self.published = 0
        "What the database had when last somebody published."
        self.bus = parts.bus(world, self.faults, lambda: self.database, lambda: self.store.data.fence)
        epochs = (f"e{number}" for number in itertools.count(1))
        self.store = parts.store(
            clock=self.clock,
            lock_ttl=timing.lock_ttl,
            stage_ttl=BUILD_TIMEOUT + timing.lock_ttl,
            epochs=epochs,
            say=self.bus.publish,
        )
        self.judge = InvariantChecker(self)
        self.archive = parts.archive(self) if backend.archive else None
        self.keep_every = KEEP_EVERY
        self.nodes: list[Node] = []
        self.clients: list[Client] = []
        self._names = itertools.count(1)

    # The database, and the platform that writes to it

    @property
    def database(self) -> int:
        """Its last change: that is all there is to know about it, and about a document. No two changes have the same
        number, and it contains all earlier ones, but for those that it has lost."""
        return self._states[-1] if self._states else 0

    def database_at(self, time: float) -> int:
        number = bisect_right(self._times, time)
        return self._states[number - 1] if number else 0

    def solves(self, before: int, after: int) -> int:
        """How many solves `after` has that `before` had not."""
        others = bisect_right(self._others, after) - bisect_right(self._others, before)
        return max(0, after - before - others)

    def hidden_solves(self, before: int, after: int) -> int:
        """Of those, how many a reader of what is new does not see."""
        hidden = [number for number in self.hidden if before < number <= after]
        return len(hidden) - len(set(hidden).intersection(self._others)) if hidden else 0

    def visible_since(self, whole_content: int, content: int) -> int:
        """Of `content`, what a reader sees that read everything when the database had `whole_content`, and since then
        only what is new: up to the first change that cannot be seen in that way."""
        return min((number - 1 for number in self.hidden if whole_content < number <= content), default=content)

    def still(self, content: int) -> int:
        """What the database still has of what it had when `content` was its last change."""
        for back_to, after in self._lost:
            if back_to < content <= after:
                content = back_to
        return content

    def _commit(self) -> None:
        self._changes += 1
        self._become(self._changes)
        if self.world.chance(self.faults.hidden):
            self.world.note("those who read what is new do not see change {}", self.database)
            self.hidden.append(self.database)

    def _become(self, database: int) -> None:
        self._times.append(self.world.now)
        self._states.append(database)

    @property
    def committed(self) -> int:
        """What the committed version contains."""
        metadata = self.store.data.metadata
        return int(metadata.digest) if metadata else 0

    def change(self) -> None:
        """The platform commits a change. It publishes soon after, unless it dies in between, once in twenty; or the
        database does so."""
        if self.down and self.backend.one_server:
            return
        if self.triggers:
            self.solve()
        elif self.world.random.random() < 0.05:
            self.commit_in_silence()
        elif self.world.chance(self.faults.early):
            self.publish(SOLVED)
            self.to_come += 1
            listening = bool(self.nodes) and all(node.listening for node in self.nodes)
            lost = self.interruptions if listening else -1
            self.world.after(self.world.random.uniform(0, EARLY), self._commit_late, lost)
        else:
            self._commit()
            reason = self._reason()
            self.world.after(self.world.random.expovariate(100), self.publish, reason)

    def commit_in_silence(self) -> None:
        self._commit()
        self.world.note("the platform commits change {}, and dies", self.database)
        self.missed = True

    def _commit_late(self, interruptions: int) -> None:
        """What was published when there had been so many interruptions. A node that has not heard of it, or does not
        remember, does not look for it."""
        self._commit()
        self.to_come -= 1
        self.missed |= interruptions != self.interruptions
        self.world.note("the platform commits {}, which it has published", self.database)
        self.published = self.database

    def _reason(self) -> str:
        """Why the last change is published."""
        if self.world.random.random() < 0.5:
            return SOLVED
        self._others.append(self.database)
        return OTHER

    def publish(self, reason: str) -> None:
        if self.down:
            self.missed = True
            return
        self.published = self.database
        self.store.publish(ChangeEvent("all", reason, "2026-02-27T18:00:00Z"))

    def solve(self, reason: str | None = None) -> None:
        """A change, published at once."""
        self._commit()
        self.publish(reason or self._reason())

    # The server's time

    def clock(self) -> float:
        """What the store takes for now."""
        return self.world.now if self._began is None else self._began

    @contextmanager
    def began(self, time: float) -> Iterator[None]:
        """What is executed within began at `time`."""
        self._began = time
        try:
            yield
        finally:
            self._began = None

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

    def come(self, node: Node | None = None) -> Client:
        """A new client, at `node` or at any."""
        client = Client(f"c{len(self.clients) + 1}", self.world)
        self.clients.append(client)
        if node is None:
            self._place(client)
        else:
            client.connect(node)
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

    def dump(self) -> Dump:
        return Dump(self.store.dump(), self.database)

    def restart_store(self, back_with: Dump | str | None, *, away: float | None = None, silently: bool = False) -> None:
        """`back_with` is what it comes back with: what a replica has, nothing ("empty"), or what it had (None)."""
        world = self.world
        if self.down or self._mended:
            return
        seconds = world.random.choice((0.0, 1.0, 10.0)) * world.random.random() if away is None else away
        kept = "what a replica has" if isinstance(back_with, Dump) else back_with or "all"
        world.note("the store restarts within {:.1f} s, with {}", seconds, kept)
        self.down = True
        self.starts += 1
        for node in self.nodes:
            node.reset(silently=silently)
        self.bus.close_all()
        if back_with is not None or self.backend.restarts_as_another:
            self.store.restart()
        if isinstance(back_with, Dump):
            self.store.restore(back_with.data)
            if self.backend.one_server:
                self._take_back(back_with.database)
        elif back_with is not None:
            self.store.lose()
        if back_with is not None:
            self.judge.amnesia()
        world.after(seconds, self._store_is_back)

    def _take_back(self, database: int) -> None:
        if self.still(database) < self.database:
            self.world.note("the database is taken back from {} to {}", self.database, database)
            self.world.sometimes["database taken back"] += 1
            self._lost.append((self.still(database), self._changes))
            back_to = self.still(database)
            self.hidden = [number for number in self.hidden if number <= back_to]
            gone = range(back_to + 1, self._changes + 1)
            self._others = [*(number for number in self._others if number <= back_to), *gone]
            self._become(self.still(database))

    def _store_is_back(self) -> None:
        self.world.note("the store is back")
        self.down = False

    def flush(self) -> None:
        self.world.note("somebody empties the store")
        self.missed = True
        self.store.lose()
        self.judge.amnesia()

    def hold_for_long(self) -> None:
        self.world.note("somebody takes the lock for long")
        self.store.data.lock = STRANGER, self.clock() + self.world.random.choice((86_400.0, float("inf")))
        self.judge.usurped()

    def damage(self) -> None:
        """A document is not what was committed: garbage, another version's, or gone."""
        documents, random = self.store.data.documents, self.world.random
        if documents:
            name = random.choice(sorted(documents))
            self.world.note("somebody damages {}", name)
            match random.randrange(3):
                case 0:
                    documents[name] = "garbage"
                case 1:
                    documents[name] = self.database + 1
                case _:
                    del documents[name]

    def forge(self) -> None:
        """Somebody publishes what the cluster's nodes say to each other, or what they have said before."""
        random, data = self.world.random, self.store.data
        if self.down:
            return

        def version() -> Version:
            known = [known for known in (data.fence, data.version, self._forged) if known]
            base = random.choice([*known, Version("made up", 1)])
            self._forged = Version(base.epoch, max(1, base.number + random.choice((-2, -1, 0, 1, 1, 2, 1000, 10**15))))
            return self._forged

        self.forged = True
        if self.bus.latest and random.random() < 0.5:
            self.bus.publish(random.choice(self.bus.latest))
            return
        made_up = random.randrange(4)
        if made_up == 0:
            self.bus.publish(Begun(version()))
        elif made_up == 1:
            self.bus.publish(Confirmed(version(), version(), random.choice((0.0, self.world.now, 1e308))))
        elif made_up == 2:
            self.bus.publish(Abandoned(version()))
        else:
            self.bus.publish(Rebuilt(version().number, ChangeEvent("all", "forged", "2026-02-27T18:00:00Z")))

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
            published, committed = self.still(published), self.committed
            world.demand(committed >= published, "published {}, committed {}", published, committed)
            world.demand(self.still(committed) == committed, "{} committed, and the database has lost that", committed)
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
            served = node.cache.version
            demand(served == node.told == version, "{} serves {} and told {}, not {}", node, served, node.told, version)
        for client in self.clients:
            demand(client.last == client.shown == version, "{} knows of {}, not {}", client, client.last, version)


def unlucky(seed: int, backend: Backend = REDIS, *, parts: Parts | None = None, recording: bool = False) -> World:
    """Run a seed to its end. Raises `Violation`."""
    world = World(seed, recording=recording)
    try:
        _run(world, backend, parts)
    except Exception as error:
        if not recording and parts is None:
            raise type(error)(f"{backend.name}, seed {seed}: {error}") from error
        raise
    return world


def _run(world: World, backend: Backend, parts: Parts | None) -> None:
    random = world.random
    if random.random() < 0.1:
        _run_calmly(world, backend, parts)
        return
    if random.random() < 0.1:
        _run_beset(world, backend, parts)
        return
    timing = Timing(
        debounce=0.3,
        max_wait=2.0,
        lock_ttl=random.choice((1.0, 3.0, 10.0)),
        reconcile=random.choice((SELDOM, SELDOM, SELDOM, OFTEN)),
    )
    cluster = Cluster(world, timing, backend=backend, parts=parts, faults=backend.draw(random))
    cluster.triggers = backend.triggers and random.random() < 0.5
    if backend.archive:
        cluster.keep_every = random.choice((KEEP_OFTEN, KEEP_EVERY))
    agree = random.random() < 0.4
    for _ in range(1 if backend.one_node else random.randint(1, 7)):
        cluster.start(1.0 if agree else random.uniform(SLOWEST, FASTEST))
    for _ in range(random.randint(1, 4)):
        world.at(random.uniform(0, 10), cluster.come)
    end = random.uniform(10, 40)
    _plan_changes(cluster, end)
    strikes = (*backend.harmless, *backend.harmful) if random.random() < 0.6 else backend.harmless
    mean = random.choice((2.0, 6.0, 20.0))
    time = random.expovariate(1 / mean)
    while time < end:
        world.at(time, random.choice(strikes), cluster)
        time += random.expovariate(1 / mean)
    _plan_forgeries(cluster, end)
    for number in range(int(end / 2)):
        world.at(number * 2.0, cluster.move_clients)
        if number % 3 == 0:
            world.at(number * 2.0 + random.random(), cluster.restart_dead)
    world.run(end)
    cluster.mend()
    cluster.settle()


def _run_calmly(world: World, backend: Backend, parts: Parts | None) -> None:
    """A burst or a steady stream, and nothing fails: no change waits long, few builds are made, and all by the same
    node, unless another's clock is faster by more than the handicap."""
    random = world.random
    timing = Timing(debounce=0.3, max_wait=2.0, lock_ttl=10.0, reconcile=SELDOM)
    cluster = Cluster(world, timing, backend=backend, parts=parts)
    agree = random.random() < 0.5
    nodes = 1 if backend.one_node else random.randint(1, 7)
    rates = [1.0 if agree else random.uniform(SLOWEST, FASTEST) for _ in range(nodes)]
    for rate in rates:
        cluster.start(rate)
    world.run(5.0)
    before, handovers = cluster.judge.builds, cluster.judge.handovers
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
    # A node that had the lock before it received the last announcement builds once more. If it has read that change
    # already, and the change is not a solve, it cannot tell whether the change is still to come, and looks for it. The
    # other nodes learn from the store that it was not found, and look as well, each at its own times.
    built = cluster.judge.builds - before
    looks = len(LOOK_AGAIN_SECONDS) * len(cluster.nodes)
    bound = cluster.bounds.builds((events - 1) * gap, rates) + cluster.overtaken + looks
    world.demand(built <= bound, "{} builds for {} events in {} s, not {}", built, events, events * gap, bound)
    world.demand(not agree or cluster.judge.handovers == handovers, "another builds than the one that built last")
    cluster.mend()
    cluster.settle()


def _run_beset(world: World, backend: Backend, parts: Parts | None) -> None:
    """Solves come closer together than `reconcile`, some changes are hidden from who reads what is new, and somebody
    publishes what is not true. Nothing else fails: all the same no change waits long, and builds are bounded."""
    random = world.random
    timing = Timing(debounce=0.3, max_wait=2.0, lock_ttl=3.0, reconcile=15.0)
    cluster = Cluster(world, timing, backend=backend, parts=parts)
    for _ in range(1 if backend.one_node else random.randint(1, 5)):
        cluster.start(random.uniform(SLOWEST, FASTEST))
    world.run(5.0)
    end, pace = 65.0, random.choice((0.3, 2.5))
    cluster.faults.forged = 0.0 if backend.one_node else random.choice((0.0, 1.0, 100.0))
    before = cluster.judge.attempts

    def demand_contained(database: int, node: Node) -> None:
        world.demand(node.content >= database, "{} had no {} in time, but {}", node, database, node.content)

    def change() -> None:
        hidden = random.random() < 0.1
        cluster.faults.hidden = float(hidden)
        if hidden:
            cluster.commit_in_silence()
        else:
            cluster.solve(SOLVED)
        for node in cluster.nodes:
            bound = cluster.bounds.beset(reads_everything=bool(cluster.hidden))
            world.after(bound, demand_contained, cluster.database, node)

    for number in range(int(50 / pace)):
        world.at(5.0 + number * pace, change)
    _plan_forgeries(cluster, end)
    world.run(end + cluster.bounds.beset(reads_everything=True))
    asked, most = cluster.judge.attempts - before, cluster.bounds.attempts(world.now - 5.0, len(cluster.nodes))
    world.demand(asked <= most, "asked for the lock {} times, not {}", asked, most)
    cluster.mend()
    cluster.settle()


def _plan_forgeries(cluster: Cluster, end: float) -> None:
    world, rate = cluster.world, cluster.faults.forged
    time = world.random.expovariate(rate) if rate else end
    while time < end:
        world.at(time, cluster.forge)
        time += world.random.expovariate(rate)


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
