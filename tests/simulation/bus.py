"""From the store to the nodes: to each in order, until its subscription breaks. A message may also be late for all
that follow it too, be swallowed, or come a second time after others."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scoreboardd.backends.base import Subscribed
from scoreboardd.model import Version
from tests.simulation.faults import Faults
from tests.simulation.world import World

REPEATED = 100
"The latest messages, which somebody may publish again."
AGAIN = 2.0
"Seconds within which a message comes the second time."


@dataclass(frozen=True, slots=True)
class Said:
    """A message, and what the database had when the store published it: who contains the message has at least that."""

    message: Any
    database: int


@dataclass(eq=False, slots=True)
class Subscription:
    hear: Callable[["Subscription", Said], None]
    held_until: float = 0.0
    "The link holds back what is sent before then."
    arrived: float = 0.0
    open: bool = True
    "As the store sees it."
    ends_at: float = float("inf")
    "When the node learns that it is broken; what arrives later is lost."


class Bus:
    def __init__(
        self, world: World, faults: Faults, database: Callable[[], int], given: Callable[[], Version | None]
    ) -> None:
        self._world = world
        self._faults = faults
        self._database = database
        self._given = given
        self._subscriptions: list[Subscription] = []
        self.swallowed = False
        "A message has been lost and nothing told its subscriber so."
        self.latest: deque[Any] = deque(maxlen=REPEATED)

    def publish(self, message: Any) -> None:
        self._world.note("bus: {}", message)
        self.latest.append(message)
        said = Said(message, self._database())
        for subscription in self._subscriptions:
            self._send(subscription, said)

    def subscribe(self, hear: Callable[[Subscription, Said], None]) -> Subscription:
        subscription = Subscription(hear)
        self._subscriptions.append(subscription)
        self._deliver(subscription, Said(Subscribed(self._given()), self._database()))
        return subscription

    def close(self, subscription: Subscription) -> None:
        """Nothing more is sent; what is on the way arrives until `ends_at`."""
        if subscription.open:
            subscription.open = False
            self._subscriptions.remove(subscription)

    def close_all(self) -> list[Subscription]:
        closed = list(self._subscriptions)
        for subscription in closed:
            self.close(subscription)
        return closed

    def _send(self, to: Subscription, said: Said) -> None:
        faults, world = self._faults, self._world
        if world.chance(faults.swallowed):
            world.note("that was swallowed for one")
            self.swallowed = True
            return
        self._deliver(to, said)
        if world.chance(faults.twice):
            world.at(to.arrived + world.random.uniform(0, AGAIN), self._arrive, to, said)

    def _deliver(self, to: Subscription, said: Said) -> None:
        world = self._world
        to.arrived = max(to.arrived, max(to.held_until, world.now) + self._faults.travel(world.random))
        world.at(to.arrived, self._arrive, to, said)

    def _arrive(self, to: Subscription, said: Said) -> None:
        if self._world.now <= to.ends_at:
            to.hear(to, said)
