"""One HTML page about a tree of runs: how relaxations converged, how dynamics went, what is not finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.harvest.convergence import RunConvergence, convergence_table, write_text
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Card, Cards, Cell, Figure, Section, Table, Words
from atomfoundry.results.report.page import html_of

_DRAWN = 12
"""Runs with lines of their own in one figure; more could not be told apart."""

_POINTS = 2000
"""Points of one line; a longer run shows every n-th step."""

_LABEL = 32
"""Letters of a run's name in a legend."""


def convergence_page(tree: str | Path, records: Sequence[RunConvergence] | None = None) -> str:
    """Return the page as HTML that needs nothing else.

    Parameters
    ----------
    tree
        A folder (or file) of outputs of any supported code.
    records
        What ``convergence_table`` gave for it, so that nothing is read twice.
    """
    runs = convergence_table(tree) if records is None else records
    sections = [_overview(runs), _relaxations(runs), _dynamics(runs), _table(runs)]
    title = f"Runs in {Path(tree).resolve().name}"
    return html_of([section for section in sections if section is not None], title=title)


def write_convergence_page(path: str | Path, tree: str | Path, records: Sequence[RunConvergence] | None = None) -> None:
    """Write the page to a file, which appears when it is complete.

    Parameters
    ----------
    path
        The HTML file.
    tree, records
        As for ``convergence_page``.
    """
    write_text(Path(path), convergence_page(tree, records))


def _overview(runs: Sequence[RunConvergence]) -> Section:
    done = sum(run.done for run in runs)
    reasons = Counter(run.status for run in runs if not run.done)
    cards = [
        Card(label="runs", value=str(len(runs))),
        Card(label="ended well", value=str(done), verdict="good" if done == len(runs) else ""),
        Card(
            label="to run again",
            value=str(len(runs) - done),
            note=", ".join(f"{number} {reason}" for reason, number in reasons.most_common(4)),
            verdict="bad" if reasons else "",
        ),
        Card(label="ionic steps", value=str(sum(len(run.energies) for run in runs))),
    ]
    return Section(key="overview", title="Overview", blocks=[Cards(cards=cards)])


def _relaxations(runs: Sequence[RunConvergence]) -> Section | None:
    chosen = [run for run in runs if len(run.energies) > 1 and not run.dynamics]
    if not chosen:
        return None
    blocks: list[Block] = [
        _lines(
            "Largest force",
            "The largest force of each ionic step; a relaxation ends when it falls below its criterion.",
            chosen,
            lambda run: run.max_forces,
            f"largest force (eV/{text.ANGSTROM})",
            log=True,
        ),
        _lines(
            "Energy change",
            "Change to the step before, without its sign.",
            chosen,
            lambda run: [abs(change) / max(run.n_atoms, 1) * 1000 for change in run.energy_changes],
            "|energy change| (meV/atom)",
            log=True,
        ),
        _lines(
            "Pressure",
            "Positive: the cell is compressed and wants to expand.",
            chosen,
            lambda run: run.pressures,
            "pressure (GPa)",
        ),
    ]
    return Section(key="relaxations", title="Relaxations", lead=_shown(chosen), blocks=blocks)


def _dynamics(runs: Sequence[RunConvergence]) -> Section | None:
    chosen = [run for run in runs if run.dynamics]
    if not chosen:
        return None
    figures = []
    if any(run.temperatures for run in chosen):
        figures.append(
            _lines(
                "Temperature",
                "As the output prints it.",
                [run for run in chosen if run.temperatures],
                lambda run: run.temperatures,
                "temperature (K)",
            )
        )
    figures.append(
        _lines(
            "Potential energy",
            "Relative to the mean of the run.",
            chosen,
            lambda run: (
                [(energy - float(np.nanmean(run.energies))) / max(run.n_atoms, 1) * 1000 for energy in run.energies]
                if np.isfinite(run.energies).any()
                else []
            ),
            "energy (meV/atom)",
        )
    )
    figures.append(
        _lines(
            "Pressure",
            "Without the part of the ions' motion; positive: compressed.",
            chosen,
            lambda run: run.pressures,
            "pressure (GPa)",
        )
    )
    return Section(key="dynamics", title="Molecular dynamics", lead=_shown(chosen), blocks=figures)


def _shown(runs: Sequence[RunConvergence]) -> str:
    if len(runs) <= _DRAWN:
        return f"{len(runs)} run{'s' if len(runs) > 1 else ''} with more than one ionic step."
    return f"{_DRAWN} of {len(runs)} runs with more than one ionic step are drawn, those with the most steps first."


def _lines(
    title: str,
    caption: str,
    runs: Sequence[RunConvergence],
    values_of: Callable[[RunConvergence], Sequence[float]],
    label: str,
    *,
    log: bool = False,
) -> Figure:
    drawn = sorted(runs, key=lambda run: -len(run.energies))[:_DRAWN]
    data: list[dict[str, Any]] = []
    seen: list[float] = []
    longest = 0
    for number, run in enumerate(drawn):
        numbers = np.array(values_of(run), dtype=float)
        if log:
            numbers[~(numbers > 0)] = np.nan
        if not np.isfinite(numbers).any():
            continue
        every = max(1, -(-len(numbers) // _POINTS))
        steps = np.arange(1, len(numbers) + 1)[::every]
        longest = max(longest, len(numbers))
        seen += numbers[np.isfinite(numbers)].tolist()
        colour = style.PALETTE[number % len(style.PALETTE)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(steps) > 40 else "lines+markers",
                "name": style.plot_text(_short(run.source)),
                "x": steps.tolist(),
                "y": style.values(numbers[::every]),
                "line": {
                    "color": colour,
                    "width": 1.6,
                    "dash": style.DASHES[number // len(style.PALETTE) % len(style.DASHES)],
                },
                "marker": {"color": colour, "size": 6, "symbol": style.SYMBOLS[number % len(style.SYMBOLS)]},
                "hovertemplate": f"{style.plot_text(run.source)}<br>step %{{x}}: %{{y}}<extra></extra>",
            }
        )
    y = style.log_axis(label, seen) if log else style.axis(label)
    if not log and (middle := _middle(seen)):
        y["range"] = middle
        caption = f"{caption} The axis shows the bulk of the values; zoom out for the others."
    x = style.axis("ionic step", **({"dtick": 1} if longest <= 12 else {}))
    legend = {"orientation": "v", "x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top", "font": {"size": 10.5}}
    if not data:
        caption = f"{caption} No run of these prints it."
    return Figure(
        title=title, caption=caption, data=data, layout=style.layout(x, y, showlegend=True, legend=legend), height=340
    )


def _middle(numbers: list[float]) -> list[float] | None:
    """Return the range of most values where a few outliers would flatten all others."""
    if len(numbers) < 10:
        return None
    low, high = (float(value) for value in np.percentile(numbers, [8, 92]))
    room = 0.15 * (high - low)
    if not room or max(numbers) - min(numbers) < 5 * (high - low):
        return None
    return [low - room, high + room]


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else f"…{name[1 - _LABEL :]}"


def _table(runs: Sequence[RunConvergence]) -> Section:
    rows: list[list[Cell | str]] = []
    for run in sorted(runs, key=lambda run: run.done):
        rows.append(
            [
                Cell(text=run.source, kind="code"),
                Cell(text=run.status.replace("_", " "), kind="good" if run.done else "bad"),
                str(run.n_atoms or ""),
                str(len(run.energies)),
                _last(run.energies, ".6f"),
                _last(run.max_forces, ".4f"),
                _last(run.pressures, ".2f"),
            ]
        )
    header = [
        "run",
        "status",
        "atoms",
        "steps",
        "last energy (eV)",
        f"last largest force (eV/{text.ANGSTROM})",
        "last pressure (GPa)",
    ]
    if not rows:
        return Section(key="runs", title="Runs", blocks=[Words(text="There is no output of a known code.")])
    table = Table(header=header, rows=rows, numeric=frozenset({2, 3, 4, 5, 6}))
    return Section(key="runs", title="Runs", lead="Those that did not end well come first.", blocks=[table])


def _last(numbers: Sequence[float], form: str) -> str:
    return format(numbers[-1], form) if numbers and np.isfinite(numbers[-1]) else ""
