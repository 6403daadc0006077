"""What must be true of the store at every step, whoever asks it for what.

Everything that nodes ask of the store passes here. The judge keeps books of its own and believes only the answers.

- Of two leases, the later is given out only when the earlier has run out or was given back by its holder.
- Within an epoch the committed version grows (I2), and what it contains never shrinks: no stale writer is accepted.
- What is kept outside the store was committed, and within an epoch grows as well.
- A version that was committed stands for one content, for ever: clients compare versions and nothing else.

A store that lost data, or was taken back in time, is judged from what it then has; a version, by what the database
still has of what it contains; a statement, as of the time at which it began.
"""

from typing import TYPE_CHECKING

from scoreboardd.backends.base import Busy, Lease, SnapshotMetadata
from scoreboardd.board.document_names import SETTINGS
from scoreboardd.model import ChangeEvent, Snapshot, Version

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


STRANGER = "somebody"
"The token of somebody who sets the lock and is no node."


class InvariantChecker:
    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._store = cluster.store
        self._lock_ttl = cluster.timing.lock_ttl
        self._held: tuple[str, float] | None = None
        self._given: Version | None = None
        self._contents: dict[Version, int] = {}
        self._maker: str | None = None
        self.commits = 0
        self.attempts = 0
        self.builds = 0
        self.handovers = 0
        "How often a version was made by another node than the one before it."

    def amnesia(self) -> None:
        """The store's state is another one now."""
        lock = self._store.data.lock
        self._held = lock if lock and lock[0] != STRANGER else None
        self._given = self._store.data.fence

    def usurped(self) -> None:
        """Somebody else has set the lock: nobody knows for how long they have it."""
        self._held = None

    def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        self.attempts += 1
        answer = self._store.acquire(token, seen)
        if isinstance(answer, Busy):
            return answer
        now, version = self._cluster.clock(), answer.version
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
            self._held = lease.token, self._cluster.clock() + self._lock_ttl
        return ours

    def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        demand, still = self._world.demand, self._cluster.still
        before, contained = self._store.data.version, self._cluster.committed
        done = self._store.commit(lease, metadata, event)
        version = self._store.data.version
        if not done:
            self._world.sometimes["commit refused by the fence"] += 1
        if not done or version == before:
            return done
        content = self._cluster.committed
        demand(version == lease.version, "{} is committed for {}", version, lease)
        if before is not None and before.epoch == lease.version.epoch:
            demand(lease.version.number > before.number, "{} is committed after {}", lease.version, before)
            grown = still(content) >= still(contained)
            demand(grown, "{} has {}, what it replaces {}", lease.version, content, contained)
        known = self._contents.setdefault(lease.version, content)
        demand(known == content, "{} is committed for {} and for {}", lease.version, known, content)
        self._owned(lease, "commits")
        if self._held is not None and self._world.now > self._held[1]:
            self._world.sometimes["committed by a statement that outlived the lock"] += 1
        self._held = None
        self.commits += 1
        self._made_by(lease.token.split(".")[0])
        return done

    def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        done = self._store.confirm(lease, as_of, full=full, complete=complete)
        if done:
            self._owned(lease, "confirms")
            self._held = None
        return done

    def abandon(self, lease: Lease) -> None:
        ours = self._store.holder == lease.token
        self._store.abandon(lease)
        if ours:
            self._held = None

    def kept(self, before: Snapshot | None, snapshot: Snapshot) -> None:
        """`snapshot` is kept outside the store, in place of `before`."""
        demand, version = self._world.demand, snapshot.version
        for name, content in snapshot.documents.items():
            demand(name == SETTINGS or content == self._contents.get(version), "{} is kept as {}", version, content)
        if before is not None and before.version.epoch == version.epoch:
            demand(version.number > before.version.number, "{} is kept after {}", version, before.version)

    def _made_by(self, maker: str) -> None:
        if self._maker is not None:
            same = maker == self._maker
            self.handovers += not same
            self._world.sometimes["made by who made the last" if same else "made by another than the last"] += 1
        self._maker = maker

    def _owned(self, lease: Lease, does: str) -> None:
        held = self._held is not None and self._held[0] == lease.token and self._cluster.clock() <= self._held[1]
        self._world.demand(held, "{} {} and does not have the lock: {}", lease, does, self._held)
