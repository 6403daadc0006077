"""What it costs and how long it takes, in clusters to which one thing happens, or nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from scoreboardd.backends.base import Begun
from scoreboardd.cluster.coordinator import LOOK_AGAIN_SECONDS, Timing
from tests.simulation import faults
from tests.simulation.backends import ARCHIVED, BACKENDS, POSTGRES, Backend
from tests.simulation.cluster import CALM, FASTEST, SLOWEST, SOLVED, Cluster
from tests.simulation.faults import Faults
from tests.simulation.mutants import MUTANTS
from tests.simulation.node import Node
from tests.simulation.world import World

TIMING = Timing(debounce=0.3, max_wait=2.0, lock_ttl=10.0, reconcile=60.0)


CLUSTERS = {name: backend for name, backend in BACKENDS.items() if not backend.one_node}


@pytest.fixture(params=CLUSTERS.values(), ids=CLUSTERS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


def started(
    backend: Backend, seed: int, nodes: int, *, rates: bool = True, mutant: str | None = None, timing: Timing = TIMING
) -> Cluster:
    """A cluster that has its first documents, and whose builds are counted from now on."""
    world = World(seed)
    cluster = Cluster(world, timing, backend=backend, parts=MUTANTS[mutant] if mutant else None)
    for _ in range(nodes):
        cluster.start(world.random.uniform(SLOWEST, FASTEST) if rates else 1.0)
    world.run(10.0)
    assert {node.cache.version for node in cluster.nodes} == {cluster.store.data.version}
    cluster.judge.builds = 0
    return cluster


def run(cluster: Cluster, seconds: float) -> None:
    cluster.world.run(cluster.world.now + seconds)


def all_have(cluster: Cluster, content: int) -> bool:
    return all(node.content == content for node in cluster.nodes)


@pytest.mark.parametrize("seed", range(1))
def test_ten_thousand_events_in_five_seconds_on_five_nodes_are_three_builds(backend: Backend, seed: int):
    cluster = started(backend, seed, 5, rates=False)
    for number in range(10_000):
        cluster.world.after(number * 5 / 10_000, cluster.solve)
    run(cluster, 5 + cluster.bounds.fresh)
    assert all_have(cluster, 10_000)
    assert cluster.judge.builds <= cluster.bounds.builds(5.0, [1.0]) == 3


@pytest.mark.parametrize("nodes", range(1, 8))
def test_one_event_is_one_build_however_many_nodes_hear_it(backend: Backend, nodes: int):
    cluster = started(backend, nodes, nodes)
    cluster.solve()
    run(cluster, TIMING.debounce / SLOWEST + CALM)
    assert all_have(cluster, 1)
    run(cluster, 1.2 * TIMING.lock_ttl)
    assert cluster.judge.builds == 1


class Laborious(Faults):
    """Nothing goes wrong, but a build takes longer than the debounce."""

    def building(self, random: Random) -> float:
        return 1.2


@pytest.mark.parametrize("builds", [Faults, Laborious])
@pytest.mark.parametrize("nodes", [2, 5])
def test_who_made_the_last_version_makes_the_next(backend: Backend, nodes: int, builds: type[Faults]):
    cluster = started(backend, nodes, nodes, rates=False)
    cluster.faults = builds()
    cluster.judge.handovers = cluster.judge.commits = 0
    for number in range(600):
        cluster.world.after(number / 20, cluster.solve)
    run(cluster, 30 + cluster.bounds.fresh)
    for _ in range(20):
        cluster.solve()
        run(cluster, cluster.world.random.uniform(0.0, 4.0))
    assert cluster.judge.commits > 20
    assert cluster.judge.handovers == 0


@pytest.mark.parametrize("events", [1, 200])
@pytest.mark.parametrize(
    "away", [Node.crash, partial(Node.freeze, seconds=60.0, with_child=True)], ids=["dead", "frozen"]
)
def test_without_the_node_that_made_the_last_version_the_others_are_a_handicap_later(
    backend: Backend, events: int, away: Callable[[Node], None]
):
    cluster = started(backend, 1, 4, rates=False)
    (maker,) = [node for node in cluster.nodes if node.coordinator.served == node.coordinator._own_version]
    away(maker)
    cluster.nodes.remove(maker)
    for number in range(events):
        cluster.world.after(number / 20, cluster.solve)
    run(cluster, (TIMING.debounce if events == 1 else TIMING.max_wait) + TIMING.non_builder_delay - 0.001)
    assert cluster.judge.builds == 0
    run(cluster, 0.01)
    assert cluster.judge.builds == 1
    run(cluster, CALM)
    assert all(node.content > 0 for node in cluster.nodes)


@pytest.mark.parametrize("nodes", [1, 5])
def test_an_endless_stream_starves_nobody(backend: Backend, nodes: int):
    cluster = started(backend, nodes, nodes)
    late = []

    def look(database: int) -> None:
        late.extend(node for node in cluster.nodes if node.content < database)

    def solve() -> None:
        cluster.solve()
        cluster.world.after(cluster.bounds.fresh, look, cluster.database)

    for number in range(1200):
        cluster.world.after(number / 20, solve)
    run(cluster, 60 + cluster.bounds.fresh)
    assert all_have(cluster, 1200)
    assert late == []


def test_an_idle_cluster_looks_into_the_database_once_a_period_and_not_once_a_node(backend: Backend):
    cluster = started(backend, 1, 4, rates=False)
    version = cluster.store.data.version
    run(cluster, 10 * TIMING.reconcile)
    assert 9 <= cluster.judge.builds <= 12
    assert cluster.store.data.version == version


@pytest.mark.parametrize(("mutant", "found"), [(None, True), ("reads everything only when idle", False)])
@pytest.mark.parametrize("nodes", [1, 4])
def test_a_change_that_is_hidden_from_increments_is_found_though_solves_never_stop(
    backend: Backend, nodes: int, mutant: str | None, found: bool
):
    cluster = started(backend, nodes, nodes, mutant=mutant)
    cluster.faults.hidden = 1.0
    cluster.commit_in_silence()
    cluster.faults.hidden = 0.0
    longest = (TIMING.reconcile + TIMING.lock_ttl) / SLOWEST + CALM
    for number in range(int(longest / 1.5)):
        cluster.world.after(number * 1.5, cluster.solve, SOLVED)
    run(cluster, longest)
    assert all(node.content > 0 for node in cluster.nodes) == found


@pytest.mark.parametrize(("mutant", "found"), [(None, True), ("looks after no builder while others begin", False)])
def test_somebody_who_announces_builds_without_end_holds_up_nothing(backend: Backend, mutant: str | None, found: bool):
    cluster = started(backend, 3, 3, mutant=mutant)
    fence = cluster.store.data.fence
    assert fence is not None
    for number in range(1, 600):
        begun = Begun(replace(fence, number=fence.number + number))
        cluster.world.after(number * 0.1, cluster.bus.publish, begun)
    run(cluster, 1.0)
    cluster.solve()
    run(cluster, (TIMING.lock_ttl + TIMING.max_wait + 2 * TIMING.debounce) / SLOWEST + CALM)
    assert all_have(cluster, 1) == found


def test_one_number_that_was_never_given_out_causes_no_builds(backend: Backend):
    cluster = started(backend, 5, 3, rates=False)
    fence = cluster.store.data.fence
    assert fence is not None
    cluster.solve()
    run(cluster, 0.1)
    cluster.bus.publish(Begun(replace(fence, number=999_999_999_999_999_999)))
    for number in range(25):
        cluster.world.after(number, cluster.solve)
    run(cluster, 25.0 + TIMING.lock_ttl + CALM)
    assert all_have(cluster, 26)
    assert cluster.judge.builds <= 2 * 26


@pytest.mark.parametrize("early", [0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("others", [0, 6])
def test_a_solve_that_is_published_before_it_is_committed_is_looked_for(backend: Backend, early: float, others: int):
    cluster = started(backend, 2, 3, rates=False)
    cluster.publish(SOLVED)
    for number in range(others):
        cluster.world.after(early * number / others, cluster.solve, SOLVED)
    run(cluster, early)
    assert all(node.coordinator.stale for node in cluster.nodes)
    cluster.commit_in_silence()
    run(cluster, LOOK_AGAIN_SECONDS[-1] + CALM)
    assert all_have(cluster, others + 1)
    run(cluster, sum(LOOK_AGAIN_SECONDS))
    assert not any(node.coordinator.stale for node in cluster.nodes)


def test_an_announcement_of_which_nothing_is_visible_costs_a_few_quiet_builds(backend: Backend):
    cluster = started(backend, 2, 3, rates=False)
    cluster.publish(SOLVED)
    run(cluster, 1.0)
    version = cluster.store.data.version
    run(cluster, 2 * sum(LOOK_AGAIN_SECONDS))
    assert cluster.judge.builds == 1 + len(LOOK_AGAIN_SECONDS)
    assert cluster.store.data.version == version
    assert not any(node.coordinator.stale for node in cluster.nodes)


def test_documents_that_are_damaged_are_committed_again_when_a_node_needs_them(backend: Backend):
    cluster = started(backend, 2, 2, rates=False)
    cluster.solve()
    run(cluster, TIMING.max_wait)
    for name in cluster.store.data.documents:
        cluster.store.data.documents[name] = "garbage"
    before = cluster.store.data.version
    late = cluster.start()
    run(cluster, 5.0)
    assert before is not None
    assert cluster.store.data.version not in (None, before)
    assert late.content == 1
    assert all_have(cluster, 1)


def test_a_change_that_nobody_published_is_found(backend: Backend):
    cluster = started(backend, 1, 3)
    cluster.commit_in_silence()
    run(cluster, 1.25 * TIMING.reconcile / SLOWEST + CALM)
    assert all_have(cluster, 1)


@pytest.mark.parametrize("seed", range(10))
def test_the_others_take_over_from_a_holder_that_dies(backend: Backend, seed: int):
    cluster = started(backend, seed, 3)
    cluster.solve()
    while not (holders := [node for node in cluster.nodes if node.coordinator.lease]):
        run(cluster, 0.001)
    holders[0].crash()
    cluster.nodes.remove(holders[0])
    run(cluster, (TIMING.lock_ttl + 2 * TIMING.debounce) / SLOWEST + CALM)
    assert all_have(cluster, 1)
    assert cluster.judge.builds == 2


def test_a_database_that_is_down_is_asked_ever_more_seldom_and_its_return_is_noticed(backend: Backend):
    cluster = started(backend, 1, 3, rates=False)
    for node in cluster.nodes:
        node.blind_until = cluster.world.now + 600
    cluster.solve()
    run(cluster, 600)
    # A pause is at least half of the longest, and a read that fails takes time as well.
    assert cluster.judge.builds <= 3 * (600 / (TIMING.backoff_max / 2) + 5)
    run(cluster, 30 + TIMING.backoff_max + CALM)
    assert all_have(cluster, 1)


def test_a_store_that_lost_everything_starts_a_new_epoch(backend: Backend):
    cluster = started(backend, 1, 3)
    before = cluster.store.data.version
    cluster.flush()
    cluster.solve()
    run(cluster, TIMING.debounce / SLOWEST + CALM)
    after = cluster.store.data.version
    assert before is not None
    assert after is not None
    assert before.epoch != after.epoch
    assert all(node.told == after for node in cluster.nodes)


def test_a_store_that_restarts_with_all_it_had_keeps_epoch_and_version(backend: Backend):
    cluster = started(backend, 1, 3)
    before = cluster.store.data.version
    cluster.restart_store(None)
    run(cluster, cluster.bounds.told)
    assert cluster.store.data.version == before
    cluster.solve()
    run(cluster, TIMING.debounce / SLOWEST + CALM)
    after = cluster.store.data.version
    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch
    assert after.number > before.number
    # Where another run begins, numbers may have been forgotten, and are passed over.
    assert (after.number - before.number > 1000) == backend.restarts_as_another


def test_a_node_that_starts_while_the_store_is_down_begins_from_what_is_kept():
    cluster = started(ARCHIVED, 1, 2)
    cluster.solve()
    run(cluster, TIMING.max_wait + cluster.keep_every / SLOWEST)
    before = cluster.store.data.version
    cluster.restart_store("empty", away=60.0)
    late = cluster.start()
    client = cluster.come(late)
    run(cluster, 1.0)
    assert late.cache.version == late.told == client.told == before
    assert late.content == client.content == 1
    run(cluster, 60.0 + cluster.bounds.told)
    after = cluster.store.data.version
    assert before is not None
    assert after is not None
    assert after.epoch != before.epoch
    assert all(node.told == after for node in cluster.nodes)
    assert client.told == after


@pytest.mark.parametrize("silently", [False, True])
def test_what_a_failover_takes_back_is_gone_from_the_board(silently: bool):
    cluster = started(POSTGRES, 1, 3)
    cluster.solve()
    run(cluster, TIMING.max_wait / SLOWEST + CALM)
    replica = cluster.dump()
    cluster.solve()
    run(cluster, TIMING.max_wait / SLOWEST + CALM)
    assert all_have(cluster, 2)
    before = cluster.store.data.version
    cluster.restart_store(replica, silently=silently)
    run(cluster, cluster.bounds.told)
    after = cluster.store.data.version
    assert all_have(cluster, 1)
    assert before is not None
    assert after is not None
    assert after.epoch != before.epoch


def test_a_failover_that_loses_nothing_is_another_server_in_the_same_epoch():
    cluster = started(POSTGRES, 1, 3)
    before = cluster.store.data.version
    faults.fail_over_in_step(cluster)
    run(cluster, cluster.bounds.told)
    assert cluster.store.data.version == before
    cluster.solve()
    run(cluster, TIMING.debounce / SLOWEST + CALM)
    after = cluster.store.data.version
    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch
    assert after.number - before.number > 1000


def test_a_database_that_publishes_by_itself_leaves_nothing_to_be_found():
    cluster = started(POSTGRES, 1, 3)
    cluster.triggers = True
    for _ in range(200):
        cluster.change()
        run(cluster, cluster.bounds.fresh)
        assert all_have(cluster, cluster.database)
    assert not cluster.missed
