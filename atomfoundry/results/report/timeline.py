"""The timeline of jobs as an inline SVG."""

from __future__ import annotations

import html
from dataclasses import dataclass

from atomfoundry.results.report import text
from atomfoundry.results.report.blocks import Drawing
from atomfoundry.results.report.grouping import Node

WIDTH, LABELS, TIMES, ROW = 1060.0, 196.0, 84.0, 21.0
BREAK_WIDTH = 14.0
NICE_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True)
class Bar:
    """One job's time on the clock, seconds since the first job began."""

    node: Node
    name: str
    start: float
    end: float
    failed: bool


class Clock:
    """Seconds to pixels; long times in which nothing ran are cut out."""

    def __init__(self, bars: list[Bar], *, left: float, right: float) -> None:
        spans: list[list[float]] = []
        for bar in sorted(bars, key=lambda b: b.start):
            if spans and bar.start <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], bar.end)
            else:
                spans.append([bar.start, bar.end])
        busy = sum(end - start for start, end in spans)
        # A pause is worth cutting when it would eat more than a twelfth of the drawing.
        longest = max(busy / 12, 5.0)
        merged = [spans[0]]
        for span in spans[1:]:
            if span[0] - merged[-1][1] > longest:
                merged.append(span)
            else:
                merged[-1][1] = span[1]
        self.spans = merged
        total = sum(end - start for start, end in merged) or 1.0
        self.scale = (right - left - BREAK_WIDTH * (len(merged) - 1)) / total
        self.left = left

    def __call__(self, seconds: float) -> float:
        """Return the pixel of a moment."""
        x = self.left
        for start, end in self.spans:
            if seconds <= end:
                return x + max(0.0, seconds - start) * self.scale
            x += (end - start) * self.scale + BREAK_WIDTH
        return x - BREAK_WIDTH

    @property
    def breaks(self) -> list[float]:
        """Pixels of the middles of the cuts."""
        return [self(end) + BREAK_WIDTH / 2 for _, end in self.spans[:-1]]

    def ticks(self) -> list[float]:
        """Return moments at round numbers of seconds that lie inside the spans, about 90 pixels apart."""
        step = next((s for s in NICE_STEPS if s * self.scale >= 80), None)
        if step is None:
            step = 86400 * max(1, round(80 / (self.scale * 86400)))
        found: list[float] = []
        for start, end in self.spans:
            first = int(-(-start // step))
            found += [k * step for k in range(first, int(end // step) + 1)]
        return found


def timeline(nodes: list[Node], colours: dict[str, str]) -> Drawing | None:
    """Return when each job ran, or ``None`` if no job has both a start and a wall time."""
    bars = _bars(nodes)
    if not bars:
        return None
    clock = Clock(bars, left=LABELS, right=WIDTH - TIMES)
    first = {id(bar.node): bar.start for bar in sorted(bars, key=lambda b: -b.start)}
    rows = sorted((node for node in nodes if id(node) in first), key=lambda n: (first[id(n)], n.depth))
    bottom = len(rows) * ROW + 4
    parts = []
    for tick in clock.ticks():
        x = clock(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom:.0f}"/>'
            f'<text class="tick" x="{x:.1f}" y="{bottom + 14:.0f}">{_tick(tick)}</text>'
        )
    for x in clock.breaks:
        parts.append(
            f'<rect class="break" x="{x - 5:.1f}" y="0" width="10" height="{bottom:.0f}">'
            "<title>nothing ran here; the pause is cut out</title></rect>"
        )
    for i, node in enumerate(rows):
        y = i * ROW + 3
        name = node.name if len(node.name) <= 29 else node.name[:28] + "\N{HORIZONTAL ELLIPSIS}"
        parts.append(f'<text class="small row" x="{LABELS - 10:.0f}" y="{y + 12:.0f}">{html.escape(name)}</text>')
        for bar in bars:
            if bar.node is node:
                x, end = clock(bar.start), clock(bar.end)
                hint = f"{bar.name}: starts at {text.duration(bar.start)}, "
                hint += f"takes {text.duration(bar.end - bar.start)}"
                parts.append(
                    f'<rect class="bar {colours[node.stage]}{" failed" if bar.failed else ""}" x="{x:.1f}" '
                    f'y="{y:.0f}" width="{max(end - x, 2):.1f}" height="15" rx="2">'
                    f"<title>{html.escape(hint)}</title></rect>"
                )
        last = max(bar.end for bar in bars if bar.node is node)
        parts.append(
            f'<text class="small quiet" x="{clock(last) + 6:.1f}" y="{y + 12:.0f}">'
            f"{text.duration(node.wall_time_s)}</text>"
        )
    whole = max(bar.end for bar in bars)
    place = f'x="{WIDTH - TIMES:.0f}" y="{bottom + 30:.0f}"'
    axis = f'<text class="tick" {place}>time since the first job began</text>'
    svg = (
        f'<svg class="gantt" viewBox="0 0 {WIDTH:.0f} {bottom + 34:.0f}" role="img" '
        f'aria-label="Timeline of {len(rows)} rows over {text.duration(whole)}">' + "".join(parts) + axis + "</svg>"
    )
    caption = (
        f"From the start of the first job to the end of the last one: {text.duration(whole)}; bars in one "
        "row are like jobs, side by side in time where they ran in parallel, with their summed wall time."
    )
    if clock.breaks:
        caption += f" {text.count(len(clock.breaks), 'pause')} in which nothing ran cut out (grey)."
    return Drawing(title="When each job ran", caption=caption, svg=svg)


def _bars(nodes: list[Node]) -> list[Bar]:
    """Return the bars of all jobs that have times."""
    timed = [
        (node, job, begun, job.wall_time_s)
        for node in nodes
        for job in node.jobs
        if job.wall_time_s is not None and (begun := text.parse_time(job.start)) is not None
    ]
    if not timed:
        return []
    zero = min(begun for _, _, begun, _ in timed)
    bars = []
    for node, job, begun, wall in timed:
        start = (begun - zero).total_seconds()
        failed = job.state.lower() in ("failed", "fizzled")
        bars.append(Bar(node=node, name=job.name, start=start, end=start + wall, failed=failed))
    return bars


def _tick(seconds: float) -> str:
    """Return a round time in its shortest form."""
    whole = int(seconds)
    if whole == 0:
        return "0"
    if whole % 86400 == 0:
        return f"{whole // 86400} d"
    if whole % 3600 == 0:
        return f"{whole // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}"
    if whole % 60 == 0:
        return f"{whole // 60} min"
    if whole > 60:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole} s"
