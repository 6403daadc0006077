"""The coordinator of one node: a pure state machine without clock, socket or asyncio.

Inputs go in with the node's monotonic time, actions come out; between inputs nothing happens until `wake`. The rule is
level-triggered: an input only updates what the node knows, and one function, `_decide`, looks at all of it.

Nothing on the bus is believed
------------------------------
Anybody may be able to publish on the bus: messages may be forged, repeated, late or lost. So a message only says when
to look. What the *store* says decides: which version is committed, which build last found it true, which number was
given out last, and whether the lock is free. A message can delay a build by `lock_ttl` at most, and cause one attempt
for the lock a debounce, or a look at the store a second.

What a node knows of a change
-----------------------------
Changes are numbered as they arrive. Each is, in turn: *waiting* (no build is known to contain it), *covered* (a build
that began after it arrived is under way, so that build's version contains it), *contained* (this node serves it).
Three counters say so: `contained ≤ covered ≤ changes`.

    input                        effect
    ---------------------------  ------------------------------------------------------------------------------
    Noted                        one more change; the debounce starts or is extended
    Resumed g                    a change may have been missed, and a version: note a quiet change, load; up to g is old
    Heard(Begun v)               v covers all changes so far; ask for the lock when it could have run out
    Heard(Rebuilt n)             load; a node that waits for the lock may try
    Heard(Confirmed v)           load; a node that waits for the lock may try
    Heard(Abandoned v)           what v covered waits again; a node that waits for the lock may try
    Won v                        no other build is under way: v covers what we asked for it for; build
    Busy / TryFailed             wait for a message or the end of the lock / back off
    Built, Unchanged / BuildFailed / LeaseLost    commit, confirm / abandon and back off / leave it to the next holder
    Committed / Refused / CommitFailed            serve and tell / what it covered waits again, back off, look
    Loaded v, c, g               serve and tell, if newer; what c covers is contained; numbers up to g are old
    LoadFailed / Damaged         back off / the same, and have the documents committed again
    Restored v                   serve and tell what was kept from an earlier life, until the store has its say
    Tick                         nothing new: what was waited for is due

Coverage, and why no clock is needed
------------------------------------
The store executes one thing after another, and a subscription delivers in that order. An event heard before `Begun v`
was published before v's lock was taken, hence committed in the database before v's snapshot: v contains it. So losers
of the lock see at once that the winner works for them (I3), and a change heard *after* `Begun v` waits for the next
build (I1). The argument needs order on one subscription only, no clock of any node or of the store. A subscription
that breaks breaks the order; then `SubscriptionStarted` counts as a change. A local change (no message of the bus
brought it) has no place in that order: publish it, and note it when it comes back.

A `Begun v` that comes late, or again, would cover what v's snapshot does not have. So it counts only if its number is
new: above any heard on this subscription, and above what the store had given out when the subscription began. After a
number was heard that the store had not given out, `Begun` covers nothing until the store has been asked again, which
costs attempts for the lock and no change. That a build ended is the store's word alone: `Loaded` says which build last
committed the documents or found them true.

Builds that do not find what was announced
------------------------------------------
A platform may publish before it commits, and a standby lags. So a build says whether it found all that was announced
(`complete`). If not, what it covered waits again, and the node looks again after pauses that grow
(`LOOK_AGAIN_SECONDS`), reads everything then, and is stale meanwhile. Solves are counted. Of anything else a look that
also covers something new proves nothing, since what it found may be that: the next look follows. After the last look
nothing more is expected.

Reading everything
------------------
Builds for solves read only what is new. What that cannot see is found by a build that reads everything: the latest of
those is on record in the store, and `reconcile` after it the node asks for the lock to do another, whatever else
happens meanwhile.

Who builds
----------
Any node may, but the one that made the last version has only to add to it. So a node that serves a version of another
waits for a handicap before it asks for the lock on account of waiting changes, and mostly hears by then that the other
has begun. If it does not, it asks. What an abandoned build gives back is not put off, as it has waited long enough,
nor is the attempt for the lock after a builder that is not heard of again.
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
"Seconds before each further look for an announced change that a build did not find."
MAX_COVERS = 8
"Builds under way that are remembered. Of more, those in the middle are left out: what they cover is settled later."
MAX_EPOCHS = 16
"Epochs of which the latest number heard is remembered."
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
    "By how much others let the node go first that made the last version. Long compared to the delay of a message."


# Inputs


@dataclass(frozen=True, slots=True)
class ChangeReported:
    """Something changed. `event` is None if all that is known is that something may have."""

    event: ChangeEvent | None
    requested: bool = False
    "A person or a timer asked for a rebuild: nothing need have changed."


@dataclass(frozen=True, slots=True)
class SubscriptionStarted:
    """A subscription to the bus has begun."""

    given: Version | None = None
    "The latest number given out with the lock, as the store said since; None if it knows of none."


@dataclass(frozen=True, slots=True)
class MessageReceived:
    message: Begun | Confirmed | Abandoned | Rebuilt


@dataclass(frozen=True, slots=True)
class LockAcquired:
    version: Version


@dataclass(frozen=True, slots=True)
class LockBusy:
    remaining: float
    "Seconds; the store keeps it within `lock_ttl`, and so does the coordinator."


@dataclass(frozen=True, slots=True)
class LockFailed:
    pass


@dataclass(frozen=True, slots=True)
class Built:
    complete: bool = True
    "All that was announced was found."


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The build found what is committed already, as this version."""

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
    """What the store says, and its documents are now in memory if they are newer than what was."""

    version: Version | None
    "What is committed; None if nothing is."
    confirmed: int = 0
    "Number of the latest build that committed these documents or found them true."
    full: int = 0
    "Number of the latest build that read everything, on which they rest; 0 if not known."
    complete: bool = True
    "The build of number `confirmed` found all that was announced."
    given: Version | None = None
    "The latest number given out with the lock; None if the store knows of none."


@dataclass(frozen=True, slots=True)
class LoadFailed:
    pass


@dataclass(frozen=True, slots=True)
class DocumentsDamaged:
    """The committed documents are not those that were committed: they have to be committed again."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was kept outside the store is in memory now, as there was nothing better. Once, early in a node's life."""

    version: Version


@dataclass(frozen=True, slots=True)
class Tick:
    """`wake` has come."""


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
    """Ask the store for the lock, telling it what we have seen → `LockAcquired`, `LockBusy` or `LockFailed`."""

    seen: Version | None


@dataclass(frozen=True, slots=True)
class CancelBuild:
    pass


@dataclass(frozen=True, slots=True)
class Renew:
    """Extend the lock → `LeaseLost`, or nothing."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit what was built, and from then on serve it → `Committed`, `CommitRefused` or `CommitFailed`."""

    event: ChangeEvent | None
    changes: int
    "How many changes the version newly contains."


@dataclass(frozen=True, slots=True)
class Confirm:
    """Release the lock, saying that what is committed is true → `Committed`, `CommitRefused` or `CommitFailed`."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Release the lock, if it is still ours, after a build that failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """Read what is committed, and from then on serve it if it is newer → `Loaded`, `LoadFailed` or
    `DocumentsDamaged`."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell this node's clients of `version`, which it serves."""

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
    "What those changes were, merged, that no earlier build covers."
    announced: bool
    "A platform announced one of them that is not contained yet."
    fresh: bool
    "It announced one of them that is not looked for again."
    other: bool
    "One of those that are not contained is announced as more than a solve."
    under_way: bool = True
    "False once it was reported as abandoned, or gave up: if the store says that it ended well, it did."


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
        self.contained = 0
        self._covers: list[Cover] = []
        "Builds that cover changes which are not contained, in the order in which they began."
        self._last_event_change = 0
        "The last change that an event spoke of: the ones that are not contained make what we serve stale."
        self._last_announced_change = 0
        "The last change that a platform announced: if a build does not find it, another looks again."
        self._last_announced_nonsolve = 0
        "The last of those that is more than a solve."

        self._own_version: Version | None = None
        "The last version that we asked to have committed, until a later one is out: who serves its own made the last."
        self._own_finished: Version | None = None
        "Our last build that was committed or confirmed: its message on the bus is an echo."
        self._latest_begun: Version | None = None
        "The latest build heard of."
        self._numbers: dict[str, int] = {}
        "By epoch, the number up to which `Begun` is old."
        self._in_order = False
        "`Begun` above `_numbers` is new: the store was asked since somebody last made a number up."
        self._asked_in_order = False
        "The load under way will say so."
        self._asked_numbers: dict[str, int] = {}
        "`_numbers` when the load under way was asked for: the store had given them out, or somebody else made them up."

        self._last_nonsolve_change = 0
        "The last change that may be more than one more solve."
        self._changes_at_lock_attempt = 0
        "`changes` when the lock was last asked for."
        self._changes_at_build_start = 0
        "`changes` when our last build began."
        self._announced_solves = 0
        "Announced solves since then."
        self._build_is_full = False
        "Whether the build under way reads everything."
        self._build_started_at = 0.0
        "When it began."
        self._build_is_complete = True
        "Whether it found all that was announced."
        self._unchanged_version: Version | None = None
        "What we found unchanged; set exactly while the phase is CONFIRMING."
        self._pending_event: ChangeEvent | None = None
        "What the waiting changes were, merged."
        self._last_rebuilt: Rebuilt | None = None
        "The latest announcement heard: tells clients why, once it is loaded."
        self._repair_needed = False
        "The committed documents are damaged: the next build has to commit."

        self._first_pending_at = NEVER
        "When the first waiting change arrived; long ago, if it was covered by a build that did not come."
        self._last_pending_at = NEVER
        "When the last waiting change arrived."
        self._missing_upto = 0
        "The changes up to this one that are not contained are looked for again, at `_look_at`."
        self._missing_nonsolve = False
        "One of them was announced as more than a solve."
        self._look_at = NEVER
        self._look_count = 0
        "How often they were."
        self._busy_until = 0.0
        "Not before then is the lock worth asking for, unless a message comes."
        self._lock_hint_received = False
        "A message came since the lock was last asked for: an answer that it is busy is out of date."
        self._lock_attempt_at = -NEVER
        "When the lock was last asked for."
        self._retry_at = 0.0
        "Not before then, after a failure of our own."
        self._failures = 0
        self._watch_at = NEVER
        "When to ask for the lock though a build is under way: its builder may be gone. Only the store puts it off."
        self._renew_at = NEVER
        self._reconcile_at = NEVER
        "When everything has to be read again."
        self._last_full_build: tuple[str, int] | None = None
        "Epoch and number of the latest build that read everything, as the store says."
        self._refresh_needed = False
        "The store may have something to say that we do not know."
        self._loading = False
        self._served_at_load: Version | None = None
        "What was served when the documents were last asked for."
        self._served_at_commit: Version | None = None
        "What was served when we last asked for a commit."
        self._load_at = 0.0
        self._load_failures = 0
        self._loads_without_news = 0
        "Loads that brought nothing new, one after the other."
        self._load_confirmed: Version | None = None
        "The latest build that the store said had ended well."

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
                    # Our snapshot was taken after the answer to our asking for the lock.
                    self._settle(version, self._changes_at_build_start, complete=self._build_is_complete, now=now)
                return actions
            case CommitRefused():
                self._release_lease()
            case CommitFailed():
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
                # Of what another epoch contains nothing is known: it may be one that the store was taken back to.
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
                # The store has less than we serve: it has lost state. When it is told so by a node that asks for the
                # lock, it starts a new epoch.
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
        """When to ask for the lock: the debounce is over, or the builder we rely on should have been heard of."""
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
        """The order of what is heard is not known, until the store is asked again."""
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
        """What the changes were that `version` newly contains, merged."""
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
        """`version` will not come, it seems: what no other build covers waits, and has waited long enough."""
        for cover in self._covers:
            if cover.version == version and cover.under_way:
                cover.under_way = False
                self._return_to_pending([cover])

    def _return_to_pending(self, covers: list[Cover]) -> None:
        """What these were to contain waits again, unless another build covers it."""
        for cover in covers:
            cover.under_way = False
        if covers and self.changes > self.covered:
            self._pending_event = _merge_events((*(cover.cause for cover in covers), self._pending_event))
            if max(cover.upto for cover in covers) > max(self.covered, self._missing_upto):
                self._first_pending_at = -NEVER

    def _settle(self, ended: Version, upto: int, *, complete: bool, now: float) -> None:
        """The build `ended` committed what we serve, or found it true; it contains the changes up to `upto`, and those
        that were known when it began."""
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
        """Choose when to look again for what the builds in `reached` did not find. False if that was the last look."""
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
        """`build` has read everything, at about the time `at`."""
        self._last_full_build = build
        self._reconcile_at = at + self._timing.reconcile * (1 - self._jitter() / 8)

    def _forget_covers(self, now: float) -> None:
        """Nothing is known to cover what is not contained."""
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
    """The two as one."""
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
    """The causes, in the order in which they came, as one."""
    merged: ChangeEvent | None = None
    for cause in causes:
        merged = merged if cause is None else cause.after(merged)
    return merged
