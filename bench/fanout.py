"""The stream at ten thousand clients: what a delivery costs, what a client costs, who is kept waiting.

- Every visit is to a fresh process; visits alternate between the servers, so that a machine that slows down slows all.
- Deliveries are counted by those who get them. Processor time is the whole process's, for as long as the events go
  out; the daemon's includes hearing of the event, its rebuild's coordination and the commit of a new version, and no
  more is taken off than the builder process, which the peers have no likeness of.
- Latencies count from the first client that got the event: what is compared is the fan-out, not the debounce.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.load import Clients, Round, Storm
from bench.servers import AiohttpSse, Floor, Nchan, Platform, Scoreboardd, Server, SseStarlette

WARM_UP = 200
"Clients that come and go before anything is measured."
SETTLE = 1.0
"Seconds for what is asynchronous to finish."
STALLED_EVERY = 100
LAG = "scoreboardd_event_loop_lag_seconds_bucket"
COALESCED = 'scoreboardd_sse_dropped_total{cause="coalesced"}'


@dataclass(frozen=True)
class Scale:
    clients: int
    visits: int
    "To the daemon, nchan and the floor."
    slow_visits: int
    "To the others."
    rounds: int
    stall_rounds: int
    lag_seconds: float
    quiet_seconds: float
    "Twice the heartbeat, to the daemon's idle clients."


FULL = Scale(10_000, visits=7, slow_visits=2, rounds=20, stall_rounds=60, lag_seconds=60, quiet_seconds=30)
QUICK = Scale(500, visits=1, slow_visits=1, rounds=5, stall_rounds=5, lag_seconds=3, quiet_seconds=4)


@dataclass(frozen=True)
class Visit:
    """Seconds and bytes: `delivery` and `whole` are processor time a delivery, without and with helper processes."""

    storm: Storm
    memory: float
    delivery: float
    whole: float
    p99: float


def visit(server: Server, clients: int, rounds: int) -> Visit:
    with server, Clients(server) as load:
        load.connect(min(WARM_UP, clients))
        load.round(server.publish)
        load.close()
        time.sleep(SETTLE)
        empty = server.memory()
        storm = load.connect(clients)
        time.sleep(SETTLE)
        memory = (server.memory() - empty) / clients
        main, whole = server.main_cpu(), server.cpu()
        heard = [load.round(server.publish) for _ in range(rounds)]
        time.sleep(0.05)  # for what follows a fan-out
        main, whole = server.main_cpu() - main, server.cpu() - whole
        deliveries = sum(round.deliveries for round in heard)
        return Visit(storm, memory, main / deliveries, whole / deliveries, median(round.p99 for round in heard))


def compare(platform: Platform, scale: Scale, say: Callable[[str], None]) -> dict[str, list[Visit]]:
    """Visits by the name of the server."""
    fast: list[Callable[[], Server]] = [lambda: Scoreboardd(platform), Nchan, Floor]
    visits: dict[str, list[Visit]] = {}
    for number in range(scale.visits):
        # Each comes first, last and in between.
        servers = fast[number % 3 :] + fast[: number % 3]
        if number < scale.slow_visits:
            servers += [AiohttpSse, SseStarlette]
        for make in servers:
            server = make()
            made = visit(server, scale.clients, scale.rounds)
            visits.setdefault(server.name, []).append(made)
            say(
                f"{server.name}: {made.delivery * 1e6:.1f} µs a delivery, {made.memory / 1024:.1f} KB a client, "
                f"{made.storm.seconds:.2f} s until all were ready, {made.storm.refused} refused"
            )
    return visits


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
    "Share of the time that the daemon was on the processor."
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

        before, cpu = server.metrics(), server.main_cpu()
        heard = load.listen(scale.lag_seconds, publish)
        after, cpu = server.metrics(), server.main_cpu() - cpu
        buckets = {series: after[series] - before[series] for series in after if series.startswith(LAG)}
        p99, samples = quantile(buckets, 0.99)
        return Lag(p99, samples, cpu / scale.lag_seconds, heard.deliveries / scale.clients)


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
