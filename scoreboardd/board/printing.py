"""The text of the documents' lines, many at a time.

A solve is put together in lanes: columns of fixed width, each filled from a small table, with NULs where a text is
shorter; then the NULs are taken out. JSON has no control characters, so NUL can be the filling and another the mark to
split at. Names, which may be long, are joined as they are.
"""

from datetime import date
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.contest import NEVER, Bools, Contest, Ints, Side, objects
from scoreboardd.board.documents import BUCKET
from scoreboardd.board.sheet import Lines
from scoreboardd.board.times import rfc3339

ENTRIES = 16
"Lines of a leaderboard in a chunk, on average: some tens of kilobytes at a hundred challenges."
BUCKETS = 512
"Lines of a timeline in a chunk, on average: about 60 kB."

_DAY = 86_400
_NARROW = 1 << 16
_MARK = b"\1"
_EPOCH = date(1970, 1, 1).toordinal()


def _table(texts: list[bytes]) -> NDArray[np.bytes_]:
    return np.array(texts, np.bytes_)


_CLOCK = _table([b"%02d:%02d:%02d" % (s // 3600, s // 60 % 60, s % 60) for s in range(_DAY)])
# A fraction of a second is two lanes of three digits. Trailing zeros go: from the first only if the second is 0.
_MILLIS = _table(
    [b".%03d" % ms for ms in range(1000)] + [(b".%03d" % ms).rstrip(b"0") if ms else b"" for ms in range(1000)]
)
_MICROS = _table([(b"%03d" % us).rstrip(b"0") for us in range(1000)])
_BLOOD = _table([b'Z","is_first_blood":false}', b'Z","is_first_blood":true}'])


class Entries:
    """The lines of a leaderboard: -score, then rank."""

    def __init__(self, contest: Contest, side: Side) -> None:
        self._side = side
        self._challenge = _table([b'{"challenge_id":%d,"solved_at":"' % c.id for c in contest.challenges] or [b""])

    def cuts(self, lines: Lines) -> Bools:
        return _scattered(self._side.ids[lines["rank"]], 0, ENTRIES)

    def texts(self, lines: Lines, starts: list[int]) -> list[bytes]:
        labels, scores = self._side.labels.take(lines["rank"]).tolist(), (-lines["major"]).tolist()
        entries = [
            b',{%b,"score":%d,"solves":[%b]}' % entry
            for entry in zip(labels, scores, self._solves(lines["rank"]), strict=True)
        ]
        return [b"".join(entries[start:end]) for start, end in pairwise([*starts, len(entries)])]

    def _solves(self, rank: Ints) -> list[bytes]:
        """The solves of each of these owners."""
        columns = self._side.columns
        cells = (rank[:, np.newaxis] * columns + np.arange(columns)).ravel()
        at = self._side.at.take(cells)
        solved = np.flatnonzero(at != NEVER)
        counts = np.bincount(solved // max(columns, 1), minlength=len(rank))
        cells, at = cells.take(solved), at.take(solved)
        seconds, micros = np.divmod(at, 1_000_000)
        days, second = np.divmod(seconds, _DAY)
        days, day = _distinct(days)
        ms, us = np.divmod(micros, 1000)
        dates = _table([f"{date.fromordinal(d + _EPOCH)}T".encode() for d in days.tolist()] or [b""])
        solves = np.empty(
            len(at),
            [
                *(("comma", "S1"), ("challenge", self._challenge.dtype), ("date", dates.dtype), ("clock", "S8")),
                *(("ms", "S4"), ("us", "S3"), ("blood", _BLOOD.dtype)),
            ],
        )
        solves["comma"] = b","
        solves["comma"][(np.cumsum(counts) - counts)[counts > 0]] = _MARK
        solves["challenge"] = self._challenge.take(cells % max(columns, 1))
        solves["date"] = dates.take(day)
        solves["clock"] = _CLOCK.take(second)
        solves["ms"] = _MILLIS.take(np.where(us == 0, ms + 1000, ms))
        solves["us"] = _MICROS.take(us)
        solves["blood"] = _BLOOD.take(self._side.first_blood[cells])
        found = iter(solves.tobytes().replace(b"\0", b"").split(_MARK)[1:])
        return [next(found) if count else b"" for count in counts.tolist()]


class Buckets:
    """The lines of a timeline: number of the bucket, then rank."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._counts = objects([b"%d}" % count for count in range(side.columns + 1)])

    def cuts(self, lines: Lines) -> Bools:
        return _scattered(self._side.ids[lines["rank"]], lines["major"], BUCKETS)

    def texts(self, lines: Lines, starts: list[int]) -> list[bytes]:
        parts = np.empty((len(lines), 4), np.object_)
        majors, major = _distinct(lines["major"])
        stamps = [f',{{"timestamp":"{rfc3339(major * BUCKET)}",'.encode() for major in majors.tolist()]
        parts[:, 0] = objects(stamps).take(major)
        parts[:, 1] = self._side.labels.take(lines["rank"])
        sums, points = _distinct(lines["points"])
        parts[:, 2] = objects([b',"points":%d,"challenge_count":' % p for p in sums.tolist()]).take(points)
        parts[:, 3] = self._counts.take(lines["count"])
        flat = parts.ravel().tolist()
        return [b"".join(flat[4 * start : 4 * end]) for start, end in pairwise([*starts, len(lines)])]


def _distinct(values: Ints) -> tuple[Ints, NDArray[np.intp]]:
    """The few values there are, in order, and which of them each is."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if high - low >= _NARROW:
        return np.unique(values, return_inverse=True)
    # Near each other they can be ticked off in a list of all that could be, in a fifth of the time.
    there = np.zeros(high - low + 1, np.bool_)
    there[values - low] = True
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]


def _scattered(ids: Ints, salt: Ints | int, every: int) -> Bools:
    """Marks one in `every` of these, by a hash (the finalizer of splitmix64): an id has no say in where it falls."""
    x = ids.astype(np.uint64) ^ (np.asarray(salt, np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((x ^ (x >> np.uint64(31))) % np.uint64(every) == 0, np.bool_)
