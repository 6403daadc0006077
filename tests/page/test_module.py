"""The pure half of the page's JavaScript, under Node; that of `scoreboard.js` over vectors made and judged here."""

import os
import subprocess
from pathlib import Path

import orjson
from hypothesis import given, settings

from scoreboardd.board import delta
from scoreboardd.board.delta import Step
from scoreboardd.edition import Event, Version
from tests import oracle
from tests.board.histories import histories
from tests.board.test_delta import leaderboards, view_of
from tests.parts import require

TESTS = Path(__file__).parent
SAID = Event("all", "submission_correct", "2026-02-27T18:00:00Z")


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


def _vectors() -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = []

    @given(histories())
    @settings(max_examples=150)
    def collect(history: list[oracle.Tables]) -> None:
        views = [view_of(tables) for tables in history]
        deltas = list(map(delta.diff, views, views[1:]))
        steps = [Step(number, Version("7f3a", number + 1), SAID, each) for number, each in enumerate(deltas)]
        documents = [leaderboards(tables) for tables in history]
        found.append(
            {
                "users": [users.decode() for users, _ in documents],
                "teams": [teams.decode() for _, teams in documents],
                "steps": [step.data().decode() for step in steps],
            }
        )
        if len(steps) > 1:  # and all at once
            whole = steps[0]
            for step in steps[1:]:
                whole = whole.then(step)
            last = {"users": documents[-1][0].decode(), "teams": documents[-1][1].decode()}
            whole = Step(0, Version("7f3a", 1), SAID, whole.delta)
            found.append(
                {
                    "users": [documents[0][0].decode(), last["users"]],
                    "teams": [documents[0][1].decode(), last["teams"]],
                    "steps": [whole.data().decode()],
                }
            )

    collect()
    return found
