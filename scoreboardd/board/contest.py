"""Who has what: the facts of a contest as arrays, which grow by solves and change in no other way.

Rules (contract §5): an owner, user or team, has a challenge once, from its first correct submission; a team's solves
are those of its visible users. Whatever else changes in a contest makes another `Contest`.

An owner is known by its *rank* (its place in the order that breaks ties, which is that of `Participants.ids`), a
challenge by its *column* (its place among the ids). A *cell* is one owner's one challenge, numbered `rank * columns +
column`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.source_rows import Roster, Solves, find

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).max
"When a cell was solved that was not."


@dataclass(frozen=True, slots=True)
class SolveChanges:
    """What some solves change on one side: these cells, each once, in order."""

    cell: Ints
    index: Ints
    column: Ints
    before: Ints
    "When each was solved until now, `NEVER` if it was not."
    at: Ints
    first_blood: Bools

    def where(self, wanted: Bools) -> "SolveChanges":
        return SolveChanges(*(getattr(self, field.name)[wanted] for field in fields(self)))


class Participants:
    """The users, or the teams, and what each has."""

    def __init__(self, owner: ParticipantKind, named: list[tuple[int, str]], columns: int) -> None:
        """`named`: (id, name) of each, in the order that breaks ties."""
        self.owner = owner
        self.columns = columns
        self.ids: Ints = np.array([id for id, _ in named], np.int64)
        field = f'"{owner.id_field}":%d,"{owner.name_field}":%b'.encode()
        self.labels = objects([field % (id, orjson.dumps(name)) for id, name in named])
        "Each one's id and name, as the documents have them."
        self.at: Ints = np.full(len(named) * columns, NEVER, np.int64)
        "When each cell was first solved."
        self.first_blood: Bools = np.zeros(len(named) * columns, np.bool_)
        "Whether any of a cell's solves drew first blood."

    def __len__(self) -> int:
        return len(self.ids)

    def solve_changes(self, index: Ints, column: Ints, at: Ints, first_blood: Bools) -> SolveChanges:
        """What these solves, by the owners of `index`, change; nothing has changed yet."""
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
        """The ranks of those who have this challenge."""
        return np.flatnonzero(self.at[column :: self.columns] != NEVER)


class Contest:
    """Both sides of a contest, with nothing solved yet."""

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
        "Of each user the rank of its team, -1 for none."
        self._division_of = objects([team.division_id for team in teams])
        self._roster = roster

    def members(self, division_id: int | None) -> dict[ParticipantKind, Bools]:
        """Which users and teams take part in a division, or at all."""
        if division_id is None:
            return {owner: np.ones(len(participants), np.bool_) for owner, participants in self.participants.items()}
        teams = (self._division_of == division_id).astype(np.bool_)
        # The last one is what the rank -1 finds: no team.
        return {ParticipantKind.USERS: np.append(teams, False)[self.team_of], ParticipantKind.TEAMS: teams}

    def solve_changes(self, solves: Solves) -> dict[ParticipantKind, SolveChanges]:
        """What these solves change. Those by users or of challenges that are not listed count for nothing."""
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
    """Of keys, none of them negative: where the first of each is, in the order of the keys; where the others are; and
    which of the first each of the others goes with."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)) >> (63 - bits):
        order = np.argsort(keys)
        keys = keys.take(order)
    else:
        # There is room for each to take its place along, and to sort is twice as fast as to argsort.
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
