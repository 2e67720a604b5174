"""Quantum ESPRESSO's pw.x as an engine: inputs from a protocol, runs under custodian, results by ASE."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.deadline import seconds_left
from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.espresso.checks import DEFAULT_KPOINT_SPACING, check_settings, take_protocol
from atomfoundry.engines.espresso.cutoffs import dual, needed_cutoff, suggested_cutoff
from atomfoundry.engines.espresso.files import HANDMADE_INPUT, HANDMADE_PSEUDOPOTENTIALS
from atomfoundry.engines.espresso.inputs import pw_setup, write_input
from atomfoundry.engines.espresso.install import find_pw
from atomfoundry.engines.espresso.level import level_of
from atomfoundry.engines.espresso.protocols import find_protocol
from atomfoundry.engines.espresso.pseudopotentials import (
    own_upf_files,
    supported_elements,
    upf_files,
)
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(kw_only=True)
class EspressoEngine(Engine):
    """Plane-wave density functional theory; labels are free energies, which the forces are derivatives of.

    Molecules and atoms sit in a box with vacuum, at Gamma, without stress; isolated atoms are
    spin-polarised in their ground state, so that their energies are those the atomization energies need. A run
    that fails is repaired where that does not change the energy surface (see ``handlers``).

    Parameters
    ----------
    protocol
        ``"fast"``, ``"balanced"`` or ``"stringent"``: k-points, cutoff, smearing and tolerance, wherever they are
        not given. Its cutoff follows the pseudopotentials of ``elements``.
    elements
        Elements of all structures that shall lie on one energy surface; a protocol's cutoff and the density
        cutoff of ultrasoft and PAW pseudopotentials follow from them.
    ecutwfc
        Cutoff of the wave functions, eV; 30 Ry without a protocol.
    ecutrho
        Cutoff of the density, eV; None: four times ``ecutwfc``, more for ultrasoft and PAW files, as they say.
    allow_low_cutoff
        Accept a cutoff below what the pseudopotentials ask for, for convergence studies.
    kpoint_spacing
        Largest distance of neighbouring k-points, 1/A with the factor 2 pi; 0.4 without a protocol.
    kpoints
        One grid for all crystals, e.g. ``(4, 4, 4)``, instead of the spacing: strained cells of one parent then
        keep theirs, where a spacing would make it jump.
    kpoint_shift
        Move the grid by half a step off Gamma along every direction with more than one point (Monkhorst and
        Pack): for cubic semiconductors as good as a Gamma-centred grid of several times as many points.
        Leave it off for hexagonal lattices, whose symmetry it breaks.
    smearing_kind
        ``"gaussian"`` (without a protocol), ``"cold"``, ``"methfessel-paxton"`` or ``"fermi-dirac"``, or pw.x's
        short names.
    smearing
        Its width, eV; 0.05 without a protocol.
    spin
        ``"auto"``: isolated atoms, radicals and structures with ``info["spin_multiplicity"]`` are polarised;
        ``"none"``: nothing is; ``"collinear"``: everything is, and finds its own magnetisation.
    magnetic_moments
        Bohr magnetons by element that a collinear cycle starts with; the others take the atom's for open d and f
        shells, a tenth else. A structure's own initial moments come first.
    magnetic_orders
        Arrangements a collinear cycle starts from, ``"ferromagnetic"``, ``"antiferromagnetic"``,
        ``"nonmagnetic"``; the lowest energy of them is the label.
    hubbard_u
        U in eV by element or shell, ``{"Fe": 4.0}`` or ``{"Fe-3d": 4.0}``.
    hubbard_projectors
        ``"ortho-atomic"`` or ``"atomic"``.
    dispersion
        ``"D3(BJ)"`` or ``"D3(0)"``, two-body terms.
    vacuum
        Empty space on each side where a structure is not periodic, A.
    empty_bands
        Empty bands of a crystal at which cost and safety balance; None: pw.x's own choice, at least four.
    scf_tolerance
        Estimated energy error at which the cycle ends, eV/atom; 1e-7 without a protocol.
    max_steps
        Steps of one self-consistency cycle; after a failed one, twice as many.
    mixing_beta
        Mixing factor of the first cycle; boxes with vacuum take at most 0.4.
    max_corrections
        Corrections of failed runs of one structure; 0: none.
    timeout
        Seconds for one structure, all attempts together; the end of the batch job may come first.
    density_dir
        Folder of charge densities: a converged run leaves its own there, and structures of the same group and
        composition start from it; so does a structure whose time ran out. Polarised and +U runs start from atoms,
        as their ground state could depend on where they start.
    program
        ``"PATH"`` or ``"pip"`` takes that pw.x only; None takes the best there is.
    keep_files
        Keep pw.x's scratch folder.
    input_data
        Further input of pw.x, ``{"system": {"nbnd": 8}}``; part of the level of theory.
    """

    name: ClassVar[str] = "espresso"
    profile: ClassVar[str] = "dft"
    in_process: ClassVar[bool] = False

    protocol: str | None = None
    elements: list[str] | None = None
    ecutwfc: float | None = None
    ecutrho: float | None = None
    allow_low_cutoff: bool = False
    kpoint_spacing: float = None  # type: ignore[assignment]
    kpoints: list[int] | None = None
    kpoint_shift: bool = False
    smearing_kind: str = None  # type: ignore[assignment]
    smearing: float = None  # type: ignore[assignment]
    spin: str = "auto"
    magnetic_moments: dict[str, float] | None = None
    magnetic_orders: list[str] = field(default_factory=lambda: ["ferromagnetic"])
    hubbard_u: dict[str, float] | None = None
    hubbard_projectors: str = "ortho-atomic"
    dispersion: str | None = None
    vacuum: float = 5.0
    empty_bands: int | None = None
    scf_tolerance: float = None  # type: ignore[assignment]
    max_steps: int = 100
    mixing_beta: float = 0.7
    max_corrections: int = 6
    timeout: float = 3600.0
    density_dir: str | None = None
    program: str | None = None
    keep_files: bool = False
    input_data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        take_protocol(self)
        check_settings(self)

    @property
    def cutoff(self) -> float:
        """Cutoff of the wave functions, eV.

        Raises
        ------
        ConfigurationError
            If neither ``ecutwfc`` nor ``elements`` tell it.
        """
        if self.ecutwfc is not None:
            return self.ecutwfc
        if not self.elements or self.protocol is None:
            raise ConfigurationError(
                f"espresso: the cutoff of protocol '{self.protocol}' depends on the elements.",
                remedy="Name all elements of the data in 'elements', or set ecutwfc: a surface has one cutoff.",
            )
        return suggested_cutoff(self.elements, factor=find_protocol(self.protocol).cutoff_factor)

    @property
    def density_cutoff(self) -> float:
        """Cutoff of the density, eV."""
        return dual(self.elements) * self.cutoff if self.ecutrho is None else self.ecutrho

    @property
    def level(self) -> LevelOfTheory:
        """Functional of the pseudopotentials at these cutoffs, k-points, smearing, spin, U and dispersion."""
        return level_of(self)

    def supported_elements(self) -> set[str]:
        """Return the elements with a pseudopotential."""
        return supported_elements()

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return settings with a cutoff that all elements can bear, and k-points for any crystal.

        Parameters
        ----------
        symbols
            Chemical symbols.
        """
        elements = sorted(set(symbols))
        if self.ecutwfc is None and self.protocol is not None:
            cutoff = suggested_cutoff(elements, factor=find_protocol(self.protocol).cutoff_factor)
        else:
            cutoff = max(self.cutoff, needed_cutoff(elements))
        changed: dict[str, Any] = {"ecutwfc": cutoff, "kpoints": None, "kpoint_shift": False}
        if self.protocol is None:
            changed["kpoint_spacing"] = min(self.kpoint_spacing, DEFAULT_KPOINT_SPACING)
        if own_upf_files() is not None:
            changed["elements"] = elements
        return self.settings() | changed

    def check_elements(self, symbols: Iterable[str]) -> None:
        """Check that there are pseudopotentials, and that the cutoff is one they can bear.

        Raises
        ------
        UnsupportedElementError
            Naming the elements without one.
        ConfigurationError
            If the cutoff is too low for an element: such labels would be wrong without a sign of it. Or if an
            element is not among the engine's ``elements``.
        """
        elements = sorted(set(symbols))
        super().check_elements(elements)
        foreign = sorted(set(elements) - set(self.elements)) if self.elements is not None else []
        if foreign:
            raise ConfigurationError(
                f"espresso: {' '.join(foreign)} is not among the elements {' '.join(self.elements or [])}.",
                remedy="Add it to 'elements': cutoffs, and so the energy surface, depend on them.",
            )
        needed = needed_cutoff(elements)
        if self.cutoff < needed - 1e-6 and not self.allow_low_cutoff:
            raise ConfigurationError(
                f"espresso: a cutoff of {self.cutoff:.6g} eV is too low for {' '.join(elements)}.",
                remedy=f"Set ecutwfc to {math.ceil(needed)} eV or more.",
            )

    def check_available(self) -> None:
        """Check for pw.x and pseudopotentials.

        Raises
        ------
        EngineUnavailableError
            If one of them is missing.
        """
        find_pw(self.program)
        upf_files([])

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure; runs that fail are repaired where that is possible.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, ``"timeout"``, ``"out_of_memory"``, ``"crashed"`` or ``"unsupported"``.
        """
        from atomfoundry.engines.espresso.calculation import compute

        _refuse_charge(atoms)
        left = seconds_left()
        limit = self.timeout if left is None else min(self.timeout, left)
        if limit <= 0:
            raise LabelError(
                f"{atoms.get_chemical_formula()}: no time is left.", reason="timeout", remedy="Continue in a next job."
            )
        end_time = time.time() + limit
        results = []
        # Moments of the structure's own are one arrangement, whatever the orders.
        own = atoms.get_initial_magnetic_moments().any()
        for order in self.magnetic_orders[:1] if own else self.magnetic_orders:
            folder = directory if order == self.magnetic_orders[0] else directory / order
            folder.mkdir(exist_ok=True)
            results.append(compute(self, atoms, folder, order=order, end_time=end_time))
        return min(results, key=lambda result: result.energy)

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write ``pw.in`` and its pseudopotentials, to be run by ``pw.x -in pw.in`` in that folder.

        The results are those of the engine but for an isolated atom, whose energy the engine frees of the
        smearing's entropy. Without a pw.x here, U is written as version 7.1 and later want it.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Existing folder for the files.

        Returns
        -------
        list of Path
            The input (one for each of ``magnetic_orders``) and the pseudopotentials.
        """
        from atomfoundry.engines.espresso.calculation import versioned_setup

        self.check_elements(atoms.get_chemical_symbols())
        _refuse_charge(atoms)
        directory = Path(directory)
        potentials = directory / HANDMADE_PSEUDOPOTENTIALS
        written = []
        for order in self.magnetic_orders:
            try:
                setup = versioned_setup(self, atoms, order=order)
            except EngineUnavailableError:
                setup = pw_setup(self, atoms, order=order)
            first = order == self.magnetic_orders[0]
            written.append(directory / (HANDMADE_INPUT if first else f"pw-{order}.in"))
            write_input(setup, written[-1], pseudo_dir=f"./{HANDMADE_PSEUDOPOTENTIALS}")
        potentials.mkdir(exist_ok=True)
        for file in setup.files.values():
            written.append(potentials / file.name)
            shutil.copyfile(file, written[-1])
        return written


def _refuse_charge(atoms: Atoms) -> None:
    if atoms.info.get("charge", 0):
        raise LabelError(
            f"{atoms.get_chemical_formula()}: charge {atoms.info['charge']} in a periodic box.",
            reason="unsupported",
            remedy="Compute charged molecules with engine 'pyscf'.",
        )
