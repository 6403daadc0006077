"""What went wrong last, for each thing that a node does."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """Each field is None if the last attempt succeeded, else one line that says what is wrong. A part that works does
    not hide another one that fails."""

    bus: str | None = "not connected yet"
    lock: str | None = None
    stage: str | None = None
    commit: str | None = None
    load: str | None = None
    source: str | None = None
    "Reading the platform's database."
    build: str | None = None
    "Any other part of a build."
    events: dict[str, str | None] = field(default_factory=dict)
    "Receiving the platform's events from each event source, by its name (see `events`)."
    waiting_since: float | None = None
    "When a change began to wait without progress, in the loop's time; None if no change waits."

    @property
    def store(self) -> str | None:
        """What is wrong with the shared store."""
        return self.bus or self.lock or self.stage or self.commit or self.load

    def progressed(self) -> None:
        """Some node has committed what was waiting, so the store works, and so does the platform's database."""
        self.lock = self.stage = self.commit = self.source = self.build = self.waiting_since = None
