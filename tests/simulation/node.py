"""A node: a real coordinator and memory, a clock of its own, and the hands that `cluster.runner` gives it.

What it asks of the store takes its time, or goes wrong. A build and a load are the child's, step by step, one document
after another. Whatever reaches the node comes by `reach`: to nobody if it has crashed, and if it is frozen when it
thaws, what came on the subscription in order, the rest in any.
"""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scoreboardd.backends.base import (
    Begun,
    Busy,
    Changed,
    Confirmed,
    Head,
    Lease,
    Rebuilt,
    SnapshotMetadata,
    Subscribed,
)
from scoreboardd.board.document_names import SETTINGS, document_names
from scoreboardd.builder.messages import Build
from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.cluster import coordinator as c
from scoreboardd.model import ChangeEvent, Snapshot, Version
from scoreboardd.system.compression import compressed
from tests.simulation.bus import Said, Subscription
from tests.simulation.clients import Client
from tests.simulation.faults import LATE
from tests.simulation.persister import Keeper

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

ANSWER = 5.0
"Seconds of its own clock after which the client library takes a request, or a connection, for lost."
BULK = 20.0
"The same, for one document."
BUILD_TIMEOUT = 60.0
LOAD_TIMEOUT = 30.0
CHILD_RESTART = 0.2
OWED = sum(c.LOOK_AGAIN_SECONDS)
"Seconds of its own clock within which a solve that was announced is expected to be found."
RECONNECT_MIN, RECONNECT_MAX = 0.1, 5.0

NAMES = tuple(document_names(()))
NO_SETTINGS = [compressed(b"{}")]
LEASED = (c.Phase.BUILDING, c.Phase.COMMITTING, c.Phase.CONFIRMING)


@dataclass
class Built:
    content: int
    as_of: float
    unchanged: Version | None = None
    full: bool = True
    complete: bool = True
    digest: str = ""
    "Of what was committed when it was read."


@dataclass(frozen=True)
class Base:
    """What the child holds of the database after a build."""

    content: int
    seen: int
    "What the database had when the child last read."
    whole_seen: int
    "The same, when it last read everything."
    whole_version: Version
    "The build that did."
    version: Version
    "The last build."
    interruptions: int
    "How many there had been by then."
    balance: int = 0
    "Solves that were found by the last build and not announced yet; below zero, announced and not found, until:"
    until: float = 0.0
    forgot: bool = False
    "An announcement was lost, or forgotten before its solve was found."


class Node:
    def __init__(self, name: str, cluster: "Cluster", *, rate: float) -> None:
        self.name = name
        self.cluster = cluster
        self.world = cluster.world
        self.rate = rate
        "Seconds of its clock in a second."
        self.alive = True
        self.blind_until = 0.0
        "Its child does not reach the database before."
        self.clients: list[Client] = []
        self.cache = DocumentCache()
        self.coordinator = cluster.make_coordinator(cluster.timing, jitter=self.world.random.random)
        self.told: Version | None = None

        self._clock = self.world.random.uniform(0, 1e6)
        self._timer = 0
        self._needs = [0]
        "What one has to have who contains the changes up to that one."
        self._frozen_until = 0.0
        self._child_frozen_until = 0.0
        self._heard: deque[Callable[[], None]] = deque()
        self._other: list[Callable[[], None]] = []
        self._draining = False
        self._interrupted: list[c.Action] = []
        "What it was about to do when it froze."
        self._parted_until = 0.0
        self._subscription: Subscription | None = None
        self._attempts = 0
        self._tokens = itertools.count()
        self._token = self._new_token()
        self._lease: Lease | None = None
        self._built: Built | None = None
        self._build_number = 0
        "Of the build whose result is awaited."
        self._child = 0
        "Which child this is: work of an earlier one is no more."
        self._child_ready_at = 0.0
        self._base: Base | None = None
        self._keeper = Keeper(self, cluster.archive, cluster.keep_every) if cluster.archive else None
        self._connect()

    def __repr__(self) -> str:
        return self.name

    def _new_token(self) -> str:
        return f"{self.name}.{next(self._tokens)}"

    @property
    def content(self) -> int:
        """What it serves contains."""
        snapshot = self.cache.snapshot
        return snapshot.documents[NAMES[0]] if snapshot else 0  # type: ignore[return-value]

    # Faults

    def crash(self) -> None:
        if self.alive:
            self.world.note("{} crashes", self)
            self._die()

    def stop(self) -> None:
        """It is told to end, and gives back the lock as `Runner.run` does."""
        if self.alive and not self.frozen:
            self.world.note("{} stops", self)
            if self.coordinator.lease is not None:
                self._perform(c.Abandon())
            if self._keeper is not None:
                self._keeper.flush()
            self._die()

    @property
    def listening(self) -> bool:
        return self.alive and self._subscription is not None and self._subscription.open and not self.parted

    def _die(self) -> None:
        self.cluster.interruptions += 1
        self.alive = False
        self._child += 1
        if self._subscription is not None:
            self._subscription.ends_at = self.world.now
            self.cluster.bus.close(self._subscription)
        for client in list(self.clients):
            client.leave()

    @property
    def frozen(self) -> bool:
        return self.world.now < self._frozen_until

    def freeze(self, seconds: float, *, with_child: bool) -> None:
        self.world.note("{} freezes for {:.1f} s{}", self, seconds, ", its child too" if with_child else "")
        self._frozen_until = max(self._frozen_until, self.world.now + seconds)
        if with_child:
            self._child_frozen_until = self._frozen_until
        self.world.at(self._frozen_until, self._drain)

    def thaw(self) -> None:
        self._frozen_until = self._child_frozen_until = 0.0
        self._drain()

    def reset(self, *, silently: bool = False) -> None:
        """Its subscription breaks: with what is on the way, or with the part of it that comes later. It is closed at
        the other end, and known to be: soon, or, if that went silently, when it has not answered."""
        world, subscription = self.world, self._subscription
        if subscription is None or not subscription.open:
            return
        world.note("{} loses its subscription", self)
        self.cluster.interruptions += 1
        self.cluster.bus.close(subscription)
        known_after = self._silence() if silently else self.cluster.faults.travel(world.random)
        subscription.ends_at = min(subscription.ends_at, world.now + known_after)
        world.at(subscription.ends_at, self.reach, partial(self._reconnect, subscription))

    def _silence(self) -> float:
        """How long until it takes a silent subscription for dead."""
        return self.world.random.uniform(ANSWER, 2 * ANSWER) / self.rate

    def part(self, seconds: float) -> None:
        """Nothing gets to the store or back. If that lasts until the silence is noticed, the subscription is given up:
        half-open till then."""
        world, subscription = self.world, self._subscription
        world.note("{} is parted from the store for {:.1f} s", self, seconds)
        self._parted_until = max(self._parted_until, world.now + seconds)
        if subscription is not None:
            subscription.held_until = self._parted_until
            world.after(self._silence(), self.reach, partial(self._silent, subscription))

    def _silent(self, subscription: Subscription) -> None:
        if not self.parted or subscription is not self._subscription:
            return  # it has answered meanwhile
        subscription.ends_at = self.world.now
        self.world.note("{} gives up a silent subscription", self)
        self.cluster.interruptions += 1
        self.world.sometimes["half-open subscription"] += 1
        self.cluster.bus.close(subscription)
        self._reconnect(subscription)

    @property
    def parted(self) -> bool:
        return self.world.now < self._parted_until

    def reunite(self) -> None:
        self._parted_until = self.blind_until = 0.0
        if self._subscription is not None:
            self._subscription.held_until = 0.0

    # What reaches it

    def reach(self, what: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.world.now < self._frozen_until or self._draining:
            self._other.append(what)
        else:
            what()

    def _reach_in_order(self, what: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.world.now < self._frozen_until or self._draining:
            self._heard.append(what)
        else:
            what()

    def _drain(self) -> None:
        if self.frozen or not self.alive:
            return
        self._draining = True
        if self._interrupted:
            actions, self._interrupted = self._interrupted, []
            self._act(actions)
        while self.alive and not self.frozen and (self._heard or self._other):
            if self._heard and (not self._other or self.world.random.random() < 0.5):
                self._heard.popleft()()
            else:
                self._other.pop(self.world.random.randrange(len(self._other)))()
        self._draining = False

    # The bus

    def _connect(self) -> None:
        world = self.world
        if self.parted or self.cluster.down:
            self._attempts += 1
            after = world.random.uniform(0, ANSWER) if self.parted else 0.0
            after += min(RECONNECT_MAX, RECONNECT_MIN * 2**self._attempts) * world.random.uniform(0.5, 1)
            world.after(after / self.rate, self.reach, self._connect)
            return
        self._attempts = 0
        self._subscription = self.cluster.bus.subscribe(self._receive)

    def _reconnect(self, broken: Subscription) -> None:
        if self._subscription is broken:
            self._subscription = None
            # At once, as redis-py does by itself, or after the runner's pause.
            pause = self.world.random.choice((0.0, RECONNECT_MIN)) + self.cluster.faults.travel(self.world.random)
            self.world.after(pause, self.reach, self._connect)

    def _receive(self, subscription: Subscription, said: Said) -> None:
        self._reach_in_order(partial(self._hear, said))

    def _hear(self, said: Said) -> None:
        match said.message:
            case Subscribed(given):
                self._feed(c.SubscriptionStarted(given), said.database)
            case Changed(event, id):
                self._feed(c.ChangeReported(event, requested=id is not None), said.database)
            case message:
                if isinstance(message, Begun) and self.coordinator._is_unasked(message.version):
                    self.cluster.overtaken += 1
                self._watch_losers(message)
                self._feed(c.MessageReceived(message))

    def _watch_losers(self, message: Any) -> None:
        mine, sometimes = self.coordinator, self.world.sometimes
        if mine.phase in LEASED:
            return
        if isinstance(message, Begun) and mine.changes > mine.covered:
            sometimes["covered loser"] += 1
        if isinstance(message, Rebuilt | Confirmed) and mine.covered > mine.contained and mine.changes > mine.covered:
            sometimes["uncovered loser"] += 1
        if isinstance(message, Confirmed) and mine.covered > mine.contained:
            sometimes["confirm by another node"] += 1

    # The coordinator

    def _feed(self, received: c.Input, database: int = 0) -> None:
        mine, world = self.coordinator, self.world
        before = mine.changes
        actions = mine.handle(received, self._clock + world.now * self.rate)
        # What it thought of by itself has no place in the order of the bus, so nothing is promised of it.
        needs = self._needs
        for number in range(mine.changes - before):
            needs.append(max(needs[-1], 0 if number else database))
        world.note("{} {} → {}", self, received, actions)
        self._check_counters()
        self._act(actions)

    def _act(self, actions: list[c.Action]) -> None:
        world, stumble = self.world, self.cluster.faults.stumble
        for number, action in enumerate(actions):
            if stumble and world.random.random() < stumble:
                if world.random.random() < 0.5:
                    self.crash()
                else:
                    self._interrupted = actions[number:]
                    seconds = world.random.uniform(0.5, 2.5) * self.cluster.timing.lock_ttl
                    self.freeze(seconds, with_child=world.random.random() < 0.5)
                return
            self._perform(action)
        self._timer += 1
        if (wake := self.coordinator.wake) < c.NEVER:
            world.at((wake - self._clock) / self.rate + 1e-6, self._ring, self._timer)

    def _ring(self, timer: int) -> None:
        if timer == self._timer:
            self.reach(partial(self._tick, timer))

    def _tick(self, timer: int) -> None:
        if timer == self._timer:
            self._feed(c.Tick())

    def _check_counters(self) -> None:
        mine, demand = self.coordinator, self.world.demand
        counted = 0 <= mine.contained <= mine.covered <= mine.changes
        if not counted:
            counters = (mine.contained, mine.covered, mine.changes)
            demand(False, "{} counts {}", self, counters)
        if (mine.lease is not None) != (mine.phase in LEASED):
            demand(False, "{} has {} in {}", self, mine.lease, mine.phase)
        if mine.served != self.cache.version:
            demand(False, "{} serves {}, not {}", self, self.cache.version, mine.served)
        still, needed = self.cluster.still, self._needs[mine.contained]
        # A build's own message that was swallowed and is repeated by somebody later would prove what is not true.
        is_deceived = self.cluster.bus.swallowed and self.cluster.forged
        # A builder that has not heard yet why it should read everything does not see it; when it has, it builds again.
        lacks = self.content < needed and still(self.content) < still(needed) and not self._hidden(self.content)
        if lacks and not is_deceived:
            demand(False, "{} says it contains {}, and has {}", self, needed, self.content)

    def _check_age(self) -> None:
        if self._hidden(self.content):
            return  # what is new was read, and it was not among that
        had = self.cluster.database_at(self.cache.as_of)
        demand, still = self.world.demand, self.cluster.still
        demand(still(self.content) >= still(had), "{} says {} is true when there was {}", self, self.content, had)

    # Its hands

    def _perform(self, action: c.Action) -> None:
        match action:
            case c.TryLock(seen):
                acquire = partial(self.cluster.judge.acquire, self._token, seen)
                self._ask(acquire, self._answered, partial(self._feed, c.LockFailed()))
            case Build():
                self._build(action)
            case c.CancelBuild():
                self._build_number += 1
                self._kill_child()
            case c.Renew():
                lease = self._leased()
                self._ask(partial(self.cluster.judge.renew, lease), partial(self._renewed, lease), _nothing)
            case c.Commit(event, _):
                self._commit(event or ChangeEvent("all", "scoreboard_updated", ""))
            case c.Confirm():
                lease, built = self._leased(), self._result()
                confirm = partial(
                    self.cluster.judge.confirm, lease, built.as_of, full=built.full, complete=built.complete
                )
                self._ask(confirm, self._confirmed, partial(self._feed, c.CommitFailed()))
            case c.Abandon():
                lease = self._leased()
                self._ask(partial(self.cluster.judge.abandon, lease), _ignore, _nothing)
            case c.Load():
                self._load()
            case c.Announce(version, _):
                self._tell(version)

    def _leased(self) -> Lease:
        assert self._lease is not None
        return self._lease

    def _result(self) -> Built:
        assert self._built is not None
        return self._built

    def _answered(self, answer: Lease | Busy) -> None:
        if isinstance(answer, Busy):
            self._feed(c.LockBusy(answer.remaining))
            return
        if self.cluster.store.holder != answer.token:
            self.world.sometimes["late lease reply"] += 1
        if any(other is not self and other.alive and other.coordinator.lease for other in self.cluster.nodes):
            self.world.sometimes["takeover during a build"] += 1
        self._token = self._new_token()
        self._lease = answer
        self._feed(c.LockAcquired(answer.version))

    def _renewed(self, lease: Lease, ours: bool) -> None:
        if not ours and lease is self._lease:
            self._feed(c.LeaseLost())

    def _commit(self, event: ChangeEvent) -> None:
        lease, built, asked = self._leased(), self._result(), self.cache.version
        base = self._base
        full = base.whole_version if base else lease.version
        number = full.number if full.epoch == lease.version.epoch else 0
        metadata = SnapshotMetadata(str(built.content), built.as_of, (), number, built.complete)
        commit = partial(self.cluster.judge.commit, lease, metadata, event)

        def answered(committed: bool) -> None:
            if committed:
                self._serve(lease.version, dict.fromkeys(NAMES, built.content), built.as_of, asked)
            self._feed(c.Committed() if committed else c.CommitRefused())

        self._ask(commit, answered, partial(self._feed, c.CommitFailed()))

    def restored(self, snapshot: Snapshot) -> bool:
        """`snapshot` was kept outside the store. True if there is nothing better yet."""
        if self.cache.snapshot is not None:
            return False
        self.cache.install(snapshot)
        self._check_age()
        self.world.sometimes["began from the archive"] += 1
        self._feed(c.Restored(snapshot.version))
        return True

    def _confirmed(self, confirmed: bool) -> None:
        built = self._result()
        if confirmed and built.unchanged == self.cache.version:
            self.cache.confirm(built.as_of)
            self._check_age()
        self._feed(c.Committed() if confirmed else c.CommitRefused())

    def _serve(self, version: Version, documents: dict[str, int], as_of: float, asked: Version | None) -> None:
        before, contained = self.cache.version, self.content
        if not version.replaces(before, asked) or not self.cache.install(
            Snapshot(version, as_of, (), "", {**documents, SETTINGS: NO_SETTINGS})  # type: ignore[dict-item]
        ):
            return
        demand, still = self.world.demand, self.cluster.still
        full = len(documents) == len(NAMES) and len(set(documents.values())) == 1
        demand(full, "{} is no cut: {}", version, documents)
        if before is not None and before.epoch == version.epoch:
            demand(still(self.content) >= still(contained), "{} has {} after {}", self, self.content, contained)
        if before is not None and before.epoch != version.epoch:
            self.world.sometimes["reload after regress"] += 1
        self._check_age()

    def _tell(self, version: Version) -> None:
        demand = self.world.demand
        demand(version == self.cache.version, "{} tells of {}, and serves {}", self, version, self.cache.version)
        if self.told is not None and self.told.epoch == version.epoch:
            demand(version.number > self.told.number, "{} tells of {} after {}", self, version, self.told)
        self.told = version
        for client in self.clients:
            if version.follows(client.told):
                client.tell(version)

    # Requests

    def _ask(
        self, execute: Callable[[], Any], then: Callable[[Any], None], fail: Callable[[], None], within: float = ANSWER
    ) -> None:
        """The client library gives up after `within`. Not all of them send a request a second time if the connection
        breaks; those that do not say so at once."""
        world, faults, backend = self.world, self.cluster.faults, self.cluster.backend
        random = world.random
        gives_up = within / self.rate
        there, back = faults.travel(random), faults.travel(random)
        working = faults.working(random, within) if backend.transactions else 0.0
        if self.parted:
            if random.random() < 0.5:
                world.at(self._parted_until + there, self._arrive, execute, None, None, 0.0)
            world.after(gives_up, self.reach, fail)
            return
        if faults.lost and random.random() < faults.lost:
            fate = random.randrange(7)
            if fate == 0:  # lost
                world.after(gives_up, self.reach, fail)
                return
            if fate == 1:  # late
                world.after(random.uniform(gives_up, LATE), self._arrive, execute, None, None, 0.0)
                world.after(gives_up, self.reach, fail)
                return
            if fate == 2:  # its answer is lost
                world.after(there, self._arrive, execute, None, None, 0.0)
                world.after(gives_up, self.reach, fail)
                return
            if fate == 3:  # the connection breaks after it was done
                world.after(there, self._arrive, execute, None, None, 0.0, working)
                there += faults.travel(random)
            elif fate <= 5:  # the connection breaks, and what was sent on it is yet to be read
                world.after(LATE * random.random() ** 2, self._arrive, execute, None, None, 0.0)
            else:  # the answer is slow
                back += random.uniform(0, 0.9 * gives_up)
            if 3 <= fate <= 5 and not backend.sends_again:
                world.after(there, self.reach, fail)
                return
        if there + working + back >= gives_up:
            world.after(there, self._arrive, execute, None, None, 0.0, working)
            world.after(gives_up, self.reach, fail)
        else:
            world.after(there, self._arrive, execute, then, fail, back, working)

    def _arrive(
        self,
        execute: Callable[[], Any],
        then: Callable[[Any], None] | None,
        fail: Callable[[], None] | None,
        back: float,
        working: float = 0.0,
    ) -> None:
        """The store has the request; `then` and `fail` are None if nobody waits for the answer any more."""
        cluster, world = self.cluster, self.world
        starts, began, saw = cluster.starts, world.now, cluster.store.contended()

        def end() -> None:
            answer = fail
            if not cluster.down and cluster.starts == starts:
                undisturbed = cluster.store.contended() == saw
                if not undisturbed:
                    world.sometimes["statement overtaken"] += 1
                    if then is None or not self.alive:
                        return
                with cluster.began(began if undisturbed else world.now):
                    result = execute()
                answer = partial(then, result) if then is not None else None
            if answer is not None:
                world.after(back, self.reach, answer)

        if working and not cluster.down:
            world.after(working, end)
        else:
            end()

    # The child

    @property
    def blind(self) -> bool:
        """Its child does not reach the database."""
        return self.world.now < self.blind_until

    @property
    def _child_without_store(self) -> bool:
        return self.parted or self.cluster.down or (self.cluster.backend.one_server and self.blind)

    @property
    def _child_without_database(self) -> bool:
        return self.blind or (self.cluster.backend.one_server and self._child_without_store)

    def _step(self, child: int, fail: Callable[[], None], what: Callable[[], None], delay: float = 0.0) -> None:
        """One step of what the child does, after `delay`, unless it is no more or the step fails."""
        faults, random = self.cluster.faults, self.world.random
        if faults.failing and random.random() < faults.failing / 6:
            self.world.after(delay + faults.travel(random), self.reach, fail)
        else:
            self.world.after(delay + faults.travel(random), self._do_step, child, what)

    def _do_step(self, child: int, what: Callable[[], None]) -> None:
        if child != self._child:
            return
        if self.world.now < self._child_frozen_until:
            self.world.at(self._child_frozen_until, self._do_step, child, what)
        else:
            what()

    def _request(
        self, child: int, fail: Callable[[], None], execute: Callable[[], Any], then: Callable[[Any], None]
    ) -> None:
        """A request of the child's to the store."""

        def arrive() -> None:
            if self._child_without_store:
                self.world.after(self.world.random.uniform(0, BULK) / self.rate, self.reach, fail)
            else:
                then(execute())

        self._step(child, fail, arrive)

    def _kill_child(self) -> None:
        self._child += 1
        self._base = None
        self._child_ready_at = self.world.now + CHILD_RESTART
        if self.coordinator._loading:
            self.world.after(0.001, self.reach, self._load_failed)

    def _build(self, asked: Build) -> None:
        world, lease, version = self.world, self._leased(), asked.version
        self._build_number += 1
        number, child = self._build_number, self._child
        documents: list[str] = list(NAMES)
        built = Built(0, 0.0)
        # Gone, if what follows fails.
        base, self._base = self._base, None

        def end(result: c.Input) -> None:
            if number != self._build_number:
                return
            self._build_number += 1
            self._built = built
            self._feed(result)

        def fail() -> None:
            end(c.BuildFailed())

        def look() -> None:
            self._request(child, fail, self.cluster.store.head, read)

        def read(head: Head) -> None:
            if self._child_without_database:
                world.after(world.random.uniform(0.01, 30) / self.rate, self.reach, fail)
                return
            built.digest = head.metadata.digest if head.metadata else ""
            built.as_of = world.now
            self._base = self._read(asked, base, head, built)
            self._step(child, fail, compare if asked.quiet else stage, self.cluster.faults.building(world.random))

        def compare() -> None:
            self._request(child, fail, self.cluster.store.head, compared)

        def compared(head: Head) -> None:
            committed, metadata = head.version, head.metadata
            same = committed is not None and metadata is not None and metadata.digest == str(built.content)
            if same and committed is not None and committed.epoch == version.epoch:
                built.unchanged = committed
                world.after(0.001, self.reach, partial(end, c.Unchanged(committed, built.complete)))
            else:
                stage()

        def stage(_: None = None) -> None:
            if documents:
                put = partial(self.cluster.store.stage, lease, documents.pop(), built.content)
                self._request(child, fail, put, stage)
            else:
                world.after(0.001, self.reach, partial(end, c.Built(built.complete)))

        def out_of_time() -> None:
            if number == self._build_number:
                self._kill_child()
                fail()

        self._step(child, fail, look, max(0.0, self._child_ready_at - world.now))
        world.after(BUILD_TIMEOUT / self.rate, self.reach, out_of_time)

    def _read(self, asked: Build, base: Base | None, head: Head, built: Built) -> Base:
        """What is read, by all or by what is new, and whether what was announced is among it: as `builder.loader`."""
        cluster, now = self.cluster, self.world.now * self.rate
        database = built.content = self._see_database()
        is_new = built.digest != str(database)
        if base is None:
            # Nothing to count from, but what is committed.
            built.complete = is_new or not (asked.solves or asked.announced or asked.again)
            cluster.missed |= built.complete and cluster.to_come > 0
            owed = 0 if built.complete else asked.solves + asked.again
            return Base(
                database, database, database, asked.version, asked.version, cluster.interruptions, -owed, now + OWED
            )
        full = base.whole_version
        built.full = asked.full or full.epoch != asked.version.epoch
        if head.metadata is None:
            # Or what is committed is damaged: others may have read more, if they have built since.
            built.full |= asked.version.number != base.version.number + 1
        else:
            built.full |= head.metadata.full > full.number
        balance = base.balance if base.balance > 0 or now < base.until else 0
        new = cluster.solves(base.seen, database) - cluster.hidden_solves(base.seen, database)
        if not built.full and balance + new < asked.solves:
            self.world.sometimes["announced, and not among what is new"] += 1
            built.full = True
        elif not built.full and balance > 0 and new < asked.solves and cluster.hidden_solves(base.seen, database):
            cluster.missed = True  # taken for one that was found before it was announced
        if built.full:
            new = cluster.solves(base.seen, database) + cluster.hidden_solves(base.whole_seen, base.seen)
        else:
            built.content = cluster.visible_since(base.whole_seen, database)
        balance = min(balance + new - asked.solves, new)
        built.complete = balance >= 0 and not (asked.announced and built.digest == str(built.content))
        forgot = base.forgot or base.interruptions != cluster.interruptions or (base.balance < 0 and now >= base.until)
        # A solve whose announcement was lost, or forgotten, may stand for one that is still to come.
        cluster.missed |= forgot and built.complete and cluster.to_come > 0
        return Base(
            built.content,
            database,
            database if built.full else base.whole_seen,
            asked.version if built.full else full,
            asked.version,
            cluster.interruptions,
            balance,
            base.until if base.balance < 0 and now < base.until else now + OWED,
            forgot,
        )

    def _hidden(self, content: int) -> bool:
        """True if the next change is one that a reader of what is new does not see."""
        return content + 1 in self.cluster.hidden

    def _see_database(self) -> int:
        return self.cluster.database

    def _load(self) -> None:
        world, child, cluster, asked = self.world, self._child, self.cluster, self.cache.version
        found: dict[str, Any] = {}
        ended = False
        store = cluster.store
        run = starts = 0

        def end(then: Callable[[], None]) -> None:
            nonlocal ended
            if not ended and child == self._child:
                ended = True
                then()

        fail = partial(end, self._load_failed)

        def begin() -> None:
            nonlocal store, run, starts
            store = cluster.store.snapshot() if cluster.backend.transactions else cluster.store
            run, starts = store.run, cluster.starts
            found.clear()
            ask(store.committed, partial(read, list(NAMES)))

        def read(names: list[str], head: Head) -> None:
            if head.version is None or head.version == asked:
                world.after(0.001, self.reach, partial(end, partial(self._loaded, head, found, asked)))
            else:
                ask(partial(store.document, names[0]), partial(keep, names, head))

        def keep(names: list[str], head: Head, document: Any) -> None:
            found[names.pop(0)] = document
            if names:
                ask(partial(store.document, names[0]), partial(keep, names, head))
            else:
                ask(store.committed, partial(check, head))

        def ask(execute: Callable[[], Any], then: Callable[[Any], None]) -> None:
            self._request(child, fail, execute, partial(answered, then))

        def answered(then: Callable[[Any], None], answer: Any) -> None:
            if cluster.backend.transactions and cluster.starts != starts:
                world.after(0.001, self.reach, fail)  # what it read from is gone
            else:
                then(answer)

        def check(before: Head, head: Head) -> None:
            if self._moved(head.version != before.version or store.run != run):
                begin()
                return
            assert before.version is not None
            assert before.metadata is not None
            if all(self._intact(document, before.metadata) for document in found.values()):
                world.after(0.001, self.reach, partial(end, partial(self._loaded, before, found, asked)))
            else:
                ask(partial(self._forget, before.version), lambda _: end(self._damaged))

        self._step(child, fail, begin, max(0.0, self._child_ready_at - world.now))
        world.after(LOAD_TIMEOUT / self.rate, self.reach, fail)

    def _moved(self, elsewhere: bool) -> bool:
        """True if what was read has to be read again, as the store is `elsewhere` by now."""
        return elsewhere

    def _intact(self, document: Any, metadata: SnapshotMetadata) -> bool:
        """True if this is the document that was committed."""
        return str(document) == metadata.digest

    def _forget(self, version: Version) -> None:
        self.cluster.store.forget(version)

    def _damaged(self) -> None:
        self.world.sometimes["damaged documents found"] += 1
        self._feed(c.DocumentsDamaged())

    def _load_failed(self) -> None:
        self._feed(c.LoadFailed())

    def _loaded(self, head: Head, found: dict[str, Any], asked: Version | None) -> None:
        version, metadata = head.version, head.metadata
        if version is None or metadata is None:
            self._feed(c.Loaded(None, given=head.given))
            return
        if found:
            self._serve(version, found, metadata.as_of, asked)
        if version == self.cache.version:
            self.cache.confirm(metadata.as_of)
            self._check_age()
        self._feed(c.Loaded(version, head.confirmed, metadata.full, metadata.complete, head.given))


def _nothing() -> None:
    pass


def _ignore(_: Any) -> None:
    pass
