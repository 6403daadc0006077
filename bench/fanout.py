"""The stream at ten thousand clients: what a delivery costs, what a client costs, who is kept waiting.

- The servers take turns, event by event, so that a machine that slows down slows all, and all have cold caches.
- Deliveries are counted by those who get them. Processor time is the whole process's, from the publishing on. The
  daemon's includes hearing of the event and coordinating a rebuild; what that costs is measured in turn with the rest,
  at a daemon with one client, and taken off, and the figure with it is stated as well.
- Latencies count from the first client that got the event: what is compared is the fan-out, not the debounce.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench.load import Clients, Round, Storm
from bench.servers import AiohttpSse, Floor, Nchan, Platform, Scoreboardd, Server, SseStarlette

WARM_UP = 200
"Clients that come and go before anything is measured."
SETTLE = 1.0
"Seconds for what is asynchronous to finish, after a storm."
AFTERMATH = 0.02
"The same, after a broadcast."
STALLED_EVERY = 100
LAG = "scoreboardd_event_loop_lag_seconds_bucket"
COALESCED = 'scoreboardd_sse_dropped_total{cause="coalesced"}'


@dataclass(frozen=True)
class Scale:
    clients: int
    arrivals: int
    "Of everyone, at a fresh process of the daemon, nchan, the floor."
    slow_arrivals: int
    "The same of the others."
    rounds: int
    slow_rounds: int
    stall_rounds: int
    lag_seconds: float
    quiet_seconds: float
    "Twice the heartbeat, to the daemon's idle clients."


FULL = Scale(
    10_000, arrivals=9, slow_arrivals=2, rounds=60, slow_rounds=10, stall_rounds=60, lag_seconds=45, quiet_seconds=30
)
QUICK = Scale(500, arrivals=1, slow_arrivals=1, rounds=5, slow_rounds=5, stall_rounds=5, lag_seconds=3, quiet_seconds=4)


@dataclass(frozen=True)
class Arrival:
    """Everyone connected to a fresh process: how long that took, and resident bytes for each of them."""

    storm: Storm
    memory: float


@dataclass(frozen=True)
class Delivery:
    """One event to everyone: seconds of processor time for each of them, without and with helper processes, and of
    time until 99% of them had it."""

    cpu: float
    whole: float
    p99: float


def peers(platform: Platform) -> list[Callable[[], Server]]:
    return [lambda: Scoreboardd(platform), Nchan, Floor, AiohttpSse, SseStarlette]


def arrivals(platform: Platform, scale: Scale, say: Callable[[str], None]) -> dict[str, list[Arrival]]:
    """By the name of the server."""
    *fast, aiohttp_sse, sse_starlette = peers(platform)
    made: dict[str, list[Arrival]] = {}
    for number in range(scale.arrivals):
        # Each comes first, last and in between.
        order = fast[number % 3 :] + fast[: number % 3]
        for make in order + [aiohttp_sse, sse_starlette] * (number < scale.slow_arrivals):
            server = make()
            arrival = arrival_of(server, scale.clients)
            made.setdefault(server.name, []).append(arrival)
            say(
                f"{server.name}: all ready after {arrival.storm.seconds:.2f} s, {arrival.storm.refused} refused, "
                f"{arrival.memory / 1024:.1f} KB a client"
            )
    return made


def arrival_of(server: Server, clients: int) -> Arrival:
    with server, Clients(server) as load:
        load.connect(min(WARM_UP, clients))
        load.round(server.publish)
        load.close()
        time.sleep(SETTLE)
        empty = server.memory()
        storm = load.connect(clients)
        time.sleep(SETTLE)
        return Arrival(storm, (server.memory() - empty) / clients)


def deliveries(platform: Platform, scale: Scale, say: Callable[[str], None]) -> tuple[dict[str, list[Delivery]], float]:
    """By the name of the server: those that are fast all up, everyone connected to each, an event to each in turn; then
    the others.

    And what an event costs a daemon that has nobody to tell but one client, in seconds: hearing of it, coordinating its
    rebuild and taking the new version in, of which the peers have no likeness.
    """
    *fast, aiohttp_sse, sse_starlette = peers(platform)
    with ExitStack() as stack:
        turns = [_everyone_at(make(), scale.clients, stack) for make in fast]
        made: dict[str, list[Delivery]] = {server.name: [] for server, _ in turns}
        lonely, alone = _everyone_at(Scoreboardd(platform), 1, stack)
        rebuilds: list[float] = []
        for _ in range(scale.rounds):
            for server, load in random.sample(turns, len(turns)):
                made[server.name].append(delivery_of(server, load))
            rebuilds.append(delivery_of(lonely, alone).cpu)
    with ExitStack() as stack:
        turns = [_everyone_at(make(), scale.clients, stack) for make in (aiohttp_sse, sse_starlette)]
        for server, load in turns * scale.slow_rounds:
            made.setdefault(server.name, []).append(delivery_of(server, load))
    for name, them in made.items():
        say(f"{name}: {median(each.cpu for each in them) * 1e6:.2f} µs a delivery")
    say(f"of the daemon's, the rebuild: {median(rebuilds) / scale.clients * 1e6:.2f} µs")
    return made, median(rebuilds)


def _everyone_at(server: Server, clients: int, stack: ExitStack) -> tuple[Server, Clients]:
    stack.enter_context(server)
    load = stack.enter_context(Clients(server))
    load.connect(clients)
    load.round(server.publish)
    return server, load


def delivery_of(server: Server, load: Clients) -> Delivery:
    main, whole = server.main_cpu(), server.cpu()
    heard = load.round(server.publish)
    time.sleep(AFTERMATH)
    main, whole = server.main_cpu() - main, server.cpu() - whole
    return Delivery(main / heard.told, whole / heard.told, heard.p99)


# The daemon by itself


def heartbeats(platform: Platform, scale: Scale) -> float:
    """The share of a core that the daemon takes with everyone connected and nothing to tell them."""
    heartbeat = scale.quiet_seconds / 2
    with Scoreboardd(platform, sse__heartbeat=heartbeat) as server, Clients(server) as load:
        load.connect(scale.clients)
        load.listen(heartbeat, lambda: None)
        before = server.main_cpu()
        load.listen(scale.quiet_seconds, lambda: None)
        return (server.main_cpu() - before) / scale.quiet_seconds


@dataclass(frozen=True)
class Lag:
    """Of the event loop while one broadcast followed the other. Seconds; the true p99 is at most this."""

    p99: float
    samples: int
    busy: float
    "Share of the time that the daemon was on a processor, and that it waited for one which others had:"
    waited: float
    broadcasts: float


def lag(platform: Platform, scale: Scale) -> Lag:
    with Scoreboardd(platform) as server, Clients(server) as load:
        load.connect(scale.clients)
        load.round(server.publish)

        def publish() -> None:
            end = time.monotonic() + scale.lag_seconds
            while time.monotonic() < end:
                server.publish()
                time.sleep(0.05)

        before, cpu, waited = server.metrics(), server.main_cpu(), server.waited()
        heard = load.listen(scale.lag_seconds, publish)
        after, cpu, waited = server.metrics(), server.main_cpu() - cpu, server.waited() - waited
        buckets = {series: after[series] - before[series] for series in after if series.startswith(LAG)}
        p99, samples = quantile(buckets, 0.99)
        return Lag(p99, samples, cpu / scale.lag_seconds, waited / scale.lag_seconds, heard.deliveries / scale.clients)


def quantile(buckets: dict[str, float], share: float) -> tuple[float, int]:
    """The upper bound of the bucket in which it lies, and the number of samples; `buckets` by their series."""
    bounds = sorted((float(series.partition('le="')[2].partition('"')[0]), count) for series, count in buckets.items())
    samples = bounds[-1][1]
    return next(bound for bound, count in bounds if count >= share * samples), round(samples)


@dataclass(frozen=True)
class Stalled:
    """p99 in seconds of those who read, beside clients that never do and without them, event by event in turn."""

    without: Sequence[float]
    beside: Sequence[float]
    clients: int
    held: float
    "Bytes of the daemon's for each of them, when nothing more goes to the kernel."
    grown: float
    "Bytes more for each of them, after as many events again."
    coalesced: float


def stalled(platform: Platform, scale: Scale) -> Stalled:
    """Two daemons with the same number of clients that read; one has 1% on top that do not."""
    reading = scale.clients - scale.clients // STALLED_EVERY
    with (
        Scoreboardd(platform, sse__stall_timeout=3600) as plain,
        Scoreboardd(platform, sse__stall_timeout=3600) as beset,
        Clients(plain) as plain_load,
        Clients(beset) as beset_load,
    ):
        plain_load.connect(reading)
        beset_load.connect(scale.clients, stalled_every=STALLED_EVERY)
        silent = scale.clients - reading
        empty = beset.memory()
        for _ in range(60):
            plain_load.round(plain.publish_bulky)
            beset_load.round(beset.publish_bulky)
        while beset.metrics()[COALESCED] < silent:
            beset_load.round(beset.publish_bulky)
        full = beset.memory()
        for _ in range(60):
            beset_load.round(beset.publish_bulky)
        grown = beset.memory() - full
        rounds: list[tuple[Round, Round]] = []
        for number in range(scale.stall_rounds):
            pair = [lambda: plain_load.round(plain.publish), lambda: beset_load.round(beset.publish)]
            done = [ask() for ask in (pair if number % 2 else pair[::-1])]
            rounds.append((done[0], done[1]) if number % 2 else (done[1], done[0]))
        return Stalled(
            [without.p99 for without, _ in rounds],
            [beside.p99 for _, beside in rounds],
            silent,
            (full - empty) / silent,
            grown / silent,
            beset.metrics()[COALESCED],
        )
