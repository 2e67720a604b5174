"""What an alignment leaves: residuals of every structure, errors by element, and the steps of a path."""

from __future__ import annotations

import numpy as np

from atomfoundry.documents import AlignmentDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Cell, Figure, Table

HELD_OUT = {
    "least_squares_cross_validated": ("Least-squares shifts", style.ORANGE, "diamond"),
    "cross_validated": ("Aligned", style.BLUE, "circle"),
}
"""Key of the points -> title, colour, marker; both are predictions for structures that the fit did not see."""


def residual_figures(doc: AlignmentDoc) -> list[Figure]:
    """Return residuals of structures that were left out of the fit: one by one, and as a distribution."""
    series = {}
    for key, (title, colour, symbol) in HELD_OUT.items():
        points = [p for p in doc.points if p.get(key) is not None and p.get("target") is not None]
        if points:
            series[key] = title, colour, symbol, points, [1000 * (p[key] - p["target"]) for p in points]
    if not series:
        return []
    spread = max(abs(r) for *_, residuals in series.values() for r in residuals) or 1.0
    scatter, steps = [], []
    for title, colour, symbol, points, residuals in series.values():
        scatter.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": style.values([p["target"] for p in points]),
                "y": style.values(residuals),
                "text": [style.plot_text(str(p.get("formula", ""))) for p in points],
                "marker": {"color": colour, "symbol": symbol, "size": 7, "opacity": 0.75, "line": {"width": 0}},
                "hovertemplate": "%{text}<br>target %{x:.4f} eV/atom<br>residual %{y:.2f} meV/atom<extra></extra>",
            }
        )
        ordered = np.sort(np.abs(residuals))
        steps.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": title,
                "x": style.values(np.repeat(ordered, 2)),
                "y": style.values(np.repeat(100 * np.arange(len(ordered) + 1) / len(ordered), 2)[1:-1]),
                "line": {"color": colour, "width": 2, "dash": "solid" if symbol == "circle" else "dash"},
                "hovertemplate": "%{y:.0f} % of structures below %{x:.2f} meV/atom<extra></extra>",
            }
        )
    how = f": {doc.cross_validation}" if doc.cross_validation else ""
    return [
        Figure(
            title="Residuals, structure by structure",
            caption=f"Predicted minus target energy of structures that the fit did not see{how}. Orange: one shift per "
            "element fitted by least squares, without a scale, as is done where nobody aligns.",
            data=scatter,
            layout=style.layout(
                style.axis(f"{doc.target_level.method} atomization energy (eV/atom)"),
                style.axis("residual (meV/atom)", range=[-1.12 * spread, 1.12 * spread]),
                shapes=[style.horizontal(0.0)],
            ),
            height=330,
        ),
        Figure(
            title="Residuals, how many below",
            caption="Share of structures whose residual is smaller in size; left and up is better.",
            data=steps,
            layout=style.layout(
                style.axis("|residual| (meV/atom)", rangemode="tozero"), style.axis("structures (%)", range=[0, 102])
            ),
            height=330,
        ),
    ]


ELEMENT_STEPS = {
    "raw": "As computed",
    "icea": "ICEA",
    "aec": "AEC",
    "cross_validated": "Cross-validated",
    "least_squares_cross_validated": "Shifts only, cross-validated",
}


def element_table(doc: AlignmentDoc) -> Table | None:
    """Return RMSE of each step and R2 of the alignment over the structures that hold an element."""
    if not doc.metrics_per_element:
        return None
    steps = [step for step in ELEMENT_STEPS if any(step in found for found in doc.metrics_per_element.values())]
    rows: list[list[Cell | str]] = []
    for element, found in doc.metrics_per_element.items():
        some = next(iter(found.values()))
        cells = [Cell(text=text.number(some.n), kind="number")]
        cells += [Cell(text=text.number(1000 * found[s].rmse) if s in found else "", kind="number") for s in steps]
        best = found.get("cross_validated") or found.get("aec")
        cells.append(Cell(text=text.r_squared(best.r2) if best else "", kind="number"))
        rows.append([element, *cells])
    return Table(
        header=["Element", "Structures", *(f"{ELEMENT_STEPS[step]} (meV/atom)" for step in steps), "R²"],
        rows=rows,
        caption="RMSE over the structures that hold the element; R² of atomization energies in the last step.",
        numeric=frozenset(range(1, len(steps) + 3)),
        folded="Errors by element" if len(rows) > 12 else "",
    )


def path_table(doc: AlignmentDoc) -> Table | None:
    """Return the steps of an alignment over other levels."""
    if not doc.path:
        return None
    rows: list[list[Cell | str]] = [
        [
            step.source,
            step.target,
            f"{step.mode}, inverted" if step.inverted else step.mode,
            Cell(text=text.fixed(step.scale, 4), kind="number"),
            Cell(text=_milli(step.error), kind="number"),
            Cell(text=_milli(step.accumulated), kind="number"),
        ]
        for step in doc.path
    ]
    return Table(
        header=["From", "To", "Mode", "Scale", "Expected RMSE (meV/atom)", "Accumulated (meV/atom)"],
        rows=rows,
        caption="The path of least expected error. Errors of steps count as independent: their squares add, each "
        "scaled by the steps after it.",
        numeric=frozenset({3, 4, 5}),
    )


def _milli(value: float | None) -> str:
    return "unknown" if value is None else text.number(1000 * value)
