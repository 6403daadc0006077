"""A scoreboard that follows its source: by what is new where that will do, else by all of it again."""

import asyncio
from dataclasses import dataclass

from scoreboardd.board.rows import Roster
from scoreboardd.board.scoreboard import Scoreboard
from scoreboardd.builder.stages import Stages
from scoreboardd.source.postgres import Mark, PostgresSource


@dataclass(frozen=True, slots=True)
class Followed:
    """The scoreboard as it was at `as_of`, Unix time in seconds."""

    scoreboard: Scoreboard
    as_of: float
    whole: bool
    "Whether all was read again."
    rows: dict[str, int]
    "How many there are; of the solves, how many were read."


class Follower:
    """Not to be used by two tasks at once."""

    def __init__(self, source: PostgresSource) -> None:
        self._source = source
        self._kept: tuple[Scoreboard, Mark] | None = None
        "None while there is nothing to go on from: at first, and after a failure."

    async def follow(self, stages: Stages, *, whole: bool) -> Followed:
        """`whole`: more was announced than solves, or nothing was and what is kept is to be verified."""
        followed = None if whole else await self._by_news(stages)
        return followed or await self._by_all(stages)

    async def _by_news(self, stages: Stages) -> Followed | None:
        if self._kept is None:
            return None
        # Gone, if what follows fails, and in any case before another is made: there is not room for many.
        (scoreboard, mark), self._kept = self._kept, None
        with stages.timed("read"):
            news = await self._source.news(scoreboard.roster, mark)
        if news is None:
            return None
        with stages.timed("build"):
            await asyncio.to_thread(scoreboard.add, news.solves)
        self._kept = scoreboard, news.mark
        return Followed(scoreboard, news.as_of, whole=False, rows=_counts(scoreboard.roster, len(news.solves)))

    async def _by_all(self, stages: Stages) -> Followed:
        self._kept = None
        with stages.timed("read"):
            rows, as_of, mark = await self._source.read()
        with stages.timed("build"):
            scoreboard = await asyncio.to_thread(Scoreboard, rows)
        self._kept = scoreboard, mark
        return Followed(scoreboard, as_of, whole=True, rows=_counts(rows.roster, len(rows.solves)))


def _counts(roster: Roster, solves: int) -> dict[str, int]:
    few = {name: len(getattr(roster, name)) for name in ("challenges", "teams", "users")}
    return few | {"solves": solves}
