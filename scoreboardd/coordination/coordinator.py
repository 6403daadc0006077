"""The coordinator of one node: a pure state machine without clock, socket or asyncio.

Inputs go in with the node's monotonic time, actions come out; between inputs nothing happens until `wake`. The rule is
level-triggered: an input only updates what the node knows, and one function, `_decide`, looks at all of it.

What a node knows of a change
-----------------------------
Changes are counted as they arrive. Each is, in turn: *waiting* (no build is known to contain it), *covered* (a build
that began after it arrived is under way, so that build's version contains it), *stored* (such a version is committed),
*contained* (this node serves it). Four counters say so: `contained ≤ stored ≤ covered ≤ changes`.

    input                        effect
    ---------------------------  ------------------------------------------------------------------------------
    Noted                        one more change; the debounce starts or is extended
    Resumed                      a change may have been missed, and a version: note a quiet change, load
    Heard(Begun v)               all changes so far are covered by v; look again when the lock could have run out
    Heard(Rebuilt n)             a version is out: load it; whoever waits for the lock may try
    Heard(Confirmed v, n)        all that v covers is contained in n, which is out: load it, if we have not
    Heard(Abandoned v)           what v covered waits again; whoever waits for the lock may try
    Won v / Busy / TryFailed     build / wait for word of the holder / back off
    Built, Unchanged / BuildFailed / LeaseLost    commit, confirm / abandon and back off / leave it to the next holder
    Committed / Refused / CommitFailed            serve and tell / what it covered waits again, back off, look
    Loaded v / LoadFailed        serve and tell, if newer; what was stored waits again, if v lacks it / back off
    Restored v                   serve and tell what was kept from an earlier life, until the store has its say
    Tick                         nothing new: what was waited for is due

Coverage, and why no clock is needed
------------------------------------
The store executes one thing after another, and a subscription delivers in that order. An event heard before `Begun v`
was published before v's lock was taken, hence committed in the database before v's snapshot: v contains it. So losers
of the lock see at once that the winner works for them (I3), and a change heard *after* `Begun v` waits for the next
build (I1). The argument needs order on one subscription only, no clock of any node or of the store. A subscription
that breaks breaks the order; then `Resumed` counts as a change. A local change (no message of the bus brought it) has
no place in that order: publish it, and note it when it comes back.

Who builds
----------
Any node may, but the one that made the last version has only to add to it. So who serves a version that is not its own
holds back for a handicap before it asks for the lock on account of what waits, and mostly hears by then that the other
has begun. If it does not, it asks. Not put off are what an abandoned build gives back, which has waited long enough,
and the look after a builder that is not heard of again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from scoreboardd.backend.base import Abandoned, Begun, Confirmed, Rebuilt
from scoreboardd.edition import SOLVED, Event, Version

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; see `[rebuild]` in the configuration."""

    debounce: float
    max_wait: float
    lock_ttl: float
    reconcile: float
    backoff_min: float = 0.5
    backoff_max: float = 15.0
    handicap: float = 0.1
    "By how much others let the node go first that made the last version. Long beside the way of a message."


# Inputs


@dataclass(frozen=True, slots=True)
class Noted:
    """Something changed. `event` is None if all that is known is that something may have."""

    event: Event | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """A subscription to the bus has begun."""


@dataclass(frozen=True, slots=True)
class Heard:
    message: Begun | Confirmed | Abandoned | Rebuilt


@dataclass(frozen=True, slots=True)
class Won:
    version: Version


@dataclass(frozen=True, slots=True)
class Busy:
    remaining: float


@dataclass(frozen=True, slots=True)
class TryFailed:
    pass


@dataclass(frozen=True, slots=True)
class Built:
    pass


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The build found what is committed already, as this version."""

    committed: Version


@dataclass(frozen=True, slots=True)
class BuildFailed:
    pass


@dataclass(frozen=True, slots=True)
class LeaseLost:
    pass


@dataclass(frozen=True, slots=True)
class Committed:
    pass


@dataclass(frozen=True, slots=True)
class Refused:
    pass


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The store did not say whether it committed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store has, now in memory if it is newer than what was. None: the store has nothing."""

    version: Version | None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    pass


@dataclass(frozen=True, slots=True)
class Restored:
    """What was kept outside the store is in memory now, as there was nothing better. Once, early in a node's life."""

    version: Version


@dataclass(frozen=True, slots=True)
class Tick:
    """`wake` has come."""


Input = (
    Noted
    | Resumed
    | Heard
    | Won
    | Busy
    | TryFailed
    | Built
    | Unchanged
    | BuildFailed
    | LeaseLost
    | Committed
    | Refused
    | CommitFailed
    | Loaded
    | LoadFailed
    | Restored
    | Tick
)


# Actions


@dataclass(frozen=True, slots=True)
class TryLock:
    """Ask the store for the lock, telling it what we have seen → `Won`, `Busy` or `TryFailed`."""

    seen: Version | None


@dataclass(frozen=True, slots=True)
class Build:
    """Read, build and stage → `Built`, `Unchanged` (only if `quiet`) or `BuildFailed`."""

    version: Version
    quiet: bool
    "Nobody said that anything changed: if the result is what is committed already, say so."


@dataclass(frozen=True, slots=True)
class CancelBuild:
    pass


@dataclass(frozen=True, slots=True)
class Renew:
    """Extend the lock → `LeaseLost`, or nothing."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit what was built, and from then on serve it → `Committed`, `Refused` or `CommitFailed`."""

    event: Event | None
    changes: int
    "How many changes the version newly contains."


@dataclass(frozen=True, slots=True)
class Confirm:
    """Release the lock, saying that what is committed is true → `Committed`, `Refused` or `CommitFailed`."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Release the lock, if it is still ours, after a build that failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """Read the committed documents, and from then on serve them if they are newer → `Loaded` or `LoadFailed`."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell this node's clients of `version`, which it serves."""

    version: Version
    event: Event | None


Action = TryLock | Build | CancelBuild | Renew | Commit | Confirm | Abandon | Load | Tell


class Phase(Enum):
    IDLE = auto()
    TRYING = auto()
    BUILDING = auto()
    COMMITTING = auto()
    CONFIRMING = auto()


class Coordinator:
    """One node's part. `jitter` returns a number in [0, 1) and spreads retries of nodes that fail together."""

    def __init__(self, timing: Timing, *, jitter: Callable[[], float]) -> None:
        self._timing = timing
        self._jitter = jitter

        self.phase = Phase.IDLE
        self.lease: Version | None = None
        "The version we are building; set exactly while the phase is BUILDING, COMMITTING or CONFIRMING."
        self.served: Version | None = None
        "What this node answers with."

        self.changes = 0
        self.covered = 0
        self.stored = 0
        self.contained = 0
        self._loudest = 0
        "The last change that somebody spoke of: the ones that are not contained make what we serve stale."

        self._made: Version | None = None
        "The last version that we asked to have committed, until a later one is out: who serves its own made the last."
        self._awaited: Version | None = None
        "The build that covers the changes up to `covered`; set exactly while `covered > stored`."
        self._begun: Version | None = None
        "The latest build heard of."
        self._begun_numbers: dict[str, int] = {}
        "Of the latest build heard of, by epoch."
        self._odd = 0
        "The last change that may be more than one more solve."
        self._read = 0
        "`changes` when our last build began."
        self.whole = True
        "Whether the build under way has to read everything: since our last, more may have changed than solves came."
        self._tried = 0
        "`changes` when the lock was last asked for."
        self._stored_in: tuple[Version, ...] = ()
        "What contains the changes up to `stored`: the version that first did, and the last build heard to begin since."
        self._confirmed: Version | None = None
        "What we found unchanged; set exactly while the phase is CONFIRMING."
        self._waiting_cause: Event | None = None
        "What the waiting changes were, merged."
        self._covered_cause: Event | None = None
        "What the covered changes were, merged."
        self._notice: Rebuilt | None = None
        "The latest announcement heard: tells clients why, once it is loaded."

        self._first = NEVER
        "When the first waiting change arrived; long ago, if it was covered by a build that did not come."
        self._last = NEVER
        "When the last waiting change arrived."
        self._busy_until = 0.0
        "Not before then is the lock worth asking for, unless word comes."
        self._word = False
        "Word came since the lock was last asked for: an answer that it is busy is out of date."
        self._retry_at = 0.0
        "Not before then, after a failure of our own."
        self._failures = 0
        self._watch_at = NEVER
        "When to look after the builder we rely on."
        self._renew_at = NEVER
        self._reconcile_at = NEVER
        self._news = False
        "The store may have a version that we do not serve."
        self._loading = False
        self._load_from: Version | None = None
        "What was served when the documents were last asked for."
        self._commit_from: Version | None = None
        "What was served when we last asked for a commit."
        self._load_at = 0.0
        self._load_failures = 0

    @property
    def stale(self) -> bool:
        """True if the node knows of a change that what it serves does not contain."""
        return self._loudest > self.contained

    @property
    def failing(self) -> bool:
        """True if this node's last attempt at a rebuild failed."""
        return self._failures > 0

    def handle(self, received: Input, now: float) -> list[Action]:
        """Take one input at monotonic time `now` (seconds) and say what is to be done, in order."""
        actions: list[Action] = []
        match received:
            case Noted(event):
                self._note(event, now)
            case Resumed():
                self._note(None, now)
                self._news = True
                self._word_came()
                self._load_at = self._retry_at = 0.0
                self._reconcile_at = min(self._reconcile_at, now + self._timing.reconcile)
            case Heard(message):
                self._hear(message, now)
            case Won(version):
                self._won(version, now)
                actions.append(Build(version, quiet=self._covered_cause is None))
            case Busy(remaining):
                self.phase = Phase.IDLE
                if not self._word:
                    self._busy_until = now + remaining + self._jitter() * self._timing.debounce
                    self._watch_at = self._busy_until
            case TryFailed():
                self.phase = Phase.IDLE
                self._back_off(now)
            case Built() | Unchanged() | BuildFailed() | LeaseLost():
                actions += self._built(received, now)
            case Committed() | Refused() | CommitFailed():
                actions += self._finished(received, now)
            case Loaded(version):
                actions += self._loaded(version, now)
            case LoadFailed():
                self._loading = False
                self._load_failures += 1
                self._load_at = now + self._delay(self._load_failures)
            case Restored(version):
                if self.served is None:
                    self.served = version
                    actions.append(Tell(version, None))
            case Tick():
                pass
            case _:
                assert_never(received)
        if not self.behind:
            self.contained = self.stored
        return actions + self._decide(now)

    @property
    def wake(self) -> float:
        """The monotonic time at which to send `Tick`, unless something else comes first."""
        times = [self._reconcile_at]
        if self.phase is Phase.IDLE:
            times.append(self._due_at())
        if self.phase is Phase.BUILDING:
            times.append(self._renew_at)
        if self._load_due():
            times.append(self._load_at)
        return min(times)

    # What was received

    def _note(self, event: Event | None, now: float) -> None:
        if self.changes == self.covered:
            self._first = now
        self.changes += 1
        self._last = now
        if event is None or event.reason != SOLVED:
            self._odd = self.changes
        if event is not None:
            self._loudest = self.changes
            self._waiting_cause = event.after(self._waiting_cause)

    def _word_came(self, busy_until: float = 0.0) -> None:
        self._word = True
        self._busy_until = busy_until

    def _hear(self, message: Begun | Confirmed | Abandoned | Rebuilt, now: float) -> None:
        match message:
            case Begun(version):
                if version.number <= self._begun_numbers.get(version.epoch, 0):
                    return  # said twice
                self._begun_numbers[version.epoch] = version.number
                self._begun = version
                self._stored_in = (*self._stored_in[:1], version) if self._stored_in else ()
                self._cover(version, self.changes)
                self._watch_at = now + self._timing.lock_ttl + self._jitter() * self._timing.debounce
                self._reconcile_at = now + self._timing.reconcile * (1 + self._jitter() / 4)
            case Confirmed(version, committed):
                self._word_came(now)
                self._settle(version, committed)
                self._news |= committed != self.served
            case Abandoned(version):
                self._word_came()
                if version != self.lease:
                    self._uncover(version)
            case Rebuilt(number):
                self._word_came(now)
                self._notice = message
                if self._made is not None and number > self._made.number:
                    self._made = None
                # Only the number is on the wire. The build it ends is the last one that began, if we heard it begin.
                ended = self._begun if self._begun and self._begun.number == number else None
                if ended is not None and ended == self.lease:
                    return  # the echo of our own commit, whose answer is on its way
                if ended is not None:
                    self._settle(ended, ended)
                if ended is None or ended.follows(self.served):
                    self._news = True

    def _won(self, version: Version, now: float) -> None:
        self.phase = Phase.BUILDING
        self.lease = version
        self.whole = self._odd > self._read or self._read == 0
        self._read = self.changes
        self._renew_at = now + self._timing.lock_ttl / 3
        self._cover(version, self._tried)

    def _built(self, result: Built | Unchanged | BuildFailed | LeaseLost, now: float) -> list[Action]:
        if self.phase is not Phase.BUILDING or self.lease is None:
            return []  # the build was cancelled while its result was on the way
        match result:
            case Built():
                self.phase = Phase.COMMITTING
                self._made = self.lease
                self._commit_from = self.served
                return [Commit(self._covered_cause, self.covered - self.stored)]
            case Unchanged(committed):
                self.phase = Phase.CONFIRMING
                self._confirmed = committed
                self._news |= committed != self.served
                return [Confirm()]
            case BuildFailed():
                self._give_up()
                self._back_off(now)
                return [Abandon()]
            case LeaseLost():
                self._give_up()
                self._back_off(now)
                return [CancelBuild()]

    def _finished(self, result: Committed | Refused | CommitFailed, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.lease is None:
            return actions
        version, confirmed, self._confirmed = self.lease, self._confirmed, None
        match result:
            case Committed():
                cause = self._covered_cause
                self.phase = Phase.IDLE
                self.lease = None
                self._failures = 0
                self._settle(version, confirmed or version)
                if confirmed is not None:
                    return []
                if version.replaces(self.served, self._commit_from):
                    self.served = version
                    return [Tell(version, cause)]
                # The answer was slow, and a later version has been loaded meanwhile.
                self._news = True
                return []
            case Refused():
                self._give_up()
            case CommitFailed():
                self._give_up()
                actions.append(Abandon())
        self._back_off(now)
        self._news = True
        return actions

    def _loaded(self, version: Version | None, now: float) -> list[Action]:
        self._loading = False
        self._load_failures = 0
        if version is not None and version.replaces(self.served, self._load_from):
            if self.served is not None and self.served.epoch != version.epoch and not self._has_stored(version):
                self.contained = 0  # the store was taken back, into an epoch that it had left, and we follow
            self.served = version
            self._settle(version, version)
            self._look_back(version, now)
            told = self._notice is not None and self._notice.number == version.number
            return [Tell(version, self._notice.event if self._notice and told else None)]
        if version is not None and version == self.served:
            self._settle(version, version)
            self._look_back(version, now)
        elif self.served != self._load_from:
            self._news = True  # a commit of our own overtook the answer: ask again
        elif not self._news and (self.served is not None or self.stored > self.contained):
            self._lost(now)
        return []

    # What follows

    def _decide(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if now >= self._reconcile_at:
            self._reconcile_at = now + self._timing.reconcile
            self._note(None, now)
        if self.phase is Phase.IDLE and now >= self._due_at():
            self.phase = Phase.TRYING
            self._tried = self.changes
            self._word = False
            actions.append(TryLock(self.served))
        if self.phase is Phase.BUILDING and now >= self._renew_at:
            self._renew_at = now + self._timing.lock_ttl / 3
            actions.append(Renew())
        if self._load_due() and now >= self._load_at:
            self._loading = True
            self._load_from = self.served
            self._news = False
            actions.append(Load())
        return actions

    def _due_at(self) -> float:
        """When to ask for the lock: the debounce is over, or the builder we rely on should have been heard of."""
        due = NEVER
        if self.changes > self.covered:
            due = min(self._last + self._timing.debounce, self._first + self._timing.max_wait)
            due = max(due, self._busy_until)
            if self.served != self._made:
                due += self._timing.handicap
        if self.covered > self.stored:
            due = min(due, self._watch_at)
        return max(due, self._retry_at)

    @property
    def behind(self) -> bool:
        """True if the store may have a version that this node does not serve."""
        return self._news or self._loading or self._load_failures > 0 or self.phase is Phase.COMMITTING

    def _load_due(self) -> bool:
        return (self._news or self._load_failures > 0) and not self._loading

    # The counters

    def _cover(self, version: Version, upto: int) -> None:
        """`version` will contain the changes up to `upto`."""
        if upto > self.covered:
            self.covered = upto
            self._first = self._last
            if self._waiting_cause is not None:
                self._covered_cause = self._waiting_cause.after(self._covered_cause)
            if upto == self.changes:
                self._waiting_cause = None
        if self.covered > self.stored and (self._awaited is None or version.follows(self._awaited)):
            self._awaited = version

    def _settle(self, version: Version, committed: Version) -> None:
        """`version` is in the store, or what it would have said is: as `committed`."""
        if self._awaited is not None and version.includes(self._awaited):
            self.stored = self.covered
            self._stored_in = (committed,)
            self._awaited = self._covered_cause = None
            self._watch_at = NEVER

    def _uncover(self, version: Version) -> None:
        """`version` will not come: what it covered waits, and has waited long enough."""
        if self._awaited == version:
            self._awaited = None
            self.covered = self.stored
            self._first = -NEVER
            self._watch_at = NEVER
            if self._covered_cause is not None:
                waiting = self._waiting_cause
                self._waiting_cause = waiting.after(self._covered_cause) if waiting else self._covered_cause
                self._covered_cause = None

    def _has_stored(self, version: Version) -> bool:
        """True if `version` contains the changes that are stored."""
        return not self._stored_in or any(version.includes(known) for known in self._stored_in)

    def _look_back(self, version: Version, now: float) -> None:
        """Serving `version`, which is all that the store has: it may have gone back, or to another epoch."""
        if not self._news and not self._has_stored(version):
            self._lost(now)

    def _lost(self, now: float) -> None:
        """The store has less than we have served or heard of: it has lost state. What we do not contain has to come
        again. Whoever builds next tells the store what was seen, and it starts a new epoch."""
        if self._awaited is not None:
            self._uncover(self._awaited)
        self.covered = self.stored = self.contained
        self._stored_in = () if self.served is None else (self.served,)
        self._note(None, now)

    def _give_up(self) -> None:
        if self.lease is not None:
            self._uncover(self.lease)
        self.phase = Phase.IDLE
        self.lease = None

    def _back_off(self, now: float) -> None:
        self._failures += 1
        self._retry_at = now + self._delay(self._failures)

    def _delay(self, failures: int) -> float:
        longest: float = min(self._timing.backoff_max, self._timing.backoff_min * 2 ** min(failures - 1, 16))
        return longest * (1 - self._jitter() / 2)
