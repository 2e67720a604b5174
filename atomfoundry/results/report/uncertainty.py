"""The uncertainty section: calibration, molecular dynamics under watch, what was selected."""

from __future__ import annotations

import math

import numpy as np

from atomfoundry.documents import UncertaintyDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Section, Table
from atomfoundry.results.report.data import ReportInputs
from atomfoundry.results.report.selection import selection_blocks

HALF_NORMAL = ((0.6827, 1.0, "68 %"), (0.9545, 2.0, "95 %"), (0.9973, 3.0, "99.7 %"))
"""Share of a half-normal distribution below a multiple of its sigma, the multiple, words."""


def section(inputs: ReportInputs) -> Section:
    """Return the section about uncertainty and active learning."""
    key, title = "uncertainty", "Active learning"
    blocks: list[Block] = []
    for doc in inputs.uncertainties:
        blocks += _uncertainty(doc)
    for selection in inputs.selections:
        blocks += selection_blocks(selection)
    if not blocks:
        return Section(key=key, title=title, absent="No uncertainty was computed and no structure was selected.")
    lead = (
        "The model says how sure it is (last-layer prediction rigidities, LLPR; a committee's disagreement where a "
        "calculator has none). Molecular dynamics runs until it becomes unsure; frames between the two thresholds "
        "are labelled next."
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
    rows = [
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
        layout=style.layout(style.axis("|error| / σ", range=[0, 4]), style.axis("share below (%)", range=[0, 101])),
        height=350,
    )
