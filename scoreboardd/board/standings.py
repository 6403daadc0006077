"""The standings of everyone, or of one division: what each challenge is worth, each owner's score, the four documents.

A change comes in two steps, with the contest changing in between: `change` reckons with what was and what will be; what
is left to do is printing from the contest as it then is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import orjson
import zstandard

from scoreboardd.board.contest import NEVER, Bools, Cells, Contest, Ints, Side
from scoreboardd.board.delta import Challenges, Delta, Owners
from scoreboardd.board.document_names import BUCKET, Owner, leaderboard_key, timeline_key
from scoreboardd.board.leaderboards import Solve
from scoreboardd.board.scoring import points
from scoreboardd.board.times import rfc3339
from scoreboardd.render.chunked_document import Document, Piece, Sheet, changes
from scoreboardd.render.rows import Buckets, Entries

Printing = Callable[[], None]


class Change(NamedTuple):
    """What solves do to a board."""

    print: Printing
    "Has to be called, once the contest has changed."
    delta: Callable[[], Delta]
    "What a client is told of it."


class Standings:
    """One board. Whoever is no member of its division is nothing to it."""

    def __init__(self, contest: Contest, division_id: int | None, compressor: zstandard.ZstdCompressor) -> None:
        self._contest = contest
        self._division_id = division_id
        self._compressor = compressor
        members = contest.members(division_id)
        self._rankings = {owner: Ranking(contest, contest.sides[owner], members[owner], compressor) for owner in Owner}
        teams = contest.team_of[members[Owner.USERS]]
        self._competing = len(np.unique(teams[teams >= 0]))
        self._teams_having: Ints = np.zeros(len(contest.challenges), np.int64)
        self._worth = self._reckon()
        self._opening = self._open()
        self._beginning = Piece(b'{"submissions":[', compressor)
        self._closing = Piece(b"]}", compressor)

    def change(self, news: Mapping[Owner, Cells]) -> Change:
        mine = {owner: self._rankings[owner].of_members(cells) for owner, cells in news.items()}
        teams = mine[Owner.TEAMS]
        self._teams_having += np.bincount(teams.column[teams.before == NEVER], minlength=len(self._teams_having))
        before, worth = self._worth, self._reckon()
        self._worth = worth
        rises = worth - before
        printing = [self._rankings[owner].change(cells, worth, rises) for owner, cells in mine.items()]

        def print_all() -> None:
            if rises.any():
                self._opening = self._open()
            for each in printing:
                each()

        return Change(print_all, lambda: self._delta(mine, worth, rises))

    def _delta(self, cells: Mapping[Owner, Cells], worth: Ints, rises: Ints) -> Delta:
        ids = [challenge.id for challenge in self._contest.challenges]

        def solves(owner: Owner) -> Owners:
            its = cells[owner]
            who = self._contest.sides[owner].ids[its.rank].tolist()
            each = zip(who, its.column.tolist(), its.at.tolist(), its.first_blood.tolist(), strict=True)
            return Owners(solves={(id, ids[column]): Solve(rfc3339(at), blood) for id, column, at, blood in each})

        points = {ids[column]: int(worth[column]) for column in np.flatnonzero(rises).tolist()}
        return Delta(Challenges(points=points), solves(Owner.USERS), solves(Owner.TEAMS))

    def _reckon(self) -> Ints:
        """What each challenge is worth now."""
        having = zip(self._contest.challenges, self._teams_having.tolist(), strict=True)
        return np.array([points(c.initial, c.minimum, decay=self._competing, solves=n) for c, n in having], np.int64)

    def _open(self) -> Piece:
        """How a leaderboard begins, up to its entries."""
        listed = [
            {"id": c.id, "title": c.title, "category": c.category, "points": worth}
            for c, worth in zip(self._contest.challenges, self._worth.tolist(), strict=True)
        ]
        return Piece(b'{"challenges":%b,"entries":[' % orjson.dumps(listed), self._compressor)

    def documents(self) -> Iterator[tuple[str, Document]]:
        """As they are now, by name."""
        for owner, ranking in self._rankings.items():
            name = leaderboard_key(owner, self._division_id)
            yield name, ranking.entries.document(self._opening, self._closing)
            name = timeline_key(owner, self._division_id)
            yield name, ranking.buckets.document(self._beginning, self._closing)


class Ranking:
    """The users, or the teams, of one board: a line each in the leaderboard, one each and bucket in the timeline."""

    def __init__(self, contest: Contest, side: Side, members: Bools, compressor: zstandard.ZstdCompressor) -> None:
        self._side = side
        self._members = members
        self._all = bool(members.all())
        self._scores: Ints = np.zeros(len(side), np.int64)
        self.entries = Sheet(Entries(contest, side), compressor)
        self.buckets = Sheet(Buckets(side), compressor)

    def of_members(self, cells: Cells) -> Cells:
        return cells if self._all else cells.where(self._members[cells.rank])

    def change(self, cells: Cells, worth: Ints, rises: Ints) -> Printing:
        """These cells are new; each challenge is now worth `worth`, which is by `rises` more than it was."""
        if self.entries.chunks:
            having = {column: self._having(column) for column in np.flatnonzero(rises).tolist()}
            touched = np.unique(np.concatenate([cells.rank, *having.values()]))
            leaving = changes(-self._scores[touched], touched, count=-1)
        else:  # nothing is printed yet: nobody had anything, and now everybody is listed
            having = {}
            touched = np.flatnonzero(self._members)
            leaving = changes(touched[:0], touched[:0])

        timeline = []
        for column, ranks in having.items():
            self._scores[ranks] += rises[column]
            at = self._side.at[ranks * self._side.columns + column]
            timeline.append(changes(at // BUCKET, ranks, points=rises[column]))
        gain = worth[cells.column]
        had = cells.before != NEVER
        np.add.at(self._scores, cells.rank[~had], gain[~had])
        timeline.append(changes(cells.before[had] // BUCKET, cells.rank[had], -gain[had], -1))
        timeline.append(changes(cells.at // BUCKET, cells.rank, gain, 1))
        entering = changes(-self._scores[touched], touched, count=1)

        def print_both() -> None:
            self.entries.change(leaving, entering)
            self.buckets.change(*timeline)

        return print_both

    def _having(self, column: int) -> Ints:
        """The members who have this challenge."""
        ranks = self._side.having(column)
        return ranks[self._members[ranks]]
