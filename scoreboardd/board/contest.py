"""Who has solved what: the facts of a contest as arrays. Solves are added to them; any other change needs a new
`Contest`.

Rules (protocol §5): a user or a team solves a challenge once, with its first correct submission. A team's solves are
those of its visible users.

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
from scoreboardd.board.source_rows import Roster, Solves, find

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).max
"The time of a cell that is not solved."


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

    def where(self, wanted: Bools) -> "SolveChanges":
        return SolveChanges(*(getattr(self, field.name)[wanted] for field in fields(self)))


class Participants:
    """The users, or the teams, and their solves."""

    def __init__(self, owner: ParticipantKind, named: list[tuple[int, str]], columns: int) -> None:
        """`named`: (id, name) of each, in the order that breaks ties."""
        self.owner = owner
        self.columns = columns
        self.ids: Ints = np.array([id for id, _ in named], np.int64)
        self.names = [name for _, name in named]
        self.at: Ints = np.full(len(named) * columns, NEVER, np.int64)
        "When each cell was first solved."
        self.first_blood: Bools = np.zeros(len(named) * columns, np.bool_)
        "Whether any of a cell's solves was a first blood."

    def __len__(self) -> int:
        return len(self.ids)

    def solve_changes(self, index: Ints, column: Ints, at: Ints, first_blood: Bools) -> SolveChanges:
        """The cells that these solves change. Nothing is changed yet. All arrays have one element a solve."""
        cell = index * self.columns + column
        first, again, of = grouped(cell)
        cell, first_at, blood = cell.take(first), at.take(first), first_blood.take(first)
        np.minimum.at(first_at, of, at.take(again))
        blood[of.compress(first_blood.take(again))] = True
        before, had_blood = self.at.take(cell), self.first_blood.take(cell)
        at, blood = np.minimum(first_at, before), blood | had_blood
        new = (at != before) | (blood != had_blood)
        cell = cell[new]
        index, column = np.divmod(cell, max(self.columns, 1))
        return SolveChanges(cell, index, column, before[new], at[new], blood[new])

    def apply(self, cells: SolveChanges) -> None:
        self.at[cells.cell] = cells.at
        self.first_blood[cells.cell] = cells.first_blood

    def solvers_of(self, column: int) -> Ints:
        """The indexes of the participants that have solved this challenge."""
        return np.flatnonzero(self.at[column :: self.columns] != NEVER)


class Contest:
    """The users and the teams of a contest. A new one has no solves."""

    def __init__(self, roster: Roster) -> None:
        self.challenges = sorted(roster.challenges)
        # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
        teams = sorted(roster.teams, key=lambda team: (team.name, team.id))
        users = sorted(roster.users, key=lambda user: user.id)
        columns = len(self.challenges)
        self.participants = {
            ParticipantKind.USERS: Participants(
                ParticipantKind.USERS, [(user.id, user.name) for user in users], columns
            ),
            ParticipantKind.TEAMS: Participants(
                ParticipantKind.TEAMS, [(team.id, team.name) for team in teams], columns
            ),
        }
        indexes: dict[int | None, int] = {team.id: index for index, team in enumerate(teams)}
        self.team_of: Ints = np.array([indexes.get(user.team_id, -1) for user in users], np.int64)
        "The index of each user's team; -1 for none."
        self._division_of = objects([team.division_id for team in teams])
        self._roster = roster

    def members(self, division_id: int | None) -> dict[ParticipantKind, Bools]:
        """Marks the users and the teams of a division; all of them for None."""
        if division_id is None:
            return {owner: np.ones(len(participants), np.bool_) for owner, participants in self.participants.items()}
        teams = (self._division_of == division_id).astype(np.bool_)
        # The index -1, for no team, finds the last element.
        return {ParticipantKind.USERS: np.append(teams, False)[self.team_of], ParticipantKind.TEAMS: teams}

    def solve_changes(self, solves: Solves) -> dict[ParticipantKind, SolveChanges]:
        """The cells that these solves change. Solves of users or challenges that are not listed are ignored."""
        user, known_user = find(solves["user_id"], self._roster.user_ids)
        column, known_challenge = find(solves["challenge_id"], self._roster.challenge_ids)
        known = known_user & known_challenge
        their = [user, column, solves["at"], solves["first_blood"]]
        user, *what = their if known.all() else [values[known] for values in their]
        team = self.team_of[user]
        teamed = team >= 0
        its = [team, *what] if teamed.all() else [values[teamed] for values in (team, *what)]
        return {
            ParticipantKind.USERS: self.participants[ParticipantKind.USERS].solve_changes(user, *what),
            ParticipantKind.TEAMS: self.participants[ParticipantKind.TEAMS].solve_changes(*its),
        }

    def apply(self, solve_changes: Mapping[ParticipantKind, SolveChanges]) -> None:
        for owner, cells in solve_changes.items():
            self.participants[owner].apply(cells)


def grouped(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Groups keys, which are not negative. Returns the position of the first of each distinct key, in the order of the
    keys; the positions of all others; and for each of the others, which of the first it has the same key as."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)) >> (63 - bits):
        order = np.argsort(keys)
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
