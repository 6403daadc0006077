"""`make bench`: measure, then write `bench/RESULTS.md` and the charts. With `--only` a part of it, the others' results
stay as they are; with `--quick` it only shows that all of it works, at small sizes, and prints the tables instead."""

import argparse
import asyncio
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from importlib.resources import files
from statistics import median
from urllib.parse import urlsplit

import asyncpg

from bench import fanout, machine, reads, rebuild, rebuild_report, servers
from bench.report import Row, chart, goals, spread, table
from scoreboardd.demo.contest import SimulatedContest
from scoreboardd.demo.servers import Postgres, Valkey

LAG_GOAL = 0.010
PROBES = ("aiohttp", "uvloop", "redis", "asyncpg", "zstandard")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# The parts


def _measure_fanout(options: argparse.Namespace) -> str:
    with Postgres() as postgres, Valkey() as valkey:
        behind = servers.Platform(_contest(postgres), valkey.url())
        return _fanout(behind, fanout.QUICK if options.quick else fanout.FULL, write=not options.quick)


def _measure_reads(options: argparse.Namespace) -> str:
    scale = reads.QUICK if options.quick else reads.FULL
    with Postgres() as postgres, Valkey() as valkey:
        return _reads(servers.Platform(_large(postgres, scale.users), valkey.url()), scale)


def _measure_rebuilds(options: argparse.Namespace) -> str:
    scale = rebuild.QUICK if options.quick else rebuild.FULL
    with Postgres(settings=rebuild.POSTGRES) as postgres, Valkey() as valkey:
        measured = asyncio.run(rebuild.measure(postgres.dsn(), valkey.url(), scale, say))
    if scale.larger and not options.no_larger:
        with Postgres(settings=rebuild.POSTGRES) as postgres, Valkey() as valkey:
            larger = asyncio.run(rebuild.measure_larger(postgres.dsn(), valkey.url(), scale, say))
        measured = dataclasses.replace(measured, larger=larger)
    if not options.quick:
        panel = (
            "From a change to the new scoreboard (each line is ten times as long)",
            "ms",
            rebuild_report.bars(measured),
        )
        drawn = chart([panel], machine.described(), ours=3, logarithmic=True)
        (machine.HERE / "rebuild.svg").write_text(drawn)
    return rebuild_report.said(measured, scale)


PARTS = {"Fan-out": _measure_fanout, "Reads": _measure_reads, "Rebuilds": _measure_rebuilds}
"By the first word of their section."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=str.capitalize, choices=PARTS, help="one part")
    parser.add_argument("--no-larger", action="store_true", help="rebuilds: leave out 8 million submissions")
    options = parser.parse_args()
    try:
        machine.nchan(), machine.nginx(), machine.compiled("clients")
        machine.allow_files((fanout.QUICK if options.quick else fanout.FULL).clients)
    except machine.Missing as missing:
        sys.exit(f"bench: {missing}")
    measured: dict[str, str] = {}
    for title, measure in PARTS.items():
        if options.only in (None, title):
            taken, before = _taken(), os.getloadavg()[0]
            heading, _, text = measure(options).partition("\n")
            load = f"load average {before:.1f} before, {os.getloadavg()[2]:.1f} over the last quarter of an hour"
            measured[title] = f"{heading}\n\n{taken}, {load}.\n{text}"
    if options.quick:
        print("\n".join(measured.values()))
        return
    results = machine.HERE / "RESULTS.md"
    kept = {title: section for title in PARTS if (section := _section(results.read_text(), title))}
    sections = kept | measured
    results.write_text("\n".join([_head(), *(sections[title] for title in PARTS if title in sections)]))
    say(f"written: {results}")


def _section(text: str, title: str) -> str | None:
    found = re.search(rf"^## {title}.*?(?=\n## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found and found[0]


def _taken() -> str:
    """When, and of what."""
    git = ["git", "-C", str(machine.HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    now = datetime.datetime.now(datetime.UTC)
    return f"Begun {now:%Y-%m-%d %H:%M} UTC, commit {commit}"


# What the daemon reads


def _contest(postgres: Postgres) -> str:
    """A contest so small that its rebuild is nothing beside the fan-out."""

    async def seed() -> None:
        connection = await asyncpg.connect(postgres.dsn())
        await SimulatedContest(teams=40, challenges=24, rate=1.0, seed=1).seed(connection)
        await connection.close()

    asyncio.run(seed())
    return postgres.dsn()


def _large(postgres: Postgres, users: int) -> str:
    dsn = urlsplit(postgres.dsn())._replace(path="/large").geturl()

    async def seed() -> None:
        connection = await asyncpg.connect(postgres.dsn())
        await connection.execute("CREATE DATABASE large")
        await connection.close()
        connection = await asyncpg.connect(dsn)
        await connection.execute((files("scoreboardd.demo") / "schema.sql").read_text())
        await connection.execute(reads.SEED.format(users=users))
        await connection.execute("ANALYZE")
        await connection.close()

    asyncio.run(seed())
    return dsn


# What is said of it


def _head() -> str:
    nginx = subprocess.run([machine.nginx(), "-v"], capture_output=True, text=True, check=True).stderr.split("/")[-1]
    package = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], capture_output=True, text=True, check=False
    ).stdout
    ours = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PROBES)
    peers = ", ".join(
        line.replace("==", " ")
        for line in (machine.HERE / "requirements.txt").read_text().split("\n")
        if line and line[0] != "#"
    )
    return f"""# Benchmarks

Written by `make bench`; do not edit. Figures are medians, in brackets the middle half of what was measured, and all of
one table were taken in turn: compare within a table.

- Machine: {machine.described()}; servers and load generator share it
- scoreboardd: CPython {platform.python_version()}, {ours}
- Peers: nginx {nginx.strip()} with nchan {package or "of unknown version"} (`bench/nginx.conf`); {peers} \
(`bench/peers/`); a `send()` loop in C (`bench/floor.c`)
- Load: `bench/clients.c` and `bench/requests.c`, one epoll loop each, in a process of their own
- Where the time of a delivery, an arrival, a 304 and a rebuild goes: `bench/PROFILE.md`
- Again: `make bench`; one part: `make bench ARGS="--only rebuilds"`; a look whether it works: `make bench QUICK=1`
"""


class _Of(dict[str, list[float]]):
    """What was measured, by the name of the server."""

    def ratio(self, one: str, other: str) -> float:
        return median(self[one]) / median(self[other])

    def medians(self) -> dict[str, float]:
        return {name: median(values) for name, values in self.items()}


def _fanout(behind: servers.Platform, scale: fanout.Scale, *, write: bool) -> str:
    deliveries, rebuild = fanout.deliveries(behind, scale, say)
    arrivals = fanout.arrivals(behind, scale, say)
    quiet = fanout.heartbeats(behind, scale)
    say(f"heartbeats: {quiet:.2%} of a core")
    lag = fanout.lag(behind, scale)
    say(f"lag: p99 at most {lag.p99 * 1e3:g} ms, {lag.waited:.0%} of the time waiting for a processor")
    stalled = fanout.stalled(behind, scale)
    cpu, storm, memory = _Of(), _Of(), _Of()
    for name, made in deliveries.items():
        cpu[name] = [delivery.cpu * 1e6 for delivery in made]
    with_rebuild = cpu[servers.Scoreboardd.name]
    rebuild *= 1e6 / scale.clients
    cpu[servers.Scoreboardd.name] = [each - rebuild for each in with_rebuild]
    for name, them in arrivals.items():
        storm[name] = [arrival.storm.seconds for arrival in them]
        memory[name] = [arrival.memory / 1024 for arrival in them]
    own, nchan, floor = (server.name for server in (servers.Scoreboardd, servers.Nchan, servers.Floor))
    refused = {name: sum(arrival.storm.refused for arrival in made) for name, made in arrivals.items()}
    beside, without = median(stalled.beside), median(stalled.without)
    rows = [
        Row(
            "CPU per delivery, against nchan",
            "≤ 0.65 ×",
            spread(cpu[own], "µs", 2),
            f"nchan {spread(cpu[nchan], 'µs', 2)}",
            f"{cpu.ratio(own, nchan):.2f}",
            cpu.ratio(own, nchan) <= 0.65,
        ),
        Row(
            "CPU per delivery, against the floor",
            "≤ 1.2 ×",
            spread(cpu[own], "µs", 2),
            f"bare `send()` {spread(cpu[floor], 'µs', 2)}",
            f"{cpu.ratio(own, floor):.2f}",
            cpu.ratio(own, floor) <= 1.2,
        ),
        Row(
            "resident memory per idle client",
            "≤ 0.25 ×",
            spread(memory[own], "KB", 2),
            f"nchan {spread(memory[nchan], 'KB', 2)}",
            f"{memory.ratio(own, nchan):.2f}",
            memory.ratio(own, nchan) <= 0.25,
        ),
        Row(
            f"{scale.clients:,} connecting at once until each has `ready`",
            "≤ 1.5 ×, none refused",
            f"{spread(storm[own], 's', 2)}, {refused[own]} refused",
            f"nchan {spread(storm[nchan], 's', 2)}, {refused[nchan]} refused",
            f"{storm.ratio(own, nchan):.2f}",
            storm.ratio(own, nchan) <= 1.5 and not refused[own],
        ),
        Row(
            f"event-loop lag p99 during broadcasts to {scale.clients:,}",
            "≤ 10 ms",
            f"≤ {lag.p99 * 1e3:g} ms ({lag.samples} samples, {lag.broadcasts:.0f} broadcasts; {lag.busy:.0%} of "
            f"the time on a processor, {lag.waited:.0%} waiting for one)",
            "–",
            "–",
            lag.p99 <= LAG_GOAL,
        ),
        Row(
            "p99 of the others with 1% never reading",
            "within 5% of none",
            spread([value * 1e3 for value in stalled.beside], "ms"),
            f"none {spread([value * 1e3 for value in stalled.without], 'ms')}",
            f"{beside / without:.2f}",
            beside <= 1.05 * without,
        ),
        Row(
            f"memory of {stalled.clients} that never read",
            "bounded and stated",
            f"{stalled.held / 1024:.1f} KB each when the kernel takes no more, {stalled.grown / 1024:+.1f} KB after "
            f"as many events again ({stalled.coalesced:.0f} coalesced)",
            "–",
            "–",
            # What the allocator does is not theirs.
            stalled.grown <= 4096,
        ),
        Row(
            f"heartbeats to {scale.clients:,} idle clients",
            "< 1% of a core",
            f"{quiet:.2%}",
            "–",
            "–",
            quiet < 0.01,
        ),
    ]
    head = ["server", "CPU a delivery", "with all of it", "99% have it after", "memory a client"]
    every = [
        [
            name,
            spread(cpu[name], "µs", 2),
            spread([delivery.whole * 1e6 for delivery in deliveries[name]], "µs", 2),
            spread([delivery.p99 * 1e3 for delivery in deliveries[name]], "ms", 0),
            spread(memory[name], "KB"),
            spread(storm[name], "s", 2),
            str(refused[name]),
        ]
        for name in deliveries
    ]
    if write:
        panels = [
            ("Processor time for each delivery", "µs", cpu.medians()),
            ("Memory for each idle client", "KB", memory.medians()),
            (f"{scale.clients:,} connecting at once, until each is ready", "s", storm.medians()),
        ]
        (machine.HERE / "fanout.svg").write_text(chart(panels, machine.described()))
    return f"""## Fan-out: {scale.clients:,} clients on loopback, events of some 130 bytes

{goals(rows)}
The daemon hears of each event on Redis, has it rebuilt, and then tells everyone. What the event costs its serving
process before a single client is told, {rebuild:.2f} µs a delivery, was measured in turn with the rest and is taken off
above; with it a delivery is {spread(with_rebuild, "µs", 2)}. The column "with all of it" below has the builder process
as well (the platform is small here). Latencies count from the first client that has the event. The bounded queue,
coalescing, the stall deadline and heartbeats are on throughout.

{table([*head, "all connected", "refused"], every)}"""


def _reads(behind: servers.Platform, scale: reads.Scale) -> str:
    measured = reads.compare(behind, scale, say)
    done, nginx, own = measured.done, servers.Nchan.name, servers.Scoreboardd.name
    size = f"{measured.document / 1e6:.0f} MB"

    def cpu(kind: str, server: str) -> list[float]:
        return [read.cpu * 1e6 for read in done[kind, server]]

    empty, conditional = cpu("empty", servers.Empty.name), cpu("304", own)
    by_empty = median(conditional) / median(empty)
    rows = [
        Row(
            "304, against the emptiest aiohttp handler",
            "≤ 1.3 ×",
            spread(conditional, "µs"),
            spread(empty, "µs"),
            f"{by_empty:.2f}",
            by_empty <= 1.3,
        )
    ]
    for kind, what in (("304", "304"), ("zstd", f"{size} as zstd"), ("plain", f"{size} plain")):
        ours, peer = cpu(kind, own), cpu(kind, nginx)
        body = done[kind, own][0].body
        unit, by = ("µs", 1.0) if body < 1e7 else ("ms", 1e3)
        name = what if kind != "zstd" else f"{what} ({body / 1e6:.2f} MB)"
        rows.append(
            Row(
                f"{name}, against nginx from disk",
                "stated",
                spread([value / by for value in ours], unit),
                spread([value / by for value in peer], unit),
                f"{median(ours) / median(peer):.2f}" if median(peer) else "–",
                None,
            )
        )
    rows.append(
        Row(
            f"memory of a slow reader of {size}",
            "no copy each",
            f"{measured.slow_reader / 1024:.0f} KB",
            f"the document: {measured.document / 1024:.0f} KB",
            f"{measured.slow_reader / measured.document:.4f}",
            measured.slow_reader < measured.document / 50,
        )
    )
    return f"""## Reads: processor time a request, a document of {size}

{goals(rows)}
nginx serves the same bytes from its page cache with `sendfile`; the zstd row is the daemon's own zstd bytes as a file.
"""


if __name__ == "__main__":
    main()
