"""What must be true of the store at every step, whoever asks it for what.

Everything that nodes ask of the store passes here. The judge keeps books of its own and believes only the answers.

- Of two leases, the later is given out only when the earlier has run out or was given back by its holder.
- Within an epoch the committed version grows (I2), and what it contains never shrinks: no stale writer is accepted.
- A version that was committed stands for one content, for ever: clients compare versions and nothing else.

A store that lost data, or was taken back in time, is judged from what it then has.
"""

from collections.abc import Callable

from scoreboardd.backend.base import Busy, Catalogue, Lease
from scoreboardd.edition import Event, Version
from tests.simulation.store import Store
from tests.simulation.world import World


class Judge:
    def __init__(self, world: World, store: Store, lock_ttl: float, content: Callable[[], int]) -> None:
        self._world = world
        self._store = store
        self._lock_ttl = lock_ttl
        self._content = content
        "Of what is committed."
        self._held: tuple[str, float] | None = None
        self._given: Version | None = None
        self._contents: dict[Version, int] = {}
        self.commits = 0
        self.builds = 0

    def amnesia(self) -> None:
        """The store's state is another one now."""
        lock = self._store.data.lock
        self._held = lock
        self._given = self._store.data.fence

    def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        answer = self._store.acquire(token, seen)
        if isinstance(answer, Busy):
            return answer
        now, version = self._world.now, answer.version
        if self._held is not None and self._held[0] != token:
            self._world.demand(now >= self._held[1], "{} gets the lock that {} still has", token, self._held)
        self._held = token, now + self._lock_ttl
        if version == self._given:
            return answer
        if self._given is not None and self._given.epoch != version.epoch:
            self._world.sometimes["rollback detected"] += 1
        if self._contents and all(known.epoch != version.epoch for known in self._contents):
            self._world.sometimes["epoch change"] += 1
        self._given = version
        self.builds += 1
        return answer

    def renew(self, lease: Lease) -> bool:
        ours = self._store.renew(lease)
        if ours:
            self._owned(lease, "renewed")
            self._held = lease.token, self._world.now + self._lock_ttl
        return ours

    def commit(self, lease: Lease, catalogue: Catalogue, event: Event) -> bool:
        demand, before, contained = self._world.demand, self._store.data.version, self._content()
        done = self._store.commit(lease, catalogue, event)
        version = self._store.data.version
        if not done:
            self._world.sometimes["commit refused by the fence"] += 1
        if not done or version == before:
            return done
        content = self._content()
        demand(version == lease.version, "{} is committed for {}", version, lease)
        if before is not None and before.epoch == lease.version.epoch:
            demand(lease.version.number > before.number, "{} is committed after {}", lease.version, before)
            demand(content >= contained, "{} has {}, what it replaces {}", lease.version, content, contained)
        known = self._contents.setdefault(lease.version, content)
        demand(known == content, "{} is committed for {} and for {}", lease.version, known, content)
        self._owned(lease, "commits")
        self._held = None
        self.commits += 1
        return done

    def confirm(self, lease: Lease, as_of: float) -> bool:
        done = self._store.confirm(lease, as_of)
        if done:
            self._owned(lease, "confirms")
            self._held = None
        return done

    def abandon(self, lease: Lease) -> None:
        self._store.abandon(lease)
        if self._held is not None and self._held[0] == lease.token:
            self._held = None

    def _owned(self, lease: Lease, does: str) -> None:
        held = self._held is not None and self._held[0] == lease.token and self._world.now <= self._held[1]
        self._world.demand(held, "{} {} and does not have the lock: {}", lease, does, self._held)
