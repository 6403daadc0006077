"""A whole cluster in one thread and in no time: real coordinators over a model of the store, the bus and the database.

One seeded `Random` owns every delay, order and fault, so a seed is a history that can be run again. The database is a
number: how many changes were ever committed to it; a snapshot of it, and so a document, is that number too. The store
does what the scripts beside `backend.redis` do, at one instant; a request and its answer take their time, or get lost.

What must never happen is asserted at every step, by `Store` and by `Node._check`; what must happen in the end is for
the test to say.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from scoreboardd.backend.base import Abandoned, Begun, Confirmed, Rebuilt
from scoreboardd.coordination import coordinator as c
from scoreboardd.edition import Edition, Event, Version
from scoreboardd.memory import Memory

TIMING = c.Timing(debounce=0.3, max_wait=2.0, lock_ttl=10.0, reconcile=60.0)
ANSWER = 5.0
"Seconds after which a client takes a request for lost, and sends it once more."


@dataclass
class Faults:
    """Probabilities, each for one request, one build or one message."""

    lost: float = 0.0
    "A request never arrives, arrives after the client has given up, or its answer gets lost: a third each."
    slow: float = 0.0
    "A request, answer, build or message takes seconds."
    failing: float = 0.0
    "A build or a load fails."


class World:
    """Virtual time: `at` says what happens when, `run` makes it happen."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.database = 0
        self.faults = Faults()
        self.history: list[str] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (max(time, self.now), next(self._order), what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.now + delay, what)

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
        self.now = until

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def travel(self) -> float:
        """How long something is on the way."""
        return self.random.uniform(0.5, 4.0) if self.chance(self.faults.slow) else self.random.uniform(0.0002, 0.002)

    def note(self, what: str) -> None:
        self.history.append(f"{self.now:9.4f} {what}")

    def demand(self, true: bool, what: str) -> None:
        assert true, "\n".join([what, *self.history[-80:]])


@dataclass(eq=False)
class Subscription:
    """Delivers in order what was published since it began, until it breaks."""

    hear: Callable[[Any], None]
    arrived: float = 0.0
    broken: bool = False


@dataclass(frozen=True)
class Changed:
    """An event of the platform, published when the database stood at `database`."""

    event: Event
    database: int


@dataclass(frozen=True)
class Subscribed:
    database: int


class Store:
    """The lock, the documents and the bus; see the scripts beside `backend.redis`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._epochs = itertools.count(1)
        self.subscriptions: list[Subscription] = []
        self.commits = 0
        self.builds = 0
        self.lose()

    def lose(self) -> None:
        """All data is gone, as after FLUSHALL: nobody is told."""
        self._holder: str | None = None
        self._expires = 0.0
        self._fence: Version | None = None
        self._staged: dict[str, int] = {}
        self.version: Version | None = None
        self.content = 0
        "What the documents contain: the changes up to this one."

    def _held_by(self, token: str) -> bool:
        return self._holder == token and self._world.now < self._expires

    def acquire(self, token: str, seen: Version | None) -> Version | float:
        """The version, or how long the lock is held."""
        world = self._world
        if self._holder is not None and world.now < self._expires:
            if self._holder != token:
                return self._expires - world.now
            self._expires = world.now + TIMING.lock_ttl
            assert self._fence is not None
            return self._fence
        fence = self._fence
        latest = self.version if fence and self.version and self.version.epoch == fence.epoch else fence
        if fence is None or (seen and latest and latest.epoch == seen.epoch and latest.number < seen.number):
            fence = Version(f"e{next(self._epochs)}", 0)
        self._fence = Version(fence.epoch, fence.number + 1)
        self._holder, self._expires = token, world.now + TIMING.lock_ttl
        self.builds += 1
        self.publish(Begun(self._fence))
        return self._fence

    def renew(self, token: str) -> bool:
        if self._held_by(token):
            self._expires = self._world.now + TIMING.lock_ttl
            return True
        return False

    def has(self, content: int, version: Version) -> bool:
        """True if that is what is committed, in the epoch of `version`."""
        return self.version is not None and self.version.epoch == version.epoch and self.content == content

    def stage(self, token: str, content: int) -> None:
        self._staged[token] = content

    def commit(self, token: str, version: Version, event: Event) -> bool:
        if self.version == version:
            return True
        if not self._held_by(token) or self._fence != version or token not in self._staged:
            return False
        content = self._staged.pop(token)
        if self.version is not None and self.version.epoch == version.epoch:
            self._world.demand(version.number > self.version.number, f"{version} was committed after {self.version}")
            self._world.demand(content >= self.content, f"{version} contains less than {self.version}")
        self.version, self.content = version, content
        self._holder = None
        self.commits += 1
        self.publish(Rebuilt(version.number, event))
        return True

    def confirm(self, token: str, version: Version) -> bool:
        if not self._held_by(token) or self.version is None:
            return False
        self._holder = None
        self.publish(Confirmed(version, self.version, self._world.now))
        return True

    def abandon(self, token: str, version: Version) -> None:
        if self._held_by(token):
            self._holder = None
            self.publish(Abandoned(version))

    def load(self) -> tuple[Version, int] | None:
        return None if self.version is None else (self.version, self.content)

    def publish(self, message: Any) -> None:
        self._world.note(f"bus: {message}")
        for subscription in self.subscriptions:
            self._deliver(subscription, message)

    def subscribe(self, hear: Callable[[Any], None]) -> Subscription:
        subscription = Subscription(hear)
        self.subscriptions.append(subscription)
        self._deliver(subscription, Subscribed(self._world.database))
        return subscription

    def _deliver(self, to: Subscription, message: Any) -> None:
        to.arrived = max(to.arrived, self._world.now + self._world.travel())
        self._world.at(to.arrived, lambda: None if to.broken else to.hear(message))

    def unsubscribe(self, subscription: Subscription) -> None:
        """What is on the way is lost."""
        subscription.broken = True
        self.subscriptions.remove(subscription)


@dataclass
class Lease:
    token: str
    version: Version
    content: int = -1


@dataclass(eq=False)
class Node:
    """A coordinator with the hands that `coordination.runner` gives it, and a clock of its own."""

    name: str
    world: World
    store: Store
    rate: float = 1.0
    "Seconds of its clock in a second."
    told: Version | None = None
    "By this node to its clients."
    alive: bool = True
    _frozen_until: float = 0.0
    _inbox: deque[Callable[[], None]] = field(default_factory=deque)
    _lease: Lease | None = None
    _tokens: Any = field(default_factory=itertools.count)
    _token: int = 0
    _builds: int = 0
    _timer: int = 0
    _begun_at: list[int] = field(default_factory=lambda: [0])
    "For each change, what the database stood at when the store had it, so at least what must come to contain it."

    def __post_init__(self) -> None:
        self.coordinator = c.Coordinator(TIMING, jitter=self.world.random.random)
        self.memory = Memory()
        self._subscription: Subscription | None = None
        self._clock = self.world.random.uniform(0, 1e6)
        self._subscribe()

    def __repr__(self) -> str:
        return self.name

    # Faults

    def crash(self) -> None:
        self.world.note(f"{self} crashes")
        self.alive = False
        if self._subscription is not None:
            self.store.unsubscribe(self._subscription)
            self._subscription = None

    def freeze(self, seconds: float) -> None:
        self.world.note(f"{self} freezes for {seconds:.1f} s")
        self._frozen_until = max(self._frozen_until, self.world.now + seconds)

    def reset(self) -> None:
        """Its subscription breaks, and is made again some time later."""
        if self._subscription is not None:
            self.world.note(f"{self} loses its subscription")
            self.store.unsubscribe(self._subscription)
            self._subscription = None
            self.world.after(self.world.travel() * 10, lambda: self._reach(self._subscribe))

    # What reaches it

    def _subscribe(self) -> None:
        if self._subscription is None:
            self._subscription = self.store.subscribe(lambda message: self._reach(lambda: self._hear(message)))

    def _hear(self, message: Any) -> None:
        match message:
            case Changed(event, database):
                self._feed(c.Noted(event), database)
            case Subscribed(database):
                self._feed(c.Resumed(), database)
            case _:
                self._feed(c.Heard(message))

    def _reach(self, what: Callable[[], None]) -> None:
        """Whatever comes to the node comes this way: to nobody if it crashed, after the thaw if it is frozen."""
        self._inbox.append(what)
        self._drain()

    def _drain(self) -> None:
        while self._inbox and self.alive and self.world.now >= self._frozen_until:
            self._inbox.popleft()()
        if self._inbox and self.alive:
            self.world.at(self._frozen_until, self._drain)

    def _local(self, time: float) -> float:
        return self._clock + time * self.rate

    def _feed(self, received: c.Input, database: int = 0) -> None:
        before = self.coordinator.changes
        actions = self.coordinator.handle(received, self._local(self.world.now))
        # Changes it thought of by itself have no place in the order of the bus, so nothing is promised of them.
        arrived = self.coordinator.changes - before
        self._begun_at += ([database] + [0] * arrived)[:arrived]
        self.world.note(f"{self} {received} → {actions}")
        for action in actions:
            self._perform(action)
        self._check()
        self._set_timer()

    def _set_timer(self) -> None:
        self._timer += 1
        timer = self._timer

        def ring() -> None:
            if timer == self._timer:
                self._feed(c.Tick())

        if self.coordinator.wake < c.NEVER:
            due = (self.coordinator.wake - self._clock) / self.rate + 1e-6
            self.world.at(due, lambda: self._reach(ring))

    def _check(self) -> None:
        mine, demand = self.coordinator, self.world.demand
        counters = (0, mine.contained, mine.stored, mine.covered, mine.changes)
        demand(list(counters) == sorted(counters), f"{self} counts {counters}")
        leased = (c.Phase.BUILDING, c.Phase.COMMITTING, c.Phase.CONFIRMING)
        demand((mine.lease is not None) == (mine.phase in leased), f"{self} has {mine.lease} in {mine.phase}")
        demand(mine.served == self.memory.version, f"{self} serves {self.memory.version}, not {mine.served}")
        needed = max(self._begun_at[: mine.contained + 1])
        demand(self.content >= needed, f"{self} says it contains {needed}, and has {self.content}")

    @property
    def content(self) -> int:
        """What it serves contains."""
        return int(bytes(self.memory.edition.documents["all"])) if self.memory.edition else 0

    # What it does

    def _perform(self, action: c.Action) -> None:
        match action:
            case c.TryLock(seen):
                token = f"{self.name}.{self._token}"
                self._ask(lambda: self.store.acquire(token, seen), self._answered, lambda: self._feed(c.TryFailed()))
            case c.Build(version, quiet):
                self._build(version, quiet)
            case c.CancelBuild():
                self._builds += 1
            case c.Renew():
                lease = self._leased()
                self._ask(lambda: self.store.renew(lease.token), lambda ours: self._renewed(lease, ours), lambda: None)
            case c.Commit(event, _):
                lease = self._leased()
                why = event or Event("all", "scoreboard_updated", "")
                self._finish(lease, lambda: self.store.commit(lease.token, lease.version, why), lease.content)
            case c.Confirm():
                lease = self._leased()
                self._finish(lease, lambda: self.store.confirm(lease.token, lease.version), None)
            case c.Abandon():
                lease = self._leased()
                self._ask(lambda: self.store.abandon(lease.token, lease.version), lambda _: None, lambda: None)
            case c.Load():
                asked = self.memory.version
                loaded = partial(self._loaded, asked=asked)
                self._ask(self.store.load, loaded, lambda: self._feed(c.LoadFailed()))
            case c.Tell(version, _):
                self._tell(version)

    def _leased(self) -> Lease:
        assert self._lease is not None
        return self._lease

    def _ask(self, execute: Callable[[], Any], then: Callable[[Any], None], fail: Callable[[], None]) -> None:
        """A request, sent once more if no answer comes, as the client library does."""
        self._attempt(execute, then, lambda: self._attempt(execute, then, fail))

    def _attempt(self, execute: Callable[[], Any], then: Callable[[Any], None], fail: Callable[[], None]) -> None:
        world = self.world
        if not world.chance(world.faults.lost):

            def arrive() -> None:
                result = execute()
                world.after(world.travel(), lambda: self._reach(lambda: then(result)))

            world.after(world.travel(), arrive)
            return
        match world.random.randrange(3):
            case 0:
                pass
            case 1:
                world.after(ANSWER * world.random.uniform(1, 3), lambda: (execute(), None)[1])
            case 2:
                world.after(world.travel(), lambda: (execute(), None)[1])
        world.after(ANSWER, lambda: self._reach(fail))

    def _answered(self, answer: Version | float) -> None:
        if not isinstance(answer, Version):
            self._feed(c.Busy(answer))
            return
        self._lease = Lease(f"{self.name}.{self._token}", answer)
        self._token += 1
        self._feed(c.Won(answer))

    def _renewed(self, lease: Lease, ours: bool) -> None:
        if not ours and lease is self._lease:
            self._feed(c.LeaseLost())

    def _build(self, version: Version, quiet: bool) -> None:
        world, lease = self.world, self._leased()
        self._builds += 1
        build = self._builds

        def read() -> None:
            lease.content = world.database
            world.after(world.random.uniform(0.05, 0.2) + world.travel(), stage)

        def stage() -> None:
            result: c.Input = c.Built()
            if world.chance(world.faults.failing):
                result = c.BuildFailed()
            elif quiet and self.store.has(lease.content, version):
                assert self.store.version is not None
                result = c.Unchanged(self.store.version)
            elif build == self._builds and self.alive:
                self.store.stage(lease.token, lease.content)
            self._reach(lambda: self._feed(result) if build == self._builds else None)

        world.after(world.travel(), read)

    def _finish(self, lease: Lease, execute: Callable[[], bool], content: int | None) -> None:
        asked = self.memory.version

        def answered(done: bool) -> None:
            if done and content is not None:
                self._serve(lease.version, content, asked)
            self._feed(c.Committed() if done else c.Refused())

        self._ask(execute, answered, lambda: self._feed(c.CommitFailed()))

    def _loaded(self, found: tuple[Version, int] | None, asked: Version | None) -> None:
        if self.world.chance(self.world.faults.failing):
            self._feed(c.LoadFailed())
            return
        if found is None:
            self._feed(c.Loaded(None))
            return
        self._serve(*found, asked)
        self._feed(c.Loaded(found[0]))

    def _serve(self, version: Version, content: int, asked: Version | None) -> None:
        documents = {"all": memoryview(str(content).encode())}
        if version.replaces(self.memory.version, asked):
            self.memory.install(Edition(version, self.world.now, (), documents))

    def _tell(self, version: Version) -> None:
        demand = self.world.demand
        demand(version == self.memory.version, f"{self} tells of {version}, and serves {self.memory.version}")
        if self.told is not None and self.told.epoch == version.epoch:
            demand(version.number > self.told.number, f"{self} tells of {version} after {self.told}")
        self.told = version
