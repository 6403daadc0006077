"""The messages between the daemon and its builder process: one type a request, one type an answer.

Both processes import this module. On the way a message is JSON, and `op` says which type it is. Documents travel beside
a message, as a file descriptor of shared memory and a manifest that says what is where in it.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter

from scoreboardd.backends.base import Head, SnapshotMetadata
from scoreboardd.builder.shared_documents import Manifest
from scoreboardd.model import Version
from scoreboardd.platforms.findings import Finding
from scoreboardd.system.clock import ClockReading

MAX_ERROR_CHARACTERS = 4000
FailedPart = Literal["source", "store", "damaged", "builder"]
"What failed: the platform's database, the store, a document in the store that is not the committed one, or we."


@dataclass(frozen=True, slots=True)
class Build:
    """Read the platform's database, build the documents and stage them in the store."""

    version: Version
    "The version that a commit will have."
    quiet: bool
    "No announcement asks for a new version: if the documents are the committed ones, stage nothing and say so."
    full: bool = False
    "Read everything, and not only the new solves."
    solves: int = 0
    "Number of solves announced since the last build of this node began."
    announced: bool = False
    "Some other change was announced since then, or is looked for again."
    again: bool = False
    "An earlier build, of any node, did not find all that was announced."
    op: Literal["build"] = "build"


@dataclass(frozen=True, slots=True)
class Load:
    """Read the committed documents from the store, unless they are those of the version `have`."""

    have: Version | None
    op: Literal["load"] = "load"


@dataclass(frozen=True, slots=True)
class Restore:
    """Read the persisted copy of the documents."""

    op: Literal["restore"] = "restore"


@dataclass(frozen=True, slots=True)
class Persist:
    """Write a copy of the documents that come with this message, unless one was written in the last `quiet` seconds."""

    version: Version
    metadata: SnapshotMetadata
    manifest: Manifest
    quiet: float
    op: Literal["persist"] = "persist"


@dataclass(frozen=True, slots=True)
class Ping:
    op: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True)
class Live:
    """Read the boards with what happened after a freeze."""

    op: Literal["live"] = "live"


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the platform's database whether anything differs from the last read."""

    op: Literal["probe"] = "probe"


@dataclass(frozen=True, slots=True)
class ReadClock:
    """Ask the platform's database for the time."""

    op: Literal["clock"] = "clock"


RequestBody = Annotated[Build | Load | Restore | Persist | Live | Ping | Probe | ReadClock, Field(discriminator="op")]


@dataclass(frozen=True, slots=True)
class Request:
    id: int
    timeout_seconds: float
    "After that nobody waits for the answer."
    body: RequestBody
    token: str = ""
    "Of the lease that a build is made under."


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made. The documents come with the message, unless they are those of `unchanged`."""

    metadata: SnapshotMetadata
    timings: dict[str, float]
    "Seconds, by stage."
    rows: dict[str, int]
    full: bool
    "Everything was read, and not only the new solves."
    size: int
    "Bytes of the documents as plain text."
    staged_bytes: int = 0
    unchanged: Version | None = None
    "The committed version that has the same documents; None if the documents were staged."
    findings: list[Finding] = field(default_factory=list)
    "What is wrong with some of the rows."
    changes_in: float | None = None
    "Seconds until the board changes by itself; None if it does not."
    op: Literal["build"] = "build"


@dataclass(frozen=True, slots=True)
class Stored:
    """What is committed, or persisted. The documents come with the message, if they were asked for and are there."""

    head: Head
    op: Literal["stored"] = "stored"


@dataclass(frozen=True, slots=True)
class Persisted:
    done: bool
    "False if a copy was written too recently."
    op: Literal["persist"] = "persist"


@dataclass(frozen=True, slots=True)
class Pong:
    op: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True)
class LiveBoards:
    """The documents come with the message."""

    metadata: SnapshotMetadata
    op: Literal["live"] = "live"


@dataclass(frozen=True, slots=True)
class Probed:
    is_changed: bool
    op: Literal["probe"] = "probe"


@dataclass(frozen=True, slots=True)
class Clock:
    reading: ClockReading
    op: Literal["clock"] = "clock"


@dataclass(frozen=True, slots=True)
class Failure:
    part: FailedPart
    text: str
    "One line for a person; of a fault of ours, a traceback. A server may quote a value of any length in it."
    op: Literal["failure"] = "failure"

    @classmethod
    def of(cls, part: FailedPart, text: str) -> Self:
        """Shortens a long text, in the middle."""
        if len(text) > MAX_ERROR_CHARACTERS:
            half = MAX_ERROR_CHARACTERS // 2
            text = f"{text[:half]} … {text[-half:]}"
        return cls(part, text)


AnswerBody = Annotated[
    BuildResult | Stored | Persisted | LiveBoards | Pong | Probed | Clock | Failure, Field(discriminator="op")
]


@dataclass(frozen=True, slots=True)
class Answer:
    id: int
    body: AnswerBody
    manifest: Manifest | None = None
    "Of the documents that come with this message; None if none do."


REQUEST = TypeAdapter(Request)
ANSWER = TypeAdapter(Answer)
