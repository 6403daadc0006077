"""Who has solved what: the facts of a contest as arrays. Solves are added to them; any other change needs a new
`Contest`.

A user or a team solves a challenge once, with its first correct submission. A team's solves are those that name it,
on a platform that stores the team at the time of solving; otherwise those of its visible users (protocol §5).

A participant, user or team, is known by its *index*: its position in the order that breaks ties, as in
`Participants.ids`. A challenge is known by its *column*: its position among the ids. A *cell* is one participant's one
challenge, with the number `index * columns + column`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.order import Order
from scoreboardd.board.source_rows import (
    OWNED_SOLVE,
    Adjustments,
    ChallengeRow,
    Ids,
    Roster,
    Solves,
    find,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).max
"The time of a cell that is not solved."
ALWAYS = -(2**62)
"The time of the last row of a participant that has none. The difference to any other time fits into 64 bits."

ADJUSTMENT_OF = np.dtype([(name, np.int64) for name in ("index", "at", "sequence", "points")])
"An adjustment of the participant with an index."


@dataclass(frozen=True, slots=True)
class SolveChanges:
    """The cells of the users, or of the teams, that some solves change; each cell once, in order."""

    cell: Ints
    index: Ints
    column: Ints
    before: Ints
    "The time of each cell until now; `NEVER` if it was not solved."
    at: Ints
    first_blood: Bools
    sequence: Ints

    def where(self, wanted: Bools) -> "SolveChanges":
        return SolveChanges(*(getattr(self, field.name)[wanted] for field in fields(self)))


class Participants:
    """The users, or the teams, with their solves and adjustments."""

    def __init__(self, owner: ParticipantKind, named: list[tuple[int, str]], columns: int, *, sequenced: bool) -> None:
        """`named`: (id, name) of each, in the order that breaks ties. `sequenced`: solves have sequence numbers."""
        self.owner = owner
        self.columns = columns
        self.ids: Ints = np.array([id for id, _ in named], np.int64)
        self.names = [name for _, name in named]
        self.at: Ints = np.full(len(named) * columns, NEVER, np.int64)
        "When each cell was first solved."
        self.first_blood: Bools = np.zeros(len(named) * columns, np.bool_)
        "Whether any of a cell's solves was a first blood."
        self.sequence: Ints | None = np.zeros(len(self.at), np.int64) if sequenced else None
        "The sequence number of each cell's first solve; None on a platform without them."
        self.adjustments: Adjustments = np.empty(0, ADJUSTMENT_OF)
        "By index, then by time, then by sequence number."

    def __len__(self) -> int:
        return len(self.ids)

    def solve_changes(self, index: Ints, column: Ints, solves: Solves) -> SolveChanges:
        """The cells that these solves change. Nothing is changed yet. All arrays have one element a solve."""
        at, first_blood = solves["at"], solves["first_blood"]
        if self.sequence is not None:
            # The first of a cell's solves has to be the first of its group below, so that its sequence number is taken.
            order = np.lexsort((solves["sequence"], at))
            index, column, at, first_blood = (values.take(order) for values in (index, column, at, first_blood))
        cell = index * self.columns + column
        first, again, of = grouped(cell)
        cell, first_at, blood = cell.take(first), at.take(first), first_blood.take(first)
        np.minimum.at(first_at, of, at.take(again))
        blood[of.compress(first_blood.take(again))] = True
        before, had_blood = self.at.take(cell), self.first_blood.take(cell)
        at, blood = np.minimum(first_at, before), blood | had_blood
        new = (at != before) | (blood != had_blood)
        sequence = np.zeros(len(cell), np.int64)
        if self.sequence is not None:
            its = solves["sequence"].take(order).take(first)
            sequence = np.where(first_at < before, its, self.sequence.take(cell))
        cell = cell[new]
        index, column = np.divmod(cell, max(self.columns, 1))
        return SolveChanges(cell, index, column, before[new], at[new], blood[new], sequence[new])

    def apply(self, cells: SolveChanges) -> None:
        self.at[cells.cell] = cells.at
        self.first_blood[cells.cell] = cells.first_blood
        if self.sequence is not None:
            self.sequence[cells.cell] = cells.sequence

    def adjustments_of(self, ids: Ids, adjustments: Adjustments) -> Adjustments:
        """The adjustments whose owners, given as `ids`, are among these participants, by index."""
        order = np.argsort(self.ids)
        place, known = find(ids, self.ids.take(order))
        made = np.empty(int(np.count_nonzero(known)), ADJUSTMENT_OF)
        made["index"] = order.take(place[known])
        for name in ("at", "sequence", "points"):
            made[name] = adjustments[name][known]
        return made

    def adjust(self, adjustments: Adjustments) -> None:
        """Add `adjustments` to those of the participants."""
        if len(adjustments):
            joined = np.concatenate([self.adjustments, adjustments])
            self.adjustments = joined[np.lexsort((joined["sequence"], joined["at"], joined["index"]))]

    def solvers_of(self, column: int) -> Ints:
        """The indexes of the participants that have solved this challenge."""
        return np.flatnonzero(self.at[column :: self.columns] != NEVER)


class Contest:
    """The users and the teams of a contest. A new one has no solves and no adjustments."""

    def __init__(self, roster: Roster, order: Order = Order.STATIC, *, sequenced: bool = False) -> None:
        """`sequenced`: the solves are an array of `OWNED_SOLVE`."""
        self.challenges = sorted(roster.challenges)
        # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
        by_name = order is not Order.LAST_ROW
        teams = sorted(roster.teams, key=lambda team: (team.name if by_name else "", team.id))
        users = sorted(roster.users, key=lambda user: user.id)
        columns = len(self.challenges)
        named = {
            ParticipantKind.USERS: [(user.id, user.name) for user in users],
            ParticipantKind.TEAMS: [(team.id, team.name) for team in teams],
        }
        self.participants = {
            owner: Participants(owner, its, columns, sequenced=sequenced) for owner, its in named.items()
        }
        indexes: dict[int | None, int] = {team.id: index for index, team in enumerate(teams)}
        self.team_of: Ints = np.array([indexes.get(user.team_id, -1) for user in users], np.int64)
        "The index of each user's team; -1 for none."
        self._index_of_team: Ints = np.argsort(self.participants[ParticipantKind.TEAMS].ids)
        self._division_of = objects([team.division_id for team in teams])
        self._own_division_of = objects([user.division_id for user in users])
        self._roster = roster

    def members(self, division_id: int | None) -> dict[ParticipantKind, Bools]:
        """Marks the users and the teams of a division; all of them for None."""
        if division_id is None:
            return {owner: np.ones(len(participants), np.bool_) for owner, participants in self.participants.items()}
        teams = (self._division_of == division_id).astype(np.bool_)
        # The index -1, for no team, finds the last element.
        users = np.append(teams, False)[self.team_of] | (self._own_division_of == division_id).astype(np.bool_)
        return {ParticipantKind.USERS: users, ParticipantKind.TEAMS: teams}

    def solve_changes(self, solves: Solves) -> dict[ParticipantKind, SolveChanges]:
        """The cells that these solves change. Solves of owners or challenges that are not listed are ignored."""
        user, known_user = find(solves["user_id"], self._roster.user_ids)
        column, known_challenge = find(solves["challenge_id"], self._roster.challenge_ids)
        if solves.dtype == OWNED_SOLVE:
            place, known_team = find(solves["team_id"], self._roster.team_ids)
            team = self._index_of_team.take(place) if len(self._index_of_team) else place
        else:
            team = self.team_of.take(user) if len(self.team_of) else user
            known_team = known_user & (team >= 0)
        owners = {ParticipantKind.USERS: (user, known_user), ParticipantKind.TEAMS: (team, known_team)}
        changes = {}
        for owner, (index, known) in owners.items():
            counts = known & known_challenge
            whose, what, which = (
                (index, column, solves) if counts.all() else (index[counts], column[counts], solves[counts])
            )
            changes[owner] = self.participants[owner].solve_changes(whose, what, which)
        return changes

    def adjustments(self, adjustments: Adjustments | None) -> dict[ParticipantKind, Adjustments]:
        """The adjustments of the users and of the teams, by index."""
        if adjustments is None:
            return {owner: np.empty(0, ADJUSTMENT_OF) for owner in ParticipantKind}
        return {
            owner: self.participants[owner].adjustments_of(adjustments[owner.id_field], adjustments)
            for owner in ParticipantKind
        }

    def apply(
        self,
        solve_changes: Mapping[ParticipantKind, SolveChanges],
        adjustments: Mapping[ParticipantKind, Adjustments],
    ) -> None:
        for owner, cells in solve_changes.items():
            self.participants[owner].apply(cells)
            self.participants[owner].adjust(adjustments[owner])

    def replace_points(self, challenges: list[ChallengeRow]) -> None:
        """Give the same challenges other points."""
        self.challenges = sorted(challenges)


def grouped(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Groups keys, which are not negative. Returns the position of the first of each distinct key, in the order of the
    keys; the positions of all others; and for each of the others, which of the first it has the same key as."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)) >> (63 - bits):
        order = np.argsort(keys, kind="stable")
        keys = keys.take(order)
    else:
        # A key and its position fit into one integer, and sorting is twice as fast as argsort.
        placed = keys << bits | np.arange(len(keys))
        placed.sort()
        keys, order = placed >> bits, placed & ((1 << bits) - 1)
    new = np.diff(keys, prepend=-1) != 0
    again = np.flatnonzero(~new)
    return order.compress(new), order.take(again), again - np.arange(1, len(again) + 1)


def objects(values: list[Any]) -> NDArray[np.object_]:
    made = np.empty(len(values), np.object_)
    made[:] = values
    return made
