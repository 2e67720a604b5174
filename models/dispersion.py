"""DFT-D3(BJ) dispersion, added to a model from outside (J. Chem. Phys. 132, 154104; J. Comput. Chem. 32, 1456).

For models trained on labels without dispersion; the terms come from s-dftd3, which pyscf-dispersion brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress

from atomfoundry.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from ase import Atoms

RANGE = {"pairs": 60.0, "triples": 40.0, "coordination": 40.0}
"""Radii up to which the library sums, Bohr: its own defaults."""
SMOOTHING = 5.0
"""Bohr over which pairs and triples are switched off. The library cuts sharply by default: 1.4e-4 of silicon's energy,
but forces and stress are then not the energy's derivatives."""
HEAVIEST = 103
"""Last element with reference values. For a heavier one the library returns zero, or ends the process."""
MARGIN = 2.0
"""Bohr left free around the atoms in directions that are not periodic."""


class D3Dispersion:
    """Energy, forces and stress of D3 with Becke-Johnson damping.

    Parameters
    ----------
    functional
        Whose damping parameters: that of the model's labels, such as ``"pbe"`` or ``"wb97m"``.
    three_body
        Add the Axilrod-Teller-Muto term; periodic structures then take some hundred times as long.

    Raises
    ------
    ConfigurationError
        If the library has no parameters for the functional.
    """

    def __init__(self, functional: str, *, three_body: bool = False) -> None:
        from ase import Atoms

        self.functional, self.three_body = functional, three_body
        try:
            self._library(Atoms("H"))
        except RuntimeError as error:
            raise ConfigurationError(
                f"There are no D3(BJ) parameters for the functional {functional!r} ({error}).",
                remedy="Name the functional of the labels, such as 'pbe', 'b3lyp', 'r2scan' or 'wb97m'.",
            ) from error

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        """Return what is to be added to the model's results.

        Parameters
        ----------
        atoms
            N atoms; periodic in any directions.

        Returns
        -------
        dict
            ``energy`` eV, ``forces`` (N, 3) eV/A and, if periodic in three directions, ``stress`` (6,) eV/A^3,
            tension positive.

        Raises
        ------
        ModelError
            If D3 has no reference values for an element, or the library refuses the structure.
        """
        unknown = sorted({atom.symbol for atom in atoms if not 1 <= atom.number <= HEAVIEST})
        if unknown:
            raise ModelError(
                f"D3 dispersion of {atoms.get_chemical_formula()}: no reference values for {', '.join(unknown)}.",
                remedy="Use the calculator without dispersion for this structure.",
            )
        try:
            library = self._library(atoms)
            library.set_realspace_cutoff(
                RANGE["pairs"], RANGE["triples"], RANGE["coordination"], width2=SMOOTHING, width3=SMOOTHING
            )
            found = library.get_dispersion(grad=True)
        except RuntimeError as error:
            raise ModelError(
                f"D3 dispersion of {atoms.get_chemical_formula()}: {error}.",
                remedy="Use the calculator without dispersion for this structure.",
            ) from error
        results = {
            "energy": float(found["energy"]) * units.Hartree,
            "forces": -found["gradient"] * (units.Hartree / units.Bohr),
        }
        if atoms.pbc.all():
            virial = found["virial"] * (units.Hartree / atoms.get_volume())
            results["stress"] = full_3x3_to_voigt_6_stress((virial + virial.T) / 2)
        return results

    def _library(self, atoms: Atoms) -> Any:
        from pyscf.dispersion.dftd3 import DFTD3Dispersion

        return DFTD3Dispersion(_Structure(atoms), self.functional, atm=self.three_body)


class _Structure:
    """What the library's wrapper asks a PySCF cell for, of any structure, in Bohr.

    The library takes periodic directions first. It wraps atoms into the cell also where the structure is not
    periodic, so the cell must hold them all there.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.symbols = atoms.get_chemical_symbols()
        self.natm = len(atoms)
        self.dimension = int(atoms.pbc.sum())
        order = np.argsort(~atoms.pbc, kind="stable")
        cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))[order] / units.Bohr
        positions = atoms.positions / units.Bohr
        for axis in range(self.dimension, 3):  # of length one and perpendicular to all others
            cell[axis] /= np.linalg.norm(cell[axis])
            along = positions @ cell[axis]
            positions = positions + (MARGIN - along.min()) * cell[axis]
            cell[axis] *= along.max() - along.min() + 2 * MARGIN
        self.cell, self.positions = np.ascontiguousarray(cell), np.ascontiguousarray(positions)

    def atom_coords(self) -> np.ndarray:
        return self.positions

    def atom_symbol(self, index: int) -> str:
        return self.symbols[index]

    def lattice_vectors(self) -> np.ndarray:
        return self.cell
