"""A timeline cut to a window, from the documents of a version that are there already.

The rows of a timeline are in the order of time. So everything after the bucket in which the window begins is the end of
the document as it is. The rows of that first bucket are counted again, from the solves in the leaderboard.

Both documents come as chunks of their plain text, and are never held whole. Text inside a JSON string cannot be
mistaken for a field: its quotation marks are escaped.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import orjson

from scoreboardd.board.document_names import BUCKET, ParticipantKind
from scoreboardd.board.times import Micros, micros, rfc3339

_ROW = b'{"timestamp":"'
_STAMP = len("2026-02-27T18:00:00Z")
_SOLVED_AT = b'"solved_at":"'
_CHALLENGE = b'"challenge_id":'
_ENTRIES = b'],"entries":['


class WindowSolve(NamedTuple):
    at: Micros
    owner_id: int
    points: int
    "What the challenge is worth now."


def bucket_of(at: Micros) -> Micros:
    return at - at % BUCKET


def solves_in(bucket: Micros, owner: ParticipantKind, leaderboard: Iterable[bytes]) -> list[WindowSolve]:
    """The solves of the ten minutes that begin at `bucket`, which is a multiple of `BUCKET`."""
    chunks = iter(leaderboard)
    text = b""
    while (end := text.find(_ENTRIES)) < 0:
        text += next(chunks, b'],"entries":[')
    points = {challenge["id"]: challenge["points"] for challenge in orjson.loads(text[:end] + b"]}")["challenges"]}
    entry = b'{"%s":' % owner.id_field.encode()
    # Ten minutes that begin at a multiple of ten: they have all but the last digit of the minutes in common.
    solved = _SOLVED_AT + rfc3339(bucket)[:15].encode()
    found: list[WindowSolve] = []
    text = text[end:]
    for chunk in chain(chunks, [entry]):
        text += chunk
        whole = text.rfind(entry)  # from there on an entry may not be complete
        at = text.find(solved, 0, whole)
        while at >= 0:
            start = at + len(_SOLVED_AT)
            challenge_id = _number(text, text.rindex(_CHALLENGE, 0, at) + len(_CHALLENGE))
            owner_id = _number(text, text.rindex(entry, 0, at) + len(entry))
            moment = micros(text[start : text.index(b'"', start)].decode())
            found.append(WindowSolve(moment, owner_id, points[challenge_id]))
            at = text.find(solved, start, whole)
        text = text[max(whole, 0) :]
    return found


def timeline(
    since: Micros, owner: ParticipantKind, whole: Iterable[bytes], solves: Iterable[WindowSolve]
) -> Iterator[bytes]:
    """The text of the timeline of the solves at or after `since`, in chunks. `whole` is the timeline of all solves,
    `solves` are those of the bucket that `since` is in."""
    left: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for solve in solves:
        if solve.at >= since:
            left[solve.owner_id][0] += solve.points
            left[solve.owner_id][1] += 1
    bucket = bucket_of(since)
    rows, rest = _rows_of(rfc3339(bucket).encode(), rfc3339(bucket + BUCKET).encode(), whole)
    field = b'"%s":' % owner.id_field.encode()
    counted = [
        row[: row.rindex(b'"points":')] + b'"points":%d,"challenge_count":%d}' % tuple(left[owner_id])
        for row in rows
        if (owner_id := _number(row, row.index(field) + len(field))) in left
    ]
    first = next(rest)
    yield b'{"submissions":[' + b",".join(counted) + (b"," if counted and first.startswith(_ROW) else b"")
    yield first
    yield from rest


def _rows_of(begin: bytes, end: bytes, whole: Iterable[bytes]) -> tuple[list[bytes], Iterator[bytes]]:
    """The rows whose timestamps are in [begin, end), and the text that follows them."""
    chunks = iter(whole)
    text = b""
    for chunk in chunks:
        text += chunk
        last = text.rfind(_ROW, 0, len(text) - _STAMP)  # of those whose timestamp is complete
        if last < 0:
            continue
        if _stamp(text, last) >= end:
            break
        if _stamp(text, last) < begin:
            text = text[last:]
    first, past = _at_or_after(begin, text), _at_or_after(end, text)
    rows = [_ROW + row for row in text[first:past].split(_ROW)[1:]]
    return rows, chain([text[past:]], chunks)


def _at_or_after(moment: bytes, text: bytes) -> int:
    """Where the first row begins that is not before `moment`; the end of the rows if all are before it."""
    row = text.find(_ROW)
    while row >= 0 and _stamp(text, row) < moment:
        row = text.find(_ROW, row + 1)
    return row if row >= 0 else text.rindex(b"]}")


def _stamp(text: bytes, row: int) -> bytes:
    start = row + len(_ROW)
    return text[start : start + _STAMP]


def _number(text: bytes, start: int) -> int:
    return int(text[start : text.index(b",", start)])
