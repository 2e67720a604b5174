"""PySCF as an engine: density functional and wave-function theory of molecules and atoms in Gaussian bases."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import check_spin, unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.pyscf.basis import elements_of
from atomfoundry.engines.pyscf.clock import Clock
from atomfoundry.engines.pyscf.correlation import correlated
from atomfoundry.engines.pyscf.methods import CORRELATED, DISPERSIONS, Method, check_method, normal_name, parse_method
from atomfoundry.engines.pyscf.scf import converge, descend
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError
from atomfoundry.units import HARTREE, HARTREE_PER_BOHR

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(kw_only=True)
class PyscfEngine(Engine):
    """Restricted or, for open shells, unrestricted Kohn-Sham, Hartree-Fock, MP2 and coupled cluster.

    Charge and spin are the structure's own: ``info["charge"]`` (default 0) and ``info["spin_multiplicity"]``.
    Without the latter a molecule is a singlet or doublet (so oxygen needs its 3), a neutral atom in its ground
    state. Kohn-Sham gradients include the response of the grid, VV10's too.

    Parameters
    ----------
    functional
        As PySCF names it, or ``"hf"``, ``"mp2"``, ``"ccsd"``, ``"ccsd(t)"``. A suffix ``-d3bj``, ``-d3bjatm``
        (with three-body term), ``-d3zero``, ``-d3bjm`` or ``-d4`` adds the dispersion correction, in energy and
        gradient; ``wb97m-d3bj`` (and ``wb97x``, ``b97m``) then has no VV10 term, ``wb97m-v`` has it.
    basis
        As PySCF names it; a basis with core potentials brings them.
    cartesian
        Six d functions instead of five, as Gaussian's ``6-31G*`` has them.
    grid_level
        Integration grid, 0 to 9.
    nonlocal_grid_level
        Grid of the VV10 double integral, 0 to 9.
    density_fitting
        Approximate the Coulomb and exchange integrals, or with ``"coulomb"`` the former only; another level of
        theory.
    auxiliary_basis
        Of density fitting; None: PySCF's choice for the basis.
    open_shell
        ``"unrestricted"``, or ``"restricted"`` (ROKS, ROHF).
    stability
        Follow instabilities to a minimum, breaking spin symmetry where that lowers the energy.
    frozen_core
        Whether MP2 and coupled cluster leave the core uncorrelated.
    conv_tol
        Energy change at which the cycle ends, Hartree.
    max_steps
        Steps of one cycle; a second, with level shift, and a third, of second order, have as many.
    timeout
        Seconds for one structure, checked after every iteration; None: none.
    threads
        OpenMP threads.
    max_memory
        Memory for integrals, MB.
    """

    name: ClassVar[str] = "pyscf"
    profile: ClassVar[str] = "dft"

    functional: str = "wb97m-d3bj"
    basis: str = "def2-svp"
    cartesian: bool = False
    grid_level: int = 3
    nonlocal_grid_level: int = 1
    density_fitting: bool | str = False
    auxiliary_basis: str | None = None
    open_shell: str = "unrestricted"
    stability: bool = False
    frozen_core: bool = True
    conv_tol: float = 1e-9
    max_steps: int = 100
    timeout: float | None = None
    threads: int = 1
    max_memory: float = 2000.0

    def __post_init__(self) -> None:
        # the literature writes wB97M-D3(BJ), PySCF wb97m-d3bj; one spelling makes one level of theory
        self.functional = normal_name(self.functional)
        self.basis = self.basis.strip().lower()
        method = parse_method(self.functional)
        for key in ("grid_level", "nonlocal_grid_level"):
            if not 0 <= getattr(self, key) <= 9:
                raise ConfigurationError(f"pyscf: {key} is {getattr(self, key)}.", remedy="Take 0 to 9.")
        if self.open_shell not in ("unrestricted", "restricted"):
            raise ConfigurationError(
                f"pyscf: open_shell is '{self.open_shell}'.", remedy="Take 'unrestricted' or 'restricted'."
            )
        if self.density_fitting not in (True, False, "coulomb"):
            raise ConfigurationError(
                f"pyscf: density_fitting is '{self.density_fitting}'.", remedy="Take true, false or 'coulomb'."
            )
        if self.auxiliary_basis and not self.density_fitting:
            raise ConfigurationError(
                "pyscf: auxiliary_basis is set, density_fitting is not.", remedy="Set density_fitting to true."
            )
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigurationError(f"pyscf: timeout is {self.timeout}.", remedy="It must be positive, or None.")
        if method.kind in CORRELATED and (self.density_fitting or self.open_shell == "restricted"):
            raise ConfigurationError(
                f"pyscf: {method.label} has forces with neither density fitting nor restricted open shells.",
                remedy="Leave density_fitting and open_shell as they are.",
            )

    @property
    def method(self) -> Method:
        """The method, taken apart."""
        return parse_method(self.functional)

    @property
    def level(self) -> LevelOfTheory:
        """Method, basis, integration grids and what else moves the energy surface."""
        method = self.method
        extra: dict[str, str | float | bool] = {"density_fitting": self.density_fitting}
        if method.kind == "ks":
            extra["grid_level"] = float(self.grid_level)
        if method.nonlocal_correlation:
            extra["nonlocal_grid_level"] = float(self.nonlocal_grid_level)
        if method.functional == "wb97x" and method.dispersion == "d4":
            # PySCF alone would take wB97X of 2008 with parameters of its own.
            extra["dispersion_of"] = "wB97X-V without VV10"
        if method.kind in CORRELATED:
            extra["frozen_core"] = self.frozen_core
        if self.cartesian:
            extra["cartesian"] = True
        if self.auxiliary_basis:
            extra["auxiliary_basis"] = self.auxiliary_basis
        if self.open_shell != "unrestricted":
            extra["open_shell"] = self.open_shell
        if self.stability:
            extra["stability"] = True
        return LevelOfTheory(
            code="pyscf",
            method=method.label,
            basis=self.basis.replace("svp", "SVP").replace("zvp", "ZVP"),
            dispersion=DISPERSIONS[method.dispersion] if method.dispersion else _nonlocal(method),
            spin="auto",
            extra=extra,
        )

    def supported_elements(self) -> set[str]:
        """Return the elements of the basis; beyond krypton only those with a core potential."""
        self._need_pyscf()
        return set(elements_of(self.basis))

    def check_available(self) -> None:
        """Check that PySCF and, for dispersion, pyscf-dispersion are installed and know method and basis.

        Raises
        ------
        EngineUnavailableError
            If one is missing.
        ConfigurationError
            If PySCF does not know the functional, its dispersion parameters or the basis.
        """
        self._need_pyscf()
        check_method(self.method, self.functional)
        elements_of(self.basis)

    def _need_pyscf(self) -> None:
        if importlib.util.find_spec("pyscf") is None:
            raise EngineUnavailableError("pyscf is not installed.", remedy="Run 'pip install pyscf'.")

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one molecule.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, ``"timeout"``, or ``"unsupported"`` for a periodic structure or an
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
        clock = Clock(formula, self.timeout)
        threads = lib.num_threads()
        lib.num_threads(self.threads)
        try:
            field = self._mean_field(atoms)
            field.callback = clock
            field = converge(field, formula)
            if self.stability:
                field = descend(field, formula, break_spin=self.open_shell == "unrestricted")
            clock()
            energy, gradient = self._energy_and_gradient(field, formula, clock)
        finally:
            lib.num_threads(threads)
        return SinglePoint(energy * HARTREE, -gradient * HARTREE_PER_BOHR)

    def _energy_and_gradient(self, field: Any, formula: str, clock: Clock) -> tuple[float, np.ndarray]:
        kind = self.method.kind
        if kind in CORRELATED:
            return correlated(field, kind, formula, frozen_core=self.frozen_core, max_steps=self.max_steps, clock=clock)
        if field.mol.natm == 1:
            return float(field.e_tot), np.zeros((1, 3))
        gradient = field.nuc_grad_method()
        # Without the response of the grid the forces do not sum to zero.
        gradient.grid_response = kind == "ks"
        return float(field.e_tot), np.asarray(gradient.kernel())

    def _mean_field(self, atoms: Atoms) -> Any:
        from pyscf import dft, gto, scf

        charge = int(atoms.info.get("charge") or 0)
        unpaired = _unpaired(atoms, charge)
        symbols = atoms.get_chemical_symbols()
        core = elements_of(self.basis)
        molecule = gto.M(
            atom=list(zip(symbols, atoms.positions.tolist(), strict=True)),
            unit="Angstrom",
            basis=self.basis,
            ecp={symbol: self.basis for symbol in symbols if core[symbol]},
            cart=self.cartesian,
            charge=charge,
            spin=unpaired,
            verbose=0,
            max_memory=self.max_memory,
        )
        method = self.method
        restricted = self.open_shell == "restricted"
        if method.kind == "ks":
            field = (dft.ROKS if restricted else dft.UKS)(molecule) if unpaired else dft.RKS(molecule)
            field.xc = method.exchange_correlation
            field.nlc = "" if method.nonlocal_correlation else False
            field.grids.level = self.grid_level
            field.nlcgrids.level = self.nonlocal_grid_level
        else:
            field = (scf.ROHF if restricted else scf.UHF)(molecule) if unpaired else scf.RHF(molecule)
        field.disp = method.dispersion_method
        if self.density_fitting:
            field = field.density_fit(auxbasis=self.auxiliary_basis, only_dfj=self.density_fitting == "coulomb")
        field.conv_tol = self.conv_tol
        field.max_cycle = self.max_steps
        field.chkfile = None
        return field


def _nonlocal(method: Method) -> str | None:
    return "VV10" if method.nonlocal_correlation else None


def _unpaired(atoms: Atoms, charge: int) -> int:
    n_electrons = int(atoms.numbers.sum()) - charge
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        unpaired = int(multiplicity) - 1
    elif len(atoms) == 1 and charge == 0:
        unpaired = unpaired_electrons(atoms.get_chemical_symbols()[0])
    else:
        unpaired = n_electrons % 2
    check_spin(atoms, unpaired)
    return unpaired
