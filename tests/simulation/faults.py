"""What goes wrong: how likely each small thing is, and the calamities that strike a node, the store or the database.

A seed draws its own mix, so that some runs are quiet but for one thing, and in some everything fails at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

EARLY = 3.0
"Seconds by which a platform publishes before it commits."
LATE = 25.0
"Seconds after which whatever was on the way has arrived or is lost."


@dataclass(slots=True)
class Faults:
    """Probabilities, each for one request, build, message or step."""

    slow: float = 0.0
    "Something takes seconds to arrive, a build longer than the lock's TTL."
    lost: float = 0.0
    "A request is lost, or late, or done twice, or its answer is lost."
    failing: float = 0.0
    "A build or a load fails, at any of its steps."
    swallowed: float = 0.0
    "A message of the bus is lost, and nothing tells."
    twice: float = 0.0
    "A message comes a second time."
    stumble: float = 0.0
    "A node crashes or freezes between an input and what it leads to."
    early: float = 0.0
    "The platform publishes a change some seconds before it commits it."
    hidden: float = 0.0
    "A reader of what is new does not see a change: its id is low, or an old row is changed."
    forged: float = 0.0
    "Messages a second that somebody else publishes: made up, or repeated."

    def travel(self, random: Random) -> float:
        """How long something is on the way."""
        if self.slow and random.random() < self.slow:
            return random.uniform(0.2, 4.0)
        return 0.0002 + 0.002 * random.random()

    def building(self, random: Random) -> float:
        if self.slow and random.random() < self.slow:
            return random.uniform(0.5, 15.0)
        return 0.05 + 0.15 * random.random()

    def working(self, random: Random, longest: float) -> float:
        """How long a statement takes: mostly no time at all."""
        if self.slow and random.random() < self.slow:
            return random.uniform(0.2, longest)
        return 0.0

    def cease(self) -> None:
        self.slow = self.lost = self.failing = self.swallowed = self.twice = self.stumble = 0.0
        self.early = self.hidden = self.forged = 0.0


def draw(random: Random) -> Faults:
    def some(*chances: float) -> float:
        return random.choice((0.0, 0.0, *chances))

    return Faults(
        slow=some(0.02, 0.2),
        lost=some(0.02, 0.2),
        failing=some(0.05, 0.4),
        swallowed=some(0.01, 0.1) if random.random() < 0.5 else 0.0,
        twice=some(0.05, 0.3),
        stumble=some(0.005, 0.03),
        early=some(0.1, 0.5),
        hidden=some(0.1, 0.5),
        forged=some(0.2, 5.0) if random.random() < 0.5 else 0.0,
    )


def draw_for_one_connection(random: Random) -> Faults:
    """All that is said to one subscriber comes over one connection, which brings everything once or breaks."""
    faults = draw(random)
    faults.swallowed = faults.twice = 0.0
    return faults


def draw_for_one_process(random: Random) -> Faults:
    """Nothing is lost, late or said twice between a node and its own file and bus, and nobody else speaks there."""
    faults = draw(random)
    faults.lost = faults.swallowed = faults.twice = faults.forged = 0.0
    return faults


# Calamities

Calamity = Callable[["Cluster"], None]


def crash(cluster: "Cluster") -> None:
    cluster.some_node().crash()


def stop(cluster: "Cluster") -> None:
    cluster.some_node().stop()


def freeze(cluster: "Cluster") -> None:
    node, random = cluster.some_node(), cluster.world.random
    node.freeze(random.uniform(0.1, 2.5 * cluster.timing.lock_ttl), with_child=random.random() < 0.5)


def reset(cluster: "Cluster") -> None:
    cluster.some_node().reset()


def part_from_store(cluster: "Cluster") -> None:
    cluster.some_node().part(cluster.world.random.uniform(0.5, 25))


def part_from_database(cluster: "Cluster") -> None:
    node, world = cluster.some_node(), cluster.world
    seconds = world.random.uniform(0.5, 25)
    world.note("{} is parted from the database for {:.1f} s", node, seconds)
    node.blind_until = max(node.blind_until, world.now + seconds)


def restart(cluster: "Cluster") -> None:
    cluster.restart_store(None)


def restart_empty(cluster: "Cluster") -> None:
    cluster.restart_store("empty")


def flush(cluster: "Cluster") -> None:
    cluster.flush()


def fail_over(cluster: "Cluster") -> None:
    """To a replica that lags: the server is taken back in time, to what it is now."""
    _follow(cluster, silently=False)


def fail_over_silently(cluster: "Cluster") -> None:
    """The same, and the lost server says no farewell: whoever listens to it hears nothing, until that is noticed."""
    _follow(cluster, silently=True)


def _follow(cluster: "Cluster", *, silently: bool) -> None:
    world = cluster.world
    world.note("the replica stops following")
    replica = cluster.dump()
    after = world.random.choice((0.1, 1, 5, 15)) * world.random.random()
    world.after(after, partial(cluster.restart_store, replica, silently=silently))


def fail_over_in_step(cluster: "Cluster") -> None:
    """To a synchronous replica, which has everything, and is another server."""
    cluster.restart_store(cluster.dump(), silently=cluster.world.random.random() < 0.5)


def hold_for_long(cluster: "Cluster") -> None:
    """Somebody sets the lock, for a day or for ever."""
    cluster.hold_for_long()


def damage(cluster: "Cluster") -> None:
    cluster.damage()


HARMLESS_TO_DATA: tuple[Calamity, ...] = (
    crash,
    stop,
    freeze,
    freeze,
    reset,
    reset,
    part_from_store,
    part_from_database,
    restart,
    hold_for_long,
    damage,
    damage,
)
