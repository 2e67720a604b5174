"""GFN1-xTB by tblite: the instant engine, for tests and where density functional theory cannot be had."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

_ELEMENTS = 86
"""GFN1-xTB is parametrised for H to Rn."""


@dataclass(kw_only=True)
class XtbEngine(Engine):
    """Semi-empirical tight binding at Gamma (S. Grimme et al., J. Chem. Theory Comput. 13, 1989 (2017)).

    A short cell is repeated before it is computed, because tblite has no k-points; energy and forces of one
    cell are given back. Cells of different shape are therefore sampled differently: train on one kind of
    cell.

    Parameters
    ----------
    method
        ``"GFN1-xTB"``; ``"GFN2-xTB"`` for molecules only, it is bad for crystals.
    min_height
        Periodic cells are repeated until the distance of opposite faces is at least this, A.
    electronic_temperature
        Of the Fermi smearing, K; the energy is the free energy.
    accuracy
        tblite's numerical accuracy factor; smaller is tighter.
    max_steps
        Steps of the self-consistency cycle.
    """

    name: ClassVar[str] = "xtb"

    method: str = "GFN1-xTB"
    min_height: float = 5.0
    electronic_temperature: float = 300.0
    accuracy: float = 0.1
    max_steps: int = 250

    def __post_init__(self) -> None:
        if self.method not in ("GFN1-xTB", "GFN2-xTB"):
            raise ConfigurationError(f"xtb: method is '{self.method}'.", remedy="Take 'GFN1-xTB' or 'GFN2-xTB'.")

    @property
    def level(self) -> LevelOfTheory:
        """The method, and how cells are repeated."""
        return LevelOfTheory(
            code="tblite",
            method=self.method,
            smearing=f"fermi {self.electronic_temperature:g} K",
            spin="auto",
            extra={"kpoints": "gamma", "min_height": self.min_height},
        )

    def supported_elements(self) -> set[str]:
        """Return H to Rn."""
        from ase.data import chemical_symbols

        return set(chemical_symbols[1 : _ELEMENTS + 1])

    def check_available(self) -> None:
        """Check that tblite is installed.

        Raises
        ------
        EngineUnavailableError
            If it is not.
        """
        if importlib.util.find_spec("tblite") is None:
            raise EngineUnavailableError("tblite is not installed.", remedy="Run 'pip install tblite'.")

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure, repeated where its cell is short.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, or ``"unsupported"`` for structures periodic in one or
            two directions.
        """
        from ase.calculators.calculator import CalculationFailed
        from tblite.ase import TBLite

        formula = atoms.get_chemical_formula()
        periodic = bool(atoms.pbc.all())
        if atoms.pbc.any() and not periodic:
            raise LabelError(
                f"{formula}: tblite computes molecules and structures periodic in three directions.",
                reason="unsupported",
                remedy="Give slabs a vacuum and pbc in all directions.",
            )
        repeats = repetitions(atoms, min_height=self.min_height)
        n_cells = int(np.prod(repeats))
        cells = atoms.copy()
        cells.set_constraint()
        cells = cells.repeat(repeats)
        multiplicity = _multiplicity(atoms)
        cells.calc = TBLite(
            method=self.method,
            charge=float(atoms.info.get("charge") or 0) * n_cells,
            multiplicity=multiplicity,
            # Without the spin terms (spGFN1-xTB) atoms have the wrong ground state: singlet silicon.
            spin_polarization=1.0 if (multiplicity or 1) > 1 else None,
            accuracy=self.accuracy,
            electronic_temperature=self.electronic_temperature,
            max_iterations=self.max_steps,
            verbosity=0,
        )
        try:
            energy = cells.get_potential_energy() / n_cells
            forces = cells.get_forces()[: len(atoms)]
            stress = cells.get_stress() if periodic else None
        except CalculationFailed as error:
            raise LabelError(f"{formula}: tblite failed: {error}.", reason="unconverged") from error
        return SinglePoint(energy, forces, stress)


def repetitions(atoms: Atoms, *, min_height: float) -> tuple[int, int, int]:
    """Return how often a periodic cell is repeated along each vector.

    Parameters
    ----------
    atoms
        The structure; one that is not periodic is never repeated.
    min_height
        Distance of opposite faces to reach, A.

    Returns
    -------
    tuple of int
        Repetitions.
    """
    if not atoms.pbc.all():
        return (1, 1, 1)
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    a, b, c = (int(n) for n in np.ceil(min_height / heights - 1e-9))
    return a, b, c


def _multiplicity(atoms: Atoms) -> int | None:
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        return int(multiplicity)
    if len(atoms) == 1 and not atoms.pbc.any() and not atoms.info.get("charge"):
        return unpaired_electrons(atoms.get_chemical_symbols()[0]) + 1
    return None
