"""The section on Total Energy Alignment: atomization energies before and after."""

from __future__ import annotations

from atomfoundry.documents import AlignmentDoc, EnergyMetrics
from atomfoundry.results.report import style, text
from atomfoundry.results.report.alignment_details import element_table, path_table, residual_figures
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Section, Table, Words
from atomfoundry.results.report.data import ReportInputs

STEPS = {
    "raw": ("As computed", "as computed", style.ORANGE),
    "icea": ("After ICEA", "core energies shifted element by element", style.PURPLE),
    "aec": ("After ICEA and AEC", "shifted and scaled", style.BLUE),
}
"""Key of the points and metrics -> title, words, colour."""

METRIC_WORDS = {
    "raw": "as computed",
    "icea": "after ICEA (inner core energy alignment)",
    "aec": "after AEC (atomization energy correction)",
    "cross_validated": "AEC, cross-validated",
    "affine_cross_validated": "shifts and scale without bond terms, cross-validated",
    "least_squares": "least-squares shifts, for comparison",
    "least_squares_cross_validated": "least-squares shifts, cross-validated",
}


def section(inputs: ReportInputs) -> Section:
    """Return the section about the alignments."""
    key, title = "alignment", "Energy alignment"
    if not inputs.alignments:
        return Section(key=key, title=title, absent="No alignment was made: all labels share one level of theory.")
    blocks: list[Block] = []
    for doc in inputs.alignments:
        blocks += _alignment(doc, named=len(inputs.alignments) > 1)
    lead = (
        "Labels of two levels of theory are put on one energy scale (Total Energy Alignment, TEA): "
        "isolated-atom energies are exchanged element by element, then atomization energies, forces and "
        "stresses are scaled by one factor."
    )
    return Section(key=key, title=title, lead=lead, blocks=blocks)


def _alignment(doc: AlignmentDoc, *, named: bool) -> list[Block]:
    blocks: list[Block] = []
    if named:
        words = f"{doc.source_level.label} to {doc.target_level.label}"
        blocks.append(Words(text=words, heading=True))
    bridge = f", over {doc.bridge_level.label}" if doc.bridge_level else ""
    scale = f"scale factor {text.fixed(doc.scale, 4)}"
    how = f"mode “{doc.mode}”, {scale} from {text.count(doc.n_overlap, 'structure')} computed at both"
    if doc.path:
        steps = text.count(len(doc.path), "step")
        how = (
            f"{scale} over {steps}, with an expected error of {text.number(1000 * (doc.expected_error or 0))} meV/atom"
        )
    if doc.n_pair_terms:
        how += f", and {text.count(doc.n_pair_terms, 'bond term')}"
    blocks.append(
        Words(
            text=f"From {doc.source_level.label} to {doc.target_level.label}{bridge}; {how}; "
            f"{text.count(doc.n_aligned, 'frame')} aligned."
        )
    )
    if doc.dispersion_note:
        blocks.append(Words(text=f"Dispersion: {doc.dispersion_note}."))
    if doc.left_out:
        blocks.append(Words(text=f"Left out: {text.listing(doc.left_out)}."))
    if doc.uncovered:
        missing = ", ".join(doc.uncovered)
        blocks.append(Words(text=f"In no structure that was computed at both levels, and so refused: {missing}."))
    steps_taken = path_table(doc)
    if steps_taken is not None:
        blocks.append(steps_taken)
    parity = [_parity(doc, step) for step in STEPS if any(step in point for point in doc.points)]
    if parity:
        blocks.append(Row(blocks=parity, columns=3))
    if doc.metrics:
        blocks.append(_metrics(doc.metrics))
    residuals = residual_figures(doc)
    if residuals:
        blocks.append(Row(blocks=residuals))
    bars = [figure for figure in (_residuals(doc), _shifts(doc)) if figure is not None]
    if bars:
        blocks.append(Row(blocks=bars))
    by_element = element_table(doc)
    if by_element is not None:
        blocks.append(by_element)
    blocks.append(_isolated(doc))
    return blocks


def _parity(doc: AlignmentDoc, step: str) -> Figure:
    """Return the parity of atomization energies at one step."""
    title, words, colour = STEPS[step]
    points = [p for p in doc.points if p.get(step) is not None and p.get("target") is not None]
    x, y = [float(p["target"]) for p in points], [float(p[step]) for p in points]
    both = _ends(x + y)
    caption = f"Atomization energies of the overlap structures, {words}; on the line the two levels agree."
    x_ends, y_ends = both, both
    if both[1] - both[0] > 20 * (max(x) - min(x) or 1e-3):
        x_ends, y_ends = _ends(x), _ends(y)
        # Room for the numbers, which stand in the upper corner.
        y_ends[1] += 0.4 * (y_ends[1] - y_ends[0])
        offset = sum(b - a for a, b in zip(x, y, strict=True)) / len(x)
        caption = (
            f"Energies of the overlap structures, {words}: the levels differ by {text.number(offset)} "
            "eV/atom on average, so the axes differ too."
        )
    note = "<br>".join(metric_lines(doc.metrics[step])) if step in doc.metrics else ""
    data = [
        diagonal(both),
        {
            "type": "scatter",
            "mode": "markers",
            "x": style.values(x),
            "y": style.values(y),
            "text": [style.plot_text(str(p.get("formula", ""))) for p in points],
            "marker": {"color": colour, "size": 7, "opacity": 0.75, "line": {"width": 0}},
            "hovertemplate": "%{text}<br>target %{x:.4f}<br>source %{y:.4f} eV/atom<extra></extra>",
        },
    ]
    return Figure(
        title=title,
        caption=caption,
        data=data,
        layout=style.layout(
            style.axis(f"{doc.target_level.method} (eV/atom)", range=x_ends),
            style.axis(f"{doc.source_level.method} (eV/atom)", range=y_ends),
            annotations=[style.inset(note)] if note else [],
            showlegend=False,
        ),
        height=310,
    )


def _ends(numbers: list[float]) -> list[float]:
    """Return the range of an axis over some numbers."""
    low, high = min(numbers), max(numbers)
    pad = 0.06 * (high - low or 1.0)
    return [low - pad, high + pad]


def diagonal(ends: list[float]) -> dict:
    """Return the line y = x between two ends."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": style.values(ends, 8),
        "y": style.values(ends, 8),
        "line": {"color": style.MUTED, "width": 1.2, "dash": "dash"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def metric_lines(metrics: EnergyMetrics) -> list[str]:
    """Return RMSE, MAE and R2 as lines for an inset."""
    return [
        f"RMSE {_energy(metrics.rmse)}",
        f"MAE {_energy(metrics.mae)}",
        f"R² {text.r_squared(metrics.r2)}",
    ]


def _energy(value: float) -> str:
    """Return an energy in eV/atom or meV/atom, whichever reads better."""
    return f"{text.number(value)} eV/atom" if abs(value) >= 10 else f"{text.number(1000 * value)} meV/atom"


def _metrics(metrics: dict[str, EnergyMetrics]) -> Table:
    order = [step for step in METRIC_WORDS if step in metrics] + sorted(set(metrics) - set(METRIC_WORDS))
    rows: list[list[Cell | str]] = [
        [
            METRIC_WORDS.get(step, step),
            Cell(text=text.number(1000 * metrics[step].rmse), kind="number"),
            Cell(text=text.number(1000 * metrics[step].mae), kind="number"),
            Cell(text=text.r_squared(metrics[step].r2), kind="number"),
            Cell(text=text.number(metrics[step].n), kind="number"),
        ]
        for step in order
    ]
    return Table(
        header=["Step", "RMSE (meV/atom)", "MAE (meV/atom)", "R²", "Structures"],
        rows=rows,
        caption="Errors of the source energies against the target level, step by step.",
        numeric=frozenset({1, 2, 3, 4}),
    )


def _residuals(doc: AlignmentDoc) -> Figure | None:
    if not doc.residuals_per_element:
        return None
    return _element_bars(
        "What is left, by element",
        {element: 1000 * value for element, value in doc.residuals_per_element.items()},
        "mean residual (meV/atom)",
        "Mean residual of the structures that hold an element; a tall bar calls for more than one factor.",
        style.BLUE,
    )


def _shifts(doc: AlignmentDoc) -> Figure | None:
    if not doc.shifts:
        return None
    return _element_bars(
        "Shift of each element (ICEA)",
        doc.shifts,
        "shift (eV/atom)",
        "What is added for each atom: the difference in how the two codes treat core electrons.",
        style.PURPLE,
    )


def _element_bars(title: str, heights: dict[str, float], unit: str, caption: str, colour: str) -> Figure:
    trace = {
        "type": "bar",
        "x": [style.plot_text(element) for element in heights],
        "y": style.values(heights.values(), 8),
        "marker": {"color": colour},
        "hovertemplate": "%{x}: %{y}<extra></extra>",
    }
    return Figure(
        title=title,
        caption=caption,
        data=[trace],
        layout=style.layout(style.axis("element", type="category"), style.axis(unit), bargap=0.5, showlegend=False),
        height=260,
    )


def _isolated(doc: AlignmentDoc) -> Table:
    elements = sorted({*doc.source_isolated_energies, *doc.target_isolated_energies})
    rows: list[list[Cell | str]] = [
        [
            element,
            Cell(text=text.fixed(doc.source_isolated_energies.get(element), 4), kind="number"),
            Cell(text=text.fixed(doc.target_isolated_energies.get(element), 4), kind="number"),
            Cell(text=text.number(doc.overlap_per_element.get(element)), kind="number"),
        ]
        for element in elements
    ]
    return Table(
        header=[
            "Element",
            f"{doc.source_level.method}: isolated atom (eV)",
            f"{doc.target_level.method}: isolated atom (eV)",
            "Overlap structures",
        ],
        rows=rows,
        numeric=frozenset({1, 2, 3}),
        folded="Isolated-atom energies of both levels",
    )
