"""A follower beside announcements: whatever increments cannot see is there with its own announcement."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoreboardd.board.scoreboard import ScoreboardState
from scoreboardd.builder.ledger import MEMORY_SECONDS
from scoreboardd.builder.loader import CommittedSnapshot, IncrementalLoader, LoadResult
from scoreboardd.builder.messages import Build
from scoreboardd.builder.timings import Timings
from scoreboardd.model import Version
from scoreboardd.platforms import tail
from scoreboardd.platforms.postgres import PostgresSource
from tests.board.expected import parsed, plain
from tests.contests import SCHEMA_SQL
from tests.effort import examples

CONTEST = """
INSERT INTO divisions VALUES (1, 'open');
INSERT INTO teams VALUES (1, 'engines', 1);
INSERT INTO users SELECT n, 'u' || n, 'user', 1 FROM generate_series(1, 300) n;
INSERT INTO challenges SELECT n, 'c' || n, 'web', 100, 10 FROM generate_series(1, 10) n;
INSERT INTO submissions SELECT 1000 + n, n, 1, true, false, '2026-02-27Z' FROM generate_series(1, 20) n;
INSERT INTO submissions SELECT 2000 + n, n, 1, false, false, '2026-02-27Z' FROM generate_series(1, 20) n;
"""
WINDOW = 5


class Node:
    """One node's follower, with a clock of its own."""

    def __init__(self, source: PostgresSource, store: "Shelf | None" = None) -> None:
        self.source = source
        self.now = 0.0
        self.follower = IncrementalLoader(source, lambda: self.now)
        self.store = store or Shelf()

    async def build(self, solves: int = 0, *, full: bool = False, announced: bool = False) -> LoadResult:
        request = Build(self.store.next(), quiet=False, full=full, solves=solves, announced=announced)
        made = await self.follower.load(Timings(), request, self.store.committed)
        self.store.committed = CommittedSnapshot(made.digest, made.full)
        return made


class Shelf:
    """What the store knows."""

    def __init__(self) -> None:
        self.number = 0
        self.committed: CommittedSnapshot | None = None

    def next(self) -> Version:
        self.number += 1
        return Version("e", self.number)


@pytest.fixture
async def contest(admin: Any, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The DSN of a contest of which the window of an increment shows a small part."""
    monkeypatch.setattr(tail, "TAIL_SOLVES", WINDOW)
    await admin.execute(SCHEMA_SQL(divisions=True))
    await admin.execute(CONTEST)
    return database


@pytest.fixture
async def node(contest: str) -> AsyncIterator[Node]:
    async with PostgresSource(contest, "smctf", statement_timeout=10) as source:
        yield Node(source)


async def solve(admin: Any, id: int, user: int = 30, challenge: int = 2) -> None:
    await admin.execute("INSERT INTO submissions VALUES ($1, $2, $3, true, false, '2026-02-28Z')", id, user, challenge)


async def is_true(node: Node, made: LoadResult) -> bool:
    """Whether it is what a whole read makes."""
    read = await node.source.read()
    return plain(ScoreboardState(read.rows)) == plain(made)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO submissions VALUES (1, 30, 1, true, false, '2026-02-28Z')",
        "INSERT INTO submissions VALUES (-7, 30, 1, true, false, '2026-02-28Z')",
        "UPDATE submissions SET correct = true, user_id = 30 WHERE id = 2001",
        "UPDATE submissions SET challenge_id = 3 WHERE id = 1001",
        "UPDATE submissions SET submitted_at = '2026-02-26Z' WHERE id = 1001",
        "DELETE FROM submissions WHERE id = 1001",
        "TRUNCATE submissions; INSERT INTO submissions VALUES (1, 30, 1, true, false, '2026-02-28Z')",
        "UPDATE users SET role = 'blocked' WHERE id = 1",
        "INSERT INTO users VALUES (500, 'new', 'user', 1)",
    ],
)
async def test_a_change_that_no_increment_sees_is_there_with_its_announcement(node: Node, admin, change: str):
    await node.build(full=True)
    await admin.execute(change)
    made = await node.build(solves=1)
    assert made.complete
    assert await is_true(node, made)


async def test_a_solve_that_an_increment_sees_costs_no_more(node: Node, admin):
    await node.build(full=True)
    for id in range(3000, 3010):
        await solve(admin, id, id - 2900)
        made = await node.build(solves=1)
        assert made.change_set is not None
        assert made.complete


async def test_solves_below_the_window_among_others_are_there(node: Node, admin):
    await node.build(full=True)
    for id in range(1, 20):
        await solve(admin, id, 100 + id)
        await solve(admin, 3000 + id, 200 + id)
        made = await node.build(solves=2)
        assert made.complete
        assert await is_true(node, made)


async def test_a_steady_stream_is_never_read_as_a_whole(node: Node, admin):
    """Fifty solves a second; each is announced up to half a second after its commit, and builds fall in between."""
    chance = random.Random(11)
    await node.build(full=True)
    due: list[float] = []
    committed = 0
    for _ in range(40):
        node.now += chance.uniform(0.3, 2.0)
        while committed < 50 * node.now:
            committed += 1
            await solve(admin, 3000 + committed, 1 + committed % 300, 1 + committed % 10)
            due.append(committed / 50 + chance.choice([0.001, 0.01, 0.5]))
        heard = [at for at in due if at <= node.now]
        due = [at for at in due if at > node.now]
        made = await node.build(solves=len(heard))
        assert made.change_set is not None
        assert made.complete


async def test_a_stream_that_was_there_before_is_not_owed(node: Node, admin):
    await admin.execute(
        "INSERT INTO submissions SELECT 3000 + n, n, 3, true, false, now() FROM generate_series(1, 10) n"
    )
    assert (await node.build(full=True)).complete
    made = await node.build(solves=10)
    assert made.change_set is not None
    assert made.complete


class TestComplete:
    async def test_is_not_what_lacks_an_announced_solve(self, node: Node, admin):
        await node.build(full=True)
        assert not (await node.build(solves=1)).complete  # announced before its commit
        assert not (await node.build()).complete
        await solve(admin, 3000)
        made = await node.build()
        assert made.complete
        assert made.change_set is not None

    async def test_is_not_what_shows_only_the_one_before(self, node: Node, admin):
        await node.build(full=True)
        await node.build(solves=1)
        for id in range(3000, 3005):
            await solve(admin, id, id - 2900)
            assert not (await node.build(solves=1)).complete
        await solve(admin, 3005)
        assert (await node.build()).complete

    async def test_is_what_nothing_was_announced_of(self, node: Node, admin):
        assert (await node.build(full=True)).complete
        await solve(admin, 3000)
        assert (await node.build()).complete
        assert (await node.build(full=True)).complete

    async def test_comes_back_in_time_if_there_is_no_such_solve(self, node: Node):
        await node.build(full=True)
        assert not (await node.build(solves=1)).complete
        node.now += MEMORY_SECONDS
        assert (await node.build()).complete

    async def test_is_not_a_change_that_changed_nothing(self, node: Node, admin):
        await node.build(full=True)
        assert not (await node.build(announced=True, full=True)).complete
        await solve(admin, 3000)
        assert not (await node.build(solves=1)).complete  # a solve is not what was announced
        await admin.execute("UPDATE users SET role = 'blocked' WHERE id = 1")
        assert (await node.build(full=True)).complete

    async def test_is_a_change_read_before_its_announcement(self, node: Node, admin):
        await node.build(full=True)
        await admin.execute("UPDATE users SET role = 'blocked' WHERE id = 1")
        assert (await node.build(full=True)).complete
        assert (await node.build(announced=True, full=True)).complete
        assert not (await node.build(announced=True, full=True)).complete

    async def test_is_the_first_build_unless_it_is_what_is_committed(self, node: Node, contest: str, admin):
        assert (await node.build(solves=1, announced=True, full=True)).complete
        async with PostgresSource(contest, "smctf", statement_timeout=10) as source:
            other = Node(source, node.store)
            assert not (await other.build(solves=1)).complete
            await solve(admin, 3000)
            assert (await other.build()).complete

    async def test_is_not_forgotten_by_a_read_that_failed(self, node: Node, admin):
        await node.build(full=True)
        await admin.execute("ALTER TABLE users RENAME TO people")
        with pytest.raises(Exception, match="users"):
            await node.build(solves=1)
        await admin.execute("ALTER TABLE people RENAME TO users")
        assert not (await node.build()).complete
        await solve(admin, 1)
        assert (await node.build()).complete


turns = st.lists(
    st.tuples(st.sampled_from(["low", "high", "old"]), st.booleans(), st.integers(0, 1), st.booleans()),
    min_size=4,
    max_size=25,
)


@given(turns=turns)
@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_one_node_found_no_other_hides_again(admin, contest: str, turns):
    """Two nodes in turns, over rows that no increment sees; not all are announced."""
    await admin.execute("TRUNCATE divisions, teams, users, challenges, submissions")
    await admin.execute(CONTEST)
    store = Shelf()
    async with (
        PostgresSource(contest, "smctf", statement_timeout=10) as one,
        PostgresSource(contest, "smctf", statement_timeout=10) as two,
    ):
        nodes = [Node(one, store), Node(two, store)]
        unheard = [0, 0]
        shown: set[Any] = set()
        for step, (what, announce, who, full) in enumerate(turns):
            if what == "old":
                await admin.execute("UPDATE submissions SET correct = true, user_id = $1 WHERE id = 2001", 50 + step)
            else:
                await solve(admin, step + (1 if what == "low" else 5000), 100 + step, 1 + step % 10)
            if announce:
                unheard = [number + 1 for number in unheard]
            made = await nodes[who].build(unheard[who], full=full)
            unheard[who] = 0
            now = _solved(made)
            if made.change_set is None:
                assert await is_true(nodes[who], made)
            # An update moves a solve to another user, which only a later whole read may show.
            assert {solve for solve in shown if solve[0] >= 100} <= now
            shown = now


def _solved(made: LoadResult) -> set[Any]:
    entries = parsed(plain(made))["leaderboard:users"]["entries"]
    return {(entry["user_id"], solve["challenge_id"]) for entry in entries for solve in entry["solves"]}
