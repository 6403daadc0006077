"""The model of the store: its keys, and what the scripts and statements of `backend` do to them, each at one instant.

Written from those of Redis line by line; `test_conformance` runs it side by side with both backends.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from scoreboardd.backends.base import (
    Abandoned,
    Begun,
    Busy,
    Changed,
    Confirmed,
    Head,
    Lease,
    Message,
    Rebuilt,
    SnapshotMetadata,
)
from scoreboardd.board.document_names import document_names
from scoreboardd.model import ChangeEvent, Version

SINCE = 1_772_215_200_000
"What the clock of a server shows, in milliseconds, when the clock of a model shows zero."


@dataclass
class Data:
    """What a restart may lose, and a dump keeps. Times at which something ends are on the store's clock."""

    lock: tuple[str, float] | None = None
    fence: Version | None = None
    fence_run: int = 0
    version: Version | None = None
    metadata: SnapshotMetadata | None = None
    confirmed: int = 0
    documents: dict[str, Any] = field(default_factory=dict)
    staged: dict[tuple[str, str], tuple[Any, float]] = field(default_factory=dict)


class Store:
    """`say` publishes; `epochs` makes up new ones; `clock` and the TTLs are in seconds."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        lock_ttl: float,
        stage_ttl: float,
        epochs: Iterator[str],
        say: Callable[[Message], None],
    ) -> None:
        self.data = Data()
        self.run = 1
        "Which run of the server this is."
        self._clock = clock
        self._lock_ttl = lock_ttl
        self._stage_ttl = stage_ttl
        self._epochs = epochs
        self._say = say

    # What befalls it

    def restart(self) -> None:
        self.run += 1

    def lose(self) -> None:
        self.data = Data()

    def dump(self) -> Data:
        data = copy.copy(self.data)
        data.documents = dict(data.documents)
        data.staged = dict(data.staged)
        return data

    def snapshot(self) -> "Store":
        """The same, to be read as it is now."""
        frozen = copy.copy(self)
        frozen.data = self.dump()
        return frozen

    def restore(self, data: Data) -> None:
        self.data = data

    def contended(self) -> tuple[Any, ...]:
        """What the steps below change: of two at once, in Postgres, only one can."""
        data = self.data
        return data.lock, data.fence, data.version, data.metadata

    # The scripts

    @property
    def holder(self) -> str | None:
        lock = self.data.lock
        return lock[0] if lock is not None and self._clock() < lock[1] else None

    def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        data, now, holder = self.data, self._clock(), self.holder
        if holder is not None and holder != token and data.lock is not None:
            remaining = data.lock[1] - now
            if remaining > self._lock_ttl:
                data.lock = data.lock[0], now + self._lock_ttl
                return Busy(self._lock_ttl, overlong=True)
            return Busy(remaining)
        fence = data.fence
        if holder is not None and fence is not None:
            self._hold(token)
            return Lease(token, fence)
        committed = data.version
        latest = committed if committed and fence and committed.epoch == fence.epoch else fence
        if fence is None or latest is None or (seen and seen.epoch == fence.epoch and latest.number < seen.number):
            fence = Version(next(self._epochs), 0)
        elif data.fence_run != self.run:
            fence = Version(fence.epoch, max(fence.number, SINCE + int(self._clock() * 1000)))
        data.fence = fence = Version(fence.epoch, fence.number + 1)
        data.fence_run = self.run
        self._hold(token)
        self._say(Begun(fence))
        return Lease(token, fence)

    def renew(self, lease: Lease) -> bool:
        if not self._owns(lease):
            return False
        self._hold(lease.token)
        return True

    def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        data, fresh = self.data, document_names(metadata.divisions)
        if data.version == lease.version:
            return True
        if not self._may_commit(lease) or any(self._staged(lease, name) is None for name in fresh):
            return False
        if data.metadata is not None:
            for name in document_names(data.metadata.divisions):
                data.documents.pop(name, None)
        for name in fresh:
            data.documents[name], _ = data.staged.pop((lease.token, name))
        data.version, data.metadata, data.confirmed = lease.version, metadata, lease.version.number
        self._release(lease)
        self._say(Rebuilt(lease.version.number, event))
        return True

    def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        data = self.data
        if not self._owns(lease) or data.version is None or data.metadata is None:
            return False
        number = lease.version.number
        data.metadata = replace(
            data.metadata, as_of=as_of, full=number if full else data.metadata.full, complete=complete
        )
        data.confirmed = number
        self._release(lease)
        self._say(Confirmed(lease.version, data.version, as_of))
        return True

    def abandon(self, lease: Lease) -> None:
        if self._owns(lease):
            self._release(lease)
            self._say(Abandoned(lease.version))

    def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        self._say(Changed(event, id))

    # The documents

    def head(self) -> Head:
        head = self.committed()
        there = head.metadata and all(name in self.data.documents for name in document_names(head.metadata.divisions))
        return head if there else Head(None, None, given=head.given)

    def committed(self) -> Head:
        """The same, whether or not the documents are there."""
        data = self.data
        if data.version is None or data.metadata is None:
            return Head(None, None, given=data.fence)
        return Head(data.version, data.metadata, data.confirmed, data.fence)

    def forget(self, version: Version) -> None:
        """A node has found the documents damaged."""
        if self.data.version == version:
            self.data.version = self.data.metadata = None

    def document(self, name: str) -> Any:
        return self.data.documents.get(name)

    def stage(self, lease: Lease, name: str, document: Any) -> None:
        self.data.staged[lease.token, name] = document, self._clock() + self._stage_ttl

    def _staged(self, lease: Lease, name: str) -> Any:
        document, ends = self.data.staged.get((lease.token, name), (None, 0.0))
        return document if self._clock() < ends else None

    # The lock

    def _owns(self, lease: Lease) -> bool:
        return self.holder == lease.token

    def _may_commit(self, lease: Lease) -> bool:
        return self._owns(lease) and self.data.fence == lease.version

    def _hold(self, token: str) -> None:
        self.data.lock = token, self._clock() + self._lock_ttl

    def _release(self, lease: Lease) -> None:
        self.data.lock = None
