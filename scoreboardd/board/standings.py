"""The standings of everyone, or of one division: the points of each challenge, the score of each participant, and the
four documents.

A change has two steps, and the contest changes between them: `change` computes with the facts before and after, and the
function that it returns renders the contest as it then is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import zstandard

from scoreboardd.board.contest import NEVER, Bools, Contest, Ints, Participants, SolveChanges
from scoreboardd.board.delta import Challenges, Delta, Owners
from scoreboardd.board.document_names import BUCKET, ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.leaderboards import Solve
from scoreboardd.board.scoring import challenge_points
from scoreboardd.board.times import rfc3339
from scoreboardd.render import text
from scoreboardd.render.chunked_document import ChunkedDocument, Document, Segment, row_changes
from scoreboardd.render.rows import BucketRenderer, EntryRenderer

PendingRender = Callable[[], None]


class Change(NamedTuple):
    """What solves change on a board."""

    print: PendingRender
    "To be called once the contest has changed."
    delta: Callable[[], Delta]
    "Computes what a client gets."


class Standings:
    """One board: of a division and its members alone, or of everyone."""

    def __init__(self, contest: Contest, division_id: int | None, compressor: zstandard.ZstdCompressor) -> None:
        self._contest = contest
        self._division_id = division_id
        self._compressor = compressor
        members = contest.members(division_id)
        self._rankings = {
            owner: Ranking(contest, contest.participants[owner], members[owner], compressor)
            for owner in ParticipantKind
        }
        teams = contest.team_of[members[ParticipantKind.USERS]]
        self._competing = len(np.unique(teams[teams >= 0]))
        self._solver_counts: Ints = np.zeros(len(contest.challenges), np.int64)
        self._points = self._compute_points()
        self._opening = self._open()
        self._beginning = Segment(text.TIMELINE, compressor)
        self._closing = Segment(text.END, compressor)

    def change(self, solve_changes: Mapping[ParticipantKind, SolveChanges]) -> Change:
        mine = {owner: self._rankings[owner].of_members(cells) for owner, cells in solve_changes.items()}
        teams = mine[ParticipantKind.TEAMS]
        self._solver_counts += np.bincount(teams.column[teams.before == NEVER], minlength=len(self._solver_counts))
        before, points = self._points, self._compute_points()
        self._points = points
        point_deltas = points - before
        pending = [self._rankings[owner].change(cells, points, point_deltas) for owner, cells in mine.items()]

        def render_all() -> None:
            if point_deltas.any():
                self._opening = self._open()
            for each in pending:
                each()

        return Change(render_all, lambda: self._delta(mine, points, point_deltas))

    def _delta(self, cells: Mapping[ParticipantKind, SolveChanges], points: Ints, point_deltas: Ints) -> Delta:
        ids = [challenge.id for challenge in self._contest.challenges]

        def solves(owner: ParticipantKind) -> Owners:
            its = cells[owner]
            who = self._contest.participants[owner].ids[its.index].tolist()
            each = zip(who, its.column.tolist(), its.at.tolist(), its.first_blood.tolist(), strict=True)
            return Owners(solves={(id, ids[column]): Solve(rfc3339(at), blood) for id, column, at, blood in each})

        changed = {ids[column]: int(points[column]) for column in np.flatnonzero(point_deltas).tolist()}
        return Delta(Challenges(points=changed), solves(ParticipantKind.USERS), solves(ParticipantKind.TEAMS))

    def _compute_points(self) -> Ints:
        """The points of each challenge now."""
        solver_counts = zip(self._contest.challenges, self._solver_counts.tolist(), strict=True)
        return np.array(
            [challenge_points(c.initial, c.minimum, decay=self._competing, solves=n) for c, n in solver_counts],
            np.int64,
        )

    def _open(self) -> Segment:
        """The opening of a leaderboard, up to its entries."""
        challenges = [
            {"id": c.id, "title": c.title, "category": c.category, "points": points}
            for c, points in zip(self._contest.challenges, self._points.tolist(), strict=True)
        ]
        return Segment(text.leaderboard_opening(challenges), self._compressor)

    def documents(self) -> Iterator[tuple[str, Document]]:
        """The documents as they are now, by name."""
        for owner, ranking in self._rankings.items():
            name = leaderboard_key(owner, self._division_id)
            yield name, ranking.entries.document(self._opening, self._closing)
            name = timeline_key(owner, self._division_id)
            yield name, ranking.buckets.document(self._beginning, self._closing)


class Ranking:
    """The users, or the teams, of one board. The leaderboard has a row for each participant, the timeline one for each
    participant and bucket."""

    def __init__(
        self, contest: Contest, participants: Participants, members: Bools, compressor: zstandard.ZstdCompressor
    ) -> None:
        self._participants = participants
        self._members = members
        self._all = bool(members.all())
        self._scores: Ints = np.zeros(len(participants), np.int64)
        self.entries = ChunkedDocument(EntryRenderer(contest, participants), compressor)
        self.buckets = ChunkedDocument(BucketRenderer(participants), compressor)

    def of_members(self, cells: SolveChanges) -> SolveChanges:
        return cells if self._all else cells.where(self._members[cells.index])

    def change(self, cells: SolveChanges, points: Ints, point_deltas: Ints) -> PendingRender:
        """These cells are new; each challenge is now worth `points`, which is `point_deltas` more than before."""
        if self.entries.chunks:
            solvers = {column: self._members_who_solved(column) for column in np.flatnonzero(point_deltas).tolist()}
            touched = np.unique(np.concatenate([cells.index, *solvers.values()]))
            leaving = row_changes(-self._scores[touched], touched, count=-1)
        else:  # nothing is rendered yet: no participant had a solve, and now all are listed
            solvers = {}
            touched = np.flatnonzero(self._members)
            leaving = row_changes(touched[:0], touched[:0])

        timeline = []
        for column, indexes in solvers.items():
            self._scores[indexes] += point_deltas[column]
            at = self._participants.at[indexes * self._participants.columns + column]
            timeline.append(row_changes(at // BUCKET, indexes, points=point_deltas[column]))
        gain = points[cells.column]
        had = cells.before != NEVER
        np.add.at(self._scores, cells.index[~had], gain[~had])
        timeline.append(row_changes(cells.before[had] // BUCKET, cells.index[had], -gain[had], -1))
        timeline.append(row_changes(cells.at // BUCKET, cells.index, gain, 1))
        entering = row_changes(-self._scores[touched], touched, count=1)

        def render_both() -> None:
            self.entries.change(leaving, entering)
            self.buckets.change(*timeline)

        return render_both

    def _members_who_solved(self, column: int) -> Ints:
        """The members that have solved this challenge."""
        indexes = self._participants.solvers_of(column)
        return indexes[self._members[indexes]]
