"""What a client holds, and when it has to fetch the documents. Pure: the caller passes the time in seconds.

- A delta leads to its version from every version that is not before its `from`: nothing in it is relative. A delta that
  begins after the held version waits, merged with those that follow: the documents that are fetched meanwhile may have
  a version from which it leads on.
- Any other announcement of a version that is not held makes the client fetch the documents, after a short random time,
  so that clients that got it together do not come together. A `reset` says over which time to spread.
- Within an epoch nothing goes backwards. Of two epochs the one announced last is the true one.
- A node that lags answers with less than was announced. It is asked again, at growing intervals. After
  `MAX_SHORT_ANSWERS` times its answer counts: what was announced was lost with its epoch.
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
"Seconds over which clients that got an announcement together spread their requests."
GRACE = 2.0
"Seconds within which the deltas missed before `ready` must have arrived."
MOST_SPREAD = 600.0
"Seconds over which a server may spread a reset."
MAX_SHORT_ANSWERS = 8
"Answers in a row that may be older than the announced version."
MOST_WAITING = 64 * 1024 * 1024
"Bytes of deltas that wait for documents."
RETRY = 1.0
"Seconds before the first retry of a failed fetch."

NO_DELTA = (KeyError, TypeError, ValueError, AttributeError)
"Raised by a delta that is invalid, or that does not fit the held board."


class _Waiting(NamedTuple):
    epoch: str
    step: VersionedDelta
    size: int
    "Bytes of its text."


class SyncState:
    """Pass it the events of the stream (`hear`) and the results of fetches (`fetched`, `failed`); fetch when `due`."""

    board: Board | None = None
    "The held board; None until the first documents."

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random
        self._told: Version | None = None
        "An announced version to reach; None if the held board is the newest known."
        self._due = -math.inf
        "When to fetch if nothing fails; inf if not needed."
        self._not_before = -math.inf
        self._spreading = False
        "The server chose the time: its other events must not make all clients fetch at once."
        self._waiting: _Waiting | None = None
        self._short = 0
        "Answers in a row that were older than the announced version."
        self._failures = 0

    @property
    def due(self) -> float:
        """When to fetch the documents; inf if not needed."""
        return max(self._due, self._not_before)

    @property
    def behind(self) -> bool:
        """Whether a version is known that is not held."""
        return self.board is None or self._told is not None

    def hear(self, event: StreamEvent, now: float) -> None:
        """Handle an event of the stream. Other events are ignored."""
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
        """`version` exists. Unless it is held, fetch within `within` seconds from `after` seconds on."""
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
        """Handle the result of a fetch: a board, or None if the documents are not new."""
        self._failures, self._not_before = 0, -math.inf
        if board is not None and self._takes(board.version):
            self._hold(board)
        if not self.behind or (self._spreading and self._due > now):
            self._short = 0
            return
        self._spreading = False
        self._short += 1
        if self.board is not None and self._short > MAX_SHORT_ANSWERS:
            self._rest()
        else:
            self._due = now + min(self._short, MAX_SHORT_ANSWERS) * (0.25 + self._random() / 4)

    def failed(self, now: float, retry_after: float = 0.0) -> None:
        """Handle a failed fetch. The server asks for no requests for that many seconds."""
        self._not_before = now + backoff(self._failures, max(RETRY, retry_after), self._random())
        self._failures += 1

    def _holds(self, version: Version) -> bool:
        return self.board is not None and self.board.version.includes(version)

    def _takes(self, version: Version) -> bool:
        if self.board is None:
            return True
        if self._told is not None and self._told.epoch != version.epoch and self._short < MAX_SHORT_ANSWERS:
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
    """The board that `step` leads to from `board`; None if it begins elsewhere."""
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
    """Both deltas as one; the second alone if it does not follow the first, or if both are too large."""
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
    """The seconds in the data of a `reset`."""
    try:
        spread = float(orjson.loads(data)["spread"])
    except (KeyError, TypeError, ValueError):
        return JITTER
    return min(spread, MOST_SPREAD) if spread >= 0 else JITTER
