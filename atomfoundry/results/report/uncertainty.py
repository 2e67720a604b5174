"""The uncertainty section: calibration, molecular dynamics under watch, what was selected."""

from __future__ import annotations

import math

import numpy as np

from atomfoundry.documents import SelectionDoc, UncertaintyDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Section, Table
from atomfoundry.results.report.data import ReportInputs

HALF_NORMAL = ((0.6827, 1.0, "68 %"), (0.9545, 2.0, "95 %"), (0.9973, 3.0, "99.7 %"))
"""Share of a half-normal distribution below a multiple of its sigma, the multiple, words."""

TRACES_DRAWN = 12
TRACE_POINTS = 300


def section(inputs: ReportInputs) -> Section:
    """Return the section about uncertainty and active learning."""
    key, title = "uncertainty", "Active learning"
    blocks: list[Block] = []
    for doc in inputs.uncertainties:
        blocks += _uncertainty(doc)
    for selection in inputs.selections:
        blocks += _selection(selection)
    if not blocks:
        return Section(
            key=key, title=title, absent="No uncertainty was computed and no structure was selected."
        )
    lead = (
        "The model says how sure it is (last-layer prediction rigidities, LLPR). Molecular dynamics runs until "
        "it becomes unsure; frames between the two thresholds are labelled next."
    )
    return Section(key=key, title=title, lead=lead, blocks=blocks)


def _uncertainty(doc: UncertaintyDoc) -> list[Block]:
    rows: list[list[Cell | str]] = []
    for head in doc.heads:
        own = [p for p in doc.points if p.get("head") == head]
        shares = coverage(own)
        rows.append(
            [
                head,
                Cell(text=text.number(doc.alpha.get(head)), kind="number"),
                Cell(text=text.number(doc.quantiles.get(f"{head}/energy")), kind="number"),
                Cell(text=text.number(doc.quantiles.get(f"{head}/forces")), kind="number"),
                Cell(text=text.number(len(own)), kind="number"),
                *(
                    Cell(text=text.MISSING if share is None else f"{100 * share:.0f} %", kind="number")
                    for share in shares
                ),
            ]
        )
    table = Table(
        header=[
            "Head",
            "Calibration factor α",
            f"q for energies ({100 * doc.coverage_target:.0f} %)",
            f"q for forces ({100 * doc.coverage_target:.0f} %)",
            "Frames",
            "Errors below 1 σ",
            "below 2 σ",
            "below 3 σ",
        ],
        rows=rows,
        caption="Calibrated on frames that training did not use "
        f"({text.number(doc.n_calibration)}; {text.number(doc.n_training)} in training). Of a perfect "
        "uncertainty, 68 %, 95 % and 99.7 % of errors lie below 1, 2 and 3 σ.",
        numeric=frozenset(range(1, 8)),
    )
    figures = [f for f in (_calibration(doc), _cumulative(doc)) if f is not None]
    return [Row(blocks=figures), table] if figures else [table]


def _pairs(points: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return sigma and absolute error in eV/atom of the points that have both."""
    rows: list[list[Cell | str]] = [
        (float(p["sigma"]), abs(float(p["error"])))
        for p in points
        if p.get("sigma") is not None and p.get("error") is not None and p["sigma"] > 0
    ]
    data = np.array(rows, dtype=float).reshape(-1, 2)
    return data[:, 0], data[:, 1]


def coverage(points: list[dict]) -> list[float | None]:
    """Return the shares of errors below one, two and three sigma; ``None`` without points."""
    sigma, error = _pairs(points)
    if sigma.size == 0:
        return [None] * len(HALF_NORMAL)
    return [float((error <= factor * sigma).mean()) for _, factor, _ in HALF_NORMAL]


def _calibration(doc: UncertaintyDoc) -> Figure | None:
    """Return |error| against sigma with the lines below which a half-normal's shares lie."""
    sigma, error = _pairs(doc.points)
    if sigma.size == 0:
        return None
    data = []
    ends = np.array([sigma.min() / 1.5, sigma.max() * 1.5]) * 1000
    for (_, factor, words), dash in zip(HALF_NORMAL, ("solid", "dash", "dot"), strict=True):
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": words,
                "x": style.values(ends),
                "y": style.values(factor * ends),
                "line": {"color": style.MUTED, "width": 1.3, "dash": dash},
                "hoverinfo": "skip",
            }
        )
    for i, head in enumerate(doc.heads):
        x, y = _pairs([p for p in doc.points if p.get("head") == head])
        if x.size:
            # An error of exactly zero has no logarithm; it is drawn at the lower border.
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": style.plot_text(head),
                    "x": style.values(1000 * x),
                    "y": style.values(1000 * np.maximum(y, 1e-4 * x)),
                    "marker": {
                        "color": style.PALETTE[i % len(style.PALETTE)],
                        "symbol": style.SYMBOLS[i % len(style.SYMBOLS)],
                        "size": 6,
                        "opacity": 0.75,
                    },
                    "hovertemplate": "σ %{x:.3g}<br>|error| %{y:.3g} meV/atom<extra></extra>",
                }
            )
    positive = error[error > 0]
    low = float(np.quantile(positive, 0.02)) if positive.size else float(sigma.min()) / 10
    high = max(float(error.max()), 3 * float(sigma.max()))
    return Figure(
        title="Is the model as wrong as it says?",
        caption="Error of a frame against the predicted uncertainty; the three lines bound 68, 95 and "
        "99.7 % of the errors if the uncertainty is right.",
        data=data,
        layout=style.layout(
            style.log_axis("predicted σ (meV/atom)", ends, pad=0.0),
            style.log_axis("|error| (meV/atom)", [1000 * low / 2, 1000 * high]),
        ),
        height=350,
    )


def _cumulative(doc: UncertaintyDoc) -> Figure | None:
    """Return the distribution of |error|/sigma next to the half-normal's."""
    grid = np.linspace(0, 4, 81)
    ideal = [math.erf(z / math.sqrt(2)) for z in grid]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "ideal",
            "x": style.values(grid),
            "y": style.values([100 * v for v in ideal]),
            "line": {"color": style.MUTED, "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
        }
    ]
    for i, head in enumerate(doc.heads):
        sigma, error = _pairs([p for p in doc.points if p.get("head") == head])
        if sigma.size:
            ratio = np.sort(error / sigma)
            shares = np.searchsorted(ratio, grid, side="right") / ratio.size
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": style.plot_text(head),
                    "x": style.values(grid),
                    "y": style.values(100 * shares),
                    "line": {"color": style.PALETTE[i % len(style.PALETTE)], "width": 2, "shape": "hv"},
                    "hovertemplate": "%{y:.0f} % below %{x:.2g} σ<extra></extra>",
                }
            )
    if len(data) == 1:
        return None
    return Figure(
        title="Errors in units of the uncertainty",
        caption="A curve above the dashed one means the model is too careful, below it too sure of itself.",
        data=data,
        layout=style.layout(
            style.axis("|error| / σ", range=[0, 4]), style.axis("share below (%)", range=[0, 101])
        ),
        height=350,
    )


def _selection(doc: SelectionDoc) -> list[Block]:
    figures = [f for f in (_traces(doc), _funnel(doc)) if f is not None]
    blocks: list[Block] = [Row(blocks=figures)] if figures else []
    if doc.trajectories:
        blocks.append(
            Table(
                header=[
                    "Start",
                    "Temperature (K)",
                    "Steps",
                    "Time (ps)",
                    f"Largest σ (eV/{text.ANGSTROM})",
                    "Frames flagged",
                    "Ended because",
                ],
                rows=[
                    [
                        t.structure,
                        Cell(text=text.number(t.temperature), kind="number"),
                        Cell(text=text.number(t.n_steps), kind="number"),
                        Cell(text=text.number(t.n_steps * t.timestep / 1000), kind="number"),
                        Cell(text=text.number(max(t.sigma_max, default=None)), kind="number"),
                        Cell(text=text.number(t.n_flagged), kind="number"),
                        t.stop_reason.replace("_", " "),
                    ]
                    for t in doc.trajectories
                ],
                caption=f"Molecular dynamics of round {doc.round}.",
                numeric=frozenset({1, 2, 3, 4, 5}),
            )
        )
    return blocks


def _traces(doc: SelectionDoc) -> Figure | None:
    """Return the largest force uncertainty along each trajectory, with the thresholds."""
    data, every = [], [v for v in doc.thresholds.values() if v > 0]
    for i, t in enumerate(doc.trajectories[:TRACES_DRAWN]):
        step = -(-len(t.times) // TRACE_POINTS) or 1
        points = [(x / 1000, y) for x, y in zip(t.times[::step], t.sigma_max[::step], strict=False) if y > 0]
        if points:
            every += [y for _, y in points]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": style.plot_text(f"{t.structure}, {t.temperature:.0f} K"),
                    "x": style.values([x for x, _ in points]),
                    "y": style.values([y for _, y in points]),
                    "line": {
                        "color": style.PALETTE[i % len(style.PALETTE)],
                        "dash": style.DASHES[i // len(style.PALETTE) % len(style.DASHES)],
                        "width": 1.6,
                    },
                    "hovertemplate": "%{x:.3g} ps: %{y:.3g}<extra>%{fullData.name}</extra>",
                }
            )
    if not data:
        return None
    lines, notes = [], []
    words = {"low": "labelled above this", "high": "stopped above this"}
    for name, value in doc.thresholds.items():
        if value > 0:
            colour = style.RED if name == "high" else style.INK
            lines.append(style.horizontal(value, colour=colour))
            notes.append(
                {
                    "xref": "paper",
                    "x": 1,
                    "xanchor": "right",
                    "y": math.log10(value),
                    "yanchor": "bottom",
                    "text": style.plot_text(words.get(name, name)),
                    "showarrow": False,
                    "font": {"size": 11, "color": colour},
                    "bgcolor": "var(--veil)",
                    "borderpad": 1,
                }
            )
    more = len(doc.trajectories) - TRACES_DRAWN
    caption = "Largest uncertainty of any atom's force along each run; between the lines frames are kept."
    if more > 0:
        caption += f" {text.number(more)} more runs are only in the table."
    return Figure(
        title=f"Molecular dynamics under watch, round {doc.round}",
        caption=caption,
        data=data,
        layout=style.layout(
            style.axis("time (ps)"),
            style.log_axis(f"largest force σ (eV/{text.ANGSTROM})", every, pad=0.1),
            shapes=lines,
            annotations=notes,
        ),
        height=350,
    )


def _funnel(doc: SelectionDoc) -> Figure | None:
    """Return the counts from candidates over rejections to the selected frames."""
    if not doc.n_candidates and not doc.n_selected:
        return None
    rows = [("candidates", doc.n_candidates, style.SKY)]
    rows += [
        (f"rejected: {reason.replace('_', ' ')}", n, style.ORANGE) for reason, n in doc.n_rejected.items()
    ]
    rows.append(("selected", doc.n_selected, style.BLUE))
    return Figure(
        title=f"What was selected, round {doc.round}",
        caption=f"Of {text.count(doc.n_candidates, 'candidate')} {text.number(doc.n_selected)} went to the "
        "label engine.",
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "y": [style.plot_text(name) for name, _, _ in rows],
                "x": [n for _, n, _ in rows],
                "text": [text.number(n) for _, n, _ in rows],
                "textposition": "outside",
                "cliponaxis": False,
                "constraintext": "none",
                "textangle": 0,
                "marker": {"color": [colour for _, _, colour in rows]},
                "hovertemplate": "%{y}: %{x}<extra></extra>",
            }
        ],
        layout=style.layout(
            style.axis("frames", range=[0, 1.15 * max(n for _, n, _ in rows)]),
            {"autorange": "reversed", "type": "category", "ticksuffix": " "},
            bargap=0.4,
            showlegend=False,
        ),
        height=350,
    )
