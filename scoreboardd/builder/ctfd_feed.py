"""The facts behind CTFd's own scoreboard API, as a document: who solved what for whom, which the boards do not say.

`web.feeds` makes the answers of `/api/v1/scoreboard` of it. Source of their shapes: `CTFd/api/v1/scoreboard.py` of 3.8.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.source_rows import NO_ID, SourceRows
from scoreboardd.board.times import Micros
from scoreboardd.platforms.settings import ContestSettings
from scoreboardd.render.chunked_document import Document


def feed_document(rows: SourceRows, settings: ContestSettings, documents: Mapping[str, Document]) -> Document:
    """Return the document for the boards `documents`, made of `rows`."""
    return Document.of(feed_text(rows, settings.mode or ParticipantKind.TEAMS, documents))


def feed_text(rows: SourceRows, mode: ParticipantKind, documents: Mapping[str, Document]) -> bytes:
    """Return the document's text: the accounts of the board in order, each with its members and its rows.

    `documents` are the boards made of `rows`, by name.
    """
    boards = {
        kind: orjson.loads(b"".join(documents[leaderboard_key(kind)].text()))["entries"] for kind in ParticipantKind
    }
    user_scores = {entry["user_id"]: entry["score"] for entry in boards[ParticipantKind.USERS]}
    brackets = {division.id: division.name for division in rows.roster.divisions}
    members = defaultdict(list)
    for user in rows.roster.users:
        score = user_scores.get(user.id, 0)
        members[user.team_id].append({"id": user.id, "oauth_id": None, "name": user.name, "score": score})
    owners = rows.roster.teams if mode is ParticipantKind.TEAMS else rows.roster.users
    bracket_of = {owner.id: owner.division_id for owner in owners}
    solves = _solves(rows, mode)
    accounts = []
    for entry in boards[mode]:
        id = entry[mode.id_field]
        bracket = bracket_of.get(id)
        account = {
            "account_id": id,
            "name": entry[mode.name_field],
            "score": entry["score"],
            "bracket_id": bracket,
            "bracket_name": brackets.get(bracket) if bracket is not None else None,
            "solves": solves[id],
        }
        if mode is ParticipantKind.TEAMS:
            account["members"] = members[id]
        accounts.append(account)
    return orjson.dumps({"mode": mode, "accounts": accounts})


def _solves(rows: SourceRows, mode: ParticipantKind) -> dict[int, list[dict[str, Any]]]:
    """The solves and adjustments of each account, by time."""
    points = {challenge.id: challenge.initial for challenge in rows.roster.challenges}
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    dated = [(rows.solves, None), (rows.adjustments, "points")]
    for array, own in dated:
        if array is None:
            continue
        for row in array[np.lexsort((array["sequence"], array["at"]))]:
            challenge = None if own else int(row["challenge_id"])
            found[int(row[mode.id_field])].append(
                {
                    "challenge_id": challenge,
                    "account_id": int(row[mode.id_field]),
                    "team_id": _id(row["team_id"]),
                    "user_id": _id(row["user_id"]),
                    "value": int(row[own]) if own else points.get(challenge or 0, 0),
                    "date": _date(int(row["at"])),
                }
            )
    for its in found.values():
        its.sort(key=lambda solve: solve["date"][:-1])  # without the Z, times sort as text
    return found


def _date(at: Micros) -> str:
    """As CTFd writes it: with six digits of a fraction, or none."""
    return (datetime(1970, 1, 1) + timedelta(microseconds=at)).isoformat() + "Z"  # noqa: DTZ001  always UTC


def _id(value: Any) -> int | None:
    return None if value == NO_ID else int(value)
