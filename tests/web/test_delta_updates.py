"""What a feed of deltas says, before anyone sends it."""

import random

import pytest

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.delta_log import MAX_ENTRIES
from scoreboardd.board.document_names import ParticipantKind, delta_log_key, leaderboard_key
from scoreboardd.model import Snapshot, Version
from scoreboardd.stream.delta_updates import DeltaUpdate, DeltaUpdates, merged, spread
from tests.snapshots import snapshot
from tests.web.follower import delta_event, reset_event, solves
from tests.web.server import version

HISTORY = solves(range(1, 301))
NEWEST = version(300)


def steps(served: Snapshot, *, most: int = 16, clients: int = 0, division_id: int | None = None) -> DeltaUpdate:
    return DeltaUpdate(served, division_id, max_deltas=most, count_clients=lambda: clients)


def test_one_step_is_the_step_as_it_is_in_the_ring() -> None:
    frame = steps(HISTORY.snapshot(NEWEST)).since(version(299))
    (link,) = HISTORY.delta_log(NEWEST, 1).entries
    assert frame.payload == delta_event(NEWEST, link.data)
    assert (frame.version, frame.events) == (NEWEST, 1)


def test_several_are_one_event_each() -> None:
    frame = steps(HISTORY.snapshot(NEWEST)).since(version(284))
    assert frame.payload == HISTORY.events(284, 300)
    assert frame.events == 16


@pytest.mark.parametrize("number", [1, 44, 45, 100, 172, 173, 236, 237, 268, 269, 283])
def test_more_than_may_wait_for_a_client_are_one(number: int) -> None:
    frame = steps(HISTORY.snapshot(NEWEST)).since(version(number))
    assert frame.events == frame.payload.count(b"event: delta") == 1
    head, data = frame.payload.removesuffix(b"\n\n").split(b"\ndata: ")
    assert head == b"id: 7f3a-300\nevent: delta"
    step = VersionedDelta.parse(data)
    assert step.since <= number and step.number == 300
    assert number - step.since < 300 - number, "no more than as much again"
    assert delta.apply(step.delta, HISTORY.views[version(number)]) == HISTORY.views[NEWEST]


def test_to_merge_them_is_to_compose_them_in_order() -> None:
    entries = HISTORY.delta_log(NEWEST).entries
    for count in (1, 2, 3, 7, 32, len(entries)):
        whole = VersionedDelta.parse(entries[-count].data)
        for link in entries[len(entries) - count + 1 :]:
            whole = whole.then(VersionedDelta.parse(link.data))
        assert merged(entries[-count:]) == (300 - count, 300, whole.data())


def test_whoever_asks_from_wherever_few_are_made() -> None:
    delta_log = HISTORY.delta_log(NEWEST, MAX_ENTRIES)
    told = steps(snapshot(NEWEST, delta_logs={None: delta_log}))
    frames = [told.since(version(number)) for number in range(delta_log.entries[0].since, 300)]
    assert len(frames) == 256
    assert len(set(map(id, frames))) == 16 + 4, "those of up to 16 steps, and of 32, 64, 128 and 256"


def test_who_has_the_same_version_is_told_the_same_bytes() -> None:
    told = steps(HISTORY.snapshot(NEWEST))
    for number in (299, 290, 200):
        assert told.since(version(number)) is told.since(version(number))


@pytest.mark.parametrize(
    "told",
    [None, version(289), version(1), version(299, "b0b"), version(301, "b0b")],
)
def test_whom_the_ring_does_not_reach_back_to_is_reset(told: Version | None) -> None:
    frame = steps(HISTORY.snapshot(NEWEST, reach=10)).since(told)
    assert frame.payload == reset_event(NEWEST)
    assert (frame.version, frame.events) == (NEWEST, 1)


@pytest.mark.parametrize(
    "delta_log",
    [
        b"",
        b'{"name":"scoreboard:delta_log"}',
        b"\xff\xfe\n\n",
        HISTORY.delta_log(version(299)).text(),
        HISTORY.delta_log(version(299)).text() + b"x",
    ],
    ids=["empty", "JSON", "bytes", "of another version", "torn"],
)
def test_a_ring_that_leads_nowhere_is_none(delta_log: bytes) -> None:
    frame = steps(snapshot(NEWEST, {delta_log_key(): delta_log})).since(version(298))
    assert frame.payload == reset_event(NEWEST)


def test_an_edition_without_rings_resets() -> None:
    served = snapshot(NEWEST, divisions=(3,))
    bare = Snapshot(
        NEWEST, 0.0, (3,), "", {name: served.documents[name] for name in served.documents if "delta_log" not in name}
    )
    for division_id in (None, 3):
        frame = steps(bare, division_id=division_id).since(version(299))
        assert frame.payload == reset_event(NEWEST)


def test_each_division_has_a_ring_of_its_own() -> None:
    other = solves(range(1, 301), name="of the division")
    served = snapshot(NEWEST, divisions=(3,), delta_logs={None: HISTORY.delta_log(NEWEST), 3: other.delta_log(NEWEST)})
    assert steps(served).since(version(299)).payload == HISTORY.events(299, 300)
    assert steps(served, division_id=3).since(version(299)).payload == other.events(299, 300)


# --- how long to spread the fetches ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "size", "seconds"),
    [(0, 0, 0.0), (1, 2_000_000, 0.0), (100, 1_500_000, 1.5), (2_000, 1_512_345, 30.2), (10_000, 2_000_000, 60.0)],
)
def test_the_spread_is_what_it_takes_to_send_the_boards_to_everyone(clients: int, size: int, seconds: float) -> None:
    assert spread(clients, size) == seconds


def test_of_a_division_it_is_the_division_s_boards_as_they_are_sent() -> None:
    bulk = random.Random(1).randbytes(50_000)
    documents = {leaderboard_key(owner, 3): bulk for owner in ParticipantKind}
    served = snapshot(NEWEST, documents, divisions=(3,))
    size = sum(len(frames) for name in documents for frames in served.documents[name])
    assert size > len(bulk)
    expected = round(5_000 * size / 100_000_000, 1)
    assert expected > 2
    assert steps(served, clients=5_000, division_id=3).since(None).payload == reset_event(NEWEST, expected)
    assert steps(served, clients=5_000).since(None).payload == reset_event(NEWEST)


def test_it_is_of_as_many_as_there_are_when_it_is_said() -> None:
    clients = 0
    bulk = random.Random(1).randbytes(50_000)
    told = DeltaUpdate(
        snapshot(NEWEST, {leaderboard_key(ParticipantKind.TEAMS): bulk}),
        None,
        max_deltas=16,
        count_clients=lambda: clients,
    )
    assert told.since(None).payload == reset_event(NEWEST, 0.0)
    clients = 1_000_000
    assert told.since(None).payload == reset_event(NEWEST, 60.0)


# --- what is kept -------------------------------------------------------------------------------------------


def test_news_is_made_once_for_an_edition() -> None:
    deltas = DeltaUpdates(HISTORY.snapshot(NEWEST), max_deltas=16, count_clients=lambda: 0)
    assert deltas.update_for(None) is deltas.update_for(None)
    assert deltas.update_for(None).since(version(299)).payload == HISTORY.events(299, 300)


@pytest.mark.parametrize(
    "delta_log", [b"garbage", b"\x28\xb5\x2f\xfd\xff", b'{"from":1,"version":2,"teams":3}\n{"from":2,"version":3,']
)
def test_a_ring_that_cannot_be_read_resets(delta_log: bytes):
    served = snapshot(version(3), {delta_log_key(): delta_log})
    update_for = DeltaUpdates(served, max_deltas=1, count_clients=lambda: 1).update_for(None)
    assert b"event: reset\n" in update_for.since(version(1)).payload
