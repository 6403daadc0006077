"""The delta between two versions of a board, found by comparing their documents, whatever made them.

First the parts are compared by digest, then the entries in the parts that differ by text, and only the entries that
differ are parsed. The position of an entry does not matter: scores and order follow from the facts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from scoreboardd.board import delta
from scoreboardd.board.delta import Delta
from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.leaderboards import Entry, Leaderboards
from scoreboardd.render.text import EntryText, find_entries, parse_opening
from scoreboardd.system.compression import plain


class Part(Protocol):
    """A part of a leaderboard's text, of complete entries; the first part has the challenges as well."""

    @property
    def digest(self) -> bytes:
        """Parts with equal digests have equal texts. An empty digest equals no other."""

    @property
    def frame(self) -> bytes:
        """The text as zstd."""


Boards = Mapping[ParticipantKind, Sequence[Part]]
"Both leaderboards of everyone, or of a division."


def between(old: Boards, new: Boards) -> Delta:
    """The smallest delta from `old` to `new`. Raises `ValueError` or `zstandard.ZstdError` if a part is not text of a
    leaderboard, and `ValueError` if they have different orders, which a delta cannot express."""
    entries_of_both = [_differing(old[owner], new[owner]) for owner in ParticipantKind]
    openings = [parse_opening(plain(boards[ParticipantKind.TEAMS][0].frame)) for boards in (old, new)]
    (old_challenges, old_order), (new_challenges, new_order) = openings
    if old_order is not new_order:
        raise ValueError("another order")
    (old_users, new_users), (old_teams, new_teams) = entries_of_both
    before = Leaderboards(old_challenges, old_users, old_teams)
    after = Leaderboards(new_challenges, new_users, new_teams)
    return delta.diff(before, after)


def _differing(old: Sequence[Part], new: Sequence[Part]) -> tuple[dict[int, Entry], dict[int, Entry]]:
    """The entries that differ, as they are in `old` and as they are in `new`."""
    shared = {part.digest for part in old if part.digest} & {part.digest for part in new}
    left = dict(_entries(old, shared))
    before: dict[int, Entry] = {}
    after: dict[int, Entry] = {}
    for id, texts in _entries(new, shared):
        was = left.pop(id, None)
        if was != texts:
            after[id] = texts.parsed()
            if was is not None:
                before[id] = was.parsed()
    return before | dict.fromkeys(left, Entry("", {})), after


def _entries(parts: Sequence[Part], shared: set[bytes]) -> Iterator[tuple[int, EntryText]]:
    for part in parts:
        if part.digest not in shared:
            yield from find_entries(plain(part.frame))
