"""The simulation can fail: it catches every mutant within the seeds named here, and the real one passes them all."""

import pytest

from tests.simulation.backends import ARCHIVED, BACKENDS, POSTGRES, REDIS
from tests.simulation.cluster import unlucky
from tests.simulation.mutants import MUTANTS
from tests.simulation.test_simulation import SEEDS
from tests.simulation.world import Violation

WITHIN = {
    REDIS.name: {
        "drops the change when the lock is busy": range(50),
        "does not resync when it subscribes again": range(900, 1000),
        "announces before it has refreshed": range(50),
        "has no max_wait": range(50),
        "lets anybody build next": range(50),
        "covers what was heard after the build began": range(50),
        "does not give back what an abandoned build covered": range(300, 400),
        "never looks after a dead holder": range(700, 800),
        "hears a message twice": range(50),
        "hears what is old": range(50),
        "does not see that the store went back": range(50),
        "believes the bus": range(50),
        "looks once for what was announced": range(900, 1000),
        "serves whatever is in the store": range(50),
        "waits for a lock for as long as it says": range(50),
        "mixes documents of two versions": range(50),
        "has no fence": range(50),
        "compares the token only": range(300, 400),
        "releases the lock by its key": range(50),
        "gives numbers out twice": range(600, 700),
        "reads from a replica that lags": range(50),
        "is the reference": range(50),
    },
    ARCHIVED.name: {
        "serves whatever is in the store": range(50),
        "does not tell of what it began from": range(100),
        "begins from what is kept when it has begun": range(400, 500),
        "keeps an older version": range(50),
    },
    POSTGRES.name: {
        "drops the change when the lock is busy": range(50),
        "does not resync when it subscribes again": range(100),
        "announces before it has refreshed": range(50),
        "has no max_wait": range(50),
        "lets anybody build next": range(50),
        "covers what was heard after the build began": range(50),
        "does not give back what an abandoned build covered": range(200, 300),
        "never looks after a dead holder": range(200, 300),
        "hears what is old": range(100),
        "does not see that the store went back": range(700, 800),
        "believes the bus": range(50),
        "looks once for what was announced": range(800, 900),
        "serves whatever is in the store": range(50),
        "waits for a lock for as long as it says": range(50),
        "has no fence": range(50),
        "compares the token only": range(200, 300),
        "releases the lock by its key": range(50),
        "gives numbers out twice": range(150),
        "reads from a replica that lags": range(50),
        "is the reference": range(50),
    },
}
"""Those that start late are found by one seed in hundreds: they need a message said again after an epoch has changed,
or a request for the lock that arrives twice, the second time after others have had it.

On Postgres no message comes twice, and documents are read from one snapshot."""
IN_PROMISES = {"looks after no builder while others begin", "reads everything only when idle"}
"What `test_promises` shows to be broken, in a cluster to which just that happens."


@pytest.mark.parametrize(("backend", "name"), [(backend, name) for backend in WITHIN for name in WITHIN[backend]])
def test_is_caught(backend: str, name: str):
    for seed in WITHIN[backend][name]:
        try:
            unlucky(seed, BACKENDS[backend], parts=MUTANTS[name])
        except Violation:
            return
    pytest.fail(f"on {backend}, a cluster that {name} passes {WITHIN[backend][name]}")


def test_every_mutant_is_looked_for():
    assert {name for within in WITHIN.values() for name in within} | IN_PROMISES == set(MUTANTS)


@pytest.mark.parametrize("backend", WITHIN)
def test_the_real_one_passes_them_all(backend: str):
    for seed in sorted({seed for seeds in WITHIN[backend].values() for seed in seeds if seed >= SEEDS[backend]}):
        unlucky(seed, BACKENDS[backend])
    # The others are among those that `test_simulation` runs.
