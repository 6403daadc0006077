"""Renders the rows of the documents, many at a time.

The text of a solve is assembled in columns of fixed width, each filled from a small table, with NUL bytes where a text
is shorter. Then the NUL bytes, which JSON never contains, are removed. Names, which may be long, are joined as they
are.
"""

from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.contest import NEVER, Bools, Contest, Ints, Participants, objects
from scoreboardd.board.document_names import BUCKET
from scoreboardd.board.times import rfc3339
from scoreboardd.render import text
from scoreboardd.render.chunked_document import Rows

ENTRIES = 16
"Rows of a leaderboard in a chunk, on average: some tens of kilobytes at a hundred challenges."
BUCKETS = 512
"Rows of a timeline in a chunk, on average: about 60 kB."

_DAY = 86_400
_NARROW = 1 << 16
_EPOCH = date(1970, 1, 1).toordinal()


def _table(texts: list[bytes]) -> NDArray[np.bytes_]:
    return np.array(texts, np.bytes_)


_CLOCK = _table([b"%02d:%02d:%02d" % (s // 3600, s // 60 % 60, s % 60) for s in range(_DAY)])
# A fraction of a second is two lanes of three digits. Trailing zeros go: from the first only if the second is 0.
_MILLIS = _table(
    [b".%03d" % ms for ms in range(1000)] + [(b".%03d" % ms).rstrip(b"0") if ms else b"" for ms in range(1000)]
)
_MICROS = _table([(b"%03d" % us).rstrip(b"0") for us in range(1000)])


class EntryRenderer:
    """Renders the rows of a leaderboard, whose key is (-score, index)."""

    def __init__(self, contest: Contest, participants: Participants) -> None:
        self._participants = participants
        self._labels = _labels(participants)
        openings = _table([text.SOLVE % c.id for c in contest.challenges] or [b""])
        lanes = [("opening", openings.dtype), ("date", "S11"), ("clock", "S8"), ("ms", "S4"), ("us", "S3")]
        has_sequence = participants.sequence is not None
        closings = _table(list(text.SEQUENCED_SOLVE_ENDS if has_sequence else text.SOLVE_ENDS))
        lanes += [("closing", closings.dtype), *([("sequence", "S20"), ("end", "S1")] if has_sequence else [])]
        self._blank = np.zeros(2 * len(openings), lanes)
        "The text of a solve of each challenge, without and with first blood, still without its time."
        self._blank["opening"], self._blank["closing"] = openings.repeat(2), np.tile(closings, len(openings))
        if has_sequence:
            self._blank["end"] = text.SOLVE_END

    def chunk_boundaries(self, rows: Rows) -> Bools:
        return _is_boundary(self._participants.ids.take(rows["index"]), 0, ENTRIES)

    def texts(self, rows: Rows, starts: list[int]) -> list[bytes]:
        labels, scores = self._labels.take(rows["index"]).tolist(), (-rows["sort_key"]).tolist()
        solves, ends = self._solves(rows["index"])
        width = solves.itemsize
        solves_text = solves.view(np.uint8).data
        parts: list[bytes | memoryview] = []
        for label, score, (start, end) in zip(labels, scores, pairwise([0, *ends.tolist()]), strict=True):
            # The comma before the first is left out.
            parts += (text.ENTRY % (label, score), solves_text[start * width + 1 : end * width], text.ENTRY_END)
        for place, adjustments in self._adjustments(rows["index"]):
            parts[3 * place + 2] = adjustments
        return [
            b"".join(parts[3 * start : 3 * end]).replace(b"\0", b"") for start, end in pairwise([*starts, len(rows)])
        ]

    def _solves(self, index: Ints) -> tuple[NDArray[Any], Ints]:
        """The solves of these owners, each with a comma before it, and the number of solves up to each owner's last."""
        shape = len(self._participants), self._participants.columns
        at = self._participants.at.reshape(shape).take(index, axis=0).ravel()
        first_blood = self._participants.first_blood.reshape(shape).take(index, axis=0).ravel()
        solved = np.flatnonzero(at != NEVER)
        ends = np.searchsorted(solved, np.arange(1, len(index) + 1) * self._participants.columns)
        at, first_blood = at.take(solved), first_blood.take(solved)
        seconds, micros = np.divmod(at, 1_000_000)
        days, second = np.divmod(seconds, _DAY)
        days, day = _distinct(days)
        ms, us = np.divmod(micros, 1000)
        dates = _table([f"{date.fromordinal(d + _EPOCH)}T".encode() for d in days.tolist()] or [b""])
        solves = self._blank.take(2 * (solved % max(self._participants.columns, 1)) + first_blood)
        solves["date"] = dates.take(day)
        solves["clock"] = _CLOCK.take(second)
        solves["ms"] = _MILLIS.take(np.where(us == 0, ms + 1000, ms))
        solves["us"] = _MICROS.take(us)
        if self._participants.sequence is not None:
            sequence = self._participants.sequence.reshape(shape).take(index, axis=0).ravel()
            solves["sequence"] = sequence.take(solved).astype("S20")
        return solves, ends

    def _adjustments(self, index: Ints) -> Iterator[tuple[int, bytes]]:
        """The end of the entry of each of these owners that has adjustments, with the owner's place in `index`."""
        adjustments = self._participants.adjustments
        if not len(adjustments):
            return
        starts, ends = (np.searchsorted(adjustments["index"], index, side) for side in ("left", "right"))
        for place in np.flatnonzero(starts < ends).tolist():
            its = adjustments[starts[place] : ends[place]].tolist()
            yield place, text.entry_end((rfc3339(at), points, sequence) for _, at, sequence, points in its)


class BucketRenderer:
    """Renders the rows of a timeline, whose key is (number of the bucket, index)."""

    def __init__(self, participants: Participants) -> None:
        self._participants = participants
        self._labels = _labels(participants)
        self._counts = objects([text.BUCKET_COUNT % count for count in range(participants.columns + 1)])

    def chunk_boundaries(self, rows: Rows) -> Bools:
        return _is_boundary(self._participants.ids.take(rows["index"]), rows["sort_key"], BUCKETS)

    def texts(self, rows: Rows, starts: list[int]) -> list[bytes]:
        sort_keys, sort_key = _distinct(rows["sort_key"])
        stamps = objects([text.bucket_opening(rfc3339(sort_key * BUCKET)) for sort_key in sort_keys.tolist()])
        sums, points = _distinct(rows["points"])
        points_texts = objects([text.BUCKET_POINTS % p for p in sums.tolist()])
        parts: list[bytes] = [b""] * (4 * len(rows))
        parts[0::4] = stamps.take(sort_key).tolist()
        parts[1::4] = self._labels.take(rows["index"]).tolist()
        parts[2::4] = points_texts.take(points).tolist()
        solves = rows["solves" if "solves" in (rows.dtype.names or ()) else "count"]
        parts[3::4] = self._counts.take(solves).tolist()
        return [b"".join(parts[4 * start : 4 * end]) for start, end in pairwise([*starts, len(rows)])]


def _labels(participants: Participants) -> NDArray[np.object_]:
    named = zip(participants.ids.tolist(), participants.names, strict=True)
    return objects([text.label(participants.owner, id, name) for id, name in named])


def _distinct(values: Ints) -> tuple[Ints, NDArray[np.intp]]:
    """The distinct values in order, and the position of each value among them."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if high - low >= _NARROW:
        return np.unique(values, return_inverse=True)
    # For values near each other, marking them in an array of the whole range takes a fifth of the time.
    offsets = values - low
    there = np.zeros(high - low + 1, np.bool_)
    there[offsets] = True
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1).take(offsets)


def _is_boundary(ids: Ints, salt: Ints | int, every: int) -> Bools:
    """Marks one in `every` ids on average, by a hash of id and salt: the finalizer of splitmix64."""
    x = ids.astype(np.uint64) ^ (np.asarray(salt, np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((x ^ (x >> np.uint64(31))) % np.uint64(every) == 0, np.bool_)
