"""A scoreboard that follows its source: by what is new where that will do, else by all of it again."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from scoreboardd.board.scoreboard import Deltas, Scoreboard
from scoreboardd.builder.stages import Stages
from scoreboardd.source.findings import Finding
from scoreboardd.source.postgres import Mark, PostgresSource


class News(NamedTuple):
    """What changed since the documents had the digest `since`."""

    since: str
    deltas: Deltas


@dataclass(frozen=True, slots=True)
class Followed:
    """The scoreboard as it was at `as_of`, Unix time in seconds."""

    scoreboard: Scoreboard
    as_of: float
    rows: dict[str, int]
    "How many there are; of the solves, how many were read."
    digest: str
    "Of the documents."
    findings: list[Finding] = field(default_factory=list)
    "What was odd about the rows that were read."
    news: News | None = None
    "What is new, if that is all that was read."


class Follower:
    """Not to be used by two tasks at once."""

    def __init__(self, source: PostgresSource) -> None:
        self._source = source
        self._kept: tuple[Scoreboard, str, Mark] | None = None
        "None while there is nothing to go on from: at first, and after a failure."

    async def follow(self, stages: Stages, *, whole: bool) -> Followed:
        """`whole`: more was announced than solves, or nothing was and what is kept is to be verified."""
        followed = None if whole else await self._by_news(stages)
        return followed or await self._by_all(stages)

    async def _by_news(self, stages: Stages) -> Followed | None:
        if self._kept is None:
            return None
        # Gone, if what follows fails, and in any case before another is made: there is not room for many.
        (scoreboard, since, mark), self._kept = self._kept, None
        with stages.timed("read"):
            news = await self._source.news(scoreboard.roster, mark)
        if news is None:
            return None
        with stages.timed("build"):
            deltas = await asyncio.to_thread(scoreboard.add, news.solves)
        followed = self._keep(scoreboard, news.mark, news.as_of, len(news.solves), stages)
        return replace(followed, findings=news.findings, news=News(since, deltas))

    async def _by_all(self, stages: Stages) -> Followed:
        self._kept = None
        with stages.timed("read"):
            rows, as_of, mark, findings = await self._source.read()
        with stages.timed("build"):
            scoreboard = await asyncio.to_thread(Scoreboard, rows)
        return replace(self._keep(scoreboard, mark, as_of, len(rows.solves), stages), findings=findings)

    def _keep(self, scoreboard: Scoreboard, mark: Mark, as_of: float, solves: int, stages: Stages) -> Followed:
        with stages.timed("render"):
            digest = scoreboard.digest
        self._kept = scoreboard, digest, mark
        rows = {name: len(getattr(scoreboard.roster, name)) for name in ("challenges", "teams", "users")}
        return Followed(scoreboard, as_of, rows | {"solves": solves}, digest)
