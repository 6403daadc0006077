"""Thousands of histories, in each of which everything goes wrong that can: nothing that must not be ever is, and in
the end everything comes true. `python -m tests.simulation SEEDS [FIRST]` runs more, and tells the history of one."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from tests.effort import EFFORT, examples
from tests.simulation import __main__ as command
from tests.simulation.backends import ARCHIVED, BACKENDS, LOCAL, POSTGRES, REDIS
from tests.simulation.cluster import unlucky

SEEDS = {
    REDIS.name: examples(200),
    ARCHIVED.name: examples(100),
    POSTGRES.name: examples(200),
    LOCAL.name: examples(200),
}
CHUNKS = 4
PROCESSES = 2

RARE = {
    "client at a node that is behind",
    "commit refused by the fence",
    "confirm by another node",
    "covered loser",
    "epoch change",
    "half-open subscription",
    "late lease reply",
    "reload after regress",
    "rollback detected",
    "takeover during a build",
    "uncovered loser",
}
"Paths that the runs of each backend must have taken."
RARE_ON = {
    REDIS.name: RARE,
    ARCHIVED.name: RARE | {"began from the archive", "older edition not kept"},
    POSTGRES.name: RARE | {"database taken back", "statement overtaken"},
    LOCAL.name: {"commit refused by the fence", "damaged documents found", "epoch change", "reload after regress"},
}
if EFFORT >= 5:
    RARE_ON[POSTGRES.name] |= {"committed by a statement that outlived the lock"}

BROKE = {
    42: "the store went back behind a version that a node had heard of and not loaded: it claimed to contain it",
    62: "a server that was taken back in time gave a number out twice",
    321: "a load that was under way while the store was taken back mixed two versions",
    388: "a node followed the store back to an older epoch, and still claimed to contain what that lacks",
    3241: "a server taken back twice to the same state passed over the same numbers both times",
    7322: "the beginning of a build, said again after an epoch had changed, counted as that of a new one",
}
"""Seeds that failed on Redis, and why. A change of the simulation changes what a seed does: look for new ones then,
with the faults put back in."""


def run(name: str, seeds: range) -> Counter[str]:
    return sum((unlucky(seed, BACKENDS[name]).sometimes for seed in seeds), Counter[str]())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_that_must_not_be_ever_is_and_all_comes_true_in_the_end(name: str):
    chunks = [range(first, SEEDS[name], CHUNKS) for first in range(CHUNKS)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        reached = sum(processes.map(partial(run, name), chunks), Counter[str]())
    assert [path for path in sorted(RARE_ON[name]) if not reached[path]] == []


@pytest.mark.parametrize("seed", BROKE, ids=str)
def test_what_once_broke(seed: int):
    unlucky(seed)


def test_a_seed_is_a_history():
    histories = [unlucky(7, recording=True).history for _ in range(2)]
    assert len(histories[0]) > 100
    assert histories[0] == histories[1]
    assert unlucky(7).history == []


def test_the_command_runs_seeds_on_every_backend_and_counts_the_paths(capsys: pytest.CaptureFixture[str]):
    assert command.main(["20", "100"]) == 0
    said = capsys.readouterr().out
    assert "80 of 80 runs" in said
    for name in BACKENDS:
        assert f"{name}, 20 seeds" in said
    assert "covered loser" in said


def test_the_command_runs_one_backend(capsys: pytest.CaptureFixture[str]):
    assert command.main(["20", "100", "--backend", "postgres"]) == 0
    said = capsys.readouterr().out
    assert "20 of 20 runs" in said
    assert "redis" not in said


def test_the_command_wants_numbers(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main(["many"])
    assert "seeds" in capsys.readouterr().err
