"""Figures of the benchmarks: the model's curve next to the label engine's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atomfoundry.documents import BenchmarkDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Figure
from atomfoundry.results.report.parity import QUANTITIES, parity_figure
from atomfoundry.units import GPA

ANGSTROM3 = f"{text.ANGSTROM}³"

BARS = ("C11", "C12", "C13", "C22", "C23", "C33", "C44", "C55", "C66", "K_VRH", "G_VRH", "E")
"""What is drawn, GPa; constants that vanish in most crystals are only in the table."""


def _columns(records: list[dict], *names: str) -> list[np.ndarray]:
    """Return columns of the records that have a number in every one of them."""
    rows = [[r[name] for name in names] for r in records if all(isinstance(r.get(n), int | float) for n in names)]
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
    keys = [key for key in BARS if key in doc.summary]
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
            caption="Stress response to small strains; equal heights: the model bends like the engine.",
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


def _parity(doc: BenchmarkDoc) -> list[Figure | None]:
    """Return predictions against labels from the benchmark's own points."""
    found: list[Figure | None] = []
    for quantity in QUANTITIES:
        record = next(
            (r for r in doc.records if r.get("kind") == "scatter" and r.get("quantity") == quantity.key), None
        )
        numbers = [doc.summary.get(f"{quantity.key}_{metric}") for metric in ("mae", "rmse", "r2")]
        mae, rmse, r2 = (float(n) if isinstance(n, int | float) else None for n in numbers)
        if record is None or mae is None or rmse is None:
            continue
        pair = np.asarray(record["reference"], dtype=float), np.asarray(record["predicted"], dtype=float)
        found.append(parity_figure(quantity, {"frames": pair}, "frames", (mae, rmse, r2)))
    return found


def _curve(name: str, x: np.ndarray, y: np.ndarray, colour: str, *, dash: str = "solid", width: float = 2.0) -> dict:
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


FIGURES: dict[str, Callable[[BenchmarkDoc], list[Figure | None]]] = {
    "equation_of_state": _equation_of_state,
    "elasticity": _elasticity,
    "nve_drift": _nve_drift,
    "diatomic": _diatomic,
    "parity": _parity,
}
"""Benchmark -> what draws its figures."""
