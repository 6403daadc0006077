"""The text of the documents (protocol §5): the one module that knows how a document is written.

It has two forms of the same text. `leaderboards` and `parse_leaderboards` write and read whole documents; they are each
other's inverse, to the byte. The constants and the other functions are for code that writes or reads many rows at once:
they print, find and split rows without parsing whole documents.

All text is JSON without spaces, with its fields in this order. A quotation mark inside a JSON string is escaped, so no
name can be mistaken for a field.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import orjson

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.leaderboards import (
    Adjustment,
    Challenge,
    Entry,
    Leaderboards,
    Solve,
    integer,
    parse_adjustments,
    parse_challenges,
    parse_solves,
    ranked,
    string,
)
from scoreboardd.board.order import Order

# A leaderboard: an opening with the challenges, entries with their solves, and the end.
ENTRY = b',{%b,"score":%d,"solves":['
"With the label of its owner and the score. The comma before the first entry is left out."
ENTRY_END = b"]}"
SOLVE = b',{"challenge_id":%d,"solved_at":"'
"Followed by the time without its Z. The comma before the first solve is left out."
SOLVE_ENDS = (b'Z","is_first_blood":false}', b'Z","is_first_blood":true}')
"Without and with first blood."
SEQUENCED_SOLVE_ENDS = tuple(end.replace(b"}", b',"sequence":') for end in SOLVE_ENDS)
"Those on a platform with sequence numbers. Followed by the number and `SOLVE_END`."
SOLVE_END = b"}"

# A timeline: rows of a bucket of time and an owner.
TIMELINE = b'{"submissions":['
BUCKET = b'{"timestamp":"'
BUCKET_STAMP_BYTES = len("2026-02-27T18:00:00Z")
BUCKET_POINTS = b',"points":%d,"challenge_count":'
BUCKET_COUNT = b"%d}"

END = b"]}"
"Of every document with rows."

_OPENING = re.compile(rb'\{"challenges":(\[.*?\])(?:,"order":"([a-z_]+)")?,"entries":\[', re.DOTALL)
_ENTRY = re.compile(
    rb'\{"(?:user|team)_id":(-?\d+),"(?:username|team_name)":("(?:[^"\\]|\\.)*"),"score":-?\d+,"solves":(\[[^\]]*\])'
    rb'(?:,"adjustments":(\[[^\]]*\]))?\}'
)
_FIRST_BUCKET = re.compile(rb'\{"submissions":\[\{"timestamp":"([^"]+)"')
_SOLVED_AT = b'"solved_at":"'
_ADJUSTED_AT = b'{"at":"'
_CHALLENGE_ID = b'"challenge_id":'
_POINTS = b'"points":'


def label(kind: ParticipantKind, id: int, name: str) -> bytes:
    """The fields that name a user or a team."""
    return b'"%b":%d,"%b":%b' % (kind.id_field.encode(), id, kind.name_field.encode(), orjson.dumps(name))


def entry_end(adjustments: Iterable[tuple[str, int, int]]) -> bytes:
    """The end of an entry with adjustments, each given as time, points and sequence number."""
    texts = (
        b'{"at":"%b","points":%d,"sequence":%d}' % (at.encode(), points, sequence)
        for at, points, sequence in adjustments
    )
    return b'],"adjustments":[%b]}' % b",".join(texts)


def leaderboard_opening(challenges: list[dict[str, Any]], order: Order) -> bytes:
    """The beginning of a leaderboard, up to its entries. It names the order unless that is `Order.STATIC`."""
    named = b"" if order is Order.STATIC else b',"order":%b' % orjson.dumps(order)
    return b'{"challenges":%b%b,"entries":[' % (orjson.dumps(challenges), named)


def bucket_opening(stamp: str) -> bytes:
    """The beginning of a row of a timeline, with the comma before it."""
    return b"," + BUCKET + stamp.encode() + b'",'


# Whole leaderboards


def leaderboards(boards: Leaderboards) -> tuple[bytes, bytes]:
    """The documents of users and of teams."""
    return _leaderboard(boards, ParticipantKind.USERS), _leaderboard(boards, ParticipantKind.TEAMS)


def _leaderboard(boards: Leaderboards, kind: ParticipantKind) -> bytes:
    return _dumps(
        {
            "challenges": [{"id": id, **challenge._asdict()} for id, challenge in sorted(boards.challenges.items())],
            **({} if boards.order is Order.STATIC else {"order": boards.order}),
            "entries": [
                {
                    kind.id_field: id,
                    kind.name_field: entry.name,
                    "score": points,
                    "solves": [
                        {
                            "challenge_id": challenge_id,
                            "solved_at": solve.at,
                            "is_first_blood": solve.first_blood,
                            **_sequence(solve),
                        }
                        for challenge_id, solve in sorted(entry.solves.items())
                    ],
                    **_adjustments(entry),
                }
                for id, entry, points in ranked(boards, kind)
            ],
        }
    )


def _dumps(document: Any) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:
        # orjson writes no integer beyond 64 bits, and a sum of points may be one.
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _sequence(row: Solve | Adjustment) -> dict[str, int]:
    return {} if row.sequence is None else {"sequence": row.sequence}


def _adjustments(entry: Entry) -> dict[str, Any]:
    if not entry.adjustments:
        return {}
    return {"adjustments": [{"at": each.at, "points": each.points, **_sequence(each)} for each in entry.adjustments]}


def parse_leaderboards(users: bytes | memoryview, teams: bytes | memoryview) -> Leaderboards:
    """The facts in two leaderboards of one version. Raises `KeyError`, `TypeError` or `ValueError` if the texts are
    not leaderboards."""
    documents = {ParticipantKind.USERS: orjson.loads(users), ParticipantKind.TEAMS: orjson.loads(teams)}
    challenges = parse_challenges(documents[ParticipantKind.TEAMS]["challenges"])
    return Leaderboards(
        challenges,
        users=_entries(documents[ParticipantKind.USERS], ParticipantKind.USERS, challenges),
        teams=_entries(documents[ParticipantKind.TEAMS], ParticipantKind.TEAMS, challenges),
        order=Order(documents[ParticipantKind.TEAMS].get("order", Order.STATIC)),
    )


def _entries(document: Any, kind: ParticipantKind, challenges: dict[int, Challenge]) -> dict[int, Entry]:
    entries = {}
    for entry in document["entries"]:
        solves = parse_solves(entry["solves"])
        if not solves.keys() <= challenges.keys():
            raise ValueError("a solve of an unknown challenge")
        adjustments = parse_adjustments(entry.get("adjustments", []))
        entries[integer(entry[kind.id_field])] = Entry(string(entry[kind.name_field]), solves, adjustments)
    return entries


# Parts of a leaderboard


class EntryText(NamedTuple):
    """An entry, as far as it can differ between versions without its score."""

    name: bytes
    solves: bytes
    adjustments: bytes
    "Empty if it has none."

    def parsed(self) -> Entry:
        adjustments = parse_adjustments(orjson.loads(self.adjustments or b"[]"))
        return Entry(orjson.loads(self.name), parse_solves(orjson.loads(self.solves)), adjustments)


def parse_opening(text: bytes) -> tuple[dict[int, Challenge], Order]:
    """The challenges and the order in the opening of a leaderboard. Raises `ValueError` if `text` does not begin with
    one."""
    opening = _OPENING.match(text)
    if opening is None:
        raise ValueError("not a leaderboard")
    return parse_challenges(orjson.loads(opening[1])), Order((opening[2] or b"static").decode())


def find_entries(text: bytes) -> Iterator[tuple[int, EntryText]]:
    """The complete entries in a part of a leaderboard, by the id of their owner."""
    return ((int(id), EntryText(*texts)) for id, *texts in _ENTRY.findall(text))


class DatedRow(NamedTuple):
    """A solve or an adjustment."""

    at: str
    owner_id: int
    challenge_id: int | None
    "None for an adjustment."
    points: int
    "Of an adjustment; 0 for a solve."


def find_rows(time_prefix: str, kind: ParticipantKind, chunks: Iterable[bytes]) -> Iterator[DatedRow]:
    """The solves and adjustments whose time begins with `time_prefix`. `chunks` are the text of the entries of a
    leaderboard."""
    entry = b'{"%s":' % kind.id_field.encode()
    text = b""
    for chunk in chain(chunks, [entry]):
        text += chunk
        complete = text.rfind(entry)  # the entry that begins there may continue in the next chunk
        for field in (_SOLVED_AT, _ADJUSTED_AT):
            wanted = field + time_prefix.encode()
            at = text.find(wanted, 0, complete)
            while at >= 0:
                start = at + len(field)
                owner_id = _number(text, text.rindex(entry, 0, at) + len(entry))
                end = text.index(b'"', start)
                if field is _SOLVED_AT:
                    challenge_id = _number(text, text.rindex(_CHALLENGE_ID, 0, at) + len(_CHALLENGE_ID))
                    yield DatedRow(text[start:end].decode(), owner_id, challenge_id, 0)
                else:
                    points = _number(text, text.index(_POINTS, end) + len(_POINTS))
                    yield DatedRow(text[start:end].decode(), owner_id, None, points)
                at = text.find(wanted, start, complete)
        text = text[max(complete, 0) :]


def challenge_points(chunks: Iterator[bytes]) -> tuple[dict[int, int], bytes]:
    """Reads the opening of a leaderboard from `chunks`. Returns the points of each challenge, and the text that follows
    the opening in the chunks that were read."""
    text = b""
    while (opening := _OPENING.match(text)) is None:
        chunk = next(chunks, None)
        if chunk is None:
            raise ValueError("not a leaderboard")
        text += chunk
    challenges = orjson.loads(opening[1])
    return {challenge["id"]: challenge["points"] for challenge in challenges}, text[opening.end() :]


# Parts of a timeline


def first_bucket(beginning: bytes) -> str | None:
    """The time of the first row of the timeline that begins so; None if it has no rows."""
    match = _FIRST_BUCKET.match(beginning)
    return None if match is None else match[1].decode()


def bucket_stamp(text: bytes, row: int) -> bytes:
    """The time of the row that begins at `row`."""
    start = row + len(BUCKET)
    return text[start : start + BUCKET_STAMP_BYTES]


def bucket_owner(row: bytes, kind: ParticipantKind) -> int:
    field = b'"%s":' % kind.id_field.encode()
    return _number(row, row.index(field) + len(field))


def with_sums(row: bytes, points: int, count: int) -> bytes:
    """The row of a timeline, with other sums."""
    return row[: row.rindex(b"," + _POINTS)] + BUCKET_POINTS % points + BUCKET_COUNT % count


def split_rows(text: bytes) -> list[bytes]:
    """The rows in a part of a timeline that begins with a row."""
    return [BUCKET + row for row in text.split(BUCKET)[1:]]


def _number(text: bytes, start: int) -> int:
    return int(text[start : text.index(b",", start)])
