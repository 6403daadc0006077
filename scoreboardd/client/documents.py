"""Fetching the two leaderboards, of one version."""

import asyncio
from dataclasses import dataclass, replace

import aiohttp
from yarl import URL

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.client.board import Board
from scoreboardd.client.http import RequestFailed, ask
from scoreboardd.model import Version
from scoreboardd.render import text as document_text

PATHS = {ParticipantKind.USERS: "api/leaderboard", ParticipantKind.TEAMS: "api/leaderboard/teams"}

WHOLE = 120.0
"Seconds until all of a document has come."
MOST = 128 * 1024 * 1024
"Bytes of a document, decompressed, in all its members; the largest there ever were had 50 MB."

MAX_CONTAINERS = 3_000_000
"Objects and arrays in a document. A contest of 10,000 teams with 466,000 solves has 500,000."
MAX_VALUES = 12_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A document as it was served; without its body once a board was made of it."""

    version: Version
    etag: str
    body: bytearray | None


class LeaderboardFetcher:
    """Those of the scoreboard at `url`."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, query: dict[str, str]) -> None:
        self._session = session
        self._urls = {owner: url.joinpath(path).with_query(query) for owner, path in PATHS.items()}
        self._last: dict[ParticipantKind, Answer] = {}

    async def fetch(self, held: Version | None) -> Board | None:
        """The board that is served; None if it is the one that is `held`, or if the two documents are not of one
        version, as may be while the next is made: ask again then. Raises `RequestFailed`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                asking = {owner: tasks.create_task(self._get(owner, held)) for owner in ParticipantKind}
        except ExceptionGroup as failed:
            (error, *_) = failed.exceptions
            raise error from error.__cause__
        self._last = {owner: asked.result() for owner, asked in asking.items()}
        users, teams = self._last[ParticipantKind.USERS], self._last[ParticipantKind.TEAMS]
        if users.version != teams.version or users.body is None or teams.body is None:
            return None
        for document in (users, teams):
            if document.body is not None and _is_too_complex(document.body):
                self._last = {}
                raise RequestFailed(
                    self._urls[ParticipantKind.TEAMS], "answers with more values than any scoreboard has"
                )
        try:
            # Seconds, for the largest: the bot goes on meanwhile.
            view = await asyncio.to_thread(
                document_text.parse_leaderboards, memoryview(users.body), memoryview(teams.body)
            )
        except (KeyError, TypeError, ValueError) as error:
            self._last = {}
            raise RequestFailed(
                self._urls[ParticipantKind.TEAMS], "answers with something that is no leaderboard"
            ) from error
        self._last = {owner: replace(answer, body=None) for owner, answer in self._last.items()}
        return Board(teams.version, view)

    async def served(self) -> Version:
        """The version that is served now. Raises `RequestFailed`."""
        url = self._urls[ParticipantKind.TEAMS]
        async with ask(self._session, "HEAD", url, {}) as response:
            return _version(url, response)

    async def _get(self, owner: ParticipantKind, held: Version | None) -> Answer:
        last, url = self._last.get(owner), self._urls[owner]
        headers = {}
        if last is not None and last.etag and (last.body is not None or last.version == held):
            headers["If-None-Match"] = last.etag
        async with ask(self._session, "GET", url, headers) as response:
            if last is not None and response.status == 304:
                return last
            version = _version(url, response)
            async with asyncio.timeout(WHOLE):
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MOST:
                        raise RequestFailed(url, f"answers with more than {MOST} bytes")
            return Answer(version, response.headers.get("ETag", ""), body)


def _is_too_complex(body: bytearray) -> bool:
    """Whether parsing would take far more memory than the text: an empty object of two bytes takes sixty."""
    return body.count(b"{") + body.count(b"[") > MAX_CONTAINERS or body.count(b",") > MAX_VALUES


def _version(url: URL, response: aiohttp.ClientResponse) -> Version:
    version = Version.parse(response.headers.get("X-Scoreboard-Version", ""))
    if version is None:
        raise RequestFailed(url, "answers without X-Scoreboard-Version: that is not scoreboardd", wrong=True)
    return version
