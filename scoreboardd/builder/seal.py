"""Keeps the public boards as they were at the moment of a freeze.

CTFd's own frozen board moves when somebody solves, because the stored points of challenges go on falling. A sealed
board does not: nothing of it tells that anything has happened since.

- The boards of a freeze are made once, from what happened before it. A challenge is worth what the last version before
  the freeze said, if it had as many solves then; otherwise what the platform's formula says.
- From then on the committed documents of that freeze are kept, also by a node that starts later.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import orjson
import structlog
from zstandard import ZstdError

from scoreboardd.backends.base import DocumentStore, Head
from scoreboardd.board.document_names import FEED, SETTINGS, ParticipantKind, delta_log_key, leaderboard_key
from scoreboardd.board.rules import Rules
from scoreboardd.board.scoreboard import ScoreboardState, digest_of_documents
from scoreboardd.board.source_rows import ChallengeRow, SourceRows, find
from scoreboardd.board.times import rfc3339
from scoreboardd.builder.ctfd_feed import feed_document
from scoreboardd.platforms.source import FullRead
from scoreboardd.render.chunked_document import Document
from scoreboardd.render.text import parse_leaderboards
from scoreboardd.system.compression import plain

log = structlog.stdlib.get_logger("scoreboardd.builder")

UNREADABLE = (ZstdError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class SealedBoards:
    """The documents of the boards at the moment of a freeze, by name, without delta logs and settings."""

    freezes_at: float
    documents: Mapping[str, Document]
    divisions: tuple[int, ...]
    committed: tuple[bytes, str] | None = None
    """The settings that they were committed with, and the digest of all. The same texts, read from the store, are in
    other segments, and so have another digest."""

    def digest(self, settings: bytes, documents: Mapping[str, Document]) -> str:
        """Return the digest of `documents`: these boards and the settings of that text."""
        if self.committed is not None and self.committed[0] == settings:
            return self.committed[1]
        return digest_of_documents(documents)


class Seal:
    """The boards of the current freeze. For one task at a time."""

    def __init__(self, document_store: DocumentStore, rules: Rules, *, feed: bool) -> None:
        """`feed`: make the document of the CTFd feed."""
        self._document_store = document_store
        self._rules = rules
        self._feed = feed
        self._boards: SealedBoards | None = None

    async def boards(self, read: FullRead, head: Head) -> SealedBoards:
        """Return the boards of the freeze that `read` found. `head` is what is committed."""
        freezes_at = read.settings.freezes_at
        assert freezes_at is not None
        if self._boards is None or self._boards.freezes_at != freezes_at:
            self._boards = await self._restored(freezes_at, head) or await self._made(read, freezes_at, head)
        return self._boards

    async def _restored(self, freezes_at: float, head: Head) -> SealedBoards | None:
        """Return the committed boards, if they are those of this freeze."""
        documents = await self._committed(head)
        if documents is None or head.metadata is None:
            return None
        try:
            text = plain(documents[SETTINGS])
            settings = orjson.loads(text)
            if not settings.get("sealed") or settings.get("frozen_at") != rfc3339(round(freezes_at * 1_000_000)):
                return None
            divisions = head.metadata.divisions
            logs = {delta_log_key(division) for division in (None, *divisions)}
            boards = {
                name: await asyncio.to_thread(_document, body)
                for name, body in documents.items()
                if name not in {*logs, SETTINGS}
            }
        except UNREADABLE:
            return None
        return SealedBoards(freezes_at, boards, divisions, (text, head.metadata.digest))

    async def _made(self, read: FullRead, freezes_at: float, head: Head) -> SealedBoards:
        last = await self._last_points(read, freezes_at, head)
        rows = replace(read.rows, roster=replace(read.rows.roster, challenges=_sealed_challenges(read, last)))
        scoreboard = await asyncio.to_thread(ScoreboardState, rows, self._rules)
        feed = feed_document(rows, read.settings, scoreboard.documents) if self._feed else Document.of(b"null")
        return SealedBoards(freezes_at, {**scoreboard.documents, FEED: feed}, scoreboard.roster.division_ids)

    async def _last_points(self, read: FullRead, freezes_at: float, head: Head) -> Mapping[int, tuple[int, int]]:
        """Return the points and the number of solves that each challenge had in the last version before the freeze."""
        documents = await self._committed(head)
        if documents is None or head.metadata is None or head.metadata.as_of >= freezes_at:
            log.warning(
                "no version from before the freeze, so the points of dynamic challenges are computed by the formula: "
                "they may differ from those that the platform showed",
                frozen_at=rfc3339(round(freezes_at * 1_000_000)),
            )
            return {}
        try:
            users, teams = (plain(documents[leaderboard_key(kind)]) for kind in ParticipantKind)
            boards = await asyncio.to_thread(parse_leaderboards, users, teams)
        except UNREADABLE:
            return {}
        entries = boards.of(read.settings.mode or ParticipantKind.TEAMS).values()
        solves = dict.fromkeys(boards.challenges, 0)
        for entry in entries:
            for challenge_id in entry.solves:
                solves[challenge_id] += 1
        return {id: (challenge.points, solves[id]) for id, challenge in boards.challenges.items()}

    async def _committed(self, head: Head) -> dict[str, bytes] | None:
        """Return the committed documents as zstd, if they are those of `head`."""
        if head.version is None:
            return None
        stored = await self._document_store.load(None)
        if stored.head.version != head.version or stored.documents is None:
            return None
        return dict(stored.documents)


def _document(body: bytes) -> Document:
    return Document.of(plain(body))


def _sealed_challenges(read: FullRead, last: Mapping[int, tuple[int, int]]) -> list[ChallengeRow]:
    """Return the challenges with the points of the moment of the freeze."""
    counts = _counts(read.rows, read.settings.mode or ParticipantKind.TEAMS)
    challenges = []
    for challenge in read.rows.roster.challenges:
        solves = counts.get(challenge.id, 0)
        points, then = last.get(challenge.id, (challenge.initial, -1))
        if challenge.id in read.dynamic and solves != then:
            points = read.dynamic[challenge.id].after(solves)
        challenges.append(challenge._replace(initial=points))
    return challenges


def _counts(rows: SourceRows, mode: ParticipantKind) -> dict[int, int]:
    """Return the number of solves of each challenge by owners that are shown."""
    shown = rows.roster.team_ids if mode is ParticipantKind.TEAMS else rows.roster.user_ids
    counted = rows.solves["challenge_id"][find(rows.solves[mode.id_field], shown)[1]]
    ids, counts = np.unique(counted, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
