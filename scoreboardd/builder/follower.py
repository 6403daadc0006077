"""A scoreboard that follows its source: by what is new where that will do, else by all of it again."""

import asyncio
from dataclasses import dataclass

from scoreboardd.board.scoreboard import Scoreboard
from scoreboardd.source.postgres import Mark, PostgresSource

PLAIN = "submission_correct"
"The reason whose change is one more solve and nothing else."


@dataclass(frozen=True, slots=True)
class Followed:
    """The scoreboard as it was at `as_of`, Unix time in seconds."""

    scoreboard: Scoreboard
    as_of: float
    whole: bool
    "Whether all was read again."


class Follower:
    """Not to be used by two tasks at once."""

    def __init__(self, source: PostgresSource) -> None:
        self._source = source
        self._kept: tuple[Scoreboard, Mark] | None = None
        "None while there is nothing to go on from: at first, and after a failure."

    async def follow(self, *, whole: bool) -> Followed:
        """`whole`: something other than `PLAIN` was announced, or nothing was and what is kept is to be verified."""
        followed = None if whole else await self._by_news()
        return followed or await self._by_all()

    async def _by_news(self) -> Followed | None:
        if self._kept is None:
            return None
        # Gone, if what follows fails, and in any case before another is made: there is not room for many.
        (scoreboard, mark), self._kept = self._kept, None
        news = await self._source.news(scoreboard.roster, mark)
        if news is None:
            return None
        await asyncio.to_thread(scoreboard.add, news.solves)
        self._kept = scoreboard, news.mark
        return Followed(scoreboard, news.as_of, whole=False)

    async def _by_all(self) -> Followed:
        self._kept = None
        rows, as_of, mark = await self._source.read()
        scoreboard = await asyncio.to_thread(Scoreboard, rows)
        self._kept = scoreboard, mark
        return Followed(scoreboard, as_of, whole=True)
