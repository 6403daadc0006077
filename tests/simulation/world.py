"""Virtual time, the one source of chance, and the history of a run.

The history is written only when it is asked for, since most runs have nothing to tell: a seed that failed is run again.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

HISTORY = 400
"Lines told of a run that failed: its last ones."


class Violation(AssertionError):
    """Something that must never be, was."""


class World:
    """`at` and `after` say what happens when, `run` makes it happen. `now` is in seconds."""

    def __init__(self, seed: int, *, recording: bool = False) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.sometimes: Counter[str] = Counter()
        "How often rare things happened."
        self.recording = recording
        self.history: list[str] = []
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, time: float, what: Callable[..., None], *args: Any) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (max(time, self.now), self._order, what, args))

    def after(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (self.now + delay, self._order, what, args))

    def run(self, until: float) -> None:
        agenda, pop = self._agenda, heapq.heappop
        while agenda and agenda[0][0] <= until:
            self.now, _, what, args = pop(agenda)
            self.events += 1
            what(*args)
        self.now = until

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def note(self, what: str, *args: Any) -> None:
        """`what` is a format for `args`; it is used only if somebody wants to read it."""
        if self.recording:
            self.history.append(f"{self.now:9.4f} {what.format(*args)}")

    def demand(self, true: bool, what: str, *args: Any) -> None:
        if not true:
            self.note("VIOLATION: " + what, *args)
            raise Violation("\n".join([what.format(*args), *self.history[-HISTORY:]]))
