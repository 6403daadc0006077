"""What is said of rebuilds: goal by goal, and what each kind is made of."""

from collections.abc import Callable, Sequence
from statistics import median

from bench.rebuild import Measured, Rebuild, Scale
from bench.report import Row, goals, spread, table

STAGES = ("read", "build", "render", "commit")
HELD = 700e6
TOLD = 400
GROWN = 1.05
"What the allocator does is no growth."


def said(measured: Measured, scale: Scale) -> str:
    """The section of the results."""
    size = scale.size
    kinds = _kinds(measured)
    rows = [
        *_whole(measured),
        *_solves(measured, kinds),
        *_larger(measured, scale),
        *_costs(measured),
        *_memory(measured, scale),
        *_told(measured),
    ]
    written = median(peer.written for peer in measured.peers)
    return f"""## Rebuilds: {size.teams:,} teams, {size.users:,} users, {size.submissions:,} submissions

{goals(rows)}
Times are from an event published (debounce and longest wait 1 ms) to `scoreboard.rebuilt` heard, with PostgreSQL,
Valkey and `redis.encoding=zstd`. The peer is the reference's own plan in Python (`bench/rebuild_peer.py`), its
{written / 1e6:.0f} MB written to the same Valkey; it is measured in turn with the whole rebuilds. Solves are by random
users; more that change what a challenge is worth are chosen, for they are rare. What each kind is made of, in the
table below, is by the daemon's own account; the rest is the way between its two processes, Redis and us. "Received"
is what Valkey says came in meanwhile, and "event" what the daemon sends to each browser that follows with `?deltas=1`.
The leaderboard of the teams, which it would have to fetch instead, is {_fetched(measured)}.

{table(_HEAD, [_line(name, rebuilds) for name, rebuilds in kinds.items()])}"""


def bars(measured: Measured) -> dict[str, float]:
    """Milliseconds, ours first, for a chart."""
    named = {"one more solve": _walls(_of(measured.solves, changing=False))}
    named["… points change"] = _walls(_of(measured.solves, changing=True))
    named["all of it"] = _walls(measured.whole)
    named["reference's plan"] = [peer.wall for peer in measured.peers]
    return {name: median(walls) * 1e3 for name, walls in named.items()}


def _kinds(measured: Measured) -> dict[str, list[Rebuild]]:
    kinds = {"whole": measured.whole}
    for where, solves in (("", measured.solves), (", larger", measured.larger)):
        for what, changing in (("points as before", False), ("points changed", True)):
            if them := _of(solves, changing=changing):
                kinds[f"{what}{where}"] = them
    return kinds


def _of(solves: Sequence[Rebuild], *, changing: bool) -> list[Rebuild]:
    return [solve for solve in solves if solve.changing is changing]


def _walls(rebuilds: Sequence[Rebuild]) -> list[float]:
    return [rebuild.wall for rebuild in rebuilds]


def _ms(rebuilds: Sequence[Rebuild], of: Callable[[Rebuild], float]) -> str:
    return spread([of(rebuild) * 1e3 for rebuild in rebuilds], "ms", 0)


def _whole(measured: Measured) -> list[Row]:
    cpu = [rebuild.builder + rebuild.loop for rebuild in measured.whole]
    peer = [peer.cpu for peer in measured.peers]
    ratio = median(peer) / median(cpu)
    loop = median(rebuild.loop for rebuild in measured.whole)
    return [
        Row(
            "whole rebuild: processor time",
            "≥ 12 × less",
            spread(cpu, "s", 2),
            spread(peer, "s", 2),
            f"{ratio:.1f} × less",
            ratio >= 12,
        ),
        Row(
            "of it in the process with the loop; its lag p99 meanwhile",
            "none; ≤ 10 ms",
            f"{loop * 1e3:.0f} ms; ≤ {measured.lag * 1e3:g} ms ({measured.samples} samples; {measured.waited:.0%} of "
            "the time waiting for a processor)",
            "–",
            f"{loop / median(cpu):.3f} of it",
            measured.lag <= 0.010,
        ),
    ]


def _solves(measured: Measured, kinds: dict[str, list[Rebuild]]) -> list[Row]:
    peer = [peer.wall for peer in measured.peers]
    rows = []
    for name in ("points as before", "points changed"):
        walls = _walls(kinds[name])
        ratio = median(peer) / median(walls)
        rows.append(
            Row(
                f"one more solve, {name}: event to announcement",
                "≥ 200 × faster",
                f"{_ms(kinds[name], lambda solve: solve.wall)}, worst {max(walls) * 1e3:.0f} ms of {len(walls)}",
                spread(peer, "s", 2),
                f"{ratio:.0f} × faster",
                ratio >= 200,
            )
        )
    return rows


def _larger(measured: Measured, scale: Scale) -> list[Row]:
    rows = []
    for name, changing in (("points as before", False), ("points changed", True)):
        if larger := _of(measured.larger, changing=changing):
            assert scale.larger is not None
            stress = _of(measured.solves, changing=changing)
            ratio = median(_walls(larger)) / median(_walls(stress))
            rows.append(
                Row(
                    f"the same with {scale.larger.submissions:,} submissions, {name}",
                    "≤ 1.3 ×",
                    _ms(larger, lambda solve: solve.wall),
                    f"as above {_ms(stress, lambda solve: solve.wall)}",
                    f"{ratio:.2f} ×",
                    ratio <= 1.3,
                )
            )
    return rows


def _costs(measured: Measured) -> list[Row]:
    written = median(peer.written for peer in measured.peers)
    rows = [
        Row(
            f"sequential scans of submissions for {len(measured.solves)} solves",
            "0",
            f"{measured.scans} (and {sum(solve.whole for solve in measured.solves)} of them rebuilt all)",
            "scans all",
            "–",
            measured.scans == 0,
        )
    ]
    for what, changing in (("points as before", False), ("points changed", True)):
        staged = [solve.staged for solve in _of(measured.solves, changing=changing)]
        rows.append(
            Row(
                f"written to Redis for one more solve, {what}",
                "≤ 1/50",
                spread([size / 1e6 for size in staged], "MB", 2),
                f"{written / 1e6:.0f} MB",
                f"1/{written / median(staged):.0f}",
                written >= 50 * median(staged),
            )
        )
    return rows


def _memory(measured: Measured, scale: Scale) -> list[Row]:
    memory = measured.memory
    held, bare = ([f"{size / 1e6:.0f}" for size in sizes] for sizes in (memory.held, memory.bare))
    return [
        Row(
            "memory of both processes (PSS), each document held in each coding, before and after the rebuilds below",
            "≤ 700 MB",
            f"{', '.join(held)} MB",
            "–",
            "–",
            max(memory.held) <= HELD,
        ),
        Row(
            f"the same with no coding asked for, at the start, middle and end of {scale.kept_up:,} rebuilds",
            "no growth",
            f"{', '.join(bare)} MB",
            "–",
            f"{memory.bare[-1] / memory.bare[0]:.3f}",
            memory.bare[-1] <= GROWN * memory.bare[0],
        ),
    ]


def _told(measured: Measured) -> list[Row]:
    fetched = measured.fetched["zstd"]
    rows = []
    for what, changing in (("points as before", False), ("points changed", True)):
        solves = _of(measured.solves, changing=changing)
        told = [solve.told for solve in solves]
        rows.append(
            Row(
                f"sent to each browser for one more solve, {what}",
                f"≤ {TOLD} bytes",
                f"{spread(told, 'bytes', 0)}, most {max(told)}",
                f"fetching the teams again, as zstd: {fetched / 1e6:.2f} MB",
                f"1/{fetched / median(told):,.0f}",
                max(told) <= TOLD and {solve.event for solve in solves} == {"delta"},
            )
        )
    return rows


def _fetched(measured: Measured) -> str:
    plain = measured.fetched["identity"]
    coded = " and ".join(f"{measured.fetched[coding] / 1e6:.2f} MB as {coding}" for coding in ("zstd", "gzip"))
    return f"{plain / 1e6:.1f} MB, {coded}"


_HEAD = ["rebuild", "how many", "median", "worst", "builder", "loop", *STAGES, "written", "received", "event"]


def _line(name: str, rebuilds: Sequence[Rebuild]) -> list[str]:
    def middle(of: Callable[[Rebuild], float], unit: str = "ms", by: float = 1e3, digits: int = 0) -> str:
        return f"{median(of(rebuild) for rebuild in rebuilds) * by:.{digits}f} {unit}"

    return [
        name,
        str(len(rebuilds)),
        middle(lambda rebuild: rebuild.wall),
        f"{max(_walls(rebuilds)) * 1e3:.0f} ms",
        middle(lambda rebuild: rebuild.builder),
        middle(lambda rebuild: rebuild.loop),
        *(middle(lambda rebuild, stage=stage: rebuild.timings.get(stage, 0.0)) for stage in STAGES),
        middle(lambda rebuild: rebuild.staged, "MB", 1e-6, 2),
        middle(lambda rebuild: rebuild.received, "MB", 1e-6, 2),
        middle(lambda rebuild: rebuild.told, "bytes", 1),
    ]
