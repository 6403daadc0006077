"""What a backend promises: the lock, the documents and the bus that the nodes of one cluster share.

- **Lock.** Held by a random token until its TTL; every change to it compares the token *in the store*. Acquiring hands
  out the next version number of the epoch, which is also the fence. A backend that has no epoch, or whose numbers lie
  below what the caller has already seen, has lost its state: it starts the epoch offered by the caller.
- **Documents.** Staged under names of their own, then made visible all at once by `commit`, which refuses if the lock
  is not the caller's or the fence is not newer (I2), and announces in the same atomic step.
- **Bus.** Messages reach one subscription in the order in which the store executed their causes, acquiring included.
  That order is what proves that a build covers a change: see `cluster.coordinator`.

Any method may raise `Unavailable`, and does so within its deadline. The outcome of the call is then unknown.
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from scoreboardd.board.document_names import document_names
from scoreboardd.cache.document_cache import CacheTier
from scoreboardd.model import MAX_NUMBER, ChangeEvent, Snapshot, Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import Frames, digest_of

if TYPE_CHECKING:
    from scoreboardd.config import Settings


class Damaged(Exception):
    """A value in the store is not the one that was committed; the text says which and how to fix it, in one line."""


class Unavailable(Exception):
    """The store did not answer as it should; the text says what is wrong and how to fix it, in one line."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lock, held, and the version that a commit under it will have."""

    token: str
    version: Version


@dataclass(frozen=True, slots=True)
class Busy:
    """Another node holds the lock, for at most `remaining` seconds if it does not renew."""

    remaining: float
    overlong: bool = False
    "The lock had no TTL, or one above `lock_ttl`; this call set it to `lock_ttl`."


@dataclass(frozen=True, slots=True)
class Value:
    """What a document's value in the store has to be."""

    length: int
    "Bytes."
    digest: str
    "As `compression.digest_of` computes it."


Values = Mapping[str, Value]

MAX_DIGEST_CHARACTERS = 256
"Ours have at most 64; what another program writes may have any number."


@dataclass(frozen=True, slots=True)
class SnapshotMetadata:
    """What the store says of its documents; read with them, and staged beside them."""

    digest: str
    "Hash over all documents: equal digests, equal documents."
    as_of: float
    divisions: tuple[int, ...]
    full: int = 0
    "Number, in the version's epoch, of the last build that read everything and on which these documents rest."
    complete: bool = True
    "The last build that committed them or found them true found all that was announced."
    documents: Values = field(default_factory=dict)
    "Of each document's value, by name: a node that loads one compares."

    def snapshot(self, version: Version, documents: Mapping[str, Frames]) -> Snapshot:
        return Snapshot(version, self.as_of, self.divisions, self.digest, documents)


def verified(key: str, payload: object, value: Value | None) -> bytes:
    """Returns `payload`, read from `key`, if it has the length and digest of `value`; raises `Damaged` otherwise.

    It hashes the whole payload, so call it in a thread."""
    fix = (
        "the next build commits it again; if this comes back, another program writes there: "
        "use another database or a redis.key_prefix"
    )
    if not isinstance(payload, bytes):
        raise Damaged(f"{key} is gone, or no document; {fix}")
    try:
        found = Value(len(payload), digest_of(payload))
    except ValueError as error:
        raise Damaged(f"{key} is {error}; {fix}") from error
    if found != value:
        raise Damaged(f"{key} is not what was committed; {fix}")
    return payload


@dataclass(frozen=True, slots=True)
class Head:
    """What the store says of what is committed, and of the numbers it has given out."""

    version: Version | None
    metadata: SnapshotMetadata | None
    confirmed: int = 0
    "Number of the latest build, in the version's epoch, that committed these documents or found them true."
    given: Version | None = None
    "The latest version number given out with the lock; None if the store knows of none."


MESSAGES_PER_TURN = 64
"Messages of the bus that a subscription handles before the loop gets a turn."

MAX_VALUE_BYTES = 1024 * 1024 * 1024
"No store takes a longer document: Redis takes 512 MB, PostgreSQL 1 GB."
MAX_METADATA_BYTES = 16 * 1024 * 1024
"A field of the metadata that is longer was not written by a node. A hundred documents need some 10 kB."

METADATA_FIELDS = ("digest", "as_of", "divisions", "full", "complete", "documents", "confirmed")
"The JSON fields that a store keeps: those of `SnapshotMetadata`, and the last build that committed or confirmed it."


def head_of(version: Version | None, fields: object, given: Version | None) -> Head:
    """Parses what a store returned. The head has no version if `version` was not given out, or if a field is not as a
    node writes it."""
    parsed = _parsed(fields)
    if version is None or parsed is None:
        return Head(None, None, given=given)
    metadata, confirmed = parsed
    if given is not None and given.epoch == version.epoch:
        if version.number > given.number:
            return Head(None, None, given=given)
        confirmed = min(confirmed, given.number)
    return Head(version, metadata, confirmed, given)


def _parsed(fields: object) -> tuple[SnapshotMetadata, int] | None:
    match fields:
        case {
            "digest": str(digest),
            "as_of": int() | float() as as_of,
            "divisions": [*divisions],
            "full": int(full),
            "complete": bool(complete),
            "documents": dict(documents),
            "confirmed": int(confirmed),
        }:
            pass
        case _:
            return None
    well_formed = (
        0 < len(digest) <= MAX_DIGEST_CHARACTERS
        and all(type(number) is int and 0 <= number <= MAX_NUMBER for number in (full, confirmed))
        and type(as_of) is not bool
        and math.isfinite(as_of)
        and all(type(id) is int for id in divisions)
        and documents.keys() == set(document_names(divisions))
    )
    values: dict[str, Value] = {}
    for name, value in documents.items():
        match value:
            case {"length": int(length), "digest": str(value_digest)} if (
                0 <= length <= MAX_VALUE_BYTES and len(value_digest) <= MAX_DIGEST_CHARACTERS
            ):
                values[name] = Value(length, value_digest)
            case _:
                return None
    return (
        (SnapshotMetadata(digest, float(as_of), tuple(divisions), full, complete, values), confirmed)
        if well_formed
        else None
    )


def removed_documents(before: SnapshotMetadata | None, fresh: list[str]) -> list[str]:
    """Returns the names of the documents of the snapshot `before` that are not among `fresh`, sorted."""
    return sorted(set(document_names(before.divisions)).difference(fresh)) if before else []


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """What is committed, as it was at one instant."""

    head: Head
    documents: list[tuple[str, bytes]] | None
    "zstd; None if nothing is committed, or nothing but what the caller has."


# What comes over the bus. `Changed.id` marks an event this cluster published itself, so that the publisher knows it
# again.


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription begins; messages that were published before it may be lost."""

    given: Version | None = None
    "The latest number that the store had given out with the lock, asked for since the subscription began."


@dataclass(frozen=True, slots=True)
class Changed:
    """A platform announced a change."""

    event: ChangeEvent
    id: str | None = None
    readable: bool = True
    "False if the message could not be parsed; then `event` only states that something changed."


@dataclass(frozen=True, slots=True)
class Begun:
    """A node holds the lock and is about to take its snapshot for `version`."""

    version: Version


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The build of `version` found the documents of `committed` still true at `as_of`, and committed nothing."""

    version: Version
    committed: Version
    as_of: float


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The build of `version` has failed and the lock is free."""

    version: Version


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A version is committed. Only its number is on the wire (protocol §4): the store knows the rest."""

    number: int
    event: ChangeEvent


Message = Subscribed | Changed | Begun | Confirmed | Abandoned | Rebuilt


class ClusterBackend(Protocol):
    """The lock, the commit and the bus: small, quick calls on the daemon's event loop."""

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy: ...

    async def renew(self, lease: Lease) -> bool:
        """False if the lease is lost."""

    async def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        """Make what was staged under `lease` visible, release the lock and announce. False: refused, too late."""

    async def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        """Release without a new version: the committed documents are true at `as_of`. `full`: everything was read;
        `complete`: all that was announced was found. False: refused, too late."""

    async def abandon(self, lease: Lease) -> None:
        """Release without a result, if the lock is still ours."""

    async def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        """Announces a change, as a platform does."""

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """One live subscription, which raises `Unavailable` when it is lost."""

    async def check(self) -> list[str]:
        """Returns what keeps the server from serving the daemon, one line each."""

    async def aclose(self) -> None: ...


class DocumentStore(Protocol):
    """The documents: calls that move megabytes, in the builder process."""

    async def head(self) -> Head:
        """What is committed: nothing, unless every one of the documents is there, in its length."""

    async def stage(self, lease: Lease, documents: Mapping[str, Document]) -> tuple[int, Values]:
        """Put documents where `commit` will find them. Returns the bytes written, and what is there then."""

    async def load(self, have: Version | None) -> StoredSnapshot:
        """The committed documents, all of one version, unless it is the one that the caller has. If one is not what
        was committed, the store forgets the version, so that whichever node builds next commits; raises `Damaged`."""

    async def verify(self) -> None:
        """Read the committed documents and change nothing. Raises `Damaged` if one is not what was committed."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """What the rest of the daemon has to know of one backend; `factory.BACKENDS` lists them all."""

    name: str
    "The value of `coordination.backend` that selects it."
    tier: CacheTier
    "Where documents that were loaded from it come from."
    persisted: bool
    "Whether `cache.persist` stores its documents in Postgres too."
    receives_notify: bool
    "Whether its nodes receive what the platform's triggers send by NOTIFY."
    is_shared: bool
    "Whether other processes can use its bus."
    max_prefix_length: int | None
    "Characters that `redis.key_prefix` may have; None if any number."
    open_cluster_backend: "Callable[[Settings], ClusterBackend]"
    document_store_options: "Callable[[Settings], dict[str, Any]]"
    "Returns the keyword arguments of `open_document_store`; they travel to the builder process as JSON."
    open_document_store: Callable[..., DocumentStore]


def stage_ttl_seconds(settings: "Settings") -> float:
    """Returns how long staged documents last: longer than any build whose commit could still be accepted."""
    return settings.rebuild.timeout + settings.rebuild.lock_ttl
