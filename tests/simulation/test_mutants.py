"""The simulation can fail: it catches every mutant within the seeds named here, and the real one passes them all."""

import pytest

from tests.simulation.backends import ARCHIVED, BACKENDS, POSTGRES, REDIS
from tests.simulation.cluster import unlucky
from tests.simulation.mutants import MUTANTS
from tests.simulation.test_simulation import SEEDS
from tests.simulation.world import Violation

WITHIN = {
    REDIS.name: {
        "drops the change when the lock is busy": range(10),
        "does not resync when it subscribes again": range(350, 450),
        "announces before it has refreshed": range(10),
        "has no max_wait": range(100),
        "lets anybody build next": range(100),
        "covers what was heard after the build began": range(10),
        "does not give back what an abandoned build covered": range(200),
        "never looks after a dead holder": range(300),
        "hears a message twice": range(2000, 2100),
        "does not see that the store went back": range(100),
        "mixes documents of two versions": range(100),
        "has no fence": range(100),
        "compares the token only": range(30050, 30100),
        "releases the lock by its key": range(100),
        "gives numbers out twice": range(150, 250),
        "reads from a replica that lags": range(10),
        "subscribes to one channel after the other": range(100),
        "is the reference": range(10),
    },
    ARCHIVED.name: {
        "does not tell of what it began from": range(150),
        "begins from what is kept when it has begun": range(1800, 1850),
        "keeps an older version": range(100),
    },
    POSTGRES.name: {
        "drops the change when the lock is busy": range(10),
        "does not resync when it subscribes again": range(50),
        "announces before it has refreshed": range(10),
        "has no max_wait": range(150),
        "lets anybody build next": range(100),
        "covers what was heard after the build began": range(10),
        "does not give back what an abandoned build covered": range(100),
        "never looks after a dead holder": range(300, 400),
        "does not see that the store went back": range(200, 300),
        "has no fence": range(20),
        "compares the token only": range(1400, 1450),
        "releases the lock by its key": range(100),
        "gives numbers out twice": range(500, 600),
        "reads from a replica that lags": range(10),
        "subscribes to one channel after the other": range(100),
        "is the reference": range(10),
    },
}
"""Those that start late are found by one seed in thousands, or tens of thousands: they need a message said again after
an epoch has changed, or a request for the lock that arrives twice, the second time after others have had it.

On Postgres no message comes twice, and documents are read from one snapshot."""


@pytest.mark.parametrize(("backend", "name"), [(backend, name) for backend in WITHIN for name in WITHIN[backend]])
def test_is_caught(backend: str, name: str):
    for seed in WITHIN[backend][name]:
        try:
            unlucky(seed, BACKENDS[backend], parts=MUTANTS[name])
        except Violation:
            return
    pytest.fail(f"on {backend}, a cluster that {name} passes {WITHIN[backend][name]}")


def test_every_mutant_is_looked_for():
    assert {name for within in WITHIN.values() for name in within} == set(MUTANTS)


@pytest.mark.parametrize("backend", WITHIN)
def test_the_real_one_passes_them_all(backend: str):
    for seed in sorted({seed for seeds in WITHIN[backend].values() for seed in seeds if seed >= SEEDS[backend]}):
        unlucky(seed, BACKENDS[backend])
    # The others are among those that `test_simulation` runs.
