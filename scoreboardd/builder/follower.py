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
        kept, self._kept = self._kept, None
        if kept is not None and not whole:
            scoreboard, mark = kept
            news = await self._source.news(scoreboard.roster, mark)
            if news is not None:
                await asyncio.to_thread(scoreboard.add, news.solves)
                self._kept = scoreboard, news.mark
                return Followed(scoreboard, news.as_of, whole=False)
        rows, as_of, mark = await self._source.read()
        scoreboard = await asyncio.to_thread(Scoreboard, rows)
        self._kept = scoreboard, mark
        return Followed(scoreboard, as_of, whole=True)
