"""The pipeline section: the graph of jobs, and the list of all jobs."""

from __future__ import annotations

import html
import itertools

from atomfoundry.results.report import text
from atomfoundry.results.report.blocks import Block, Cell, Drawing, Section, Table, Words
from atomfoundry.results.report.data import JobRow, ReportInputs
from atomfoundry.results.report.grouping import Node, group_jobs, reduced_edges
from atomfoundry.results.report.placing import Place, arrange, build, split_wide_layers
from atomfoundry.results.report.timeline import timeline

BOX_WIDTH, BOX_HEIGHT = 200.0, 58.0
GAP, ROW_GAP = 12.0, 30.0
CANVAS_WIDTH = 1060.0
BOXES_PER_ROW = 5
LINE_HEIGHT_OF_LEGEND = 30.0

GLYPHS = {
    "completed": ("\N{CHECK MARK}", "good"),
    "reused": ("\N{CLOCKWISE OPEN CIRCLE ARROW}", "good"),
    "failed": ("\N{MULTIPLICATION X}", "bad"),
    "fizzled": ("\N{MULTIPLICATION X}", "bad"),
    "cancelled": ("\N{MULTIPLICATION X}", "bad"),
    "running": ("\N{BLACK RIGHT-POINTING TRIANGLE}", "busy"),
}
"""State -> sign and class; other states wait."""


def section(inputs: ReportInputs) -> Section:
    """Return the section about the jobs."""
    key, title = "pipeline", "Pipeline"
    if not inputs.jobs:
        return Section(key=key, title=title, absent="No job records were given.")
    nodes = group_jobs(inputs.jobs)
    blocks: list[Block] = [graph(nodes)]
    chart = timeline(nodes, stage_classes(nodes))
    if chart is None:
        blocks.append(Words(text="No timeline: no job has a start time and a wall time."))
    else:
        blocks.append(chart)
    blocks.append(_table(inputs.jobs))
    return Section(key=key, title=title, lead=_lead(inputs.jobs, nodes), blocks=blocks)


def stage_classes(nodes: list[Node]) -> dict[str, str]:
    """Return stage -> CSS class of its colour, in the order of first appearance down the graph."""
    stages = dict.fromkeys(node.stage for node in sorted(nodes, key=lambda n: n.depth))
    return {stage: f"stage-{i % 10}" for i, stage in enumerate(stages)}


def graph(nodes: list[Node]) -> Drawing:
    """Return the graph of the pipeline, data walking from top to bottom."""
    edges = reduced_edges(nodes)
    layers = split_wide_layers({node.index: node.depth for node in nodes}, BOXES_PER_ROW)
    rows, routes = build(layers, edges, width=BOX_WIDTH, bend_width=10.0)
    width = arrange(rows, width=CANVAS_WIDTH, gap=GAP)
    colours = stage_classes(nodes)
    legend, top = _legend(colours, width)
    height = top + len(rows) * (BOX_HEIGHT + ROW_GAP) - ROW_GAP + 2

    def y(place: Place) -> float:
        return top + place.layer * (BOX_HEIGHT + ROW_GAP)

    parts = [legend]
    drawn = set()
    for route in routes:
        for upper, lower in itertools.pairwise(route):
            step = (upper.key, lower.key)
            if step not in drawn:
                drawn.add(step)
                parts.append(_edge(upper, lower, y(upper), y(lower)))
    for row in rows:
        for place in row:
            if place.key[0] == "node":
                node = nodes[place.key[1]]
                parts.append(_box(node, nodes, place.x - place.width / 2, y(place), colours[node.stage]))
    svg = (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="Graph of the pipeline: {len(nodes)} boxes, {len(edges)} connections">' + "".join(parts) + "</svg>"
    )
    merged = sum(len(node.jobs) for node in nodes) - len(nodes)
    caption = "Data walks from top to bottom; each box says what came out, how many jobs it took and their time"
    caption += " (like jobs share a box)." if merged else "."
    caption += " Connections that a longer way implies are not drawn; point at a box to see all its inputs."
    return Drawing(title="The jobs and what they read from each other", caption=caption, svg=svg)


def _legend(colours: dict[str, str], width: float) -> tuple[str, float]:
    """Return the legend of stages and the height below which the graph begins."""
    if set(colours) == {""}:
        return "", 2.0
    parts, x, line = [], 2.0, 0
    for stage, colour in colours.items():
        needed = 34 + 6.6 * len(stage)
        if x + needed > width and x > 2:
            x, line = 2.0, line + 1
        y = 8 + 20 * line
        parts.append(
            f'<rect class="swatch {colour}" x="{x:.0f}" y="{y - 6}" width="12" height="12" rx="3"/>'
            f'<text class="small" x="{x + 18:.0f}" y="{y + 4}">{html.escape(stage or "other")}</text>'
        )
        x += needed
    return "".join(parts), 20.0 * line + LINE_HEIGHT_OF_LEGEND


def _edge(upper: Place, lower: Place, y_upper: float, y_lower: float) -> str:
    """Return one step of an edge as a curve; bends are passed straight."""
    start = y_upper + BOX_HEIGHT
    line = f"M{upper.x:.1f} {start:.1f}"
    if upper.key[0] == "bend":
        line = f"M{upper.x:.1f} {y_upper:.1f}V{start:.1f}"
    middle = (start + y_lower) / 2
    line += f"C{upper.x:.1f} {middle:.1f} {lower.x:.1f} {middle:.1f} {lower.x:.1f} {y_lower:.1f}"
    tip = ""
    if lower.key[0] == "node":
        x, y = lower.x, y_lower
        tip = f'<path class="tip" d="M{x - 4:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y - 6:.1f}Z"/>'
    return f'<path class="edge" d="{line}"/>{tip}'


def _box(node: Node, nodes: list[Node], x: float, y: float, colour: str) -> str:
    """Return one box: name, what came out, jobs and time, failures in their own colour."""
    glyph, state_class = GLYPHS.get(node.state, ("\N{WHITE CIRCLE}", "idle"))
    inside = x + 14
    failed = node.total("n_failed")
    last = [text.count(len(node.jobs), "job")] if len(node.jobs) > 1 else []
    if node.wall_time_s is not None:
        last.append(text.duration(node.wall_time_s))
    if state_class != "good":
        last.append(node.state)
    spans = [html.escape(" · ".join(last))]
    if failed:
        spans.append(f'<tspan class="bad">{text.number(failed)} failed</tspan>')
    third = " · ".join(span for span in spans if span)
    return (
        f'<g class="box"><title>{html.escape(_hint(node, nodes))}</title>'
        f'<rect class="frame {state_class}" x="{x:.1f}" y="{y:.1f}" width="{BOX_WIDTH:.0f}" '
        f'height="{BOX_HEIGHT:.0f}" rx="6"/>'
        f'<rect class="strip {colour}" x="{x + 1:.1f}" y="{y + 7:.1f}" width="4" '
        f'height="{BOX_HEIGHT - 14:.0f}" rx="2"/>'
        f'<text class="name" x="{inside:.1f}" y="{y + 19:.1f}">{html.escape(_cut(node.name, 23))}</text>'
        f'<text class="mark {state_class}" x="{x + BOX_WIDTH - 9:.1f}" y="{y + 19:.1f}">{glyph}</text>'
        f'<text class="small" x="{inside:.1f}" y="{y + 35:.1f}">{html.escape(_cut(_counts(node), 29))}</text>'
        f'<text class="small quiet" x="{inside:.1f}" y="{y + 50:.1f}">{third}</text>'
        "</g>"
    )


def _counts(node: Node) -> str:
    """Return what came out of the node's jobs."""
    labels = node.total("n_labels")
    if labels is not None:
        reused = node.total("n_reused")
        return text.count(labels, "label") + (f", {text.number(reused)} reused" if reused else "")
    return node.jobs[0].counts if len(node.jobs) == 1 else ""


def _hint(node: Node, nodes: list[Node]) -> str:
    """Return the text that appears under the pointer."""
    lines = [node.name, f"stage: {node.stage or 'none'}; state: {node.state}"]
    if node.parents:
        lines.append("reads from: " + ", ".join(nodes[p].name for p in sorted(node.parents)))
    lines += [
        f"{job.name} {text.short_hash(job.uuid, 8)} {text.duration(job.wall_time_s)} {job.counts}"
        for job in node.jobs[:8]
    ]
    if len(node.jobs) > 8:
        lines.append(f"and {len(node.jobs) - 8} more")
    return "\n".join(lines)


def _cut(words: str, length: int) -> str:
    """Shorten words to a number of letters."""
    return words if len(words) <= length else words[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _lead(jobs: list[JobRow], nodes: list[Node]) -> str:
    """Return the section in one or two sentences."""
    states: dict[str, int] = {}
    for job in jobs:
        states[job.state] = states.get(job.state, 0) + 1
    listed = ", ".join(f"{text.number(n)} {state}" for state, n in states.items())
    words = f"{text.count(len(jobs), 'job')} ({listed})"
    busy = sum(job.wall_time_s or 0.0 for job in jobs)
    words += f", {text.duration(busy)} of work"
    heaviest = max(nodes, key=lambda n: n.wall_time_s or 0.0)
    if heaviest.wall_time_s and busy:
        words += f"; most of it, {100 * heaviest.wall_time_s / busy:.0f} %, in “{heaviest.name}”"
    peaks = [job.peak_memory_mb for job in jobs if job.peak_memory_mb is not None]
    if peaks:
        words += f". Highest memory of one job: {text.size(max(peaks) * 1e6)}"
    return words + "."


def _table(jobs: list[JobRow]) -> Table:
    """Return the list of all jobs, folded away."""
    rows: list[list[Cell | str]] = []
    for job in jobs:
        kind = GLYPHS.get(job.state.lower(), ("", "quiet"))[1]
        memory = None if job.peak_memory_mb is None else job.peak_memory_mb * 1e6
        state = Cell(text=job.state, kind=kind if kind in ("good", "bad") else "quiet")  # type: ignore[arg-type]
        rows.append(
            [
                job.name,
                job.stage,
                state,
                job.counts,
                text.moment(job.start),
                Cell(text=text.duration(job.wall_time_s), kind="number"),
                Cell(text=text.size(memory), kind="number"),
                Cell(text=text.short_hash(job.uuid, 8), kind="hash", full=job.uuid),
            ]
        )
    return Table(
        header=["Job", "Stage", "State", "Output", "Start", "Wall time", "Peak memory", "uuid"],
        rows=rows,
        numeric=frozenset({5, 6}),
        folded=f"All {text.count(len(jobs), 'job')}" if len(jobs) > 1 else "The job",
    )
