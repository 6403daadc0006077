"""What is recorded of a cluster under fire, and the verdict."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from scoreboardd.model import Version

Solve = tuple[int, int]


@dataclass
class History:
    """What happened. `violations` is empty if the invariants held."""

    committed: dict[Solve, float] = field(default_factory=dict)
    "Every solve that PostgreSQL has acknowledged, and when."
    violations: list[str] = field(default_factory=list)
    faults: int = 0
    recoveries: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    "Seconds from the mending of a fault until every node served what was committed until then."
    boards: dict[Version, int] = field(default_factory=dict)
    "A hash of what each version was seen to show."
    reads: int = 0
    told: int = 0

    def commit(self, solve: Solve) -> None:
        self.committed[solve] = time.monotonic()

    def committed_by(self, moment: float) -> frozenset[Solve]:
        return frozenset(solve for solve, at in self.committed.items() if at <= moment)

    def show(self, version: Version, board: frozenset[Solve]) -> None:
        if self.boards.setdefault(version, hash(board)) != hash(board):
            self.violated(f"I5: {version} stands for two boards")

    def violated(self, what: str) -> None:
        self.violations.append(f"{time.monotonic():.3f} {what}")

    def report(self) -> str:
        rows = [
            f"{fault:<44} {len(times):>4} {sorted(times)[len(times) // 2]:>8.2f} {max(times):>8.2f}"
            for fault, times in sorted(self.recoveries.items())
        ]
        head = f"{'fault':<44} {'n':>4} {'median s':>8} {'worst s':>8}"
        done = (
            f"{self.faults} faults, {len(self.committed)} changes, {self.told} events, {self.reads} reads, "
            f"{len(self.violations)} violations"
        )
        return "\n".join([head, *rows, done, *self.violations])
