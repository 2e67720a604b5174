"""The benchmarks section: the model next to the label engine, property by property."""

from __future__ import annotations

from atomfoundry.documents import BenchmarkDoc
from atomfoundry.results.report import text
from atomfoundry.results.report.benchmark_figures import ANGSTROM3, FIGURES
from atomfoundry.results.report.blocks import Block, Cell, Fold, Row, Section, Table, Words
from atomfoundry.results.report.data import ReportInputs

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


COUNTS = frozenset({"n_atoms", "energy_flips", "force_flips", "n_points"})
"""Summary entries that are whole numbers, which documents store as floats."""


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
    lead = "Properties of the model next to those of the label engine itself, where it was asked."
    return Section(key=key, title=title, lead=lead, blocks=blocks)


def _benchmark(doc: BenchmarkDoc) -> list[Block]:
    """Return one benchmark: its figures, its numbers, what failed."""
    words = f"{doc.system}: {doc.calculator}" if doc.system else doc.calculator
    words += f" against {doc.reference}." if doc.reference else "."
    if doc.n_failed:
        words += f" {text.number(doc.n_failed)} of {text.count(doc.n_items, 'calculation')} failed."
    blocks: list[Block] = [Words(text=words)]
    draw = FIGURES.get(doc.benchmark)
    figures = [] if draw is None else [figure for figure in draw(doc) if figure is not None]
    table = _numbers(doc)
    if len(figures) == 1 and table.rows:
        blocks.append(Row(blocks=[figures[0], table]))
    else:
        blocks += [Row(blocks=figures, columns=min(3, len(figures)))] if figures else []
        blocks += [table] if table.rows else []
    if doc.failures:
        rows: list[list[Cell | str]] = [
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
        row: list[Cell | str] = [words, unit, Cell(text=_text(key, value), kind="number")]
        if compared:
            row.append(Cell(text=_text(key, truth), kind="number"))
            row.append(Cell(text=_deviation(value, truth), kind="number"))
        rows.append(row)
    header = ["Quantity", "Unit", doc.calculator]
    if compared:
        header += [doc.reference or "Reference", "Deviation"]
    return Table(header=header, rows=rows, numeric=frozenset({2, 3, 4}))


def _text(key: str, value: float | bool | str | None) -> str:
    if key in COUNTS and isinstance(value, float) and value.is_integer():
        return text.number(int(value))
    return value if isinstance(value, str) else text.number(value, 4)


def _deviation(value: float | bool | str | None, truth: float | bool | str | None) -> str:
    """Return how far a number is from its reference, in percent."""
    if isinstance(value, bool | str) or isinstance(truth, bool | str) or value is None or not truth:
        return text.MISSING
    percent = round(100 * (value - truth) / abs(truth), 1)
    return f"{percent:+.1f} %".replace("-", text.MINUS) if percent else "0.0 %"
