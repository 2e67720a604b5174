"""The page of an evaluation: parity plots, error distributions and tables by element and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from atomfoundry.models.accuracy import Accuracy, GroupErrors
from atomfoundry.results.report import text
from atomfoundry.results.report.blocks import Block, Cell, Row, Section, Table
from atomfoundry.results.report.page import write_page
from atomfoundry.results.report.parity import QUANTITIES, distribution_figure, metrics_table, parity_figure

GROUPS_SHOWN = 60
"""Rows of the table by source; the others are in the JSON output."""


def write_accuracy_page(path: str | Path, accuracies: Sequence[Accuracy], *, title: str, subtitle: str = "") -> None:
    """Write the page, one section a set.

    Parameters
    ----------
    path
        The HTML file; its folder must exist, an older page is replaced.
    accuracies
        Errors, each of one head on one set.
    title, subtitle
        Its heading, e.g. the model and the datasets.
    """
    sections = [_section(accuracy, number) for number, accuracy in enumerate(accuracies)]
    write_page(
        path,
        sections,
        title=title,
        subtitle=subtitle,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _section(accuracy: Accuracy, number: int) -> Section:
    name = f"{accuracy.split}, head “{accuracy.head}”" if accuracy.head else accuracy.split
    figures, distributions = [], []
    for quantity in QUANTITIES:
        errors = accuracy.overall.errors[quantity.key]
        if not errors.count:
            continue
        pairs = {accuracy.split: accuracy.samples[quantity.key].points()}
        figures.append(parity_figure(quantity, pairs, accuracy.split, (errors.mae, errors.rmse, errors.r2)))
        distributions.append(distribution_figure(quantity, pairs, accuracy.split))
    blocks: list[Block] = []
    if figures:
        blocks += [Row(blocks=figures, columns=3), Row(blocks=distributions, columns=3)]
    blocks.append(metrics_table([accuracy.metrics()]))
    if any(entry.n_atoms for entry in accuracy.by_element()):
        blocks.append(_elements(accuracy))
    for what, groups in (("Source", accuracy.by_source), ("Sampling", accuracy.by_sampling)):
        if set(groups) - {"unknown"}:
            blocks.append(_groups(what, groups))
    if accuracy.failures:
        blocks.append(_failures(accuracy))
    lead = f"{text.count(accuracy.overall.n_frames, 'frame')} compared"
    if accuracy.n_failed:
        lead += f", {accuracy.n_failed} without a prediction"
    if accuracy.n_isolated:
        lead += f"; {text.count(accuracy.n_isolated, 'isolated atom')} left out"
    shown = f"{lead}. Plots draw a random share of the points and the worst; numbers count all."
    return Section(key=f"set-{number + 1}", title=name, lead=shown, blocks=blocks)


def _elements(accuracy: Accuracy) -> Table:
    a = text.ANGSTROM
    rows: list[list[Cell | str]] = [
        [
            entry.element,
            _number(entry.n_atoms),
            _number(1000 * entry.forces_mae),
            _number(1000 * entry.forces_rmse),
            _number(1000 * entry.energy_mae),
            ", ".join(alert.replace("_", " ") for alert in entry.alerts),
        ]
        for entry in accuracy.by_element()
    ]
    return Table(
        header=["Element", "Atoms", f"Force MAE (meV/{a})", "RMSE", "Energy MAE (meV/atom)", "Note"],
        rows=rows,
        caption="Energy errors are shared out to the elements by their part in the composition.",
        numeric=frozenset(range(1, 5)),
    )


def _groups(what: str, groups: Mapping[str, GroupErrors]) -> Table:
    ordered = sorted(groups.items(), key=lambda item: (-_sort_key(item[1]), item[0]))
    rows: list[list[Cell | str]] = []
    for name, group in ordered[:GROUPS_SHOWN]:
        errors = group.errors
        cells = [1000 * errors[q].mae if errors[q].count else None for q in ("energy", "forces")]
        cells += [1000 * errors[q].rmse if errors[q].count else None for q in ("energy", "forces")]
        rows.append([name, _number(group.n_frames), *(_number(cell) for cell in cells)])
    a = text.ANGSTROM
    left = len(ordered) - len(rows)
    return Table(
        header=[
            what,
            "Frames",
            "Energy MAE (meV/atom)",
            f"Force MAE (meV/{a})",
            "Energy RMSE (meV/atom)",
            f"Force RMSE (meV/{a})",
        ],
        rows=rows,
        caption="The worst first." + (f" {left} more are not shown." if left else ""),
        numeric=frozenset(range(1, 6)),
    )


def _sort_key(group: GroupErrors) -> float:
    for quantity in ("forces", "energy"):
        if group.errors[quantity].count:
            return group.errors[quantity].rmse
    return 0.0


def _failures(accuracy: Accuracy) -> Table:
    rows: list[list[Cell | str]] = [
        [failure.frame, failure.formula, failure.reason, failure.message] for failure in accuracy.failures
    ]
    counts = ", ".join(f"{reason}: {number}" for reason, number in sorted(accuracy.reasons.items()))
    return Table(
        header=["Frame", "Formula", "Reason", "Because"],
        rows=rows,
        folded=f"Frames without a prediction ({counts})",
    )


def _number(value: float | int | None) -> Cell:
    return Cell(text=text.number(value), kind="number")
