"""What a source yields: the plain facts of one contest, all read from one database snapshot.

A source has already left out whoever must not be seen (blocked, admin) and every incorrect submission; nothing
downstream looks at roles again.
"""

from dataclasses import dataclass

#: Microseconds since 1970-01-01T00:00:00Z, the precision of a PostgreSQL `timestamptz`.
Micros = int


@dataclass(frozen=True, slots=True)
class Challenge:
    id: int
    title: str
    category: str
    initial: int
    minimum: int


@dataclass(frozen=True, slots=True)
class Team:
    id: int
    name: str
    division_id: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    id: int
    name: str
    team_id: int | None = None


@dataclass(frozen=True, slots=True)
class Solve:
    """One correct submission. The same user may appear with the same challenge more than once, in any order."""

    user_id: int
    challenge_id: int
    at: Micros
    first_blood: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    challenges: list[Challenge]
    teams: list[Team]
    users: list[User]
    solves: list[Solve]
    #: Ids of the divisions that exist; empty where the platform has none.
    divisions: list[int]
