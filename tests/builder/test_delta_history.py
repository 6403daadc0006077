"""Rings, as several builders make them in turn: from any version that a ring knows, its steps lead to the latest."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.backends.base import Head, SnapshotMetadata, StoredSnapshot
from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.delta_log import MAX_DELTA_BYTES, DeltaLog
from scoreboardd.board.document_names import ParticipantKind, delta_log_key, leaderboard_key
from scoreboardd.board.leaderboards import Leaderboards
from scoreboardd.board.scoreboard import Addition, ScoreboardState
from scoreboardd.board.source_rows import SourceRows, solves_of
from scoreboardd.builder.delta_history import DeltaHistory
from scoreboardd.builder.loader import ChangeSet, LoadResult
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from scoreboardd.system.compression import compressed, plain
from tests import oracle
from tests.board.histories import histories
from tests.contests import contests, to_rows
from tests.effort import examples


@dataclass
class Shelf:
    """The half of a vault that is read, and what was committed."""

    stored: StoredSnapshot = field(default_factory=lambda: StoredSnapshot(Head(None, None), None))
    views: dict[int, dict[int | None, Leaderboards]] = field(default_factory=dict)
    "Of every version committed in this epoch."

    async def load(self, have: Version | None) -> StoredSnapshot:
        return self.stored

    def put(self, version: Version, made: LoadResult, documents: dict[str, bytes]) -> None:
        if self.stored.head.version and self.stored.head.version.epoch != version.epoch:
            self.views.clear()
        metadata = SnapshotMetadata(made.digest, made.as_of, made.divisions)
        self.stored = StoredSnapshot(Head(version, metadata), list(documents.items()))
        self.views[version.number] = {
            id: document_text.parse_leaderboards(
                *(plain(documents[leaderboard_key(owner, id)]) for owner in ParticipantKind)
            )
            for id in (None, *metadata.divisions)
        }

    def delta_log(self, division: int | None = None) -> DeltaLog:
        assert self.stored.documents is not None
        return DeltaLog.parse(plain(dict(self.stored.documents)[delta_log_key(division)]))


def loaded(scoreboard: ScoreboardState, change_set: ChangeSet | None) -> LoadResult:
    return LoadResult(
        1.0,
        {},
        scoreboard.digest,
        documents=scoreboard.documents,
        divisions=scoreboard.roster.division_ids,
        change_set=change_set,
    )


class Node:
    """A builder: its own scoreboard, which it adds to where only solves are new, and its own chain."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.delta_history = DeltaHistory(shelf)  # type: ignore[arg-type]
        self.kept: tuple[SourceRows, ScoreboardState] | None = None

    def load(self, rows: SourceRows) -> LoadResult:
        if self.kept and self.kept[0].roster == rows.roster:
            known, scoreboard = self.kept
            old = {tuple(solve) for solve in known.solves.tolist()}
            if old <= {tuple(solve) for solve in rows.solves.tolist()}:
                since = scoreboard.digest
                news = ChangeSet(since, scoreboard.add(Addition(rows.solves)))
                self.kept = rows, scoreboard
                return loaded(scoreboard, news)
        self.kept = rows, ScoreboardState(rows)
        return loaded(self.kept[1], None)

    async def build(self, version: Version, rows: SourceRows, *, commit: bool = True) -> LoadResult:
        made = self.load(rows)
        delta_logs = await self.delta_history.delta_logs(version, made, self.shelf.stored.head.version)
        documents = {**made.documents, **delta_logs}
        if commit:
            self.shelf.put(version, made, {name: b"".join(each.frames()) for name, each in documents.items()})
        return made


def leads_here(shelf: Shelf) -> None:
    """From any version that the rings know."""
    assert shelf.stored.head.version is not None
    number = shelf.stored.head.version.number
    for division, now in shelf.views[number].items():
        for since, views in shelf.views.items():
            missed = shelf.delta_log(division).after(since)
            if missed is not None:
                view = views[division]
                for link in missed:
                    view = delta.apply(VersionedDelta.parse(link.data).delta, view)
                assert view == now


@st.composite
def growing(draw: st.DrawFn) -> list[SourceRows]:
    """A contest in which nothing happens but solves."""
    rows = to_rows(draw(contests()))
    upto = sorted(draw(st.lists(st.integers(0, len(rows.solves)), min_size=2, max_size=8)))
    return [SourceRows(rows.roster, rows.solves[:number]) for number in upto]


@given(histories(length=6).map(lambda history: list(map(to_rows, history))) | growing(), st.data())
@settings(max_examples=examples(60))
async def test_whoever_builds_and_whatever_fails(history: list[SourceRows], data: st.DataObject):
    shelf = Shelf()
    nodes = [Node(shelf) for _ in range(2)]
    last = None
    for number, rows in enumerate(history, start=1):
        node, fails = data.draw(st.tuples(st.sampled_from(nodes), st.booleans()), label=f"who builds {number}")
        before = shelf.stored
        await node.build(Version("e", number), rows, commit=not fails)
        if shelf.stored is not before:
            leads_here(shelf)
            # Nothing is missing but where there was nothing to go on from.
            assert last is None or shelf.delta_log().after(last) is not None
            last = number


async def test_what_was_built_again_alike_is_gone_on_from():
    shelf = Shelf()
    node = Node(shelf)
    first, second = (SourceRows(ROSTER, solves_of([(n, 1, 10, False) for n in range(1, upto + 1)])) for upto in (1, 2))
    await node.build(Version("e", 1), first)
    node.kept = None
    again = node.load(first)
    node.delta_history.renew(Version("e", 1), again)
    node.kept = None
    shelf.load = None  # type: ignore[method-assign]  # it need not be read
    made = await node.build(Version("e", 2), second)
    leads_here(shelf)
    assert shelf.delta_log().after(1) is not None
    assert made.change_set is None


async def run(*made: tuple[str, int, list[tuple[int, int]]], roster: Any) -> Shelf:
    """Builds of one node: epoch, number, and the (user, challenge) solved by then."""
    shelf = Shelf()
    node = Node(shelf)
    for epoch, number, solved in made:
        await node.build(Version(epoch, number), SourceRows(roster, solves_of([(*who, 10, False) for who in solved])))
    return shelf


ROSTER = to_rows(
    oracle.Tables(
        [],
        [oracle.User(1, "ada", "user", 1), oracle.User(2, "bob", "user", 2)],
        [oracle.Team(1, "one", 3), oracle.Team(2, "two", None)],
        [oracle.Challenge(1, "sums", "misc", 500, 100)],
        [oracle.Division(3, "students")],
    )
).roster


async def test_a_division_is_told_only_of_its_own():
    shelf = await run(("e", 1, []), ("e", 2, [(2, 1)]), roster=ROSTER)
    assert [b'"users"' in link.data for link in shelf.delta_log().entries] == [True]
    assert [link.data for link in shelf.delta_log(3).entries] == [b'{"from":1,"version":2}']


async def test_another_epoch_begins_with_nothing_behind_it():
    shelf = await run(("e", 1, []), ("e", 2, [(1, 1)]), ("f", 3, [(1, 1), (2, 1)]), roster=ROSTER)
    assert shelf.delta_log() == DeltaLog()


async def test_what_is_none_of_ours_is_not_gone_on_from():
    shelf = await run(("e", 1, []), roster=ROSTER)
    assert shelf.stored is not None
    for garbage in (b"garbage", compressed(b"garbage")):
        shelf.stored = StoredSnapshot(shelf.stored.head, [(name, garbage) for name, _ in shelf.stored.documents])
        await Node(shelf).build(Version("e", 2), SourceRows(ROSTER, solves_of([])))
        assert shelf.delta_log() == DeltaLog()


async def test_a_change_too_large_leaves_no_step():
    shelf = await run(("e", 1, []), roster=ROSTER)
    long = ROSTER.__class__(
        ROSTER.challenges, [ROSTER.teams[0]._replace(name="x" * MAX_DELTA_BYTES)], [], ROSTER.divisions
    )
    await Node(shelf).build(Version("e", 2), SourceRows(long, solves_of([])))
    assert shelf.delta_log().after(1) is None


async def test_a_ring_that_leads_elsewhere_is_not_gone_on_from():
    shelf = await run(("e", 1, []), ("e", 2, [(1, 1)]), roster=ROSTER)
    assert shelf.stored is not None
    shelf.stored = StoredSnapshot(
        Head(Version("e", 3), shelf.stored.head.metadata), shelf.stored.documents
    )  # by one without rings
    await Node(shelf).build(Version("e", 4), SourceRows(ROSTER, solves_of([])))
    assert [(step.since, step.number) for step in shelf.delta_log().entries] == [(3, 4)]
