"""A timeline that begins at a given time, made from the documents of a version.

The rows of a timeline are in the order of time. So all text after the bucket in which the window begins is copied from
the document. The rows of that first bucket are summed again, from the solves in the leaderboard.

Both documents come as chunks of their text and are never held completely.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from scoreboardd.board.document_names import BUCKET, ParticipantKind
from scoreboardd.board.times import Micros, micros, rfc3339
from scoreboardd.render import text


class WindowRow(NamedTuple):
    """A solve or an adjustment."""

    at: Micros
    owner_id: int
    points: int
    "What it is worth now."
    is_solve: bool


def bucket_of(at: Micros) -> Micros:
    return at - at % BUCKET


def rows_in(bucket: Micros, kind: ParticipantKind, leaderboard: Iterable[bytes]) -> list[WindowRow]:
    """The solves and adjustments of the ten minutes that begin at `bucket`, a multiple of `BUCKET`."""
    chunks = iter(leaderboard)
    points, rest = text.challenge_points(chunks)
    # Times of the same ten minutes have all but the last digit of the minutes in common.
    ten_minutes = rfc3339(bucket)[:15]
    return [
        WindowRow(micros(row.at), row.owner_id, row.points, is_solve=False)
        if row.challenge_id is None
        else WindowRow(micros(row.at), row.owner_id, points[row.challenge_id], is_solve=True)
        for row in text.find_rows(ten_minutes, kind, chain([rest], chunks))
    ]


def timeline(
    since: Micros, kind: ParticipantKind, whole: Iterable[bytes], rows_of_bucket: Iterable[WindowRow]
) -> Iterator[bytes]:
    """The text of the timeline of what happened at or after `since`, in chunks. `whole` is the whole timeline,
    `rows_of_bucket` are the solves and adjustments of the bucket that `since` is in."""
    left: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows_of_bucket:
        if row.at >= since:
            left[row.owner_id][0] += row.points
            left[row.owner_id][1] += row.is_solve
    bucket = bucket_of(since)
    rows, rest = _rows_of(rfc3339(bucket).encode(), rfc3339(bucket + BUCKET).encode(), whole)
    counted = [text.with_sums(each, *left[owner]) for each in rows if (owner := text.bucket_owner(each, kind)) in left]
    first = next(rest)
    yield text.TIMELINE + b",".join(counted) + (b"," if counted and first.startswith(text.BUCKET) else b"")
    yield first
    yield from rest


def _rows_of(begin: bytes, end: bytes, whole: Iterable[bytes]) -> tuple[list[bytes], Iterator[bytes]]:
    """The rows whose times are in [begin, end), and the text that follows them."""
    chunks = iter(whole)
    part = b""
    for chunk in chunks:
        part += chunk
        last = part.rfind(text.BUCKET, 0, len(part) - text.BUCKET_STAMP_BYTES)  # of the rows whose time is complete
        if last < 0:
            continue
        if text.bucket_stamp(part, last) >= end:
            break
        if text.bucket_stamp(part, last) < begin:
            part = part[last:]
    first, past = _at_or_after(begin, part), _at_or_after(end, part)
    return text.split_rows(part[first:past]), chain([part[past:]], chunks)


def _at_or_after(moment: bytes, part: bytes) -> int:
    """Where the first row begins that is not before `moment`; the end of the rows if all are before it."""
    row = part.find(text.BUCKET)
    while row >= 0 and text.bucket_stamp(part, row) < moment:
        row = part.find(text.BUCKET, row + 1)
    return row if row >= 0 else part.rindex(text.END)
