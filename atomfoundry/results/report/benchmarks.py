"""The benchmarks section: the model next to the label engine, property by property."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atomfoundry.documents import BenchmarkDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Cell, Figure, Fold, Row, Section, Table, Words
from atomfoundry.results.report.data import ReportInputs
from atomfoundry.units import GPA

ANGSTROM3 = f"{text.ANGSTROM}³"

TITLES = {
    "equation_of_state": "Equation of state",
    "elasticity": "Elastic constants",
    "nve_drift": "Energy conservation",
    "diatomic": "Two atoms",
    "parity": "Labelled frames",
}
"""Benchmarks in the order shown."""

ROWS: dict[str, list[tuple[str, str, str]]] = {
    "equation_of_state": [
        ("V0", "Equilibrium volume V₀", f"{ANGSTROM3}/atom"),
        ("a", "Lattice constant a", text.ANGSTROM),
        ("B0", "Bulk modulus B₀", "GPa"),
        ("B0_prime", "Its pressure derivative B₀′", ""),
        ("delta", "Difference of the curves Δ", "meV/atom"),
    ],
    "elasticity": [
        *((f"C{i}{j}", f"C{i}{j}", "GPa") for i in range(1, 7) for j in range(i, 7)),
        *((f"clamped_C{i}{j}", f"C{i}{j}, ions clamped", "GPa") for i in range(1, 7) for j in range(i, 7)),
        ("K_VRH", "Bulk modulus K (Hill)", "GPa"),
        ("G_VRH", "Shear modulus G (Hill)", "GPa"),
        ("E", "Young's modulus E", "GPa"),
        ("nu", "Poisson's ratio ν", ""),
        ("zener_anisotropy", "Zener anisotropy", ""),
    ],
    "nve_drift": [
        ("drift", "Drift of the total energy", "meV/atom/ps"),
        ("fluctuation", "Fluctuation of the total energy", "meV/atom"),
        ("mean_temperature", "Mean temperature", "K"),
        ("simulated_time", "Simulated time", "ps"),
        ("n_atoms", "Atoms", ""),
    ],
    "diatomic": [
        ("r_min", "Bond length", text.ANGSTROM),
        ("well_depth", "Well depth", "eV"),
        ("energy_mae", "Mean energy error", "eV"),
        ("force_mae", "Mean force error", f"eV/{text.ANGSTROM}"),
        ("tortuosity", "Tortuosity (1 is smooth)", ""),
        ("energy_flips", "Turning points (1 is right)", ""),
        ("repulsion_pass", "Repulsive at short distances", ""),
    ],
    "parity": [
        ("energy_mae", "Energy MAE", "eV/atom"),
        ("energy_rmse", "Energy RMSE", "eV/atom"),
        ("energy_r2", "Energy R²", ""),
        ("forces_mae", "Force MAE", f"eV/{text.ANGSTROM}"),
        ("forces_rmse", "Force RMSE", f"eV/{text.ANGSTROM}"),
        ("forces_r2", "Force R²", ""),
        ("stress_mae", "Stress MAE", f"eV/{ANGSTROM3}"),
        ("stress_rmse", "Stress RMSE", f"eV/{ANGSTROM3}"),
        ("stress_r2", "Stress R²", ""),
    ],
}
"""Benchmark -> (key of the summary, words, unit), in the order shown."""


def section(inputs: ReportInputs) -> Section:
    """Return the section about benchmarks."""
    key, title = "benchmarks", "Benchmarks"
    if not inputs.benchmarks:
        return Section(key=key, title=title, absent="No benchmark was run.")
    order = {name: i for i, name in enumerate(TITLES)}
    blocks: list[Block] = []
    heading = ""
    for doc in sorted(inputs.benchmarks, key=lambda d: order.get(d.benchmark, len(order))):
        name = TITLES.get(doc.benchmark, doc.benchmark.replace("_", " ").capitalize())
        if name != heading:
            blocks.append(Words(text=name, heading=True))
            heading = name
        blocks += _benchmark(doc)
    lead = (
        "Properties that were not fitted, each computed by the model and, where possible, by the label engine "
        "itself."
    )
    return Section(key=key, title=title, lead=lead, blocks=blocks)


def _benchmark(doc: BenchmarkDoc) -> list[Block]:
    """Return one benchmark: its figures, its numbers, what failed."""
    words = f"{doc.system}: {doc.calculator}" if doc.system else doc.calculator
    words += f" against {doc.reference}." if doc.reference else "."
    if doc.n_failed:
        words += f" {text.number(doc.n_failed)} of {text.count(doc.n_items, 'calculation')} failed."
    blocks: list[Block] = [Words(text=words)]
    draw = _FIGURES.get(doc.benchmark)
    figures = [] if draw is None else [figure for figure in draw(doc) if figure is not None]
    table = _numbers(doc)
    if len(figures) == 1 and table.rows:
        blocks.append(Row(blocks=[figures[0], table]))
    else:
        blocks += [Row(blocks=figures)] if figures else []
        blocks += [table] if table.rows else []
    if doc.failures:
        rows = [
            [
                str(f.get("item", "")),
                Cell(text=str(f.get("reason", "")), kind="code"),
                str(f.get("message", "")),
            ]
            for f in doc.failures
        ]
        failed = Table(header=["Item", "Reason", "Message"], rows=rows)
        blocks.append(Fold(title=f"What failed ({len(rows)})", blocks=[failed]))
    return blocks


def _numbers(doc: BenchmarkDoc) -> Table:
    """Return the summary next to the reference's."""
    known = ROWS.get(doc.benchmark)
    if known is None:
        known = [(key, key.replace("_", " "), "") for key in doc.summary]
    rows: list[list[Cell | str]] = []
    compared = any(key in doc.reference_summary for key, _, _ in known)
    for key, words, unit in known:
        if key not in doc.summary:
            continue
        value, truth = doc.summary[key], doc.reference_summary.get(key)
        row: list[Cell | str] = [words, unit, Cell(text=_text(value), kind="number")]
        if compared:
            row.append(Cell(text=_text(truth), kind="number"))
            row.append(Cell(text=_deviation(value, truth), kind="number"))
        rows.append(row)
    header = ["Quantity", "Unit", doc.calculator]
    if compared:
        header += [doc.reference or "Reference", "Deviation"]
    return Table(header=header, rows=rows, numeric=frozenset({2, 3, 4}))


def _text(value: float | bool | str | None) -> str:
    return value if isinstance(value, str) else text.number(value, 4)


def _deviation(value: float | bool | str | None, truth: float | bool | str | None) -> str:
    """Return how far a number is from its reference, in percent."""
    if isinstance(value, bool | str) or isinstance(truth, bool | str) or value is None or not truth:
        return text.MISSING
    percent = 100 * (value - truth) / abs(truth)
    return f"{percent:+.1f} %".replace("-", text.MINUS)


def _columns(records: list[dict], *names: str) -> list[np.ndarray]:
    """Return columns of the records that have a number in every one of them."""
    rows: list[list[Cell | str]] = [
        [r[name] for name in names] for r in records if all(isinstance(r.get(n), int | float) for n in names)
    ]
    data = np.array(rows, dtype=float).reshape(-1, len(names))
    return [data[:, i] for i in range(len(names))]


def birch_murnaghan(volumes: np.ndarray, summary: dict) -> np.ndarray | None:
    """Return the fitted energy above the minimum, eV/atom (Birch, Phys. Rev. 71, 809, 1947)."""
    numbers = [summary.get(key) for key in ("V0", "B0", "B0_prime")]
    if any(not isinstance(n, int | float) or isinstance(n, bool) for n in numbers):
        return None
    v0, b0, prime = (float(n) for n in numbers if n is not None)
    eta = (v0 / volumes) ** (2 / 3)
    return 9 * v0 * b0 * GPA / 16 * ((eta - 1) ** 3 * prime + (eta - 1) ** 2 * (6 - 4 * eta))


def _equation_of_state(doc: BenchmarkDoc) -> list[Figure | None]:
    """Return energy and pressure against volume."""
    energy, pressure = [], []
    sides = [(doc.calculator, doc.records, doc.summary, style.BLUE, "circle")]
    if doc.reference:
        sides.append((doc.reference, doc.reference_records, doc.reference_summary, style.ORANGE, "diamond"))
    for name, records, summary, colour, symbol in sides:
        label = style.plot_text(name)
        volumes, energies = _columns(records, "volume", "energy")
        if volumes.size == 0:
            continue
        zero = summary.get("E0")
        lowest = float(zero) if isinstance(zero, int | float) else float(energies.min())
        energy.append(_markers(label, volumes, 1000 * (energies - lowest), colour, symbol))
        grid = np.linspace(volumes.min(), volumes.max(), 101)
        fit = birch_murnaghan(grid, summary)
        if fit is not None:
            energy.append(_curve(label, grid, 1000 * fit, colour))
        volumes, pressures = _columns(records, "volume", "pressure")
        if volumes.size:
            pressure.append(_markers(label, volumes, pressures, colour, symbol) | {"mode": "lines+markers"})
    x = style.axis(f"volume ({ANGSTROM3}/atom)")
    found: list[Figure | None] = []
    if energy:
        found.append(
            Figure(
                title="Energy against volume",
                caption="Points are computed, lines fitted (Birch-Murnaghan); model and engine should lie on "
                "each other.",
                data=energy,
                layout=style.layout(x, style.axis("energy above the minimum (meV/atom)")),
            )
        )
    if pressure:
        found.append(
            Figure(
                title="Pressure against volume",
                caption="From the stress, not from the fit; the curves cross zero at the equilibrium volume.",
                data=pressure,
                layout=style.layout(x, style.axis("pressure (GPa)"), shapes=[style.horizontal(0.0)]),
            )
        )
    return found


def _elasticity(doc: BenchmarkDoc) -> list[Figure | None]:
    """Return bars of the elastic constants."""
    keys = [key for key, _, unit in ROWS["elasticity"] if unit == "GPa" and key in doc.summary]
    keys = [key for key in keys if not key.startswith("clamped_")]
    if not keys:
        return [None]
    sides = [(doc.calculator, doc.summary, style.BLUE)]
    if doc.reference_summary:
        sides.append((doc.reference or "reference", doc.reference_summary, style.ORANGE))
    data = []
    for name, summary, colour in sides:
        numbers = [v if isinstance(v := summary.get(key), int | float) else None for key in keys]
        data.append(
            {
                "type": "bar",
                "name": style.plot_text(name),
                "x": [key.removesuffix("_VRH") for key in keys],
                "y": style.values(numbers),
                "marker": {"color": colour},
                "hovertemplate": "%{x}: %{y:.4g} GPa<extra>%{fullData.name}</extra>",
            }
        )
    return [
        Figure(
            title="Elastic constants and moduli",
            caption="Stress response to small strains; equal heights mean that the model bends like the engine.",
            data=data,
            layout=style.layout(
                style.axis("constant", type="category"), style.axis("GPa"), barmode="group", bargap=0.3
            ),
            height=300,
        )
    ]


def _nve_drift(doc: BenchmarkDoc) -> list[Figure | None]:
    """Return total energy and temperature over time."""
    times, energies = _columns(doc.records, "time", "energy")
    if times.size < 2:
        return [None]
    relative = 1000 * (energies - energies.mean())
    slope, offset = np.polyfit(times, relative, 1)
    energy = [
        _curve("total energy", times, relative, style.BLUE, width=1.2),
        _curve("trend", times[[0, -1]], slope * times[[0, -1]] + offset, style.ORANGE, dash="dash"),
    ]
    found: list[Figure | None] = [
        Figure(
            title="Total energy at constant energy dynamics",
            caption="The total energy should stay where it is; the slope of the dashed line is the drift.",
            data=[trace | {"showlegend": True} for trace in energy],
            layout=style.layout(style.axis("time (ps)"), style.axis("energy, mean taken off (meV/atom)")),
            height=290,
        )
    ]
    times, temperatures = _columns(doc.records, "time", "temperature")
    if times.size:
        found.append(
            Figure(
                title="Temperature",
                caption="Kinetic temperature of the same run; it fluctuates but must not run away.",
                data=[_curve("temperature", times, temperatures, style.GREEN, width=1.2)],
                layout=style.layout(style.axis("time (ps)"), style.axis("temperature (K)"), showlegend=False),
                height=290,
            )
        )
    return found


def _diatomic(doc: BenchmarkDoc) -> list[Figure | None]:
    """Return energy and force against distance, cut where repulsion would hide the well."""
    sides = [(doc.calculator, doc.records, style.BLUE, "solid")]
    if doc.reference:
        sides.append((doc.reference, doc.reference_records, style.ORANGE, "dash"))
    found: list[Figure | None] = []
    for key, title, unit, caption in (
        ("energy", "Energy of two atoms", "eV", "One smooth well with a steep wall on its left is right."),
        (
            "force",
            "Force between two atoms",
            f"eV/{text.ANGSTROM}",
            "Positive pushes apart; it crosses zero once, at the bond length.",
        ),
    ):
        data, lows, highs = [], [], []
        for name, records, colour, dash in sides:
            r, y = _columns(records, "distance", key)
            if r.size:
                data.append(_curve(style.plot_text(name), r, y, colour, dash=dash) | {"showlegend": True})
                lows.append(float(y.min()))
                highs.append(float(y.max()))
        if data:
            depth = max(abs(min(lows)), 0.1)
            ends = [min(lows) - 0.15 * depth, min(max(highs) + 0.1 * depth, 2.5 * depth)]
            found.append(
                Figure(
                    title=title,
                    caption=caption,
                    data=data,
                    layout=style.layout(
                        style.axis(f"distance ({text.ANGSTROM})"),
                        style.axis(f"{key} ({unit})", range=ends),
                        shapes=[style.horizontal(0.0)],
                    ),
                )
            )
    return found


def _curve(
    name: str, x: np.ndarray, y: np.ndarray, colour: str, *, dash: str = "solid", width: float = 2.0
) -> dict:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "showlegend": False,
        "x": style.values(x, 6),
        "y": style.values(y, 6),
        "line": {"color": colour, "width": width, "dash": dash},
        "hovertemplate": "%{x:.4g}, %{y:.4g}<extra>" + name + "</extra>",
    }


def _markers(name: str, x: np.ndarray, y: np.ndarray, colour: str, symbol: str) -> dict:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": style.values(x, 6),
        "y": style.values(y, 6),
        "marker": {"color": colour, "symbol": symbol, "size": 7},
        "line": {"color": colour, "width": 1.5},
        "hovertemplate": "%{x:.4g}, %{y:.4g}<extra>" + name + "</extra>",
    }


_FIGURES: dict[str, Callable[[BenchmarkDoc], list[Figure | None]]] = {
    "equation_of_state": _equation_of_state,
    "elasticity": _elasticity,
    "nve_drift": _nve_drift,
    "diatomic": _diatomic,
}
