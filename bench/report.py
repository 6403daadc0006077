"""The results as people read them: tables in Markdown, and a chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from statistics import median


@dataclass(frozen=True)
class Row:
    """A goal and what was measured; `met` is None where no goal is set."""

    what: str
    goal: str
    figure: str
    peer: str
    ratio: str
    met: bool | None


def spread(values: Sequence[float], unit: str, digits: int = 1) -> str:
    """The median, and in brackets the range of the middle half, if there is one."""
    middle = f"{median(values):.{digits}f} {unit}"
    ordered = sorted(values)
    low, high = (f"{ordered[int(len(ordered) * share)]:.{digits}f}" for share in (0.25, 0.75))
    return middle if low == high else f"{middle} ({low}–{high})"


def goals(rows: Sequence[Row]) -> str:
    said = {True: "yes", False: "**no**", None: "–"}
    return table(
        ["figure", "goal", "scoreboardd", "peer", "ratio", "met"],
        [[row.what, row.goal, row.figure, row.peer, row.ratio, said[row.met]] for row in rows],
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def chart(
    panels: Sequence[tuple[str, str, dict[str, float]]], caption: str, *, ours: int = 1, logarithmic: bool = False
) -> str:
    """Bars, as SVG: a panel is a title, a unit, and a value by name, of which the first `ours` are ours. A logarithmic
    one begins at the power of ten below its smallest, and has a line at each."""
    width, left, bar, gap, unit_room = 760, 130, 18, 8, 90
    parts: list[str] = []
    y = 10
    for title, unit, values in panels:
        y += 22
        parts.append(f'<text x="10" y="{y}" class="title">{escape(title)}</text>')
        y += 12
        lengths, lines = _lengths(values, width - left - unit_room, logarithmic=logarithmic)
        tall = len(values) * (bar + gap) - gap
        parts += [f'<path d="M{left + x:.1f} {y}v{tall}" class="line"/>' for x in lines]
        for number, (name, value) in enumerate(values.items()):
            length = lengths[name]
            kind = "ours" if number < ours else "peer"
            parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" class="{kind}" rx="2"/>')
            parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 13}">{value:,.1f} {escape(unit)}</text>')
            y += bar + gap
    y += 20
    parts.append(f'<text x="10" y="{y}" class="caption">{escape(caption)}</text>')
    height = y + 12
    # Its own ground, so that it can be read on a dark page as well.
    style = (
        "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.caption{font-size:10px;fill:#57606a}"
        ".ours{fill:#1a7f37}.peer{fill:#afb8c1}.line{stroke:#d0d7de}.ground{fill:#fff}"
    )
    ground = f'<rect width="{width}" height="{height}" class="ground" rx="6"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"<style>{style}</style>\n{ground}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _lengths(values: dict[str, float], room: float, *, logarithmic: bool) -> tuple[dict[str, float], list[float]]:
    """Of the bars, and where the lines are."""
    longest = max(values.values())
    if not logarithmic:
        return {name: max(2.0, value / longest * room) for name, value in values.items()}, []
    first = floor(log10(min(values.values())))
    decade = room / (log10(longest) - first)
    lengths = {name: max(2.0, (log10(value) - first) * decade) for name, value in values.items()}
    return lengths, [number * decade for number in range(floor(log10(longest)) - first + 1)]
