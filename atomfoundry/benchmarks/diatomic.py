"""The binding curve of two atoms in vacuum, and whether it is smooth, repulsive and conservative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii, vdw_radii

from atomfoundry.benchmarks.curves import reversal_jump, sign_flips, spearman, tortuosity
from atomfoundry.benchmarks.grid import GridBenchmark, Item
from atomfoundry.benchmarks.labelling import energy_of, forces_of
from atomfoundry.benchmarks.structures import tag
from atomfoundry.errors import ConfigurationError, LabelError, StructureError

FORCE_THRESHOLD = 0.01
"""Smaller forces count as zero when sign flips are counted, eV/A."""

ENERGY_THRESHOLD = 1e-3
"""Smaller energy steps count as zero when sign flips are counted, eV."""


@dataclass(kw_only=True)
class Diatomic(GridBenchmark):
    """Energy and force of two atoms against their distance.

    For unlike atoms every radius is the mean of the two elements'.

    Parameters
    ----------
    pair
        Two element symbols; None: those of the structure given, which then has exactly two atoms.
    distances
        A; given, they replace the default grid (a coarse one for expensive calculators).
    step
        Spacing of the default grid, A.
    start
        Where the default grid begins, in covalent radii.
    metrics_start
        Where the curve metrics begin, in covalent radii; what is nearer serves the repulsion check only.
    end
        Where the default grid ends, in van der Waals radii (at 6 A where that radius is unknown).
    repulsion_from
        Down to here the energy has to rise, in covalent radii.
    box
        Edge of a periodic cubic box, A, for calculators that need one; None: no cell.
    """

    pair: tuple[str, str] | None = None
    distances: tuple[float, ...] = ()
    step: float = 0.01
    start: float = 0.3
    metrics_start: float = 0.9
    end: float = 3.1
    repulsion_from: float = 0.5
    box: float | None = None

    benchmark: ClassVar[str] = "diatomic"
    units: ClassVar[dict[str, str]] = {
        "r_min": "A",
        "well_depth": "eV",
        "energy_jump": "eV",
        "force_jump": "eV/A",
        "conservation_deviation": "eV/A",
        "energy_mae": "eV",
        "force_mae": "eV/A",
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            self.pair = _checked_pair(self.pair)
        self.distances = tuple(sorted(float(distance) for distance in self.distances))
        if self.distances and (self.distances[0] <= 0 or len(set(self.distances)) != len(self.distances)):
            raise ConfigurationError(
                f"Diatomic: distances {list(self.distances)} are not positive and different.",
                remedy="Give each distance once, in A.",
            )
        if self.step <= 0:
            raise ConfigurationError(f"Diatomic: step {self.step} A.", remedy="Give a positive step.")

    def distance_grid(self, pair: tuple[str, str]) -> np.ndarray:
        """Return the distances in A, ascending.

        Parameters
        ----------
        pair
            Two element symbols.

        Returns
        -------
        ndarray
            The setting, or the default grid of the pair.
        """
        if self.distances:
            return np.array(self.distances)
        waals = np.array([vdw_radii[atomic_numbers[symbol]] for symbol in pair])
        last = 6.0 if np.isnan(waals).any() else self.end * float(waals.mean())
        first = self.start * _covalent_radius(pair)
        return first + self.step * np.arange(int((last - first) / self.step + 1e-9) + 1)

    def structures(self, atoms: Atoms | None = None) -> list[Atoms]:
        """Return the dimers.

        Parameters
        ----------
        atoms
            Two atoms that name the pair, where the setting does not.

        Returns
        -------
        list of Atoms
            One per distance, ascending, along x and not periodic (unless ``box`` is set).

        Raises
        ------
        StructureError
            If no pair is named.
        """
        pair = self._pair(atoms)
        system = "".join(pair)
        frames = []
        for distance in self.distance_grid(pair):
            dimer = Atoms(list(pair), positions=[[0, 0, 0], [distance, 0, 0]])
            if self.box is not None:
                dimer.set_cell([self.box] * 3)
                dimer.pbc = True
                dimer.center()
            frames.append(
                tag(
                    dimer,
                    benchmark=self.benchmark,
                    system=system,
                    item=f"{distance:.4f} A",
                    sampling="dimer",
                    group=f"dimer-{system}",
                )
            )
        return frames

    def _pair(self, atoms: Atoms | None) -> tuple[str, str]:
        if self.pair is not None:
            return self.pair
        if atoms is None or len(atoms) != 2:
            raise StructureError(
                "Diatomic: no pair of elements is set and the structure has not exactly two atoms.",
                remedy="Set pair, e.g. ('Si', 'Si').",
            )
        return _checked_pair(tuple(atoms.symbols))

    def _system(self, atoms: Atoms | None) -> str:
        return "".join(self._pair(atoms))

    def _records(self, items: list[Item], atoms: Atoms | None) -> list[dict[str, Any]]:
        distances = self.distance_grid(self._pair(atoms))
        energies = [None if item.frame is None else energy_of(item.frame) for item in items]
        # Energies count from the farthest dimer there is.
        zero = next((energy for energy in reversed(energies) if energy is not None), None)
        return [
            item.record(
                distance=float(distance),
                energy=None if energy is None or zero is None else energy - zero,
                force=None if item.frame is None else _bond_force(item.frame),
            )
            for item, distance, energy in zip(items, distances, energies, strict=True)
        ]

    def _summarise(
        self, items: list[Item], records: list[dict[str, Any]], atoms: Atoms | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        radius = _covalent_radius(self._pair(atoms))
        good = [record for record in records if record["energy"] is not None]
        distances, energies = (np.array([record[key] for record in good]) for key in ("distance", "energy"))
        outer = distances >= self.metrics_start * radius - 1e-9
        if outer.sum() < 3:
            raise LabelError(
                f"A binding curve needs at least 3 distances from {self.metrics_start * radius:.2f} A on, "
                f"there are {int(outer.sum())}.",
                reason="too_few_points",
            )
        r, e = distances[outer], energies[outer]
        lowest = int(e.argmin())
        summary: dict[str, Any] = {
            "energy_flips": sign_flips(np.diff(e), threshold=ENERGY_THRESHOLD),
            "energy_jump": reversal_jump(e, threshold=ENERGY_THRESHOLD),
            "tortuosity": tortuosity(e),
            "spearman_repulsion_energy": spearman(r[: lowest + 1], e[: lowest + 1]),
            "spearman_attraction_energy": spearman(r[lowest:], e[lowest:]),
            "repulsion_pass": self._repulsive(distances, energies, radius=radius, r_min=r[lowest]),
            "r_min": None,
            "well_depth": None,
            "n_points": len(good),
        }
        forces = [record["force"] for record, kept in zip(good, outer, strict=True) if kept]
        if any(force is None for force in forces):
            return summary, []
        f = np.array(forces)
        deepest = int(f.argmin())
        summary |= {
            "force_flips": sign_flips(f, threshold=FORCE_THRESHOLD),
            "force_jump": reversal_jump(f, threshold=FORCE_THRESHOLD),
            "spearman_descending_force": spearman(r[: deepest + 1], f[: deepest + 1]),
            "spearman_ascending_force": spearman(r[deepest:], f[deepest:]),
            "conservation_deviation": float(np.abs(f + np.gradient(e, r, edge_order=2)).mean()),
        }
        minimum = _minimum(r, e, f)
        if minimum is not None:
            summary |= {"r_min": minimum[0], "well_depth": -minimum[1]}
        return summary, []

    def _repulsive(self, r: np.ndarray, e: np.ndarray, *, radius: float, r_min: float) -> bool | None:
        """Tell whether the energy only falls from the shortest distance of the check to the minimum.

        None where no distance is that short.
        """
        nearest = self.repulsion_from * radius
        if r[0] > nearest + self.step:
            return None
        inner = (r >= nearest - 1e-9) & (r <= r_min)
        return bool((np.diff(e[inner]) < 0).all() and inner.any() and e[inner][0] > 0)


def _checked_pair(pair: tuple[str, ...]) -> tuple[str, str]:
    if len(pair) != 2 or any(symbol not in atomic_numbers or symbol == "X" for symbol in pair):
        raise ConfigurationError(
            f"Diatomic: {tuple(pair)} is not a pair of elements.",
            remedy="Give two symbols, e.g. ('Si', 'H').",
        )
    return (str(pair[0]), str(pair[1]))


def _covalent_radius(pair: tuple[str, str]) -> float:
    return float(np.mean([covalent_radii[atomic_numbers[symbol]] for symbol in pair]))


def _bond_force(frame: Atoms) -> float | None:
    """Return -dE/dr, positive where the atoms repel each other, eV/A."""
    forces = forces_of(frame)
    if forces is None:
        return None
    bond = frame.get_distance(0, 1, mic=bool(frame.pbc.any()), vector=True)
    return float((forces[1] - forces[0]) @ bond / np.linalg.norm(bond) / 2)


def _minimum(r: np.ndarray, e: np.ndarray, f: np.ndarray) -> tuple[float, float] | None:
    """Return distance and energy of the lowest minimum inside the grid, if there is one."""
    from scipy.interpolate import CubicHermiteSpline

    lowest = int(e.argmin())
    if lowest in (0, len(e) - 1):
        return None
    spline = CubicHermiteSpline(r, e, -f)
    around = [
        float(root) for root in spline.derivative().roots(extrapolate=False) if r[lowest - 1] <= root <= r[lowest + 1]
    ]
    if not around:
        return None
    best = min(around, key=lambda root: float(spline(root)))
    return best, float(spline(best))
