"""The short form of `make chaos`: real processes, real servers, each kind of fault once."""

import random

import pytest

from tests.chaos import faults
from tests.chaos.world import world


@pytest.mark.timeout(180)
async def test_the_invariants_hold_under_fire():
    async with world(3, seed=7) as it:
        await faults.run(it, faults.SHORT, random.Random(7))
    assert not it.history.violations, it.history.report()
    assert it.history.told > 0
