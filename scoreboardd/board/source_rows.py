"""The facts of one contest that a source reads, all from one database snapshot.

The source leaves out users that must not be seen (blocked, admin) and incorrect submissions; no later code looks at
roles. Challenges, teams, users and divisions are tuples in lists. Solves, which are many, are one array of `SOLVE`
records.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.times import Micros

SOLVE = np.dtype([("user_id", np.int64), ("challenge_id", np.int64), ("at", np.int64), ("first_blood", np.bool_)])
"One correct submission. The same user may appear with the same challenge more than once, in any order."
OWNED_SOLVE = np.dtype([("sequence", np.int64), ("team_id", np.int64), *((n, SOLVE[n]) for n in SOLVE.names or ())])
"One on a platform that stores the team at the time of solving. `sequence` is the number of the row."
ADJUSTMENT = np.dtype([(name, np.int64) for name in ("sequence", "user_id", "team_id", "at", "points")])
"Points that no challenge gives: an award, or the cost of a hint, which is negative."

NO_ID = np.iinfo(np.int64).min
"The id in an array where a row has none."

Solves = NDArray[Any]
"An array of `SOLVE` or `OWNED_SOLVE`."
Adjustments = NDArray[Any]
"An array of `ADJUSTMENT`."
Ids = NDArray[np.int64]


class ChallengeRow(NamedTuple):
    id: int
    title: str
    category: str
    initial: int
    minimum: int
    active: bool = True
    "False: not on the board until somebody solves it."


class TeamRow(NamedTuple):
    id: int
    name: str
    division_id: int | None = None


class UserRow(NamedTuple):
    id: int
    name: str
    team_id: int | None = None
    division_id: int | None = None
    "None: that of the team."


class DivisionRow(NamedTuple):
    id: int
    name: str


@dataclass(frozen=True)
class Roster:
    """Who takes part in what. A source gives every list in the order of the ids, so that equal facts are equal."""

    challenges: list[ChallengeRow]
    teams: list[TeamRow]
    users: list[UserRow]
    #: Empty where the platform has none.
    divisions: list[DivisionRow]

    @cached_property
    def user_ids(self) -> Ids:
        """In order."""
        return np.array(sorted(user.id for user in self.users), np.int64)

    @cached_property
    def team_ids(self) -> Ids:
        """In order."""
        return np.array(sorted(team.id for team in self.teams), np.int64)

    @property
    def division_ids(self) -> tuple[int, ...]:
        return tuple(division.id for division in self.divisions)

    @cached_property
    def challenge_ids(self) -> Ids:
        """In order."""
        return np.array(sorted(challenge.id for challenge in self.challenges), np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class SourceRows:
    roster: Roster
    solves: Solves
    adjustments: Adjustments | None = None
    "None on a platform without adjustments."


def solves_of(records: Iterable[tuple[int, int, Micros, bool]]) -> Solves:
    """(user_id, challenge_id, at, first_blood) of each, as an array."""
    return np.array(list(records), SOLVE)


def find(wanted: Ids, ids: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """Where each of those wanted is in `ids`, which are in order, and whether it is there at all."""
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    span = int(ids[-1]) - int(ids[0]) + 1
    # NO_ID minus the first id leaves the range of 64 bits, so it is not looked up in a table.
    if span >= 4 * len(wanted) or (len(wanted) and int(wanted.min()) == NO_ID):
        place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        return place, ids[place] == wanted
    # Ids that are not far between, of which many are wanted: looked up in a table, in a tenth of the time.
    places = np.full(span + 1, -1)
    places[ids - ids[0]] = np.arange(len(ids))
    # The last is nobody's place, but of all that are outside: as unsigned numbers those below are above, too.
    place = places.take(np.minimum((wanted - ids[0]).view(np.uint64), span).view(np.int64))
    return place, place >= 0


def released(roster: Roster, solves: Solves) -> Roster:
    """The roster without the inactive challenges that none of its users and teams has solved."""
    inactive = np.array([challenge.id for challenge in roster.challenges if not challenge.active], np.int64)
    if not len(inactive):
        return roster
    solves = solves[np.isin(solves["challenge_id"], inactive)]
    is_shown = find(solves["user_id"], roster.user_ids)[1]
    if solves.dtype == OWNED_SOLVE:
        is_shown |= find(solves["team_id"], roster.team_ids)[1]
    solved = set(solves["challenge_id"][is_shown].tolist())
    return replace(roster, challenges=[each for each in roster.challenges if each.active or each.id in solved])
