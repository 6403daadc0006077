"""The pure half of the page's JavaScript, under Node; that of `scoreboard.js` over vectors made and judged here."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.board.leaderboards import Leaderboards
from scoreboardd.board.rules import Rules
from scoreboardd.board.scoreboard import ScoreboardState
from scoreboardd.board.source_rows import Roster, SourceRows
from scoreboardd.render.text import parse_leaderboards
from tests import oracle
from tests.board.histories import histories
from tests.board.test_delta import leaderboards, view_of
from tests.board.test_rules import RULES, contests, text
from tests.effort import examples
from tests.external_tools import require

TESTS = Path(__file__).parent
PACKAGE = TESTS.parents[1] / "scoreboardd" / "frontend"


def test_its_own_tests_pass_over_these_vectors(tmp_path: Path):
    node = require("node")
    vectors = tmp_path / "vectors.json"
    vectors.write_bytes(orjson.dumps(_vectors()))
    ran = subprocess.run(
        [node, "--test", *sorted(TESTS.glob("*.test.js"))],
        env=os.environ | {"VECTORS": str(vectors)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_project_of_npm_s_imports_it_by_its_name(tmp_path: Path):
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "scoreboardd").symlink_to(PACKAGE)
    program = tmp_path / "program.mjs"
    program.write_text(
        "import { Scoreboard } from 'scoreboardd';\n"
        "console.log(new Scoreboard({ url: 'https://ctf.example.org/' }).state.status);\n"
        "process.exit();\n"
    )
    ran = subprocess.run([require("node"), program], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("connecting\n", "")


def _vectors() -> list[dict[str, list[str]]]:
    """Of each history the documents, by version from 0, and every step from one of them to a later one."""
    found: list[dict[str, list[str]]] = []

    @given(histories())
    @settings(max_examples=examples(50))
    def collect(history: list[oracle.Tables]) -> None:
        documents = [leaderboards(tables) for tables in history]
        found.append(
            {
                "users": [users.decode() for users, _ in documents],
                "teams": [teams.decode() for _, teams in documents],
                "steps": [step.data().decode() for step in _steps(list(map(view_of, history)))],
            }
        )

    @given(contests(), RULES, st.data())
    @settings(max_examples=examples(60))
    def collect_rules(rows: SourceRows, rules: Rules, data: st.DataObject) -> None:
        assert rows.adjustments is not None
        upto = sorted(data.draw(st.lists(st.integers(0, 14), min_size=2, max_size=4)))
        states = [
            ScoreboardState(SourceRows(_with_points(rows, data), rows.solves[:n], rows.adjustments[: n // 2]), rules)
            for n in upto
        ]
        documents = [tuple(text(state, leaderboard_key(kind)) for kind in ParticipantKind) for state in states]
        found.append(
            {
                "users": [users.decode() for users, _ in documents],
                "teams": [teams.decode() for _, teams in documents],
                "steps": [step.data().decode() for step in _steps([parse_leaderboards(*both) for both in documents])],
            }
        )

    collect()
    collect_rules()
    return found


def _with_points(rows: SourceRows, data: st.DataObject) -> Roster:
    points = st.sampled_from([0, 100, 50])
    challenges = [challenge._replace(initial=data.draw(points)) for challenge in rows.roster.challenges]
    return replace(rows.roster, challenges=challenges)


def _steps(views: list[Leaderboards]) -> Iterator[VersionedDelta]:
    singles = [VersionedDelta(number, number + 1, delta.diff(*pair)) for number, pair in enumerate(pairwise(views))]
    for number in range(len(singles)):
        yield from accumulate(singles[number:], VersionedDelta.then)
