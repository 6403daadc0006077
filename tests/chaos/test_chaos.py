"""The short form of `make chaos`: real processes, real servers, and the faults that differ most, each once."""

import random

import pytest

from tests.chaos import faults
from tests.chaos.world import ArchivedWorld, LocalWorld, PostgresWorld, World, cluster

REDIS = [
    faults.kill_a_node,
    faults.freeze_a_node,
    faults.kill_valkey,
    faults.flushall,
    faults.restart_postgres,
    faults.kill_all_nodes_and_valkey,
]
POSTGRES = [
    faults.kill_a_node,
    faults.freeze_a_node,
    faults.kill_postgres,
    faults.truncate_our_table,
    faults.terminate_our_sessions,
    faults.take_our_rows_back_in_time,
    faults.change_our_rows_slowly,
]


LOCAL = [
    faults.kill_a_node,
    faults.freeze_a_node,
    faults.kill_the_builder,
    faults.kill_postgres,
    faults.delete_the_file,
    faults.damage_the_file,
    faults.kill_the_node_and_damage_the_file,
    faults.take_the_file_back_in_time,
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("kind", "size", "befall"),
    [(ArchivedWorld, 3, REDIS), (PostgresWorld, 3, POSTGRES), (LocalWorld, 1, LOCAL)],
    ids=["redis", "postgres", "local"],
)
async def test_the_invariants_hold_under_fire(kind: type[World], size: int, befall: list[faults.Fault]):
    world = kind()
    async with cluster(world, size, seed=7):
        await faults.run(world, befall, random.Random(7))
    assert not world.history.violations, world.history.report()
    assert world.history.told > 0
