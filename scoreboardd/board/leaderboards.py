"""The two leaderboards as a client holds them: the facts, from which scores, order and documents follow.

`parse` and `render` are each other's inverse, to the byte: a client that holds a view holds the documents.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from scoreboardd.board.document_names import ParticipantKind


class Challenge(NamedTuple):
    """A challenge, at the points it is worth now."""

    title: str
    category: str
    points: int


class Solve(NamedTuple):
    """A challenge that an owner has. `at` is as the documents have it: RFC 3339, UTC."""

    at: str
    first_blood: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """An owner, and what it has, by the id of the challenge."""

    name: str
    solves: dict[int, Solve]


@dataclass(frozen=True, slots=True)
class Leaderboards:
    """Of everyone, or of one division; all by id, in no order."""

    challenges: dict[int, Challenge]
    users: dict[int, Entry]
    teams: dict[int, Entry]

    def of(self, owner: ParticipantKind) -> dict[int, Entry]:
        return self.users if owner is ParticipantKind.USERS else self.teams


NOTHING = Leaderboards({}, {}, {})


def parse(users: bytes | memoryview, teams: bytes | memoryview) -> Leaderboards:
    """The view in the leaderboards of users and of teams, which are of one version.

    KeyError, TypeError or ValueError if they are no leaderboards.
    """
    documents = {ParticipantKind.USERS: orjson.loads(users), ParticipantKind.TEAMS: orjson.loads(teams)}
    challenges = parse_challenges(documents[ParticipantKind.TEAMS]["challenges"])
    return Leaderboards(challenges, *(_entries(document, owner, challenges) for owner, document in documents.items()))


def _entries(document: Any, owner: ParticipantKind, challenges: dict[int, Challenge]) -> dict[int, Entry]:
    entries = {}
    for entry in document["entries"]:
        solves = parse_solves(entry["solves"])
        if not solves.keys() <= challenges.keys():
            raise ValueError("a solve of no challenge")
        entries[integer(entry[owner.id_field])] = Entry(text(entry[owner.name_field]), solves)
    return entries


def parse_challenges(challenges: list[dict[str, Any]]) -> dict[int, Challenge]:
    """What a document says of the challenges. KeyError or TypeError if it says something else."""
    return {
        integer(c["id"]): Challenge(text(c["title"]), text(c["category"]), integer(c["points"])) for c in challenges
    }


def parse_solves(solves: list[dict[str, Any]]) -> dict[int, Solve]:
    """What a document says of an owner's solves. KeyError or TypeError if it says something else."""
    return {
        integer(solve["challenge_id"]): Solve(text(solve["solved_at"]), boolean(solve["is_first_blood"]))
        for solve in solves
    }


def integer(value: Any) -> int:
    """`value`; TypeError if it is anything else, such as the float that orjson makes of an integer beyond 64 bits."""
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} in place of an integer")
    return value


def text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} in place of a string")
    return value


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{type(value).__name__} in place of a boolean")
    return value


def render(leaderboards: Leaderboards) -> tuple[bytes, bytes]:
    """The leaderboards of users and of teams."""
    return _leaderboard(leaderboards, ParticipantKind.USERS), _leaderboard(leaderboards, ParticipantKind.TEAMS)


def ranked(leaderboards: Leaderboards, owner: ParticipantKind) -> list[tuple[int, Entry, int]]:
    """The ids of the users or of the teams, with their entries and scores, in the order of the documents."""
    rows = [
        (id, entry, sum(leaderboards.challenges[challenge_id].points for challenge_id in entry.solves))
        for id, entry in leaderboards.of(owner).items()
    ]
    # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
    rows.sort(key=lambda row: (-row[2], row[1].name if owner is ParticipantKind.TEAMS else "", row[0]))
    return rows


def _leaderboard(leaderboards: Leaderboards, owner: ParticipantKind) -> bytes:
    return orjson.dumps(
        {
            "challenges": [
                {"id": id, **parse_challenges._asdict()}
                for id, parse_challenges in sorted(leaderboards.challenges.items())
            ],
            "entries": [
                {
                    owner.id_field: id,
                    owner.name_field: entry.name,
                    "score": points,
                    "solves": [
                        {"challenge_id": challenge_id, "solved_at": solve.at, "is_first_blood": solve.first_blood}
                        for challenge_id, solve in sorted(entry.solves.items())
                    ],
                }
                for id, entry, points in ranked(leaderboards, owner)
            ],
        }
    )
