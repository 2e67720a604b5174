"""CP2K as an engine: Gaussian basis sets, plane waves for the density, Goedecker-Teter-Hutter pseudopotentials.

atomate2's CP2K Makers do not suffice inside a batch of labels: each is a job of its own whose default input (radii to
1e-16, cutoffs from the exponents) cost two-atom silicon 203 CPU seconds, and they need a data folder and a
settings file of pymatgen's. ASE's calculator talks to an interactive CP2K and offers Monkhorst-Pack grids only
through a template.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.cp2k.input_file import format_input, kpoint_list, merged, subsystem
from atomfoundry.engines.cp2k.output import abort_reason, converged, finished, parse_results
from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.engines.process import find_program, last_line, run_child
from atomfoundry.engines.time_limit import TimeLimit
from atomfoundry.errors import ConfigurationError, LabelError
from atomfoundry.settings import settings
from atomfoundry.units import KB, RYDBERG

if TYPE_CHECKING:
    from ase import Atoms

# Elements that have both the short-range MOLOPT basis and the PBE pseudopotential, with their valence charges.
_VALENCE = (
    "H1 He2 Li3 Be4 B3 C4 N5 O6 F7 Ne8 Na9 Mg10 Al3 Si4 P5 S6 Cl7 Ar8 K9 Ca10 Sc11 Ti12 V13 Cr14 Mn15 Fe16 Co17 "
    "Ni18 Cu11 Zn12 Ga13 Ge4 As5 Se6 Br7 Kr8 Rb9 Sr10 Y11 Zr12 Nb13 Mo14 Tc15 Ru16 Rh17 Pd18 Ag11 Cd12 In13 Sn4 Sb5 "
    "Te6 I7 Xe8 Cs9 Ba10 Hf12 Ta13 W14 Re15 Os16 Ir17 Pt18 Au11 Hg12 Tl13 Pb4 Bi5 Po6 At7 Rn8"
)
VALENCE = {
    word.rstrip("0123456789"): int(word.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
    for word in _VALENCE.split()
}
"""Electrons of each element's pseudopotential."""

_MOLECULAR = ("H", "C", "N", "O", "F", "Si", "P", "S", "Cl")
"""Elements of the MOLOPT basis sets that are not of short range."""

_INPUT, _OUTPUT = "cp2k.inp", "cp2k.out"


@dataclass(kw_only=True)
class Cp2kEngine(Engine):
    """PBE with Fermi-Dirac smearing; labels are free energies, which the forces are derivatives of.

    Molecules and atoms sit in a box with vacuum, at Gamma, without stress; isolated atoms have their ground
    state's spin, open shells are occupied evenly by smearing, whose entropy is taken out again.

    Parameters
    ----------
    basis
        Name of the basis sets in CP2K's file ``BASIS_MOLOPT``, without the valence charge. The default is made for
        crystals and bad for free hydrogen (1 eV too high; H2 0.03 A too short): for molecules take
        ``"DZVP-MOLOPT-GTH"``, which costs crystals several times as much.
    cutoff
        Plane-wave cutoff of the density, eV.
    relative_cutoff
        Cutoff that decides which grid a Gaussian goes to, eV.
    kpoint_spacing
        Largest distance of neighbouring k-points of the Gamma-centred grid, 1/A with the factor 2 pi.
    smearing_width
        Fermi-Dirac width k T, eV.
    vacuum
        Empty space on each side where a structure is not periodic, A.
    empty_bands
        Empty bands; None: a fifth of the occupied ones, at least four.
    scf_tolerance
        Change of the density matrix at which the cycle ends (CP2K's ``EPS_SCF``).
    max_steps
        Steps of one self-consistency cycle; a second one, with gentle mixing, has twice as many.
    timeout
        Seconds for one structure.
    sections
        Further input, ``{"FORCE_EVAL": {"DFT": {"QS": {"EPS_DEFAULT": 1e-14}}}}``; part of the level of theory.
    """

    name: ClassVar[str] = "cp2k"
    profile: ClassVar[str] = "dft"
    in_process: ClassVar[bool] = False

    basis: str = "DZVP-MOLOPT-SR-GTH"
    cutoff: float = 400 * RYDBERG
    relative_cutoff: float = 50 * RYDBERG
    kpoint_spacing: float = 0.4
    smearing_width: float = 0.05
    vacuum: float = 5.0
    empty_bands: int | None = None
    scf_tolerance: float = 1e-7
    max_steps: int = 80
    timeout: float = 3600.0
    sections: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        positive = ("cutoff", "relative_cutoff", "kpoint_spacing", "smearing_width", "vacuum", "scf_tolerance")
        for key in (*positive, "timeout", "max_steps"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"cp2k: {key} is {getattr(self, key)}.", remedy="It must be positive.")

    @property
    def level(self) -> LevelOfTheory:
        """PBE in this basis, with these cutoffs, k-points and smearing."""
        extra: dict[str, str | float | bool] = {
            "vacuum": self.vacuum,
            "relative_cutoff": self.relative_cutoff,
            "open_shell_atoms": "spherical",
        }
        if self.sections:
            extra["sections"] = json.dumps(self.sections, sort_keys=True)
        return LevelOfTheory(
            code="cp2k",
            method="PBE",
            basis=self.basis,
            density_cutoff=self.cutoff,
            pseudopotentials="GTH-PBE",
            kpoint_spacing=self.kpoint_spacing,
            smearing=f"fermi-dirac {self.smearing_width:g}",
            spin="auto",
            extra=extra,
        )

    def supported_elements(self) -> set[str]:
        """Return the elements with basis set and pseudopotential."""
        return set(_MOLECULAR) if self.basis.endswith("-MOLOPT-GTH") else set(VALENCE)

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return settings with k-points for any crystal.

        Parameters
        ----------
        symbols
            Chemical symbols.
        """
        return self.settings() | {"kpoint_spacing": min(self.kpoint_spacing, type(self).kpoint_spacing)}

    def check_available(self) -> None:
        """Check for CP2K.

        Raises
        ------
        EngineUnavailableError
            If it is missing.
        """
        _command()

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure; a cycle that does not converge is tried once more with gentle mixing.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, ``"timeout"``, ``"out_of_memory"``, ``"crashed"`` or ``"unsupported"``.
        """
        limit = TimeLimit(self.timeout)
        try:
            return self._run(atoms, directory, limit, gentle=False)
        except LabelError as error:
            if error.reason != "unconverged":
                raise
        return self._run(atoms, directory, limit, gentle=True)

    def _run(self, atoms: Atoms, directory: Path, limit: TimeLimit, *, gentle: bool) -> SinglePoint:
        formula = atoms.get_chemical_formula()
        self._write(atoms, directory, gentle=gentle)
        try:
            status = run_child(
                [*_command(), "-i", _INPUT], directory, output=_OUTPUT, limit=limit, what=f"{formula}: CP2K"
            )
        finally:
            for path in directory.glob("atomfoundry-RESTART*"):
                path.unlink()
        output = directory / _OUTPUT
        text = output.read_text(errors="replace")
        if "SCF run NOT converged" in text:
            raise LabelError(
                f"{formula}: the self-consistency cycle of CP2K did not converge.",
                reason="unconverged",
                remedy="Raise 'max_steps' or 'smearing_width'.",
            )
        if status != 0 or not finished(text) or not converged(text):
            reason = abort_reason(text) or last_line(output.with_name(f"{_OUTPUT}.err"))
            raise LabelError(f"{formula}: CP2K failed: {reason}.", reason="crashed", remedy="Look at the structure.")
        results = parse_results(text, len(atoms))
        energy = results.energy
        if len(atoms) == 1 and not atoms.pbc.any():
            energy -= results.entropy_term
        return SinglePoint(energy, results.forces, results.stress if atoms.pbc.all() else None)

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write CP2K's input file; basis sets and pseudopotentials are those of CP2K's data folder.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Existing folder for the file.

        Returns
        -------
        list of Path
            The input file.
        """
        self.check_elements(atoms.get_chemical_symbols())
        return [self._write(atoms, directory, gentle=False)]

    def _write(self, atoms: Atoms, directory: Path, *, gentle: bool) -> Path:
        path = directory / _INPUT
        path.write_text(format_input(merged(self.input_sections(atoms, gentle=gentle), self.sections or {})))
        return path

    def input_sections(self, atoms: Atoms, *, gentle: bool = False) -> dict[str, Any]:
        """Return the input as nested sections.

        Parameters
        ----------
        atoms
            The structure; never changed.
        gentle
            With twice the steps, and mixing for what did not converge.
        """
        symbols = atoms.get_chemical_symbols()
        n_electrons = sum(VALENCE[symbol] for symbol in symbols)
        unpaired = _unpaired(atoms, n_electrons)
        occupied = math.ceil((n_electrons + unpaired) / 2)
        empty = self.empty_bands if self.empty_bands is not None else max(4, math.ceil(occupied / 5))
        smear: dict[str, Any] = {
            "METHOD": "FERMI_DIRAC",
            "ELECTRONIC_TEMPERATURE": f"[K] {self.smearing_width / KB:.10g}",
        }
        dft: dict[str, Any] = {
            "BASIS_SET_FILE_NAME": "BASIS_MOLOPT",
            "POTENTIAL_FILE_NAME": "GTH_POTENTIALS",
            "CHARGE": 0,
            "MULTIPLICITY": unpaired + 1,
        }
        if unpaired:
            dft["UKS"] = True
            smear["FIXED_MAGNETIC_MOMENT"] = float(unpaired)
        dft |= {
            "MGRID": {
                "NGRIDS": 4,
                "CUTOFF": f"[eV] {self.cutoff:.10g}",
                "REL_CUTOFF": f"[eV] {self.relative_cutoff:.10g}",
            },
            "QS": {"METHOD": "GPW", "EPS_DEFAULT": 1e-10},
            "SCF": {
                "SCF_GUESS": "ATOMIC",
                "EPS_SCF": self.scf_tolerance,
                "MAX_SCF": 2 * self.max_steps if gentle else self.max_steps,
                "ADDED_MOS": f"{empty} {empty + unpaired}" if unpaired else empty,
                "SMEAR ON": smear,
                "DIAGONALIZATION ON": {"ALGORITHM": "STANDARD"},
                "MIXING ON": {"METHOD": "BROYDEN_MIXING", "ALPHA": 0.1 if gentle else 0.4, "NBROYDEN": 8},
                "PRINT": {"RESTART OFF": {}},
            },
            "XC": {"XC_FUNCTIONAL PBE": {}},
        }
        points = kpoint_list(kpoint_grid(atoms, spacing=self.kpoint_spacing))
        if len(points) > 1:
            rows = [f"{x:.12f} {y:.12f} {z:.12f} {weight:.12f}" for x, y, z, weight in points]
            dft["KPOINTS"] = {"SCHEME": "GENERAL", "UNITS": "B_VECTOR", "SYMMETRY": False, "KPOINT": rows}
        kinds = {
            symbol: {
                "ELEMENT": symbol,
                "BASIS_SET": f"{self.basis}-q{VALENCE[symbol]}",
                "POTENTIAL": f"GTH-PBE-q{VALENCE[symbol]}",
            }
            for symbol in dict.fromkeys(symbols)
        }
        stress = bool(atoms.pbc.all())
        return {
            "GLOBAL": {"PROJECT": "atomfoundry", "RUN_TYPE": "ENERGY_FORCE", "PRINT_LEVEL": "MEDIUM"},
            "FORCE_EVAL": {
                "METHOD": "QUICKSTEP",
                **({"STRESS_TENSOR": "ANALYTICAL"} if stress else {}),
                "DFT": dft,
                "SUBSYS": subsystem(boxed(atoms, vacuum=self.vacuum), kinds),
                "PRINT": {"FORCES ON": {"NDIGITS": 12}, **({"STRESS_TENSOR ON": {}} if stress else {})},
            },
        }


def _command() -> tuple[str, ...]:
    return find_program(
        settings().cp2k_command,
        ["cp2k.psmp", "cp2k.ssmp", "cp2k.popt", "cp2k"],
        setting="cp2k_command",
        remedy="Install it (Debian's package 'cp2k'), or name its command in ATOMFOUNDRY_CP2K_COMMAND.",
    )


def _unpaired(atoms: Atoms, n_electrons: int) -> int:
    if atoms.info.get("charge", 0):
        raise LabelError(
            f"{atoms.get_chemical_formula()}: charge {atoms.info['charge']} in a periodic box.",
            reason="unsupported",
            remedy="Compute charged molecules with engine 'pyscf'.",
        )
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        return int(multiplicity) - 1
    if atoms.pbc.any():
        return n_electrons % 2
    return unpaired_electrons(atoms.get_chemical_symbols()[0]) if len(atoms) == 1 else n_electrons % 2
