"""Equation of state: energy against volume, Birch-Murnaghan parameters, smoothness of the curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atomfoundry.benchmarks.base import system_label
from atomfoundry.benchmarks.birch_murnaghan import fit_birch_murnaghan
from atomfoundry.benchmarks.crystal_symmetry import crystal_symmetry
from atomfoundry.benchmarks.curves import sign_flips, spearman, tortuosity
from atomfoundry.benchmarks.grid import GridBenchmark, Item
from atomfoundry.benchmarks.labelling import energy_of, relax, stress_of
from atomfoundry.benchmarks.structures import require_crystal, tag
from atomfoundry.errors import ConfigurationError
from atomfoundry.units import EV_PER_A3_IN_GPA

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


@dataclass(kw_only=True)
class EquationOfState(GridBenchmark):
    """Third-order Birch-Murnaghan parameters of a crystal under isotropic strain (the cell keeps its shape).

    Parameters
    ----------
    max_strain
        Largest linear strain of the cell, both ways.
    n_points
        Number of volumes, equally spaced in the linear strain.
    strains
        Linear strains; given, they replace the former two.
    relax_positions
        Relax the ions at each fixed cell (`run` only). Costs nothing where symmetry makes the forces vanish.
    relax_cell
        Relax the structure and its cell first (`run` only).
    fmax
        Largest remaining force of a relaxation, eV/A.
    max_steps
        Steps of a relaxation after which the item counts as unconverged.
    conventional_atoms
        Atoms in the conventional cubic cell, which the lattice parameter ``a`` refers to; default: found
        from the symmetry, for cubic crystals.
    symprec
        Tolerance of the symmetry search, A.
    """

    max_strain: float = 0.05
    n_points: int = 11
    strains: tuple[float, ...] = ()
    relax_positions: bool = True
    relax_cell: bool = False
    fmax: float = 0.01
    max_steps: int = 500
    conventional_atoms: int | None = None
    symprec: float = 1e-3

    benchmark: ClassVar[str] = "equation_of_state"
    units: ClassVar[dict[str, str]] = {
        "V0": "A^3/atom",
        "a": "A",
        "E0": "eV/atom",
        "B0": "GPa",
        "B0_prime": "",
        "rmse": "eV/atom",
        "delta": "meV/atom",
    }

    def __post_init__(self) -> None:
        self.strains = tuple(sorted(float(strain) for strain in self.strains))
        grid = self.strain_grid()
        if len(grid) < 4 or grid[0] <= -1 or len(set(grid)) != len(grid):
            raise ConfigurationError(
                f"An equation of state needs at least 4 different strains above -1, got {list(grid)}.",
                remedy="Set n_points and max_strain, or strains.",
            )

    def strain_grid(self) -> tuple[float, ...]:
        """Return the linear strains in ascending order."""
        if self.strains:
            return self.strains
        # Rounded so that the middle of an odd grid is exactly the undeformed structure.
        return tuple(
            round(float(strain), 12) for strain in np.linspace(-self.max_strain, self.max_strain, self.n_points)
        )

    def structures(self, atoms: Atoms | None = None) -> list[Atoms]:
        """Return the strained structures, ions at the same fractional coordinates.

        Parameters
        ----------
        atoms
            The crystal.

        Returns
        -------
        list of Atoms
            One per strain, ascending.

        Raises
        ------
        StructureError
            If the structure is not a crystal.
        """
        crystal = require_crystal(atoms, benchmark=self.benchmark)
        system = system_label(crystal)
        group = crystal.info.get("group_id", system)
        frames = []
        for strain in self.strain_grid():
            frame = crystal.copy()
            frame.set_constraint()
            frame.set_cell(crystal.cell.array * (1 + strain), scale_atoms=True)
            frames.append(
                tag(
                    frame,
                    benchmark=self.benchmark,
                    system=system,
                    item=f"strain {strain:+.5f}",
                    sampling="strain",
                    group=group,
                )
            )
        return frames

    def _prepare(self, calculator: BaseCalculator, atoms: Atoms | None) -> Atoms | None:
        if not self.relax_cell:
            return atoms
        crystal = require_crystal(atoms, benchmark=self.benchmark)
        return relax(crystal, calculator, cell=True, fmax=self.fmax, max_steps=self.max_steps, what="cell relaxation")[
            0
        ]

    def _label(self, item: Item, calculator: BaseCalculator) -> None:
        if not self.relax_positions:
            super()._label(item, calculator)
            return
        item.frame, steps = relax(item.structure, calculator, fmax=self.fmax, max_steps=self.max_steps, what=item.label)
        item.details["relaxation_steps"] = steps

    def _records(self, items: list[Item], atoms: Atoms | None) -> list[dict[str, Any]]:
        records = []
        for item, strain in zip(items, self.strain_grid(), strict=True):
            n_atoms = len(item.structure)
            volume = item.structure.get_volume() / n_atoms
            energy = pressure = None
            if item.frame is not None and item.failure is None:
                energy = (energy_of(item.frame) or 0.0) / n_atoms
                stress = stress_of(item.frame)
                pressure = None if stress is None else -stress[:3].mean() * EV_PER_A3_IN_GPA
            records.append(item.record(strain=strain, volume=volume, energy=energy, pressure=pressure))
        return records

    def _summarise(
        self, items: list[Item], records: list[dict[str, Any]], atoms: Atoms | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        good = [record for record in records if record["status"] == "ok"]
        volumes = np.array([record["volume"] for record in good])
        energies = np.array([record["energy"] for record in good])
        fit = fit_birch_murnaghan(volumes, energies)
        cell_atoms = self.conventional_atoms or self._conventional_atoms(atoms)
        lowest = int(energies.argmin())
        slopes = np.diff(energies) / np.diff(volumes)
        middles = (volumes[1:] + volumes[:-1]) / 2
        compressed = middles < volumes[lowest]
        summary = {
            "V0": fit.v0,
            "a": None if cell_atoms is None else (fit.v0 * cell_atoms) ** (1 / 3),
            "E0": fit.e0,
            "B0": fit.b0 * EV_PER_A3_IN_GPA,
            "B0_prime": fit.b0_prime,
            "rmse": fit.rmse,
            "r2": fit.r2,
            "extrapolated": bool(fit.v0 < volumes.min() or fit.v0 > volumes.max()),
            "energy_flips": sign_flips(np.diff(energies)),
            "tortuosity": tortuosity(energies),
            "spearman_compression": spearman(volumes[: lowest + 1], energies[: lowest + 1]),
            "spearman_tension": spearman(volumes[lowest:], energies[lowest:]),
            "spearman_slope_compression": spearman(middles[compressed], slopes[compressed]),
            "n_points": len(good),
        }
        return summary, []

    def _conventional_atoms(self, atoms: Atoms | None) -> int | None:
        symmetry = crystal_symmetry(require_crystal(atoms, benchmark=self.benchmark), symprec=self.symprec)
        return symmetry.conventional_atoms if symmetry.system == "cubic" else None
