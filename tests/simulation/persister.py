"""The tier that outlives the store: the model of `backends/postgres/persist.sql`, and for each node what
`cache.persister` does.

Postgres keeps one edition. The child reads and writes it; a write that nobody waits for any more is still done.
"""

from functools import partial
from typing import TYPE_CHECKING

from scoreboardd.model import Snapshot, Version
from tests.simulation.faults import LATE

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import Node

RETRY_MIN, RETRY_MAX = 0.2, 5.0
"Seconds between attempts to read what is kept."


class Archive:
    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self.kept: Snapshot | None = None
        self._quiet_until = 0.0

    def has(self, version: Version) -> bool:
        """True if `version` or a newer one is kept."""
        return self.kept is not None and self.kept.version.includes(version)

    @property
    def quiet(self) -> bool:
        """True if somebody wrote lately."""
        return self._cluster.world.now < self._quiet_until

    def keep(self, snapshot: Snapshot, quiet: float) -> None:
        if self.kept is None or self._replaces(snapshot, self.kept):
            self._cluster.judge.kept(self.kept, snapshot)
            self.kept = snapshot
            self._quiet_until = self._cluster.world.now + quiet
        else:
            self._cluster.world.sometimes["older edition not kept"] += 1

    def _replaces(self, snapshot: Snapshot, kept: Snapshot) -> bool:
        if snapshot.version.epoch == kept.version.epoch:
            return snapshot.version.number > kept.version.number
        return snapshot.as_of > kept.as_of


class Keeper:
    """A node's part: read what is kept, then keep what is served, once in an interval."""

    def __init__(self, node: "Node", archive: Archive, interval: float) -> None:
        self._node = node
        self._archive = archive
        self._interval = interval
        self._kept: Version | None = None
        self._restore(RETRY_MIN)

    def flush(self) -> None:
        """The node is told to end: it keeps what it serves, whoever did so lately."""
        snapshot = self._node.cache.snapshot
        if snapshot is not None and snapshot.version != self._kept:
            self._keep(snapshot, 0.0)

    def _restore(self, delay: float) -> None:
        node, world = self._node, self._node.world
        if node.cache.snapshot is not None:
            self._rest()
        elif self._fails():
            again = partial(self._restore, min(RETRY_MAX, 2 * delay))
            world.after(delay * world.random.uniform(0.5, 1) / node.rate, node.reach, again)
        else:
            world.after(node.cluster.faults.travel(world.random), node.reach, partial(self._found, self._archive.kept))

    def _found(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None and self._node.restored(snapshot):
            self._kept = snapshot.version
        self._rest()

    def _rest(self) -> None:
        world = self._node.world
        world.after(self._interval * world.random.uniform(0.9, 1) / self._node.rate, self._node.reach, self._look)

    def _look(self) -> None:
        snapshot = self._node.cache.snapshot
        if snapshot is not None and snapshot.version != self._kept and not self._fails():
            if self._archive.has(snapshot.version):
                self._kept = snapshot.version
            elif not self._archive.quiet:
                self._keep(snapshot, self._interval)
        self._rest()

    def _keep(self, snapshot: Snapshot, quiet: float) -> None:
        world, faults = self._node.world, self._node.cluster.faults
        late = world.random.uniform(0, LATE) if world.chance(faults.lost) else 0.0
        world.after(faults.travel(world.random) + late, self._archive.keep, snapshot, quiet)

    def _fails(self) -> bool:
        node = self._node
        return node.blind or node.world.chance(node.cluster.faults.failing)
