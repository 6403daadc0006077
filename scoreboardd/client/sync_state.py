"""What a client holds, and when it has to fetch the documents. Pure: it is told of the time, in seconds of any clock.

- A delta leads to its version from every one that is not before its `from`: nothing in it is relative. One that begins
  later than what is held waits, as one with those that follow it: the documents fetched meanwhile may be of a version
  from which it leads on.
- Whoever tells of any other version that is not held has the documents fetched, a little later, so that those who were
  told at one instant do not come at one instant; a `reset` says over which time to spread.
- Within an epoch nothing goes backwards. Of two epochs the one told of last is the true one.
- A node that lags answers with less than was told. It is asked again, ever more slowly, and after `PATIENCE` times it
  is right: what was told has been lost with its epoch.
"""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import orjson

from scoreboardd.board.delta import VersionedDelta, apply, compose
from scoreboardd.client.backoff import backoff
from scoreboardd.client.board import Board
from scoreboardd.client.events import StreamEvent
from scoreboardd.model import Version

JITTER = 0.3
"Seconds over which clients that were told of a version at one instant spread their requests for it."
GRACE = 2.0
"Seconds within which what `ready` says was missed has to have come."
MOST_SPREAD = 600.0
"Seconds over which a server may spread a reset."
PATIENCE = 8
"Answers in a row that may fall short of the version told."
MOST_WAITING = 64 * 1024 * 1024
"Bytes of deltas that wait for documents."
RETRY = 1.0
"Seconds before documents that were not to be had are asked for again, the first time."

NO_DELTA = (KeyError, TypeError, ValueError, AttributeError)
"What comes of a delta that is none, or none for the board that is held."


class _Waiting(NamedTuple):
    epoch: str
    step: VersionedDelta
    size: int
    "Bytes it came in."


class SyncState:
    """Told of what the stream says (`hear`), of what was fetched (`fetched`, `failed`); fetch when `due`."""

    board: Board | None = None
    "What is held; None until the first documents."

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random
        self._told: Version | None = None
        "A version that has to be reached; None if what is held is all that is known of."
        self._due = -math.inf
        "When to fetch, if nothing fails; inf if there is no need."
        self._not_before = -math.inf
        self._spreading = False
        "The server chose when: what else it tells meanwhile must not bring everyone back at once."
        self._waiting: _Waiting | None = None
        self._short = 0
        "Answers in a row that did not reach what was told."
        self._failures = 0

    @property
    def due(self) -> float:
        """When to fetch the documents; inf if there is no need."""
        return max(self._due, self._not_before)

    @property
    def behind(self) -> bool:
        """There is something to be had that is not held."""
        return self.board is None or self._told is not None

    def hear(self, event: StreamEvent, now: float) -> None:
        """An event of the stream. What is none of ours is ignored."""
        version = Version.parse(event.id)
        if version is None:
            return
        match event.name:
            case "delta":
                if not self._holds(version):
                    self._apply_or_keep(version, event.data)
                self.tell(version, now)
            case "scoreboard":
                self.tell(version, now)
            case "reset":
                self.tell(version, now, within=_spread(event.data), spread=True)
            case "ready":
                # Whatever was missed follows at once.
                self.tell(version, now, after=GRACE)

    def tell(
        self, version: Version, now: float, *, within: float = JITTER, after: float = 0.0, spread: bool = False
    ) -> None:
        """There is `version`: unless that is held, fetch at a random time `within` so many seconds `after` so many."""
        if self._holds(version):
            if self._told is not None and self._told.epoch != version.epoch:
                self._rest()
            return
        if self._told is None or not self._told.includes(version):
            self._told = version
        at = now + after + within * self._random()
        if spread and self.board is not None:
            self._due, self._spreading = at, True
        elif not self._spreading:
            self._due = min(self._due, at)

    def fetched(self, board: Board | None, now: float) -> None:
        """The documents were asked for, and this is what they say; None if they say nothing new."""
        self._failures, self._not_before = 0, -math.inf
        if board is not None and self._takes(board.version):
            self._hold(board)
        if not self.behind or (self._spreading and self._due > now):
            self._short = 0
            return
        self._spreading = False
        self._short += 1
        if self.board is not None and self._short > PATIENCE:
            self._rest()
        else:
            self._due = now + min(self._short, PATIENCE) * (0.25 + self._random() / 4)

    def failed(self, now: float, retry_after: float = 0.0) -> None:
        """The documents were asked for in vain; the server wants to be left alone for so many seconds."""
        self._not_before = now + backoff(self._failures, max(RETRY, retry_after), self._random())
        self._failures += 1

    def _holds(self, version: Version) -> bool:
        return self.board is not None and self.board.version.includes(version)

    def _takes(self, version: Version) -> bool:
        if self.board is None:
            return True
        if self._told is not None and self._told.epoch != version.epoch and self._short < PATIENCE:
            return False
        return version.follows(self.board.version)

    def _apply_or_keep(self, version: Version, data: bytes) -> None:
        try:
            step = VersionedDelta.parse(data)
            if not step.since < step.number == version.number:
                raise ValueError("a delta that does not lead to the version it came with")
            ahead = None if self.board is None else _led(self.board, version.epoch, step)
        except NO_DELTA:
            self._waiting = None
            return
        if ahead is not None:
            self._hold(ahead)
        else:
            self._waiting = _joined(self._waiting, _Waiting(version.epoch, step, len(data)))

    def _hold(self, board: Board) -> None:
        waiting = self._waiting
        if waiting is not None:
            try:
                ahead = _led(board, waiting.epoch, waiting.step)
            except NO_DELTA:
                ahead = self._waiting = None
            if ahead is not None:
                board, self._waiting = ahead, None
        self.board = board
        if self._told is None or board.version.includes(self._told):
            self._rest()

    def _rest(self) -> None:
        self._told = self._waiting = None
        self._due, self._spreading, self._short = math.inf, False, 0


def _led(board: Board, epoch: str, step: VersionedDelta) -> Board | None:
    """The board that `step` leads to from `board`; None if it does not begin there."""
    held = board.version
    if held.epoch != epoch or not step.since <= held.number < step.number:
        return None
    view = apply(step.delta, board.view)
    for owners in (step.delta.users, step.delta.teams):
        for (_, challenge_id), solve in owners.solves.items():
            if solve is not None and challenge_id not in view.challenges:
                raise ValueError("a delta with a solve of no challenge")
    return Board(Version(epoch, step.number), view)


def _joined(first: _Waiting | None, second: _Waiting) -> _Waiting:
    """The two as one; the second alone if it does not lead on from the first, or if that is too much."""
    if (
        first is None
        or first.epoch != second.epoch
        or not second.step.since <= first.step.number < second.step.number
        or first.size + second.size > MOST_WAITING
    ):
        return second
    delta = compose(first.step.delta, second.step.delta)
    return _Waiting(second.epoch, VersionedDelta(first.step.since, second.step.number, delta), first.size + second.size)


def _spread(data: bytes) -> float:
    """Seconds, from the data of a `reset`."""
    try:
        spread = float(orjson.loads(data)["spread"])
    except (KeyError, TypeError, ValueError):
        return JITTER
    return min(spread, MOST_SPREAD) if spread >= 0 else JITTER
