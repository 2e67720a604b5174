"""The table of a model's errors by element."""

from __future__ import annotations

from atomfoundry.documents import ElementMetrics
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Cell, Table

ALERT_WORDS = {"few_atoms": "fewer than 100 atoms", "large_error": "over three times the median"}
"""What an alert says, under ALGORITHMS 3.7."""

ROWS_OPEN = 20
"""A table of more rows is folded away."""


def elements_table(metrics: list[ElementMetrics]) -> Table:
    """Return the errors by element of the split that counts of each head, the largest force RMSE first."""
    rows: list[list[Cell | str]] = []
    for head in dict.fromkeys(m.head for m in metrics):
        splits = {m.split for m in metrics if m.head == head}
        split = next((name for name in reversed(style.SPLITS) if name in splits), min(splits))
        chosen = [m for m in metrics if (m.head, m.split) == (head, split)]
        for m in sorted(chosen, key=lambda m: -1.0 if m.forces_rmse is None else m.forces_rmse, reverse=True):
            numbers = (m.forces_mae, m.forces_rmse, m.energy_mae)
            rows.append(
                [
                    m.element,
                    head,
                    split,
                    Cell(text=text.number(m.n_atoms), kind="number"),
                    *(Cell(text=_milli(number), kind="number") for number in numbers),
                    ", ".join(ALERT_WORDS.get(alert, alert) for alert in m.alerts),
                ]
            )
    return Table(
        header=[
            "Element",
            "Head",
            "Split",
            "Atoms",
            f"Force MAE (meV/{text.ANGSTROM})",
            "RMSE",
            "Energy MAE (meV/atom)",
            "Note",
        ],
        rows=rows,
        caption="Errors by element; a frame's energy error goes to its elements by their share of its atoms.",
        numeric=frozenset(range(3, 7)),
        folded=f"Errors by element, {text.count(len(rows), 'row')}" if len(rows) > ROWS_OPEN else "",
    )


def _milli(value: float | None) -> str:
    return text.MISSING if value is None else text.number(1000 * value)
