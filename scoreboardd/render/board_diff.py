"""The delta between two versions of a board, found in its documents: whoever made them, and whatever happened between.

Only what differs is looked at: first which pieces, then which entries in them, by their text, and only of those what
the text says. Where an entry stands does not matter: scores and order follow from the rest.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import orjson

from scoreboardd.board import delta
from scoreboardd.board.delta import Delta
from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.leaderboards import Challenge, Entry, Leaderboards, parse_challenges, parse_solves
from scoreboardd.system.compression import plain


class Part(Protocol):
    """A stretch of a leaderboard's text, of whole entries; the first has the challenges as well."""

    @property
    def digest(self) -> bytes:
        """Equal digests, equal texts; but empty ones are equal to none."""

    @property
    def frame(self) -> bytes:
        """The text as zstd."""


Boards = Mapping[ParticipantKind, Sequence[Part]]
"Both leaderboards of everyone, or of a division."

_OPENING = re.compile(rb'\{"challenges":(\[.*?\]),"entries":\[', re.DOTALL)
# As the documents are printed, by us: no space, fields in this order.
_ENTRY = re.compile(
    rb'\{"(?:user|team)_id":(-?\d+),"(?:username|team_name)":("(?:[^"\\]|\\.)*"),"score":-?\d+,"solves":(\[[^\]]*\])\}'
)


class _Texts(NamedTuple):
    name: bytes
    solves: bytes


def between(old: Boards, new: Boards) -> Delta:
    """The smallest delta from `old` to `new`: what `delta.diff` says of the views in them. ValueError or
    `zstandard.ZstdError` if they are none."""
    entries_of_both = [_differing(old[owner], new[owner]) for owner in ParticipantKind]
    challenges_of_both = [_challenges(boards[ParticipantKind.TEAMS][0]) for boards in (old, new)]
    before, after = (
        Leaderboards(challenges, *(side[number] for side in entries_of_both))
        for number, challenges in enumerate(challenges_of_both)
    )
    return delta.diff(before, after)


def _differing(old: Sequence[Part], new: Sequence[Part]) -> tuple[dict[int, Entry], dict[int, Entry]]:
    """The entries that are not the same, as they were and as they are."""
    shared = {part.digest for part in old if part.digest} & {part.digest for part in new}
    left = dict(_entries(old, shared))
    before: dict[int, Entry] = {}
    after: dict[int, Entry] = {}
    for id, texts in _entries(new, shared):
        was = left.pop(id, None)
        if was != texts:
            after[id] = _entry(texts)
            if was is not None:
                before[id] = _entry(was)
    return before | dict.fromkeys(left, Entry("", {})), after


def _entries(parts: Sequence[Part], shared: set[bytes]) -> Iterator[tuple[int, _Texts]]:
    for part in parts:
        if part.digest not in shared:
            for id, name, solves in _ENTRY.findall(plain(part.frame)):
                yield int(id), _Texts(name, solves)


def _entry(texts: _Texts) -> Entry:
    return Entry(orjson.loads(texts.name), parse_solves(orjson.loads(texts.solves)))


def _challenges(first: Part) -> dict[int, Challenge]:
    opening = _OPENING.match(plain(first.frame))
    if opening is None:
        raise ValueError("not a leaderboard")
    return parse_challenges(orjson.loads(opening[1]))
