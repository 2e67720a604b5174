"""What a dataset covers, and what it lacks (ALGORITHMS 9.2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from atomfoundry.curation.composition import composition_classes
from atomfoundry.datasets import Dataset

FORCE_EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 30.0, 50.0)
"""Edges of the force histogram, eV/A; the last bin is open."""
ENERGY_EDGES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Edges of the histogram of energies above the lowest frame of a composition, eV/atom; the last bin is open."""
SIZE_EDGES = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257)
"""Edges of the histogram of atoms in a frame; the last bin is open."""
_USEFUL_FORCE = 10.0
_VACUUM = 8.0
_DEFECTS = frozenset({"vacancy", "vacancy_pair", "substitution", "interstitial", "defect"})


@dataclass
class CoverageReport:
    """Counts of what is in a dataset.

    Attributes
    ----------
    n_frames, n_atoms
        Totals.
    elements
        Symbol -> frames with it.
    element_atoms
        Symbol -> atoms of it.
    pairs
        ``"Al-O"`` -> frames with both, ``"O-O"`` -> with two or more of it.
    charges, multiplicities, samplings, sources, levels, domains
        Value -> frames. Domains: ``atom``, ``molecule``, ``surface``, ``crystal``, ``defect``.
    sizes, forces, energies
        Histograms, counts per bin of ``SIZE_EDGES`` (frames), ``FORCE_EDGES`` (atoms) and ``ENERGY_EDGES`` (frames).
    with_energy, with_forces, with_stress
        Frames that have them.
    gaps
        What is missing, in sentences.
    """

    n_frames: int = 0
    n_atoms: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    element_atoms: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    charges: dict[str, int] = field(default_factory=dict)
    multiplicities: dict[str, int] = field(default_factory=dict)
    samplings: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    forces: list[int] = field(default_factory=list)
    energies: list[int] = field(default_factory=list)
    with_energy: int = 0
    with_forces: int = 0
    with_stress: int = 0
    gaps: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON knows."""
        return asdict(self)


def coverage(dataset: Dataset) -> CoverageReport:
    """Count what a dataset covers.

    Parameters
    ----------
    dataset
        Labelled frames or bare structures; read once, frame by frame.

    Returns
    -------
    CoverageReport
        Counts, histograms and gaps.
    """
    report = CoverageReport(n_frames=len(dataset))
    elements: Counter[int] = Counter()
    element_atoms: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    charges: Counter[str] = Counter()
    spins: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    samplings: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    forces = np.zeros(len(FORCE_EDGES), dtype=np.int64)
    for atoms in dataset.frames():
        kinds, counts = np.unique(atoms.numbers, return_counts=True)
        elements.update(kinds.tolist())
        element_atoms.update(dict(zip(kinds.tolist(), counts.tolist(), strict=True)))
        several = set(kinds[counts > 1].tolist())
        pairs.update(p for p in combinations_with_replacement(kinds.tolist(), 2) if p[0] != p[1] or p[0] in several)
        charges[f"{int(atoms.info.get('charge', 0) or 0):+d}".replace("+0", "0")] += 1
        spin = atoms.info.get("spin_multiplicity")
        spins["unknown" if spin is None else str(int(spin))] += 1
        domains[domain_of(atoms)] += 1
        samplings[str(atoms.info.get("sampling", "")) or "unknown"] += 1
        # a file's step or index is not a source of its own
        sources[str(atoms.info.get("source", "")).split("#")[0].split(":")[0] or "unknown"] += 1
        results = atoms.calc.results if atoms.calc is not None else {}
        report.with_energy += "energy" in results
        report.with_stress += "stress" in results
        if "forces" in results:
            report.with_forces += 1
            forces += _histogram(np.linalg.norm(results["forces"], axis=1), FORCE_EDGES)
    report.n_atoms = sum(element_atoms.values())
    order = sorted(elements)
    report.elements = {chemical_symbols[z]: elements[z] for z in order}
    report.element_atoms = {chemical_symbols[z]: element_atoms[z] for z in order}
    report.pairs = {f"{chemical_symbols[a]}-{chemical_symbols[b]}": pairs[a, b] for a, b in sorted(pairs)}
    report.charges, report.multiplicities = _sorted(charges), _sorted(spins)
    report.domains, report.samplings, report.sources = _sorted(domains), _sorted(samplings), _sorted(sources)
    names = {record.id: record.label for record in dataset.levels}
    counted = Counter(str(level) for level in dataset.column("level")) if len(dataset) else Counter()
    report.levels = _sorted(Counter({names.get(level, level) or "unknown": n for level, n in counted.items()}))
    report.sizes = _histogram(np.asarray(dataset.column("n_atoms")), SIZE_EDGES).tolist() if len(dataset) else []
    report.forces = forces.tolist()
    report.energies = _histogram(_above_lowest(dataset), ENERGY_EDGES).tolist() if len(dataset) else []
    report.gaps = _gaps(report)
    return report


def domain_of(atoms: Atoms) -> str:
    """Return what kind of system a frame is: ``atom``, ``molecule``, ``surface``, ``crystal`` or ``defect``.

    Parameters
    ----------
    atoms
        The frame. A periodic one is a surface where 8 A along a cell vector are empty, or a direction is not periodic.
    """
    if not atoms.pbc.any():
        return "atom" if len(atoms) == 1 else "molecule"
    if not atoms.pbc.all() or _largest_gap(atoms) > _VACUUM:
        return "surface"
    return "defect" if atoms.info.get("sampling") in _DEFECTS or "defect" in atoms.info else "crystal"


def _largest_gap(atoms: Atoms) -> float:
    """Return the widest empty slab between the lattice planes of any cell vector, A."""
    scaled = np.sort(atoms.get_scaled_positions(wrap=True), axis=0)
    gaps = np.diff(np.vstack([scaled, scaled[:1] + 1.0]), axis=0).max(axis=0)
    heights = 1.0 / np.linalg.norm(atoms.cell.reciprocal().array, axis=1)
    # one atom alone is a gap of the whole cell: a primitive cell is no surface
    return float((gaps * heights).max()) if len(atoms) > 1 else 0.0


def _above_lowest(dataset: Dataset) -> NDArray[np.float64]:
    per_atom = np.asarray(dataset.column("energy")) / np.asarray(dataset.column("n_atoms"))
    codes = composition_classes(dataset)
    lowest = np.full(codes.max() + 1, np.inf)
    known = np.isfinite(per_atom)
    np.minimum.at(lowest, codes[known], per_atom[known])
    return per_atom[known] - lowest[codes[known]]


def _histogram(values: NDArray[Any], edges: tuple[float, ...]) -> NDArray[np.int64]:
    """Count values in the half-open bins that begin at each edge; the last has no end."""
    places = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(np.clip(places, 0, None), minlength=len(edges))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _gaps(report: CoverageReport) -> list[str]:
    gaps = []
    if not report.n_frames:
        return ["There is no frame."]
    if report.with_forces:
        empty = [
            (low, high)
            for low, high, n in zip(FORCE_EDGES, FORCE_EDGES[1:], report.forces, strict=False)
            if n == 0 and high <= _USEFUL_FORCE
        ]
        if empty:
            spans = ", ".join(f"{low:g} to {high:g}" for low, high in _merged(empty))
            gaps.append(f"No force lies between {spans} eV/A; the range up to 10 should be populated.")
    for what, n in (("energy", report.with_energy), ("forces", report.with_forces), ("stress", report.with_stress)):
        missing = report.n_frames - n - (_not_periodic(report) if what == "stress" else 0)
        if missing > 0:
            gaps.append(f"{missing} of {report.n_frames} frames have no {what}.")
    absent = [
        f"{a}-{b}"
        for a, b in combinations_with_replacement(report.elements, 2)
        if a != b and f"{a}-{b}" not in report.pairs
    ]
    if absent:
        gaps.append(f"{len(absent)} pairs of elements never meet in a frame: {', '.join(absent[:20])}.")
    rare = [symbol for symbol, n in report.elements.items() if n < 10]
    if rare:
        gaps.append(f"Fewer than ten frames hold {', '.join(rare)}.")
    if "atom" not in report.domains:
        gaps.append("There are no isolated atoms.")
    if set(report.charges) == {"0"}:
        gaps.append("All frames are neutral.")
    return gaps


def _not_periodic(report: CoverageReport) -> int:
    return report.domains.get("atom", 0) + report.domains.get("molecule", 0) + report.domains.get("surface", 0)


def _merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    joined = [spans[0]]
    for low, high in spans[1:]:
        if low == joined[-1][1]:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined
