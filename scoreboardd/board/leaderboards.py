"""The two leaderboards as a client holds them: the facts, from which scores, order and documents follow.

`render.text` reads them from documents and writes the documents.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.board.order import Order


class Challenge(NamedTuple):
    """A challenge, and the points that it is worth now."""

    title: str
    category: str
    points: int


class Solve(NamedTuple):
    """A solved challenge. `at` is the time as in the documents: RFC 3339, UTC."""

    at: str
    first_blood: bool
    sequence: int | None = None
    "The number of the row, where the platform breaks ties by it."


class Adjustment(NamedTuple):
    """Points that no challenge gives: an award, or the cost of a hint. `at` and `sequence` as in `Solve`."""

    at: str
    points: int
    sequence: int | None = None


Adjustments = tuple[Adjustment, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A user or team, its solves by the id of the challenge, and its adjustments by time."""

    name: str
    solves: dict[int, Solve]
    adjustments: Adjustments = ()


@dataclass(frozen=True, slots=True)
class Leaderboards:
    """The leaderboards of everyone, or of one division; all by id, in no order."""

    challenges: dict[int, Challenge]
    users: dict[int, Entry]
    teams: dict[int, Entry]
    order: Order = Order.STATIC
    "How equal scores are ordered."

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
        integer(solve["challenge_id"]): Solve(
            string(solve["solved_at"]), boolean(solve["is_first_blood"]), _sequence(solve)
        )
        for solve in solves
    }


def parse_adjustments(adjustments: list[dict[str, Any]]) -> Adjustments:
    """The adjustments of an entry. Raises `KeyError` or `TypeError` likewise."""
    return tuple(Adjustment(string(each["at"]), integer(each["points"]), _sequence(each)) for each in adjustments)


def _sequence(fields: dict[str, Any]) -> int | None:
    return integer(fields["sequence"]) if "sequence" in fields else None


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
    challenges, order = leaderboards.challenges, leaderboards.order
    rows = [
        (
            id,
            entry,
            sum(challenges[challenge_id].points for challenge_id in entry.solves)
            + sum(adjustment.points for adjustment in entry.adjustments),
        )
        for id, entry in leaderboards.of(owner).items()
    ]
    # Python compares str by code point, which for valid Unicode is the order of the UTF-8 bytes.
    by_name = owner is ParticipantKind.TEAMS and order is not Order.LAST_ROW
    rows.sort(key=lambda row: (-row[2], _last(row[1], challenges, order), row[1].name if by_name else "", row[0]))
    return rows


def _last(entry: Entry, challenges: dict[int, Challenge], order: Order) -> tuple[str, int]:
    """What breaks a tie: the time of the last row that counts, and the highest sequence number of all that count."""
    if order is Order.STATIC:
        return "", 0
    counted: list[Solve | Adjustment] = [solve for id, solve in entry.solves.items() if challenges[id].points]
    if order is Order.LAST_ROW:
        counted += [adjustment for adjustment in entry.adjustments if adjustment.points]
        return _sortable(counted), max((each.sequence or 0 for each in counted), default=-(2**62))
    return _sortable(counted), 0


def _sortable(rows: list[Solve | Adjustment]) -> str:
    """The latest time of `rows`, as text that sorts as the time does; "" if there are none."""
    return max((each.at[:-1] for each in rows), default="")
