"""PySCF as an engine: Gaussian-basis density functional theory of molecules and atoms."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError
from atomfoundry.units import HARTREE, HARTREE_PER_BOHR

if TYPE_CHECKING:
    from ase import Atoms

_DISPERSIONS = {"d3bj": "D3(BJ)", "d4": "D4"}


@dataclass(kw_only=True)
class PyscfEngine(Engine):
    """Restricted or, for open shells, unrestricted Kohn-Sham; gradients with the grid's response.

    Parameters
    ----------
    functional
        As PySCF names it. A suffix ``-d3bj`` or ``-d4`` adds the dispersion correction, in energy and
        gradient; ``wb97m-d3bj`` then has no VV10 term.
    basis
        As PySCF names it.
    grid_level
        Integration grid, 0 to 9.
    density_fitting
        Approximate the Coulomb and exchange integrals; another level of theory.
    conv_tol
        Energy change at which the cycle ends, Hartree.
    max_steps
        Steps of one cycle; a second, with level shift, has as many.
    threads
        OpenMP threads.
    max_memory
        Memory for integrals, MB.
    """

    name: ClassVar[str] = "pyscf"
    profile: ClassVar[str] = "dft"

    functional: str = "wb97m-d3bj"
    basis: str = "def2-svp"
    grid_level: int = 3
    density_fitting: bool = False
    conv_tol: float = 1e-9
    max_steps: int = 100
    threads: int = 1
    max_memory: float = 2000.0

    def __post_init__(self) -> None:
        # the literature writes wB97M-D3(BJ), PySCF wb97m-d3bj; one spelling makes one level of theory
        self.functional = self.functional.lower().replace("d3(bj)", "d3bj")
        self.basis = self.basis.lower()
        if self.functional.endswith("-v"):
            raise ConfigurationError(
                f"pyscf: functional '{self.functional}' has the nonlocal VV10 term, which is not offered.",
                remedy=f"Take '{self.functional[:-2]}-d3bj'.",
            )
        if not 0 <= self.grid_level <= 9:
            raise ConfigurationError(f"pyscf: grid_level is {self.grid_level}.", remedy="Take 0 to 9.")

    @property
    def level(self) -> LevelOfTheory:
        """Functional, basis and integration grid."""
        plain, dispersion = self._functional()
        label = {"wb97m": "wB97M", "pbe": "PBE", "b3lyp": "B3LYP", "r2scan": "r2SCAN"}.get(plain, plain)
        return LevelOfTheory(
            code="pyscf",
            method=f"{label}-{_DISPERSIONS[dispersion]}" if dispersion else label,
            basis=self.basis.replace("svp", "SVP").replace("zvp", "ZVP"),
            dispersion=_DISPERSIONS[dispersion] if dispersion else None,
            spin="auto",
            extra={"grid_level": float(self.grid_level), "density_fitting": self.density_fitting},
        )

    def _functional(self) -> tuple[str, str | None]:
        plain, _, last = self.functional.rpartition("-")
        return (plain, last) if last in _DISPERSIONS else (self.functional, None)

    def supported_elements(self) -> set[str]:
        """Return the elements of the basis, H to Rn for the def2 family."""
        from ase.data import chemical_symbols

        if self.basis.startswith("def2"):
            # Without the lanthanides Ce to Lu, which def2 in PySCF lacks.
            return set(chemical_symbols[1:58]) | set(chemical_symbols[72:87])
        return set(chemical_symbols[1:37])

    def check_available(self) -> None:
        """Check that PySCF and, for dispersion, pyscf-dispersion are installed.

        Raises
        ------
        EngineUnavailableError
            If one is missing.
        ConfigurationError
            If PySCF does not know the functional.
        """
        wanted = {"pyscf": "pyscf"}
        if self._functional()[1]:
            wanted["pyscf.dispersion"] = "pyscf-dispersion"
        for module, package in wanted.items():
            if importlib.util.find_spec(module) is None:
                raise EngineUnavailableError(f"{package} is not installed.", remedy=f"Run 'pip install {package}'.")
        from pyscf.dft import libxc

        try:
            libxc.parse_xc("wb97m_v" if self.functional == "wb97m-d3bj" else self._functional()[0])
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"pyscf: unknown functional '{self.functional}'.",
                remedy="Name it as PySCF does, e.g. 'wb97m-d3bj', 'pbe', 'r2scan', 'b3lyp-d3bj'.",
            ) from error

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one molecule; a cycle that does not converge is tried once more with a level shift.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, or ``"unsupported"`` for a periodic structure or an
            impossible spin.
        """
        from pyscf import lib

        formula = atoms.get_chemical_formula()
        if atoms.pbc.any():
            raise LabelError(
                f"{formula} is periodic; engine 'pyscf' computes molecules.",
                reason="unsupported",
                remedy="Take engine 'espresso' or 'xtb'.",
            )
        threads = lib.num_threads()
        lib.num_threads(self.threads)
        try:
            field = self._mean_field(atoms)
            energy = field.kernel()
            if not field.converged:
                field.level_shift = 0.3
                energy = field.kernel(field.make_rdm1())
            if not field.converged:
                raise LabelError(
                    f"{formula}: the self-consistency cycle of PySCF did not converge.",
                    reason="unconverged",
                    remedy="Raise 'max_steps', or check spin and geometry.",
                )
            forces = np.zeros((1, 3))
            if len(atoms) > 1:
                gradient = field.nuc_grad_method()
                # Without the response of the grid the forces do not sum to zero.
                gradient.grid_response = True
                forces = -gradient.kernel() * HARTREE_PER_BOHR
        finally:
            lib.num_threads(threads)
        return SinglePoint(float(energy) * HARTREE, forces)

    def _mean_field(self, atoms: Atoms) -> Any:
        from pyscf import dft, gto

        charge = int(atoms.info.get("charge") or 0)
        unpaired = _unpaired(atoms, charge)
        symbols = atoms.get_chemical_symbols()
        molecule = gto.M(
            atom=list(zip(symbols, atoms.positions.tolist(), strict=True)),
            unit="Angstrom",
            basis=self.basis,
            # def2 sets from rubidium on are made for their core potentials.
            ecp={symbol: self.basis for symbol, z in zip(symbols, atoms.numbers, strict=True) if z > 36},
            charge=charge,
            spin=unpaired,
            verbose=0,
            max_memory=self.max_memory,
        )
        field = dft.UKS(molecule) if unpaired else dft.RKS(molecule)
        field.xc = self.functional
        if self.density_fitting:
            field = field.density_fit()
        field.grids.level = self.grid_level
        field.conv_tol = self.conv_tol
        field.max_cycle = self.max_steps
        field.chkfile = None
        return field


def _unpaired(atoms: Atoms, charge: int) -> int:
    n_electrons = int(atoms.numbers.sum()) - charge
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        unpaired = int(multiplicity) - 1
    elif len(atoms) == 1 and charge == 0:
        unpaired = unpaired_electrons(atoms.get_chemical_symbols()[0])
    else:
        unpaired = n_electrons % 2
    if unpaired < 0 or unpaired > n_electrons or (n_electrons - unpaired) % 2:
        raise LabelError(
            f"{atoms.get_chemical_formula()}: {n_electrons} electrons, but multiplicity {unpaired + 1}.",
            reason="unsupported",
            remedy="Correct info['charge'] or info['spin_multiplicity'].",
        )
    return unpaired
