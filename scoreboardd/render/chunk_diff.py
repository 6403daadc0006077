"""Where two versions of a document differ, told by the digests of their pieces."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scoreboardd.system.compression import DIGEST_BYTES

_WORD = np.dtype(np.uint64)
"Digests are compared by the word, which numpy does ten times as fast."
_WORDS = DIGEST_BYTES // _WORD.itemsize


class Run(NamedTuple):
    """The pieces of the new version from `first` to `last` are in place of those of the old one from `start` to `end`.
    One of the two may be none."""

    start: int
    end: int
    first: int
    last: int


def differing(before: bytes, after: bytes) -> Iterator[Run]:
    """Takes the digests of both, one behind the other. The runs are in order. A glance at what has kept its place, a
    pass over the rest."""
    for displaced in _displaced(np.frombuffer(before, _WORD), np.frombuffer(after, _WORD)):
        yield from _changed(before, after, displaced)


def _displaced(old: NDArray[Any], new: NDArray[Any]) -> Iterator[Run]:
    """Runs with all that differs; and with what is the same, but not in its place."""
    if len(old) == len(new):
        places = np.unique(np.flatnonzero(old != new) // _WORDS)
        for together in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            if len(together):
                start, end = int(together[0]), int(together[-1]) + 1
                yield Run(start, end, start, end)
    else:
        head = _alike(old, new) // _WORDS
        tail = _alike(old[head * _WORDS :][::-1], new[head * _WORDS :][::-1]) // _WORDS
        yield Run(head, len(old) // _WORDS - tail, head, len(new) // _WORDS - tail)


def _changed(before: bytes, after: bytes, displaced: Run) -> Iterator[Run]:
    start, end, first, last = displaced
    places = {before[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]: place for place in range(start, end)}
    for number in range(first, last):
        place = places.get(after[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES], -1)
        if place < start:
            continue  # it is new; or it is in another order, which is not worth more than that
        if place > start or number > first:
            yield Run(start, place, first, number)
        start, first = place + 1, number + 1
    if start < end or first < last:
        yield Run(start, end, first, last)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> int:
    """How many are the same in both, up to the first that is not."""
    short = min(len(one), len(other))
    differs = one[:short] != other[:short]
    return int(differs.argmax()) if differs.any() else short
