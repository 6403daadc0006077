"""The coordinator of one node: a pure state machine without clock, socket or asyncio.

The caller passes inputs with the node's monotonic time and performs the actions that come back. Between inputs nothing
happens until `wake`. The machine is level-triggered: an input only updates what the node knows, and one function,
`_decide`, looks at all of it.

No message on the bus is trusted
--------------------------------
Others may be able to publish on the bus, so messages may be forged, repeated, late or lost. A message only says when to
look. The *store* decides: which version is committed, which build last found it true, which number was given out last,
and whether the lock is free. A message can delay a build by at most `lock_ttl`. It can cause at most one attempt for
the lock each debounce, and one read of the store each second.

What a node knows of a change
-----------------------------
Changes are numbered as they arrive. Each is first *waiting* (no known build contains it), then *covered* (a build that
began after it arrived is under way, so that build's version contains it), then *contained* (this node serves it).
Three counters hold this: `contained ≤ covered ≤ changes`.

    input                        effect
    ---------------------------  ------------------------------------------------------------------------------
    ChangeReported               one more change; the debounce starts or is extended
    SubscriptionStarted g        a change and a version may have been missed: record a quiet change, load; numbers
                                 up to g are old
    MessageReceived(Begun v)     v covers all changes so far; ask for the lock when it could have expired
    MessageReceived(Rebuilt n)   load; a node that waits for the lock may try
    MessageReceived(Confirmed v) load; a node that waits for the lock may try
    MessageReceived(Abandoned v) what v covered waits again; a node that waits for the lock may try
    LockAcquired v               no other build is under way: v covers what the lock was asked for; build
    LockBusy / LockFailed        wait for a message or the end of the lock / back off
    Built, Unchanged             commit / confirm
    BuildFailed / LeaseLost      abandon and back off / leave the build to the next holder
    Committed                    serve and announce
    CommitRefused, CommitFailed  abandon; what the build covered waits again; back off; load
    Loaded v, c, g               serve and announce v, if newer; what c covers is contained; numbers up to g are old
    LoadFailed                   back off
    DocumentsDamaged             back off, and have the documents committed again
    Restored v                   serve and announce the persisted copy until the store has answered
    Tick                         a time that was waited for has come

Coverage, and why no clock is needed
------------------------------------
The store executes one command after another, and a subscription delivers messages in that order. An event received
before `Begun v` was published before v's lock was taken. So it was committed in the database before v's snapshot, and v
contains it. Nodes that do not get the lock see at once that the winner works for them (I3). A change that arrives
*after* `Begun v` waits for the next build (I1). The argument needs the order of one subscription only, and no clock of
a node or of the store. When a subscription breaks the order is lost, so `SubscriptionStarted` counts as a change. A
change that did not come over the bus has no place in that order: publish it, and report it when it comes back.

A `Begun v` that is late or repeated would cover what v's snapshot does not have. So it counts only if its number is
new: above all numbers received on this subscription, and above the last number that the store had given out when the
subscription began. After a number that the store had not given out, `Begun` covers nothing until the store has been
asked again; that costs attempts for the lock and loses no change. Only the store says that a build has ended: `Loaded`
says which build last committed the documents or found them true.

Builds that do not find what was announced
------------------------------------------
A platform may publish before it commits, and a standby lags. So a build says whether it found all that was announced
(`complete`). If not, what it covered waits again. The node looks again after growing pauses (`LOOK_AGAIN_SECONDS`),
makes a full read each time, and is stale meanwhile. Solves are counted. For any other change, a look that also covers
something new proves nothing, because it may have found that instead: then the next look follows. After the last look
the node expects nothing more.

Full builds
-----------
Builds for solves read only new rows. A full build finds what those cannot see. The store records the latest full build.
`reconcile` seconds after it, the node asks for the lock to make another one, whatever else happens meanwhile.

Who builds
----------
Any node may build, but the node that made the last version only has to add to it. So a node that serves another node's
version waits a short time (`non_builder_delay`) before it asks for the lock because of waiting changes. Mostly it
receives meanwhile that the other node has begun; if not, it asks. Changes that an abandoned build gives back are not
delayed again, nor is the attempt for the lock after a builder that has gone silent.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, assert_never

from scoreboardd.backends.base import Abandoned, Begun, Confirmed, Rebuilt
from scoreboardd.builder.messages import Build
from scoreboardd.model import SOLVED, ChangeEvent, Version
from scoreboardd.system.backoff import Backoff

NEVER = float("inf")
LOOK_AGAIN_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"Pauses before each further look for an announced change that a build did not find."
MAX_COVERS = 8
"Builds under way that are remembered. Of more, two in the middle are combined, which settles their changes later."
MAX_EPOCHS = 16
"Epochs whose latest received number is remembered."
LOAD_PAUSE = Backoff(0.1, 1.0)
"Between loads that brought nothing new."


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; see `[rebuild]` in the configuration."""

    debounce: float
    max_wait: float
    lock_ttl: float
    reconcile: float
    backoff_min: float = 0.5
    backoff_max: float = 15.0
    non_builder_delay: float = 0.1
    "How long other nodes wait for the node that made the last version. Long compared to the delay of a message."


# Inputs


@dataclass(frozen=True, slots=True)
class ChangeReported:
    """Something changed. `event` is None if it is only known that something may have changed."""

    event: ChangeEvent | None
    requested: bool = False
    "A person or a timer asked for a rebuild: perhaps nothing has changed."


@dataclass(frozen=True, slots=True)
class SubscriptionStarted:
    """A subscription to the bus has begun."""

    given: Version | None = None
    "The latest number given out with the lock when the subscription began; None if the store has none."


@dataclass(frozen=True, slots=True)
class MessageReceived:
    message: Begun | Confirmed | Abandoned | Rebuilt


@dataclass(frozen=True, slots=True)
class LockAcquired:
    version: Version


@dataclass(frozen=True, slots=True)
class LockBusy:
    remaining: float
    "Seconds. The store limits it to `lock_ttl`, and so does the coordinator."


@dataclass(frozen=True, slots=True)
class LockFailed:
    pass


@dataclass(frozen=True, slots=True)
class Built:
    complete: bool = True
    "All that was announced was found."


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The build made the documents that are already committed as this version."""

    committed: Version
    complete: bool = True


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
class CommitRefused:
    pass


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The store did not say whether it committed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer of the store. Its documents are now in memory if they are newer."""

    version: Version | None
    "The committed version; None if there is none."
    confirmed: int = 0
    "Number of the latest build that committed these documents or found them true."
    full: int = 0
    "Number of the latest full build that these documents rest on; 0 if not known."
    complete: bool = True
    "The build of number `confirmed` found all that was announced."
    given: Version | None = None
    "The latest number given out with the lock; None if the store knows of none."


@dataclass(frozen=True, slots=True)
class LoadFailed:
    pass


@dataclass(frozen=True, slots=True)
class DocumentsDamaged:
    """A document in the store differs from the committed one: the documents have to be committed again."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The persisted copy is in memory now. At most once, early in a node's life."""

    version: Version


@dataclass(frozen=True, slots=True)
class Tick:
    """The time `wake` has come."""


Input = (
    ChangeReported
    | SubscriptionStarted
    | MessageReceived
    | LockAcquired
    | LockBusy
    | LockFailed
    | Built
    | Unchanged
    | BuildFailed
    | LeaseLost
    | Committed
    | CommitRefused
    | CommitFailed
    | Loaded
    | LoadFailed
    | DocumentsDamaged
    | Restored
    | Tick
)


# Actions


@dataclass(frozen=True, slots=True)
class TryLock:
    """Ask the store for the lock; `seen` is the latest version seen → `LockAcquired`, `LockBusy` or `LockFailed`."""

    seen: Version | None


@dataclass(frozen=True, slots=True)
class CancelBuild:
    pass


@dataclass(frozen=True, slots=True)
class Renew:
    """Extend the lock → `LeaseLost` or nothing."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the build and serve it from then on → `Committed`, `CommitRefused` or `CommitFailed`."""

    event: ChangeEvent | None
    changes: int
    "Number of changes that the version newly contains."


@dataclass(frozen=True, slots=True)
class Confirm:
    """Release the lock; the committed version is true → `Committed`, `CommitRefused` or `CommitFailed`."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Release the lock, if it is still ours, after a failed build."""


@dataclass(frozen=True, slots=True)
class Load:
    """Read the committed version, and serve it from then on if it is newer → `Loaded`, `LoadFailed` or
    `DocumentsDamaged`."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce `version`, which this node serves, to its clients."""

    version: Version
    event: ChangeEvent | None


Action = TryLock | Build | CancelBuild | Renew | Commit | Confirm | Abandon | Load | Announce


class Phase(Enum):
    IDLE = auto()
    TRYING = auto()
    BUILDING = auto()
    COMMITTING = auto()
    CONFIRMING = auto()


@dataclass(slots=True)
class Cover:
    """A build that began after the changes up to `upto` had arrived."""

    version: Version
    upto: int
    cause: ChangeEvent | None
    "The events of the changes that no earlier build covers, merged."
    announced: bool
    "A platform announced one of the changes that are not contained yet."
    fresh: bool
    "It announced one of those that is not being looked for again."
    other: bool
    "One of those that are not contained was announced as more than a solve."
    under_way: bool = True
    "False once the build was reported as abandoned or was given up. The store may still say that it succeeded."


class Coordinator:
    """The coordinator of one node. `jitter` returns a number in [0, 1); it spreads the retries of nodes that fail
    together."""

    def __init__(self, timing: Timing, *, jitter: Callable[[], float]) -> None:
        self._timing = timing
        self._jitter = jitter

        self.phase = Phase.IDLE
        self.lease: Version | None = None
        "The version we are building; set exactly while the phase is BUILDING, COMMITTING or CONFIRMING."
        self.served: Version | None = None
        "The version that this node serves."

        self.changes = 0
        self.contained = 0
        self._covers: list[Cover] = []
        "Builds that cover changes which are not contained, in the order in which they began."
        self._last_event_change = 0
        "The last change that came with an event: while it is not contained, what we serve is stale."
        self._last_announced_change = 0
        "The last change that a platform announced: if a build does not find it, another one looks again."
        self._last_announced_nonsolve = 0
        "The last announced change that is more than a solve."

        self._own_version: Version | None = None
        "The last version whose commit we asked for. A node that serves its own version made the last one."
        self._own_finished: Version | None = None
        "Our last build that was committed or confirmed: its message on the bus is not news."
        self._latest_begun: Version | None = None
        "The latest build in a received message."
        self._numbers: dict[str, int] = {}
        "By epoch, the number up to which `Begun` is old."
        self._in_order = False
        "`Begun` above `_numbers` is new: the store was asked after the last number that it had not given out."
        self._asked_in_order = False
        "The load under way will set `_in_order`."
        self._asked_numbers: dict[str, int] = {}
        "`_numbers` when the load under way began: the store had given them out, or they were forged."

        self._last_nonsolve_change = 0
        "The last change that may be more than one more solve."
        self._changes_at_lock_attempt = 0
        "`changes` when we last asked for the lock."
        self._changes_at_build_start = 0
        "`changes` when our last build began."
        self._announced_solves = 0
        "Solves announced since our last build began."
        self._build_is_full = False
        "The build under way makes a full read."
        self._build_started_at = 0.0
        "When the build under way began."
        self._build_is_complete = True
        "The build under way found all that was announced."
        self._unchanged_version: Version | None = None
        "The version that we found unchanged; set exactly while the phase is CONFIRMING."
        self._pending_event: ChangeEvent | None = None
        "The events of the waiting changes, merged."
        self._last_rebuilt: Rebuilt | None = None
        "The latest announcement received: its event goes to clients once the version is loaded."
        self._repair_needed = False
        "The committed documents are damaged: the next build has to commit."

        self._first_pending_at = NEVER
        "When the first waiting change arrived; the distant past if a build that covered it failed."
        self._last_pending_at = NEVER
        "When the last waiting change arrived."
        self._missing_upto = 0
        "The changes up to this one that are not contained are looked for again, at `_look_at`."
        self._missing_nonsolve = False
        "One of those changes was announced as more than a solve."
        self._look_at = NEVER
        self._look_count = 0
        "How often we have looked again."
        self._busy_until = 0.0
        "Before then the lock is not worth an attempt, unless a message comes."
        self._lock_hint_received = False
        "A message came since we last asked for the lock: an answer that it is busy is out of date."
        self._lock_attempt_at = -NEVER
        "When we last asked for the lock."
        self._retry_at = 0.0
        "No attempt before then, after a failure of our own."
        self._failures = 0
        self._watch_at = NEVER
        "When to ask for the lock although a build is under way: its builder may be gone. Only the store delays this."
        self._renew_at = NEVER
        self._reconcile_at = NEVER
        "When the next full build is due."
        self._last_full_build: tuple[str, int] | None = None
        "Epoch and number of the latest full build, as the store says."
        self._refresh_needed = False
        "The store may have something that we do not know."
        self._loading = False
        self._served_at_load: Version | None = None
        "The version served when we last asked for the documents."
        self._served_at_commit: Version | None = None
        "The version served when we last asked for a commit."
        self._load_at = 0.0
        self._load_failures = 0
        self._loads_without_news = 0
        "Loads in a row that brought nothing new."
        self._load_confirmed: Version | None = None
        "The latest build that the store said had succeeded."

    def statistics(self) -> dict[str, Any]:
        """For a person who looks inside a running node. Times are in seconds of the loop's clock."""
        return {
            "phase": self.phase.name.lower(),
            "lease": self.lease and str(self.lease),
            "served": self.served and str(self.served),
            "changes": self.changes,
            "covered": self.covered,
            "contained": self.contained,
            "stale": self.stale,
            "failing": self.failing,
            "failures": self._failures,
            "covers": [
                {"version": str(cover.version), "upto": cover.upto, "under_way": cover.under_way}
                for cover in self._covers
            ],
            "look_again": self._look_count,
            "wake": None if self.wake == NEVER else self.wake,
        }

    @property
    def covered(self) -> int:
        """The changes up to this one are contained, or in a build that is under way."""
        return max([self.contained, *(cover.upto for cover in self._covers if cover.under_way)])

    @property
    def stale(self) -> bool:
        """True if the node knows of a change that what it serves does not contain."""
        return self._last_event_change > self.contained

    @property
    def failing(self) -> bool:
        """True if this node's last attempt at a rebuild failed."""
        return self._failures > 0

    def handle(self, received: Input, now: float) -> list[Action]:
        """Take one input at monotonic time `now` (seconds) and say what is to be done, in order."""
        actions: list[Action] = []
        match received:
            case ChangeReported(event, requested):
                self._record_change(event, now, requested=requested)
            case SubscriptionStarted(given):
                self._record_change(None, now)
                self._numbers = {given.epoch: given.number} if given else {}
                self._in_order, self._asked_in_order = True, False
                self._refresh_needed = True
                self._word_came()
                self._load_at = self._retry_at = 0.0
                self._reconcile_at = min(self._reconcile_at, now + self._timing.reconcile)
            case MessageReceived(message):
                self._hear(message, now)
            case LockAcquired(version):
                actions.append(self._won(version, now))
            case LockBusy(remaining):
                self.phase = Phase.IDLE
                self._busy(remaining, now)
            case LockFailed():
                self.phase = Phase.IDLE
                self._back_off(now)
            case Built() | Unchanged() | BuildFailed() | LeaseLost():
                actions += self._built(received, now)
            case Committed() | CommitRefused() | CommitFailed():
                actions += self._finished(received, now)
            case Loaded():
                actions += self._loaded(received, now)
            case LoadFailed() | DocumentsDamaged():
                self._loading = False
                self._load_failures += 1
                self._load_at = now + self._delay(self._load_failures)
                if isinstance(received, DocumentsDamaged) and not self._repair_needed:
                    self._repair_needed = True
                    self._record_change(None, now)
            case Restored(version):
                if self.served is None:
                    self.served = version
                    actions.append(Announce(version, None))
            case Tick():
                pass
            case _:
                assert_never(received)
        return actions + self._decide(now)

    @property
    def wake(self) -> float:
        """The monotonic time at which to send `Tick`, unless something else comes first."""
        times = [NEVER]
        if self.phase is Phase.IDLE:
            times.append(self._due_at())
        if self.phase is Phase.BUILDING:
            times.append(self._renew_at)
        if self._load_due():
            times.append(self._load_at)
        return min(times)

    # What was received

    def _record_change(self, event: ChangeEvent | None, now: float, *, requested: bool = False) -> None:
        if self.changes <= max(self.covered, self._missing_upto):
            self._first_pending_at = now
        self.changes += 1
        self._last_pending_at = now
        solved = event is not None and event.reason == SOLVED
        if not solved:
            self._last_nonsolve_change = self.changes
        if event is not None:
            self._last_event_change = self.changes
            self._pending_event = event.after(self._pending_event)
            if not requested:
                self._last_announced_change = self.changes
                self._announced_solves += solved
                self._last_announced_nonsolve = self._last_announced_nonsolve if solved else self.changes

    def _word_came(self, busy_until: float = 0.0) -> None:
        self._lock_hint_received = True
        self._busy_until = busy_until

    def _hear(self, message: Begun | Confirmed | Abandoned | Rebuilt, now: float) -> None:
        match message:
            case Begun(version):
                if version.number <= self._numbers.get(version.epoch, 0):
                    return  # old
                if self._numbers and version.epoch not in self._numbers and self._serves_epoch(version.epoch):
                    return  # the store gives out numbers of a later epoch than the documents that it was taken back to
                self._remember_number(version)
                self._latest_begun = version
                if self._in_order and not self._is_unasked(version):
                    self._add_cover(version, self.changes, now)
            case Confirmed(version):
                self._word_came(now)
                self._refresh_needed |= version not in (self.lease, self._own_finished)
            case Abandoned(version):
                self._word_came()
                if version != self.lease:
                    self._cover_abandoned(version)
            case Rebuilt(number):
                self._word_came(now)
                self._last_rebuilt = self._with_untold(message)
                if self._own_version is not None and number > self._own_version.number:
                    self._own_version = None
                # Only the number is on the wire. The build it ends is the last one that began, if we heard it begin.
                ended = self._latest_begun if self._latest_begun and self._latest_begun.number == number else None
                self._refresh_needed |= ended is None or (ended != self.lease and ended.follows(self.served))

    def _serves_epoch(self, epoch: str) -> bool:
        return self.served is not None and self.served.epoch == epoch

    def _with_untold(self, message: Rebuilt) -> Rebuilt:
        """`message`, for what the announcement before it was for as well, if that version is not served yet: both are
        told at once."""
        before = self._last_rebuilt
        if before is None or self.served is None or not self.served.number < before.number < message.number:
            return message
        return Rebuilt(message.number, message.event.after(before.event))

    def _is_unasked(self, version: Version) -> bool:
        """True if `version` is our own build, and something was announced that it was not asked for: it may not have
        read everything, and does not say whether it found that."""
        return version == self.lease and self._last_announced_change > self._changes_at_build_start

    def _busy(self, remaining: float, now: float) -> None:
        until = now + min(max(remaining, 0.0), self._timing.lock_ttl) + self._jitter() * self._timing.debounce
        self._watch_at = until if self.covered > self.contained else NEVER
        if not self._lock_hint_received:
            self._busy_until = until

    def _won(self, version: Version, now: float) -> Build:
        """The store has given us the lock: of all other builds, those of lower numbers have ended, well or not, and
        the rest are not true."""
        if self._numbers.get(version.epoch, 0) > version.number:
            self._forget_order()
        self._latest_begun = version
        again = self._missing_upto > self.contained
        other = self._missing_nonsolve or self._last_announced_nonsolve > self._changes_at_build_start
        full = (
            again
            or self._last_nonsolve_change > self._changes_at_build_start
            or not self._changes_at_build_start
            or now >= self._reconcile_at
        )
        self._return_to_pending(self._covers)
        self._covers = [cover for cover in self._covers if _is_older(cover.version, version)]
        self._add_cover(version, self._changes_at_lock_attempt, now)
        nothing_new = self._event_for(version) is None or (again and self._last_event_change <= self._missing_upto)
        quiet = nothing_new and not self._repair_needed
        build = Build(version, quiet=quiet, full=full, solves=self._announced_solves, announced=other, again=again)
        self.phase = Phase.BUILDING
        self.lease = version
        self._build_is_full, self._build_started_at = full, now
        self._changes_at_build_start, self._announced_solves = self.changes, 0
        self._renew_at = now + self._timing.lock_ttl / 3
        return build

    def _built(self, result: Built | Unchanged | BuildFailed | LeaseLost, now: float) -> list[Action]:
        if self.phase is not Phase.BUILDING or self.lease is None:
            return []  # the build was cancelled while its result was on the way
        match result:
            case Built(complete):
                self.phase = Phase.COMMITTING
                self._own_version = self.lease
                self._build_is_complete = complete
                self._served_at_commit = self.served
                return [Commit(self._event_for(self.lease), self.covered - self.contained)]
            case Unchanged(committed, complete):
                self.phase = Phase.CONFIRMING
                self._unchanged_version = committed
                self._build_is_complete = complete
                self._refresh_needed |= committed != self.served
                return [Confirm()]
            case BuildFailed():
                self._release_lease()
                self._back_off(now)
                return [Abandon()]
            case LeaseLost():
                self._release_lease()
                self._back_off(now)
                return [CancelBuild()]

    def _finished(self, result: Committed | CommitRefused | CommitFailed, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.lease is None:
            return actions
        version, confirmed, self._unchanged_version = self.lease, self._unchanged_version, None
        match result:
            case Committed():
                cause = self._event_for(version)
                self.phase = Phase.IDLE
                self.lease = None
                self._failures = 0
                self._own_finished = version
                if self._build_is_full:
                    self._full_build_finished((version.epoch, version.number), self._build_started_at)
                if confirmed is None:
                    self._repair_needed = False
                    if not version.replaces(self.served, self._served_at_commit):
                        # The answer was slow, and a later version has been loaded meanwhile.
                        self._refresh_needed = True
                        return []
                    self.served = version
                    actions.append(Announce(version, cause))
                if (confirmed or version) == self.served:
                    # Our snapshot was taken after the answer to our request for the lock.
                    self._settle(version, self._changes_at_build_start, complete=self._build_is_complete, now=now)
                return actions
            case CommitRefused() | CommitFailed():
                # The lock may still be ours: a store that has lost the committed version refuses to confirm it.
                self._release_lease()
                actions.append(Abandon())
        self._back_off(now)
        self._refresh_needed = True
        return actions

    def _loaded(self, said: Loaded, now: float) -> list[Action]:
        self._loading = False
        self._load_failures = 0
        self._repair_needed = False
        new = self._restore_order(said.given)
        actions: list[Action] = []
        version = said.version
        confirmed = version and Version(version.epoch, max(said.confirmed, version.number))
        new |= confirmed != self._load_confirmed
        self._load_confirmed = confirmed
        self._loads_without_news = 0 if new else self._loads_without_news + 1
        if not new:
            self._load_at = now + LOAD_PAUSE.delay(self._loads_without_news + 1)
        if version is not None and version.replaces(self.served, self._served_at_load):
            if self.served is not None and self.served.epoch != version.epoch:
                # Nothing is known of what another epoch contains: it may be one that the store was restored to.
                self.contained = 0
                self._forget_covers(now)
            self.served = version
            known = self._last_rebuilt is not None and self._last_rebuilt.number == version.number
            actions = [Announce(version, self._last_rebuilt.event if self._last_rebuilt and known else None)]
        elif version is None or version != self.served:
            if self.served != self._served_at_load:
                # A commit of our own overtook the answer: ask again, at once.
                self._refresh_needed, self._load_at = True, now
            elif self.served is not None and not self._refresh_needed:
                # The store has less than we serve, so it has lost state. It starts a new epoch when a node that asks
                # for the lock says what it has seen.
                self._forget_covers(now)
            return []
        if said.full and (version.epoch, said.full) != self._last_full_build:
            self._full_build_finished((version.epoch, said.full), now)
        assert confirmed is not None
        self._settle(confirmed, 0, complete=said.complete, now=now)
        return actions

    # What follows

    def _decide(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.phase is Phase.IDLE and now >= self._due_at():
            self.phase = Phase.TRYING
            self._changes_at_lock_attempt = self.changes
            self._lock_attempt_at = now
            self._lock_hint_received = False
            actions.append(TryLock(self.served))
        if self.phase is Phase.BUILDING and now >= self._renew_at:
            self._renew_at = now + self._timing.lock_ttl / 3
            actions.append(Renew())
        if self._load_due() and now >= self._load_at:
            self._loading = True
            self._served_at_load = self.served
            self._refresh_needed = False
            self._asked_in_order = True
            self._asked_numbers = dict(self._numbers)
            actions.append(Load())
        return actions

    def _due_at(self) -> float:
        """When to ask for the lock: the debounce is over, or the builder we rely on should have sent a message."""
        timing, due = self._timing, NEVER
        if self.changes > max(self.covered, self._missing_upto):
            due = min(self._last_pending_at + timing.debounce, self._first_pending_at + timing.max_wait)
        if self._missing_upto > self.covered:
            due = min(due, self._look_at)
        # Who has just read everything is on record: a load that is under way may say so.
        due = min(due, self._reconcile_at + (timing.lock_ttl if self._loading or self._refresh_needed else 0.0))
        due = max(due, self._busy_until)
        if self.served != self._own_version:
            due += timing.non_builder_delay
        if self.covered > self.contained:
            due = min(due, self._watch_at)
        return max(due, self._retry_at, self._lock_attempt_at + timing.debounce)

    def _load_due(self) -> bool:
        return (self._refresh_needed or self._load_failures > 0) and not self._loading

    # The order of things

    def _forget_order(self) -> None:
        """The order of messages is not known until the store has been asked again."""
        self._in_order = self._asked_in_order = False
        self._numbers = {}
        self._refresh_needed = True

    def _restore_order(self, given: Version | None) -> bool:
        """The store says that `given` is the latest number that it has given out. True if the order was not known."""
        if not self._asked_in_order:
            return False
        self._asked_in_order = False
        if given is not None:
            if self._asked_numbers.get(given.epoch, 0) > given.number:
                self._forget_order()  # a number was heard that the store had not given out
                return False
            self._remember_number(given)
        learned, self._in_order = not self._in_order, True
        return learned

    def _remember_number(self, version: Version) -> None:
        numbers = self._numbers
        numbers[version.epoch] = max(version.number, numbers.get(version.epoch, 0))
        for epoch in list(numbers):
            if len(numbers) > MAX_EPOCHS and epoch not in (version.epoch, self.served and self.served.epoch):
                del numbers[epoch]

    # The counters

    def _event_for(self, version: Version) -> ChangeEvent | None:
        """The events of the changes that `version` newly contains, merged."""
        return _merge_events(cover.cause for cover in self._covers if version.includes(cover.version))

    def _add_cover(self, version: Version, upto: int, now: float) -> None:
        """`version`, and every later one, will contain the changes up to `upto`."""
        if self.covered == self.contained or self._watch_at == NEVER:
            self._watch_at = now + self._timing.lock_ttl + self._jitter() * self._timing.debounce
        cover = Cover(
            version,
            upto,
            self._pending_event,
            announced=self._last_announced_change > self.contained,
            fresh=self._last_announced_change > max(self.contained, self._missing_upto),
            other=self._last_announced_nonsolve > self.contained,
        )
        if upto == self.changes:
            self._pending_event = None
        self._first_pending_at = self._last_pending_at
        known = next((known for known in self._covers if known.version == version), None)
        if known:
            self._covers.remove(known)
            cover = _combine_covers(known, cover)
        self._covers.append(cover)
        if len(self._covers) > MAX_COVERS:
            middle = MAX_COVERS // 2
            self._covers[middle : middle + 2] = [_combine_covers(*self._covers[middle : middle + 2])]

    def _cover_abandoned(self, version: Version) -> None:
        """`version` probably will not come: what no other build covers waits again, and is due at once."""
        for cover in self._covers:
            if cover.version == version and cover.under_way:
                cover.under_way = False
                self._return_to_pending([cover])

    def _return_to_pending(self, covers: list[Cover]) -> None:
        """What these builds covered waits again, unless another build covers it."""
        for cover in covers:
            cover.under_way = False
        if covers and self.changes > self.covered:
            self._pending_event = _merge_events((*(cover.cause for cover in covers), self._pending_event))
            if max(cover.upto for cover in covers) > max(self.covered, self._missing_upto):
                self._first_pending_at = -NEVER

    def _settle(self, ended: Version, upto: int, *, complete: bool, now: float) -> None:
        """The build `ended` committed what we serve, or found it true. It contains the changes up to `upto`, and those
        that had arrived when it began."""
        reached = [cover for cover in self._covers if ended.includes(cover.version)]
        upto = max([upto, *(cover.upto for cover in reached)])
        self._covers = [cover for cover in self._covers if not ended.includes(cover.version)]
        if not self._covers:
            self._watch_at = NEVER
        if upto <= self.contained:
            return
        found = complete and not (self._missing_nonsolve and any(cover.fresh for cover in reached))
        if any(cover.announced for cover in reached) and not found and self._look_again(complete, reached, now):
            self._missing_upto = upto
            self._missing_nonsolve |= any(cover.other for cover in reached)
            self._pending_event = _merge_events((*(cover.cause for cover in reached), self._pending_event))
            return
        self.contained = upto
        self._covers = [cover for cover in self._covers if cover.upto > upto or cover.version == self.lease]
        if self._missing_upto <= self.contained:
            self._stop_looking_again()

    def _stop_looking_again(self) -> None:
        self._missing_upto = self._look_count = 0
        self._missing_nonsolve = False
        self._look_at = NEVER

    def _look_again(self, complete: bool, reached: list[Cover], now: float) -> bool:
        """Choose when to look again for what the builds in `reached` did not find. False after the last look."""
        looking = self._missing_upto > self.contained
        if not looking or (not complete and any(cover.fresh for cover in reached)):
            self._look_count = 0  # something new is not found
        elif now < self._look_at:
            return True  # that was a build for something else, before its time
        if self._look_count == len(LOOK_AGAIN_SECONDS):
            return False
        self._look_at = now + LOOK_AGAIN_SECONDS[self._look_count]
        self._look_count += 1
        return True

    def _full_build_finished(self, build: tuple[str, int], at: float) -> None:
        """The full build `build` was made at about the time `at`."""
        self._last_full_build = build
        self._reconcile_at = at + self._timing.reconcile * (1 - self._jitter() / 8)

    def _forget_covers(self, now: float) -> None:
        """Forget all builds under way: what is not contained waits again."""
        self._return_to_pending(self._covers)
        self._covers = []
        self._watch_at = NEVER
        self._stop_looking_again()
        self._record_change(None, now)

    def _release_lease(self) -> None:
        if self.lease is not None:
            self._cover_abandoned(self.lease)
        self.phase = Phase.IDLE
        self.lease = None

    def _back_off(self, now: float) -> None:
        self._failures += 1
        self._retry_at = now + self._delay(self._failures)

    def _delay(self, failures: int) -> float:
        return Backoff(self._timing.backoff_min, self._timing.backoff_max).delay(failures, self._jitter())


def _is_older(version: Version, other: Version) -> bool:
    return version.epoch == other.epoch and version.number < other.number


def _combine_covers(cover: Cover, later: Cover) -> Cover:
    """Both covers as one."""
    return Cover(
        later.version,
        max(cover.upto, later.upto),
        _merge_events((cover.cause, later.cause)),
        announced=cover.announced or later.announced,
        fresh=cover.fresh or later.fresh,
        other=cover.other or later.other,
        under_way=later.under_way,
    )


def _merge_events(causes: Iterable[ChangeEvent | None]) -> ChangeEvent | None:
    """The events, in the order in which they came, as one."""
    merged: ChangeEvent | None = None
    for cause in causes:
        merged = merged if cause is None else cause.after(merged)
    return merged
