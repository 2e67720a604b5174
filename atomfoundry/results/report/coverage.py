"""The page of a dataset's coverage: a periodic table, pairs, forces, energies, sizes, and what is missing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.curation.coverage_report import ENERGY_EDGES, FORCE_EDGES, SIZE_EDGES, CoverageReport
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Card, Cards, Cell, Figure, Row, Section, Table, Words
from atomfoundry.results.report.page import write_page

_MOST_PAIRS = 40
_SCALE = [[0.0, "rgba(0,114,178,0.10)"], [1.0, "rgba(0,114,178,0.85)"]]


def write_coverage_page(report: CoverageReport, path: str | Path, *, title: str) -> None:
    """Write the coverage of a dataset as one HTML file.

    Parameters
    ----------
    report
        From :func:`atomfoundry.curation.coverage`.
    path
        The HTML file; its folder must exist.
    title
        Name of the dataset.
    """
    write_page(path, sections(report), title=title, subtitle="What the dataset covers, and what it lacks")


def sections(report: CoverageReport) -> list[Section]:
    """Return the sections of the page."""
    return [_overview(report), _chemistry(report), _labels(report), _origins(report)]


def _overview(report: CoverageReport) -> Section:
    blocks: list[Block] = [
        Cards(
            cards=[
                Card(label="Frames", value=text.number(report.n_frames)),
                Card(label="Atoms", value=text.number(report.n_atoms)),
                Card(label="Elements", value=text.number(len(report.elements))),
                Card(label="Levels of theory", value=text.number(len(report.levels))),
            ]
        )
    ]
    if report.gaps:
        blocks.append(Words(text="What it lacks", heading=True))
        blocks += [Words(text=gap) for gap in report.gaps]
    return Section(key="overview", title="Overview", blocks=blocks)


def _chemistry(report: CoverageReport) -> Section:
    if not report.elements:
        return Section(key="chemistry", title="Elements", absent="There is no atom.")
    blocks: list[Block] = [_periodic_table(report)]
    pair = _pairs(report)
    if pair is not None:
        blocks.append(pair)
    return Section(key="chemistry", title="Elements", blocks=blocks)


def _periodic_table(report: CoverageReport) -> Figure:
    symbols: list[list[str]] = [["" for _ in range(18)] for _ in range(9)]
    counts: list[list[float | None]] = [[None] * 18 for _ in range(9)]
    hover: list[list[str]] = [["" for _ in range(18)] for _ in range(9)]
    for symbol, row, column in table_places():
        symbols[row][column] = symbol
        n = report.elements.get(symbol, 0)
        hover[row][column] = f"{symbol}: {n} frames, {report.element_atoms.get(symbol, 0)} atoms"
        if n:
            counts[row][column] = round(float(np.log10(n)), 4)
    return Figure(
        title="Frames by element",
        caption="Colour: frames that hold the element, on a logarithmic scale; elements without colour are absent.",
        data=[
            {
                "type": "heatmap",
                "z": counts,
                "text": symbols,
                "texttemplate": "%{text}",
                "customdata": hover,
                "hovertemplate": "%{customdata}<extra></extra>",
                "xgap": 2,
                "ygap": 2,
                "colorscale": _SCALE,
                "zmin": 0,
                "zmax": max(1.0, float(np.log10(max(report.elements.values())))),
                "showscale": False,
                "hoverongaps": False,
            },
            _absent(report),
        ],
        layout={
            "xaxis": {"visible": False, "range": [-0.5, 17.5], "fixedrange": True},
            "yaxis": {"visible": False, "range": [8.5, -0.5], "fixedrange": True},
            "margin": {"l": 0, "r": 0, "t": 8, "b": 8},
        },
        height=400,
    )


def _absent(report: CoverageReport) -> dict[str, Any]:
    """Return the symbols of the elements that are not there, which a heat map leaves out."""
    places = [(symbol, row, column) for symbol, row, column in table_places() if symbol not in report.elements]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [column for _, _, column in places],
        "y": [row for _, row, _ in places],
        "text": [symbol for symbol, _, _ in places],
        "textfont": {"color": style.FAINT},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def table_places() -> list[tuple[str, int, int]]:
    """Return symbol, row and column (from 0) of every element up to Lr in the long table, f block below."""
    from ase.data import chemical_symbols

    places = []
    starts = {1: (0, 0), 3: (1, 0), 11: (2, 0), 19: (3, 0), 37: (4, 0), 55: (5, 0), 87: (6, 0)}
    row = column = 0
    for z in range(1, 104):
        if z in starts:
            row, column = starts[z]
        elif z == 2:
            column = 17
        elif z in (5, 13):
            column = 12
        elif z in (58, 90):
            places += [(chemical_symbols[z + i], 7 + (z == 90), 3 + i) for i in range(14)]
        elif z in (72, 104):
            column = 3
        if 58 <= z <= 71 or 90 <= z <= 103:
            continue
        places.append((chemical_symbols[z], row, column))
        column += 1
    return places


def _pairs(report: CoverageReport) -> Figure | None:
    elements = sorted(report.elements, key=lambda symbol: -report.elements[symbol])[:_MOST_PAIRS]
    order = [symbol for symbol in report.elements if symbol in elements]
    if len(order) < 2:
        return None
    counts = [[report.pairs.get(f"{a}-{b}", report.pairs.get(f"{b}-{a}", 0)) for b in order] for a in order]
    share = "" if len(order) == len(report.elements) else f" The {len(order)} most frequent elements."
    return Figure(
        title="Pairs of elements",
        caption=f"Frames in which both elements occur (on the diagonal: two or more atoms of one).{share}",
        data=[
            {
                "type": "heatmap",
                "x": order,
                "y": order,
                "z": [[round(float(np.log10(n)), 4) if n else None for n in line] for line in counts],
                "customdata": counts,
                "hovertemplate": "%{y}-%{x}: %{customdata} frames<extra></extra>",
                "text": [[str(n) if n and len(order) <= 12 else "" for n in line] for line in counts],
                "texttemplate": "%{text}",
                "xgap": 1,
                "ygap": 1,
                "colorscale": _SCALE,
                "zmin": 0,
                "showscale": False,
            }
        ],
        layout={
            "xaxis": {"type": "category", "side": "top", "showgrid": False},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
            "margin": {"l": 44, "r": 8, "t": 36, "b": 8},
        },
        height=min(680, 120 + 28 * len(order)),
    )


def _labels(report: CoverageReport) -> Section:
    figures = [
        _bars("Forces", f"Atoms by the size of their force (eV/{text.ANGSTROM}).", FORCE_EDGES, report.forces, "Atoms"),
        _bars(
            "Energies",
            "Frames by their energy above the lowest one of the same composition and level (eV/atom).",
            ENERGY_EDGES,
            report.energies,
            "Frames",
        ),
        _bars("Sizes", "Frames by their number of atoms.", SIZE_EDGES, report.sizes, "Frames"),
    ]
    shown = [figure for figure in figures if figure is not None]
    if not shown:
        return Section(key="labels", title="Labels", absent="There is no frame.")
    lead = (
        f"{text.number(report.with_energy)} frames have an energy, {text.number(report.with_forces)} forces and "
        f"{text.number(report.with_stress)} a stress."
    )
    return Section(key="labels", title="Labels", lead=lead, blocks=[Row(blocks=shown, columns=2)])


def _bars(
    title: str, caption: str, edges: tuple[float, ...] | tuple[int, ...], counts: list[int], what: str
) -> Figure | None:
    if not any(counts):
        return None
    names = [
        (f"{low:g} to {high - 1:g}" if high - 1 > low else f"{low:g}")
        if isinstance(low, int)
        else f"{low:g} to {high:g}"
        for low, high in pairwise(edges)
    ]
    names.append(f"{edges[-1]:g} and more")
    return Figure(
        title=title,
        caption=caption,
        data=[
            {
                "type": "bar",
                "x": names,
                "y": counts,
                "marker": {"color": style.BLUE},
                "hovertemplate": "%{x}: %{y}<extra></extra>",
            }
        ],
        layout=style.layout({"type": "category", "tickangle": -45}, style.axis(what), bargap=0.15),
    )


def _origins(report: CoverageReport) -> Section:
    tables = [
        _table("Kind of system", report.domains),
        _table("Sampling", report.samplings),
        _table("Level of theory", report.levels),
        _table("Charge", report.charges),
        _table("Spin multiplicity", report.multiplicities),
        _table("Source", report.sources),
    ]
    return Section(key="origins", title="Origins", blocks=[Row(blocks=[t for t in tables if t is not None], columns=2)])


def _table(what: str, counts: dict[str, int], most: int = 20) -> Table | None:
    if not counts:
        return None
    shown = list(counts.items())[:most]
    rest = sum(list(counts.values())[most:])
    rows: list[list[Cell | str]] = [[name, Cell(text=text.number(n), kind="number")] for name, n in shown]
    if rest:
        rows.append([f"{len(counts) - most} others", Cell(text=text.number(rest), kind="number")])
    return Table(header=[what, "Frames"], rows=rows, numeric=frozenset({1}))
