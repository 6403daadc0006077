"""The standings of everyone, or of one division: the points of each challenge, the score of each participant, and the
four documents.

A change has two steps, and the contest changes between them: `change` computes with the facts before and after, and the
function that it returns renders the contest as it then is.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import zstandard

from scoreboardd.board.contest import ALWAYS, NEVER, Bools, Contest, Ints, Participants, SolveChanges
from scoreboardd.board.delta import Challenges, Delta, Owners
from scoreboardd.board.document_names import BUCKET, ParticipantKind, leaderboard_key, timeline_key
from scoreboardd.board.leaderboards import Adjustment, Solve
from scoreboardd.board.order import Listing, Order
from scoreboardd.board.rules import Facts, PointsRule, Rules, given, smctf
from scoreboardd.board.source_rows import Adjustments
from scoreboardd.board.times import rfc3339
from scoreboardd.render import text
from scoreboardd.render.chunked_document import (
    ADJUSTED_ROW,
    ROW,
    TIED_ROW,
    ChunkedDocument,
    Document,
    Rows,
    Segment,
    row_changes,
)
from scoreboardd.render.rows import BucketRenderer, EntryRenderer

POINTS: Mapping[str, PointsRule] = {"given": given.points, "smctf": smctf.points}
"The rules for the points of challenges, by the name that a platform gives."
PARTICIPANTS_PER_STEP = 4096
"Participants whose last rows are looked for at once: their cells fit into the processor's cache."

PendingRender = Callable[[], None]


class Change(NamedTuple):
    """What solves change on a board."""

    print: PendingRender
    "To be called once the contest has changed."
    delta: Callable[[], Delta]
    "Computes what a client gets."


class Changed(NamedTuple):
    """What the last change changed in a ranking; participants as indexes."""

    entered: Ints
    "Those that are listed now and were not."
    left: Ints
    "Those that were listed and are not now."
    adjusted: Ints
    "Those with other adjustments."
    cells: SolveChanges


class Standings:
    """One board: of a division and its members alone, or of everyone."""

    def __init__(
        self,
        contest: Contest,
        rules: Rules,
        division_id: int | None,
        compressor: zstandard.ZstdCompressor,
        *,
        adjusted: bool,
    ) -> None:
        """`adjusted`: the platform has adjustments."""
        self._contest = contest
        self._rules = rules
        self._division_id = division_id
        self._compressor = compressor
        members = contest.members(division_id)
        self._rankings = {
            owner: Ranking(contest, contest.participants[owner], members[owner], rules, compressor, adjusted=adjusted)
            for owner in ParticipantKind
        }
        teams = contest.team_of[members[ParticipantKind.USERS]]
        self._competing = len(np.unique(teams[teams >= 0]))
        self._solver_counts: Ints = np.zeros(len(contest.challenges), np.int64)
        self._points = self._compute_points()
        self._opening = self._open()
        self._beginning = Segment(text.TIMELINE, compressor)
        self._closing = Segment(text.END, compressor)

    def change(
        self, solve_changes: Mapping[ParticipantKind, SolveChanges], adjustments: Mapping[ParticipantKind, Adjustments]
    ) -> Change:
        mine = {owner: self._rankings[owner].of_members(cells) for owner, cells in solve_changes.items()}
        teams = mine[ParticipantKind.TEAMS]
        self._solver_counts += np.bincount(teams.column[teams.before == NEVER], minlength=len(self._solver_counts))
        before, points = self._points, self._compute_points()
        self._points = points
        point_deltas = points - before
        pending = [
            self._rankings[owner].change(cells, adjustments[owner], points, point_deltas)
            for owner, cells in mine.items()
        ]

        def render_all() -> None:
            if point_deltas.any():
                self._opening = self._open()
            for each in pending:
                each()

        return Change(render_all, lambda: self._delta(points, point_deltas))

    def _delta(self, points: Ints, point_deltas: Ints) -> Delta:
        ids = [challenge.id for challenge in self._contest.challenges]
        changed = {ids[column]: int(points[column]) for column in np.flatnonzero(point_deltas).tolist()}
        users, teams = (self._rankings[owner].delta(ids) for owner in ParticipantKind)
        return Delta(Challenges(points=changed), users, teams)

    def _compute_points(self) -> Ints:
        """The points of each challenge now."""
        return POINTS[self._rules.points](Facts(self._contest.challenges, self._solver_counts, self._competing))

    def _open(self) -> Segment:
        """The opening of a leaderboard, up to its entries."""
        challenges = [
            {"id": c.id, "title": c.title, "category": c.category, "points": points}
            for c, points in zip(self._contest.challenges, self._points.tolist(), strict=True)
        ]
        return Segment(text.leaderboard_opening(challenges, self._rules.order), self._compressor)

    def documents(self) -> Iterator[tuple[str, Document]]:
        """The documents as they are now, by name."""
        for owner, ranking in self._rankings.items():
            name = leaderboard_key(owner, self._division_id)
            yield name, ranking.entries.document(self._opening, self._closing)
            name = timeline_key(owner, self._division_id)
            yield name, ranking.buckets.document(self._beginning, self._closing)


class Ranking:
    """The users, or the teams, of one board. The leaderboard has a row for each listed participant, the timeline one
    for each participant and bucket."""

    def __init__(
        self,
        contest: Contest,
        participants: Participants,
        members: Bools,
        rules: Rules,
        compressor: zstandard.ZstdCompressor,
        *,
        adjusted: bool,
    ) -> None:
        self._participants = participants
        self._members = members
        self._all = bool(members.all())
        self._rules = rules
        self._is_tied = rules.order is not Order.STATIC
        size = len(participants)
        self._scores: Ints = np.zeros(size, np.int64)
        self._points: Ints = np.zeros(participants.columns, np.int64)
        self._last_at: Ints = np.full(size, ALWAYS, np.int64)
        self._last_sequence: Ints = np.full(size, ALWAYS, np.int64)
        self._listed: Bools = np.zeros(size, np.bool_)
        self._is_empty = True
        self._changed: Changed | None = None
        self.entries = ChunkedDocument(
            EntryRenderer(contest, participants), compressor, TIED_ROW if self._is_tied else ROW
        )
        self._bucket_row = ADJUSTED_ROW if adjusted else ROW
        self.buckets = ChunkedDocument(BucketRenderer(participants), compressor, self._bucket_row)

    def of_members(self, cells: SolveChanges) -> SolveChanges:
        return cells if self._all else cells.where(self._members[cells.index])

    def change(self, cells: SolveChanges, adjustments: Adjustments, points: Ints, point_deltas: Ints) -> PendingRender:
        """These cells and adjustments are new; each challenge is now worth `points`, which is `point_deltas` more than
        before."""
        if not self._all:
            adjustments = adjustments[self._members[adjustments["index"]]]
        is_first = self._is_empty
        if is_first:  # no participant had a solve, and all may be listed now
            self._is_empty = False
            solvers = {}
            touched = np.flatnonzero(self._members)
        else:
            solvers = {column: self._members_who_solved(column) for column in np.flatnonzero(point_deltas).tolist()}
            touched = np.unique(np.concatenate([cells.index, adjustments["index"], *solvers.values()]))
        leaving = self._rows(touched, count=-1)

        timeline = []
        for column, indexes in solvers.items():
            self._scores[indexes] += point_deltas[column]
            at = self._participants.at[indexes * self._participants.columns + column]
            timeline.append(self._buckets(at, indexes, points=point_deltas[column]))
        gain = points[cells.column]
        had = cells.before != NEVER
        np.add.at(self._scores, cells.index[~had], gain[~had])
        timeline.append(self._buckets(cells.before[had], cells.index[had], points=-gain[had], count=-1, solves=-1))
        timeline.append(self._buckets(cells.at, cells.index, points=gain, count=1, solves=1))
        np.add.at(self._scores, adjustments["index"], adjustments["points"])
        timeline.append(self._buckets(adjustments["at"], adjustments["index"], points=adjustments["points"], count=1))
        self._points = points

        def render_both() -> None:
            was_listed = self._listed[touched]
            self._find_last_rows(touched)
            is_listed = self._listed[touched]
            if not is_first:
                self._changed = Changed(
                    entered=touched[is_listed & ~was_listed],
                    left=touched[was_listed & ~is_listed],
                    adjusted=np.unique(adjustments["index"]),
                    cells=cells,
                )
            self.entries.change(leaving, self._rows(touched, count=1))
            self.buckets.change(*timeline)

        return render_both

    def delta(self, challenge_ids: list[int]) -> Owners:
        """What the last change changed, for a client. A board has no delta that leads to its first state."""
        changed, participants = self._changed, self._participants
        assert changed is not None
        ids, cells = participants.ids, changed.cells
        is_stable = self._listed[cells.index] & ~np.isin(cells.index, changed.entered)
        solves = self._solves(cells.where(is_stable), challenge_ids)
        if len(changed.entered):
            solves |= self._solves(self._cells_of(changed.entered), challenge_ids)
        adjusted = np.unique(np.concatenate([changed.adjusted, changed.entered]))
        adjustments = participants.adjustments
        bounds = np.searchsorted(adjustments["index"], adjusted), np.searchsorted(adjustments["index"], adjusted + 1)
        return Owners(
            put={int(ids[index]): participants.names[index] for index in changed.entered.tolist()},
            drop=frozenset(ids[changed.left].tolist()),
            solves=solves,
            adjustments={
                int(ids[index]): tuple(
                    Adjustment(rfc3339(at), points, sequence)
                    for _, at, sequence, points in adjustments[start:end].tolist()
                )
                for index, start, end in zip(adjusted.tolist(), *(bound.tolist() for bound in bounds), strict=True)
                if self._listed[index] and start < end
            },
        )

    def _solves(self, cells: SolveChanges, challenge_ids: list[int]) -> dict[tuple[int, int], Solve | None]:
        ids = self._participants.ids[cells.index].tolist()
        has_sequence = self._participants.sequence is not None
        columns = (cells.column, cells.at, cells.first_blood, cells.sequence)
        each = zip(ids, *(values.tolist() for values in columns), strict=True)
        return {
            (id, challenge_ids[column]): Solve(rfc3339(at), first_blood, sequence if has_sequence else None)
            for id, column, at, first_blood, sequence in each
        }

    def _cells_of(self, indexes: Ints) -> SolveChanges:
        """All solved cells of these participants."""
        participants = self._participants
        cell = (indexes[:, None] * participants.columns + np.arange(participants.columns)).ravel()
        cell = cell[participants.at[cell] != NEVER]
        index, column = np.divmod(cell, max(participants.columns, 1))
        sequence = participants.sequence[cell] if participants.sequence is not None else np.zeros_like(cell)
        at, blood = participants.at[cell], participants.first_blood[cell]
        return SolveChanges(cell, index, column, at, at, blood, sequence)

    def _rows(self, indexes: Ints, *, count: int) -> Rows:
        """Rows of the leaderboard for those of the participants that are listed now."""
        indexes = indexes[self._listed[indexes]]
        ties = {"last_at": self._last_at[indexes], "last_sequence": self._last_sequence[indexes]}
        return row_changes(
            TIED_ROW if self._is_tied else ROW,
            indexes,
            sort_key=-self._scores[indexes],
            count=count,
            **(ties if self._is_tied else {}),
        )

    def _buckets(self, at: Ints, indexes: Ints, *, points: Ints, count: int = 0, solves: int = 0) -> Rows:
        columns = {"solves": solves} if self._bucket_row is ADJUSTED_ROW else {}
        return row_changes(self._bucket_row, indexes, sort_key=at // BUCKET, points=points, count=count, **columns)

    def _find_last_rows(self, touched: Ints) -> None:
        """Update who of these participants is listed, and what breaks ties between them."""
        rules = self._rules
        if rules.listing is Listing.ALL:
            self._listed[touched] = True
            if not self._is_tied:
                return
        for start, end in pairwise([*range(0, len(touched), PARTICIPANTS_PER_STEP), len(touched)]):
            self._find_last_rows_of(touched[start:end])

    def _find_last_rows_of(self, indexes: Ints) -> None:
        participants, rules = self._participants, self._rules
        shape = len(participants), participants.columns
        at = participants.at.reshape(shape)[indexes]
        solved = at != NEVER
        counted = solved & (self._points != 0)
        last_at = np.where(counted, at, ALWAYS).max(axis=1, initial=ALWAYS)
        last_sequence = np.full(len(indexes), ALWAYS)
        is_counted = counted.any(axis=1)
        if rules.order is Order.LAST_ROW or rules.listing is Listing.COUNTED:
            if participants.sequence is not None:
                sequence = participants.sequence.reshape(shape)[indexes]
                last_sequence = np.where(counted, sequence, ALWAYS).max(axis=1, initial=ALWAYS)
            adjustments = participants.adjustments[participants.adjustments["points"] != 0]
            place = np.full(shape[0], -1)
            place[indexes] = np.arange(len(indexes))
            rows = place[adjustments["index"]]
            adjustments, rows = adjustments[rows >= 0], rows[rows >= 0]
            is_counted[rows] = True
            if rules.order is Order.LAST_ROW:
                np.maximum.at(last_at, rows, adjustments["at"])
                np.maximum.at(last_sequence, rows, adjustments["sequence"])
        self._last_at[indexes] = last_at
        self._last_sequence[indexes] = last_sequence if rules.order is Order.LAST_ROW else 0
        if rules.listing is not Listing.ALL:
            self._listed[indexes] = is_counted if rules.listing is Listing.COUNTED else solved.any(axis=1)

    def _members_who_solved(self, column: int) -> Ints:
        """The members that have solved this challenge."""
        indexes = self._participants.solvers_of(column)
        return indexes[self._members[indexes]]
