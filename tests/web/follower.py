"""The history of a board, and a client that follows it by the deltas that it is sent."""

import re
from collections.abc import Iterable

import orjson

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta, diff
from scoreboardd.board.delta_log import DeltaLog, DeltaLogEntry
from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, Solve
from scoreboardd.model import Snapshot, Version
from scoreboardd.render import text as document_text
from tests.snapshots import snapshot
from tests.web.client import Stream
from tests.web.server import EPOCH, Node, version

DELTAS = "?deltas=1"
EVERYTHING = 1000
"More steps than any ring has here."
_EVENT = re.compile(rb"id: ([0-9a-z]+-[0-9]+)\nevent: (delta|reset)\ndata: ([^\n]*)\n\n")


class History:
    """Versions of a board, and the step to each from the one before, if that is of the same epoch."""

    def __init__(self) -> None:
        self.views: dict[Version, Leaderboards] = {}
        self._links: dict[str, list[DeltaLogEntry]] = {}

    @property
    def newest(self) -> Version:
        return next(reversed(self.views))

    def add(self, version: Version, view: Leaderboards) -> None:
        if self.views and self.newest.epoch == version.epoch:
            step = VersionedDelta(self.newest.number, version.number, diff(self.views[self.newest], view))
            self._links[version.epoch].append(DeltaLogEntry(step.since, step.number, step.data()))
        else:
            self._links[version.epoch] = []
        self.views[version] = view

    def delta_log(self, version: Version, reach: int = EVERYTHING) -> DeltaLog:
        """The last `reach` steps that lead to this version, whatever their size."""
        entries = [link for link in self._links[version.epoch] if link.number <= version.number]
        return DeltaLog(tuple(entries[max(0, len(entries) - reach) :]))

    def snapshot(self, version: Version, reach: int = EVERYTHING) -> Snapshot:
        users, teams = document_text.leaderboards(self.views[version])
        documents = {leaderboard_key(ParticipantKind.USERS): users, leaderboard_key(ParticipantKind.TEAMS): teams}
        return snapshot(version, documents, delta_logs={None: self.delta_log(version, reach)})

    def events(self, since: int, number: int, epoch: str = EPOCH) -> bytes:
        """What whoever has version `since` gets to know on the way to `number`, step by step."""
        entries = self.delta_log(Version(epoch, number)).after(since)
        assert entries is not None
        return b"".join(delta_event(Version(epoch, link.number), link.data) for link in entries)


def solves(numbers: Iterable[int], *, name: str = "t", epoch: str = EPOCH) -> History:
    """These versions; with each a team more, which has solved the one challenge, and that is worth a point less.

    The longer the `name` of a team, the larger the step.
    """
    history, teams = History(), dict[int, Entry]()
    for number in numbers:
        teams[number] = Entry(name, {1: Solve("2026-02-27T18:00:00Z", first_blood=not teams)})
        history.add(Version(epoch, number), Leaderboards({1: Challenge("c", "web", 1000 - number)}, {}, dict(teams)))
    return history


def delta_event(version: Version, data: bytes) -> bytes:
    return b"id: %s\nevent: delta\ndata: %s\n\n" % (str(version).encode(), data)


def reset_event(version: Version, spread: float = 0.0) -> bytes:
    data = orjson.dumps({"version": version.number, "spread": spread})
    return b"id: %s\nevent: reset\ndata: %s\n\n" % (str(version).encode(), data)


class Follower:
    """Holds one version of the board, and does what a client has to do about what it is told."""

    def __init__(self, held: Version, view: Leaderboards) -> None:
        self.held = held
        self.view = view
        self.lost = False
        "It was told to fetch the board again."

    def hear(self, event: bytes) -> None:
        match = _EVENT.fullmatch(event)
        assert match is not None, event[:100]
        version = Version.parse(match[1].decode())
        assert version is not None
        if match[2] == b"reset":
            said = orjson.loads(match[3])
            assert said.keys() == {"version", "spread"} and said["version"] == version.number
            self.lost = True
        elif version.epoch != self.held.epoch:
            self.lost = True
        elif not self.lost and version.number > self.held.number:
            step = VersionedDelta.parse(match[3])
            assert step.number == version.number
            assert step.since <= self.held.number, "a gap"
            self.view = delta.apply(step.delta, self.view)
            self.held = version

    def fetch(self, node: Node, history: History) -> None:
        assert node.cache.version is not None
        self.held, self.lost = node.cache.version, False
        self.view = history.views[self.held]


async def following(node: Node, last: Version | None = None, *, query: str = DELTAS, **options: object) -> Stream:
    """A stream of deltas, greeted, of a client that comes back from version `last`."""
    headers: dict[str, str | bytes] = {} if last is None else {"Last-Event-ID": str(last)}
    stream = await node.stream(headers, query=query, **options)
    assert await stream.greeting() == greeting(node, last)
    return stream


def greeting(node: Node, last: Version | None) -> bytes:
    """With the version served; or with what a client has that has missed something, until it has had that too."""
    served = node.cache.version
    version = last if last is not None and served is not None and served.follows(last) else served
    return b"id: %s\nevent: ready\ndata: {}\n\n" % str(version).encode()


def publish(node: Node, history: History, number: int, reach: int = EVERYTHING) -> None:
    """Serve a version of the history and tell everyone of it."""
    node.serve(history.snapshot(version(number), reach))
    node.tell(number)
