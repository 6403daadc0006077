"""The board as bots and displays want it: who is where, with what, at one version."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.leaderboards import Adjustment, Challenge, Leaderboards, Solve, ranked
from scoreboardd.model import Version
from scoreboardd.render import text as document_text


class Row(NamedTuple):
    """A team or a user, and where it stands: `rank` counts from 1, in the order of the document."""

    rank: int
    id: int
    name: str
    score: int
    solves: Mapping[int, Solve]
    "By the id of the challenge."
    adjustments: tuple[Adjustment, ...] = ()
    "Points that no challenge gives, by time."


class Documents(NamedTuple):
    """What `/api/leaderboard` and `/api/leaderboard/teams` answer, to the byte."""

    users: bytes
    teams: bytes


@dataclass(frozen=True, eq=False)
class Board:
    """Immutable. Rows and documents are made when they are first asked for: most bots want neither of some versions."""

    version: Version
    view: Leaderboards

    @property
    def challenges(self) -> Mapping[int, Challenge]:
        """By id, at the points they are worth now."""
        return self.view.challenges

    @cached_property
    def teams(self) -> tuple[Row, ...]:
        return self._rows(ParticipantKind.TEAMS)

    @cached_property
    def users(self) -> tuple[Row, ...]:
        return self._rows(ParticipantKind.USERS)

    @cached_property
    def documents(self) -> Documents:
        return Documents(*document_text.leaderboards(self.view))

    def _rows(self, owner: ParticipantKind) -> tuple[Row, ...]:
        rows = enumerate(ranked(self.view, owner), start=1)
        return tuple(
            Row(rank, id, entry.name, score, entry.solves, entry.adjustments) for rank, (id, entry, score) in rows
        )
