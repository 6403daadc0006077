"""Browsers: what a stream of `stream.endpoint` tells them, and what they then read from the node they are at."""

from dataclasses import dataclass
from typing import Any

from scoreboardd.model import Version
from tests.simulation.world import World


@dataclass(eq=False)
class Client:
    """`node` is where it is connected, or None. When it leaves it keeps what it knows: Last-Event-ID and page."""

    name: str
    world: World
    node: Any = None
    last: Version | None = None
    "Its Last-Event-ID."
    told: Version | None = None
    "The last version of this connection."
    shown: Version | None = None
    content: int = 0
    "What its page shows: read when it was last told to."

    def __repr__(self) -> str:
        return self.name

    def connect(self, node: Any) -> None:
        self.world.note("{} comes to {} with {}", self, node, self.last)
        self.node = node
        node.clients.append(self)
        version, last = node.cache.version, self.last
        self.told = version
        if version is None:
            return
        self.last = version
        if last is None or last == version:
            if self.shown is None:
                self._read()
            return
        if last.epoch == version.epoch and last.number > version.number:
            self.world.sometimes["client at a node that is behind"] += 1
        self._read()

    def leave(self) -> None:
        if self.node is not None:
            self.node.clients.remove(self)
            self.node = None

    def tell(self, version: Version) -> None:
        told = self.told
        if told is not None and told.epoch == version.epoch:
            self.world.demand(version.number > told.number, "{} is told of {} after {}", self, version, told)
        self.told = self.last = version
        self._read()

    def _read(self) -> None:
        self.shown, self.content = self.node.cache.version, self.node.content
