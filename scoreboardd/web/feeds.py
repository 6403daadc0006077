"""The board in the shapes of others: CTFd's own API, for bots that people already have, and the feed for CTFtime.

Each answer is made once a version, when it is first asked for, in a thread, and then served like a document.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from scoreboardd.board.document_names import FEED, ParticipantKind, leaderboard_key
from scoreboardd.cache.document_cache import DocumentCache, EncodedDocument
from scoreboardd.model import Snapshot
from scoreboardd.system.compression import compressed, plain
from scoreboardd.web import errors
from scoreboardd.web.documents import RETRY_AFTER_SECONDS, DocumentEndpoint, parse_positive_int

CTFTIME = "/api/ctftime"
CTFD = "/api/v1/scoreboard"
CTFD_TOP = "/api/v1/scoreboard/top/{count:[0-9]{1,9}}"
MAX_ANSWERS = 64
"Different answers that are kept of a version. More are made again each time."


class Feeds:
    """Answers with the feeds; `documents` sends each answer."""

    def __init__(self, cache: DocumentCache, documents: DocumentEndpoint) -> None:
        self._cache = cache
        self._documents = documents
        self._made: tuple[Snapshot | None, dict[Any, EncodedDocument]] = (None, {})

    async def ctftime(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/ctftime`: tasks, and standings with place, name and score."""
        return await self._answer(request, "ctftime", _ctftime)

    async def ctfd(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/v1/scoreboard`: all accounts, as CTFd lists them."""
        return await self._answer(request, "ctfd", _ctfd)

    async def ctfd_top(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/v1/scoreboard/top/<count>`: the first accounts with their solves, of one bracket if asked."""
        bracket, is_valid = parse_positive_int(request, "bracket_id")
        if not is_valid:
            return errors.invalid(["bracket_id"])
        count = int(request.match_info["count"])
        return await self._answer(
            request, ("top", count, bracket), lambda snapshot, settings: _ctfd_top(snapshot, count, bracket)
        )

    async def _answer(
        self, request: web.Request, key: Any, make: Callable[[Snapshot, Any], bytes]
    ) -> web.StreamResponse:
        snapshot = self._cache.snapshot
        if snapshot is None:
            return errors.unavailable("no scoreboard yet", RETRY_AFTER_SECONDS)
        if not self._cache.is_public:
            return errors.not_public()
        made_of, made = self._made
        if made_of is not snapshot:
            made = {}
            self._made = snapshot, made
        answer = made.get(key)
        if answer is None:
            text = await asyncio.to_thread(make, snapshot, self._cache.settings)
            answer = EncodedDocument([compressed(text)])
            if len(made) < MAX_ANSWERS:
                made[key] = answer
            if self._cache.snapshot is not snapshot:  # a newer version came meanwhile: its headers would not fit
                return await self._answer(request, key, make)
        return await self._documents.send(request, snapshot, answer)


def _ctftime(snapshot: Snapshot, settings: Any) -> bytes:
    kind = ParticipantKind(settings.get("mode", ParticipantKind.TEAMS))
    board = orjson.loads(plain(snapshot.documents[leaderboard_key(kind)]))
    standings = [
        {"pos": place, "team": entry[kind.name_field], "score": entry["score"]}
        for place, entry in enumerate(board["entries"], start=1)
    ]
    tasks = [challenge["title"] for challenge in board["challenges"] if challenge["title"]]
    return orjson.dumps({"tasks": tasks, "standings": standings})


def _ctfd(snapshot: Snapshot, _: Any) -> bytes:
    feed = orjson.loads(plain(snapshot.documents[FEED]))
    is_teams = feed["mode"] == ParticipantKind.TEAMS
    data = []
    for place, account in enumerate(feed["accounts"], start=1):
        row = {
            "pos": place,
            "account_id": account["account_id"],
            "account_url": f"/{feed['mode']}/{account['account_id']}",
            "account_type": "team" if is_teams else "user",
            "oauth_id": None,
            **{name: account[name] for name in ("name", "score", "bracket_id", "bracket_name")},
        }
        if is_teams:
            row["members"] = [
                {**member, "bracket_id": account["bracket_id"], "bracket_name": account["bracket_name"]}
                for member in account["members"]
            ]
        data.append(row)
    return orjson.dumps({"success": True, "data": data})


def _ctfd_top(snapshot: Snapshot, count: int, bracket: int | None) -> bytes:
    feed = orjson.loads(plain(snapshot.documents[FEED]))
    accounts = [account for account in feed["accounts"] if bracket is None or account["bracket_id"] == bracket]
    data = {
        str(place): {
            "id": account["account_id"],
            "account_url": f"/{feed['mode']}/{account['account_id']}",
            **{name: account[name] for name in ("name", "score", "bracket_id", "bracket_name", "solves")},
        }
        for place, account in enumerate(accounts[:count], start=1)
    }
    return orjson.dumps({"success": True, "data": data})
