"""Coordinators, hands and stores that are broken on purpose: if the simulation lets one pass, it proves nothing."""

from dataclasses import replace
from functools import partial
from typing import Any

from scoreboardd.backends.base import Begun, Busy, Confirmed, Lease, Rebuilt, SnapshotMetadata
from scoreboardd.builder.messages import Build
from scoreboardd.cluster import coordinator as c
from scoreboardd.model import ChangeEvent, Snapshot, Version
from tests.simulation.cluster import Parts
from tests.simulation.node import Node
from tests.simulation.persister import Archive
from tests.simulation.store import Store

# Coordinators


class DropsWhenBusy(c.Coordinator):
    """Somebody else builds, so there is nothing to do."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        actions = super().handle(received, now)
        if isinstance(received, c.LockBusy):
            self._covers = []
            self.contained = self.changes
        return actions


class MissesReconnects(c.Coordinator):
    """No resync on resubscribe."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        again = isinstance(received, c.SubscriptionStarted) and self.changes > 0
        return super().handle(c.Tick() if again else received, now)


class AnnouncesBeforeRefresh(c.Coordinator):
    """A version is out: tell, and then load it."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        actions = super().handle(received, now)
        match received:
            case c.MessageReceived(Rebuilt(number, event)) if self.served is not None:
                return [c.Announce(Version(self.served.epoch, number), event), *actions]
        return actions


class NeverTiresOfWaiting(c.Coordinator):
    """No `max_wait`."""

    def __init__(self, timing: c.Timing, **options: Any) -> None:
        super().__init__(replace(timing, max_wait=1e9), **options)


class HasNoHandicap(c.Coordinator):
    """Whoever comes first builds."""

    def __init__(self, timing: c.Timing, **options: Any) -> None:
        super().__init__(replace(timing, non_builder_delay=0.0), **options)


class CoversTooMuch(c.Coordinator):
    """What came while a build was under way is in it, surely."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        match received:
            case c.MessageReceived(Rebuilt()) if self._latest_begun is not None:
                self._add_cover(self._latest_begun, self.changes, now)
        return super().handle(received, now)


class ForgetsTheAbandoned(c.Coordinator):
    """What an abandoned build covered is not given back."""

    def _cover_abandoned(self, version: Version) -> None:
        self._watch_at = c.NEVER


class TrustsTheHolder(c.Coordinator):
    """Never looks after a builder that is not heard of again."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        actions = super().handle(received, now)
        self._watch_at = c.NEVER
        return actions


class HearsTwice(c.Coordinator):
    """Takes the beginning of a build, said again, for a new one."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        self._numbers = {}
        return super().handle(received, now)


class HearsTheOld(c.Coordinator):
    """Does not ask the store which beginnings are old before it takes one for new."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        return super().handle(c.SubscriptionStarted() if isinstance(received, c.SubscriptionStarted) else received, now)


class BelievesTheStore(c.Coordinator):
    """Does not see that the store has gone back."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        contained = self.contained
        actions = super().handle(received, now)
        self.contained = max(self.contained, contained)
        return actions


class BelievesTheBus(c.Coordinator):
    """A message says that a build has ended well: so it has."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        match received:
            case c.MessageReceived(Confirmed(version)):
                self._settle(version, 0, complete=True, now=now)
        return super().handle(received, now)


class LooksWhenNobodyBegins(c.Coordinator):
    """Each beginning of a build puts off the look after the one before."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        if isinstance(received, c.MessageReceived) and isinstance(received.message, Begun):
            self._watch_at = c.NEVER
        return super().handle(received, now)


class ReadsEverythingWhenIdle(c.Coordinator):
    """Each build puts off the next that reads everything."""

    def _won(self, version: Version, now: float) -> Build:
        build = super()._won(version, now)
        self._reconcile_at = now + self._timing.reconcile
        return build

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        if isinstance(received, c.MessageReceived) and isinstance(received.message, Begun):
            self._reconcile_at = now + self._timing.reconcile
        return super().handle(received, now)


class LooksOnce(c.Coordinator):
    """What a build did not find is not looked for again."""

    def _look_again(self, complete: bool, reached: list[c.Cover], now: float) -> bool:
        return False


class KeepsItToItself(c.Coordinator):
    """Tells nobody of what was kept outside the store: whoever came before that may never hear of it."""

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        actions = super().handle(received, now)
        return [] if isinstance(received, c.Restored) else actions


# Hands


class ReadsFromAReplica(Node):
    """Reads the database where it is a second behind."""

    def _see_database(self) -> int:
        return self.cluster.database_at(self.world.now - 1.0)


class RestoresAtAnyTime(Node):
    """What was kept is served, whatever the store has said by then."""

    def restored(self, snapshot: Snapshot) -> bool:
        if self.cache.install(snapshot):
            self._feed(c.Restored(snapshot.version))
        return True


class ServesAnything(Node):
    """What is in the store was committed, surely."""

    def _intact(self, document: Any, metadata: SnapshotMetadata) -> bool:
        return True


class ReadsOnce(ServesAnything):
    """Does not look whether the version moved while the documents were read, nor whether they are of one version."""

    def _moved(self, elsewhere: bool) -> bool:
        return False


# Stores


class TakesAnyToken(Store):
    """No fence: the lock is whoever's, and a commit is accepted from anybody."""

    def _may_commit(self, lease: Lease) -> bool:
        return True


class TakesAnyFence(Store):
    """Half a fence: the token is compared, the number is not."""

    def _may_commit(self, lease: Lease) -> bool:
        return self._owns(lease)


class ReleasesByKey(Store):
    """Who has done with the lock deletes it, whoever has it by now."""

    def abandon(self, lease: Lease) -> None:
        self.data.lock = None
        super().abandon(lease)


class HoldsForLong(Store):
    """A lock ends when it says so."""

    def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        lock = self.data.lock
        answer = super().acquire(token, seen)
        if isinstance(answer, Busy):
            self.data.lock = lock
        return answer


class RepeatsNumbers(Store):
    """A server that was taken back gives the numbers out again that it has forgotten."""

    def restart(self) -> None:
        pass


class KeepsWhatComesLast(Archive):
    """The last to write has the last word."""

    def _replaces(self, snapshot: Snapshot, kept: Snapshot) -> bool:
        return True


# The reference, of which the design document says how it works


class Reference(c.Coordinator):
    """A trailing timer, and whoever gets the lock when it fires rebuilds. All else is dropped."""

    def __init__(self, timing: c.Timing, **options: Any) -> None:
        super().__init__(timing, **options)
        self._fires_at = c.NEVER

    @property
    def wake(self) -> float:
        return self._fires_at

    def handle(self, received: c.Input, now: float) -> list[c.Action]:
        match received:
            case c.ChangeReported() | c.SubscriptionStarted() if self.served is None or isinstance(
                received, c.ChangeReported
            ):
                self.changes += 1
                self._fires_at = now + self._timing.debounce
            case c.Tick() if now >= self._fires_at:
                self._fires_at = c.NEVER
                if self.phase is c.Phase.IDLE:
                    self.phase = c.Phase.TRYING
                    return [c.TryLock(None)]
            case c.LockBusy() | c.LockFailed():
                self.phase = c.Phase.IDLE
            case c.LockAcquired(version):
                self.phase, self.lease = c.Phase.BUILDING, version
                return [Build(version, quiet=False, full=True)]
            case c.Built():
                self.phase = c.Phase.COMMITTING
                return [c.Commit(None, 0)]
            case c.Committed():
                version, self.lease, self.phase = self.lease, None, c.Phase.IDLE
                if version is not None and version.follows(self.served):
                    self.served = version
                    return [c.Announce(version, None)]
            case c.BuildFailed() | c.CommitRefused() | c.CommitFailed():
                self.phase, self.lease = c.Phase.IDLE, None
                return [c.Abandon()]
            case c.MessageReceived(Rebuilt()):
                return [c.Load()]
            case c.Loaded(version) if version is not None and version.follows(self.served):
                self.served = version
                return [c.Announce(version, None)]
        return []


class ReferenceStore(TakesAnyToken, ReleasesByKey):
    """Says nothing of a commit: the holder does, when it has released the lock."""

    def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        say, self._say = self._say, lambda message: None
        try:
            return super().commit(lease, metadata, event)
        finally:
            self._say = say


class ReferenceNode(Node):
    def _feed(self, received: c.Input, database: int = 0) -> None:
        super()._feed(received, database)
        if isinstance(received, c.Committed) and self._lease is not None:
            rebuilt = Rebuilt(self._lease.version.number, ChangeEvent("all", "scoreboard_updated", ""))
            self._ask(partial(self.cluster.bus.publish, rebuilt), lambda _: None, lambda: None)


MUTANTS = {
    "drops the change when the lock is busy": Parts(coordinator=DropsWhenBusy),
    "does not resync when it subscribes again": Parts(coordinator=MissesReconnects),
    "announces before it has refreshed": Parts(coordinator=AnnouncesBeforeRefresh),
    "has no max_wait": Parts(coordinator=NeverTiresOfWaiting),
    "lets anybody build next": Parts(coordinator=HasNoHandicap),
    "covers what was heard after the build began": Parts(coordinator=CoversTooMuch),
    "does not give back what an abandoned build covered": Parts(coordinator=ForgetsTheAbandoned),
    "never looks after a dead holder": Parts(coordinator=TrustsTheHolder),
    "hears a message twice": Parts(coordinator=HearsTwice),
    "hears what is old": Parts(coordinator=HearsTheOld),
    "does not see that the store went back": Parts(coordinator=BelievesTheStore),
    "believes the bus": Parts(coordinator=BelievesTheBus),
    "looks after no builder while others begin": Parts(coordinator=LooksWhenNobodyBegins),
    "reads everything only when idle": Parts(coordinator=ReadsEverythingWhenIdle),
    "looks once for what was announced": Parts(coordinator=LooksOnce),
    "serves whatever is in the store": Parts(node=ServesAnything),
    "waits for a lock for as long as it says": Parts(store=HoldsForLong),
    "mixes documents of two versions": Parts(node=ReadsOnce),
    "has no fence": Parts(store=TakesAnyToken),
    "compares the token only": Parts(store=TakesAnyFence),
    "releases the lock by its key": Parts(store=ReleasesByKey),
    "gives numbers out twice": Parts(store=RepeatsNumbers),
    "reads from a replica that lags": Parts(node=ReadsFromAReplica),
    "does not tell of what it began from": Parts(coordinator=KeepsItToItself),
    "begins from what is kept when it has begun": Parts(node=RestoresAtAnyTime),
    "keeps an older version": Parts(archive=KeepsWhatComesLast),
    "is the reference": Parts(coordinator=Reference, store=ReferenceStore, node=ReferenceNode),
}
