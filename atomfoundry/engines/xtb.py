"""Tight binding (xTB) by tblite: the instant engine, for tests and where density functional theory cannot be had."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import check_spin, unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

_ELEMENTS = 86
"""The methods are parametrised for H to Rn."""

_METHODS = ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")


@dataclass(kw_only=True)
class XtbEngine(Engine):
    """Semi-empirical tight binding at Gamma (S. Grimme et al., J. Chem. Theory Comput. 13, 1989 (2017)).

    A short cell is repeated before it is computed, because tblite has no k-points; energy and forces of one
    cell are given back. Cells of different shape are therefore sampled differently: train on one kind of
    cell.

    Parameters
    ----------
    method
        ``"GFN1-xTB"``; ``"GFN2-xTB"`` for molecules only, it is bad for crystals; ``"IPEA1-xTB"``, made for
        ionisation potentials and electron affinities.
    min_height
        Periodic cells are repeated until the distance of opposite faces is at least this, A.
    electronic_temperature
        Of the Fermi smearing, K; the energy is the free energy.
    accuracy
        tblite's numerical accuracy factor; smaller is tighter.
    max_steps
        Steps of the self-consistency cycle.
    solvent
        Implicit solvent, as tblite names it, e.g. ``"water"``; molecules only.
    solvation_model
        ``"alpb"`` (S. Ehlert et al., J. Chem. Theory Comput. 17, 4250 (2021)) or ``"gbsa"``.
    """

    name: ClassVar[str] = "xtb"

    method: str = "GFN1-xTB"
    min_height: float = 5.0
    electronic_temperature: float = 300.0
    accuracy: float = 0.1
    max_steps: int = 250
    solvent: str | None = None
    solvation_model: str = "alpb"

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigurationError(f"xtb: method is '{self.method}'.", remedy=f"Take one of {', '.join(_METHODS)}.")
        if self.solvation_model not in ("alpb", "gbsa"):
            raise ConfigurationError(
                f"xtb: solvation_model is '{self.solvation_model}'.", remedy="Take 'alpb' or 'gbsa'."
            )
        for key in ("min_height", "electronic_temperature", "accuracy", "max_steps"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"xtb: {key} is {getattr(self, key)}.", remedy="It must be positive.")

    @property
    def level(self) -> LevelOfTheory:
        """The method, how cells are repeated, and the solvent."""
        extra: dict[str, str | float | bool] = {"kpoints": "gamma", "min_height": self.min_height}
        if self.solvent:
            extra["solvent"] = f"{self.solvation_model} {self.solvent}"
        return LevelOfTheory(
            code="tblite",
            method=self.method,
            smearing=f"fermi {self.electronic_temperature:g} K",
            spin="auto",
            extra=extra,
        )

    def supported_elements(self) -> set[str]:
        """Return H to Rn."""
        from ase.data import chemical_symbols

        return set(chemical_symbols[1 : _ELEMENTS + 1])

    def check_available(self) -> None:
        """Check that tblite is installed and knows the solvent.

        Raises
        ------
        EngineUnavailableError
            If it is not.
        ConfigurationError
            If it does not.
        """
        if importlib.util.find_spec("tblite") is None:
            raise EngineUnavailableError("tblite is not installed.", remedy="Run 'pip install tblite'.")
        if self.solvent:
            self._check_solvent()

    def _check_solvent(self) -> None:
        from tblite.interface import Calculator

        try:
            hydrogen = Calculator(self.method, np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]))
            hydrogen.set("verbosity", 0)
            hydrogen.add(f"{self.solvation_model}-solvation", self.solvent)
        except RuntimeError as error:
            raise ConfigurationError(
                f"xtb: tblite has no solvent '{self.solvent}' for {self.method}: {error}.",
                remedy="Name it as tblite does, e.g. 'water', 'ethanol', 'toluene'.",
            ) from error

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure, repeated where its cell is short.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, or ``"unsupported"`` for structures periodic in one or
            two directions, periodic ones in a solvent, and an impossible spin.
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
        if periodic and self.solvent:
            raise LabelError(
                f"{formula} is periodic; the implicit solvent is for molecules.",
                reason="unsupported",
                remedy="Leave 'solvent' out.",
            )
        unpaired = _unpaired(atoms)
        parity = int(atoms.numbers.sum() - int(atoms.info.get("charge") or 0)) % 2
        check_spin(atoms, parity if unpaired is None else unpaired)
        repeats = repetitions(atoms, min_height=self.min_height)
        n_cells = int(np.prod(repeats))
        cells = atoms.copy()
        cells.set_constraint()
        cells = cells.repeat(repeats)
        cells.calc = TBLite(
            method=self.method,
            charge=float(atoms.info.get("charge") or 0) * n_cells,
            multiplicity=None if unpaired is None else unpaired * n_cells + 1,
            # Without the spin terms (spGFN1-xTB) atoms have the wrong ground state: singlet silicon.
            spin_polarization=1.0 if unpaired else None,
            solvation=(self.solvation_model, self.solvent) if self.solvent else None,
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


def _unpaired(atoms: Atoms) -> int | None:
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        return int(multiplicity) - 1
    if len(atoms) == 1 and not atoms.pbc.any() and not atoms.info.get("charge"):
        return unpaired_electrons(atoms.get_chemical_symbols()[0])
    return None
