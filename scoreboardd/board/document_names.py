"""The names of the documents of protocol §5.

A document is named as its key in the store: `leaderboard:users`, or `leaderboard:users:div:3` for a division. These
documents are not served at a path of their own: the delta logs (see `delta_log`), the list of divisions, the settings,
and the facts of the CTFd feed.
"""

from collections.abc import Iterable
from enum import StrEnum

from scoreboardd.board.times import Micros

BUCKET: Micros = 10 * 60 * 1_000_000


class ParticipantKind(StrEnum):
    """Users or teams: each board exists once for users and once for teams."""

    USERS = "users"
    TEAMS = "teams"

    @property
    def id_field(self) -> str:
        return "user_id" if self is ParticipantKind.USERS else "team_id"

    @property
    def name_field(self) -> str:
        return "username" if self is ParticipantKind.USERS else "team_name"


def leaderboard_key(owner: ParticipantKind, division_id: int | None = None) -> str:
    return _key("leaderboard", owner, division_id)


def timeline_key(owner: ParticipantKind, division_id: int | None = None) -> str:
    return _key("timeline", owner, division_id)


def delta_log_key(division_id: int | None = None) -> str:
    return _key("scoreboard", "delta_log", division_id)


DIVISIONS = "scoreboard:divisions"
'`[{"id", "name"}…]`, by id.'

SETTINGS = "scoreboard:settings"
"What clients have to know of the contest's settings: a JSON object."

FEED = "scoreboard:ctfd_feed"
"What the answers in the shapes of CTFd's API are made of: a JSON object, or null without that feed."


def document_names(divisions: Iterable[int]) -> list[str]:
    """The names of all documents of a snapshot with these divisions."""
    boards = (None, *divisions)
    return [
        *(
            key(owner, board)
            for board in boards
            for key in (leaderboard_key, timeline_key)
            for owner in ParticipantKind
        ),
        *map(delta_log_key, boards),
        DIVISIONS,
        SETTINGS,
        FEED,
    ]


def _key(kind: str, what: str, division_id: int | None) -> str:
    return f"{kind}:{what}" if division_id is None else f"{kind}:{what}:div:{division_id}"
