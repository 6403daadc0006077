"""The two leaderboards as a client holds them: the facts, from which scores, order and documents follow.

`render.text` reads them from documents and writes the documents.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from scoreboardd.board.document_names import ParticipantKind


class Challenge(NamedTuple):
    """A challenge, and the points that it is worth now."""

    title: str
    category: str
    points: int


class Solve(NamedTuple):
    """A solved challenge. `at` is the time as in the documents: RFC 3339, UTC."""

    at: str
    first_blood: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A user or team, and its solves by the id of the challenge."""

    name: str
    solves: dict[int, Solve]


@dataclass(frozen=True, slots=True)
class Leaderboards:
    """The leaderboards of everyone, or of one division; all by id, in no order."""

    challenges: dict[int, Challenge]
    users: dict[int, Entry]
    teams: dict[int, Entry]

    def of(self, owner: ParticipantKind) -> dict[int, Entry]:
        return self.users if owner is ParticipantKind.USERS else self.teams


NOTHING = Leaderboards({}, {}, {})


def parse_challenges(challenges: list[dict[str, Any]]) -> dict[int, Challenge]:
    """The challenges of a document or a delta, by id. Raises `KeyError` or `TypeError` if a field is missing or of
    another type."""
    return {
        integer(c["id"]): Challenge(string(c["title"]), string(c["category"]), integer(c["points"])) for c in challenges
    }


def parse_solves(solves: list[dict[str, Any]]) -> dict[int, Solve]:
    """The solves of an entry, by the id of the challenge. Raises `KeyError` or `TypeError` likewise."""
    return {
        integer(solve["challenge_id"]): Solve(string(solve["solved_at"]), boolean(solve["is_first_blood"]))
        for solve in solves
    }


def integer(value: Any) -> int:
    """`value`. Raises `TypeError` if it is of another type, such as the float that orjson makes of an integer beyond
    64 bits."""
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} in place of an integer")
    return value


def string(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} in place of a string")
    return value


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{type(value).__name__} in place of a boolean")
    return value


def ranked(leaderboards: Leaderboards, owner: ParticipantKind) -> list[tuple[int, Entry, int]]:
    """The id, entry and score of each user or team, in the order of the documents."""
    rows = [
        (id, entry, sum(leaderboards.challenges[challenge_id].points for challenge_id in entry.solves))
        for id, entry in leaderboards.of(owner).items()
    ]
    # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
    rows.sort(key=lambda row: (-row[2], row[1].name if owner is ParticipantKind.TEAMS else "", row[0]))
    return rows
