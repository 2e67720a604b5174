"""ABINIT as an engine: plane waves and the norm-conserving pseudopotentials that Quantum ESPRESSO uses here.

Input and output go through ASE's writer and reader. atomate2's ABINIT Makers do not suffice inside a batch of labels:
each is a job of its own, needs abipy (500 MB installed) and its tables of pseudopotentials, and its runner
looks at the clock every 30 s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.engines.espresso.install import psp8_folder
from atomfoundry.engines.espresso.pseudopotentials import (
    FAMILY,
    MINIMUM_CUTOFFS,
    SPMS_ELEMENTS,
    UNMEASURED_CUTOFF,
)
from atomfoundry.engines.process import find_program, last_line, run_child
from atomfoundry.engines.time_limit import TimeLimit
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError
from atomfoundry.settings import settings
from atomfoundry.units import HARTREE

if TYPE_CHECKING:
    from ase import Atoms

_SMEARINGS = {"gaussian": 7, "fermi-dirac": 3}
_INPUT, _LOG, _OUTPUT = "abinit.abi", "abinit.log", "abinit.abo"


@dataclass(kw_only=True)
class AbinitEngine(Engine):
    """Plane-wave PBE with smearing; labels are free energies, which the forces are derivatives of.

    Molecules and atoms sit in a box with vacuum, at Gamma, without stress; isolated atoms have their ground
    state's spin, open shells are occupied evenly by smearing, whose entropy is taken out again.

    Parameters
    ----------
    ecut
        Cutoff of the wave functions, eV; the density has four times as much.
    kpoint_spacing
        Largest distance of neighbouring k-points of the Gamma-centred grid, 1/A with the factor 2 pi.
    smearing
        ``"gaussian"`` or ``"fermi-dirac"``.
    smearing_width
        Its width, eV.
    vacuum
        Empty space on each side where a structure is not periodic, A.
    empty_bands
        Empty bands; None: a fifth of the occupied ones, at least four (molecules: two).
    potential_residual
        Squared residual of the potential at which the cycle ends, Hartree^2 (ABINIT's ``tolvrs``).
    max_steps
        Steps of one self-consistency cycle; a second one, with gentle mixing, has twice as many.
    timeout
        Seconds for one structure.
    variables
        Further input variables, ``{"nband": 8}``; part of the level of theory.
    """

    name: ClassVar[str] = "abinit"
    profile: ClassVar[str] = "dft"
    in_process: ClassVar[bool] = False

    ecut: float = 15 * HARTREE
    kpoint_spacing: float = 0.4
    smearing: str = "gaussian"
    smearing_width: float = 0.05
    vacuum: float = 5.0
    empty_bands: int | None = None
    potential_residual: float = 1e-9
    max_steps: int = 60
    timeout: float = 3600.0
    variables: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in ("ecut", "kpoint_spacing", "smearing_width", "vacuum", "potential_residual", "timeout", "max_steps"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"abinit: {key} is {getattr(self, key)}.", remedy="It must be positive.")
        if self.smearing not in _SMEARINGS:
            raise ConfigurationError(
                f"abinit: smearing is '{self.smearing}'.", remedy=f"Take one of {', '.join(_SMEARINGS)}."
            )

    @property
    def level(self) -> LevelOfTheory:
        """PBE at this cutoff, k-point density and smearing."""
        extra: dict[str, str | float | bool] = {"vacuum": self.vacuum, "open_shell_atoms": "spherical"}
        if self.variables:
            extra["variables"] = json.dumps(self.variables, sort_keys=True)
        return LevelOfTheory(
            code="abinit",
            method="PBE",
            cutoff=self.ecut,
            density_cutoff=4 * self.ecut,
            pseudopotentials=FAMILY,
            kpoint_spacing=self.kpoint_spacing,
            smearing=f"{self.smearing} {self.smearing_width:g}",
            spin="auto",
            extra=extra,
        )

    def supported_elements(self) -> set[str]:
        """Return the elements with a pseudopotential."""
        return set(SPMS_ELEMENTS)

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return settings with a cutoff that all elements can bear, and k-points for any crystal.

        Parameters
        ----------
        symbols
            Chemical symbols.
        """
        return self.settings() | {
            "ecut": max(self.ecut, _needed_cutoff(symbols)),
            "kpoint_spacing": min(self.kpoint_spacing, type(self).kpoint_spacing),
        }

    def check_elements(self, symbols: Iterable[str]) -> None:
        """Check that there are pseudopotentials, and that the cutoff is one they can bear.

        Raises
        ------
        UnsupportedElementError
            Naming the elements without one.
        ConfigurationError
            If the cutoff is too low for an element: such labels would be wrong without a sign of it.
        """
        elements = sorted(set(symbols))
        super().check_elements(elements)
        needed = _needed_cutoff(elements)
        if self.ecut < needed - 1e-6:
            raise ConfigurationError(
                f"abinit: a cutoff of {self.ecut:.6g} eV is too low for {' '.join(elements)}.",
                remedy=f"Set ecut to {math.ceil(needed)} eV or more.",
            )

    def check_available(self) -> None:
        """Check for ABINIT and the pseudopotentials.

        Raises
        ------
        EngineUnavailableError
            If one of them is missing.
        """
        _command()
        _psp8_files([])

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure; a cycle that does not converge is tried once more with gentle mixing.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, ``"timeout"``, ``"out_of_memory"``, ``"crashed"`` or ``"unsupported"``.
        """
        limit = TimeLimit(self.timeout)
        gentle = {"diemix": 0.2, "nstep": 2 * self.max_steps}
        for attempt in ({}, gentle):
            try:
                return self._run(atoms, directory, attempt, limit)
            except LabelError as error:
                if error.reason != "unconverged" or attempt:
                    raise
        raise AssertionError("unreachable")

    def _run(self, atoms: Atoms, directory: Path, changes: dict[str, Any], limit: TimeLimit) -> SinglePoint:
        from ase.io.abinit import read_abinit_out

        formula = atoms.get_chemical_formula()
        with _scratch(directory):
            self._write(atoms, directory, changes)
            status = run_child([*_command(), _INPUT], directory, output=_LOG, limit=limit, what=f"{formula}: ABINIT")
        path = directory / _LOG
        text = path.read_text(errors="replace")
        if "was not enough SCF cycles to converge" in text:
            raise LabelError(
                f"{formula}: the self-consistency cycle of ABINIT did not converge.",
                reason="unconverged",
                remedy="Raise 'max_steps' or 'smearing_width'.",
            )
        if status != 0 or "Calculation completed" not in text:
            raise LabelError(f"{formula}: ABINIT failed: {_reason(path)}.", reason="crashed")
        with (directory / _OUTPUT).open() as stream:
            results = read_abinit_out(stream)["atoms"].calc.results
        energy = results["free_energy"]
        if len(atoms) == 1 and not atoms.pbc.any():
            energy -= _entropy_term((directory / _OUTPUT).read_text())
        return SinglePoint(energy, results["forces"], results["stress"] if atoms.pbc.all() else None)

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write ABINIT's input file; it names the pseudopotentials where they are.

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
        return [self._write(atoms, directory, {})]

    def _write(self, atoms: Atoms, directory: Path, changes: dict[str, Any]) -> Path:
        from ase.io.abinit import write_abinit_in

        structure = boxed(atoms, vacuum=self.vacuum)
        structure.set_initial_magnetic_moments(None)
        # The order in which ABINIT sees the species, and so their pseudopotentials.
        species = sorted(set(atoms.numbers))
        files = _psp8_files(atoms.get_chemical_symbols())
        ordered = [files[number] for number in species]
        variables = self._variables(atoms, files) | changes
        n_electrons = round(sum(_valence(files[number]) for number in atoms.numbers))
        unpaired = _unpaired(atoms, n_electrons)
        if unpaired:
            structure.set_initial_magnetic_moments([unpaired / len(atoms)] * len(atoms))
            variables["spinmagntarget"] = float(unpaired)
        if unpaired == n_electrons == 1:
            # Hydrogen: a spin without electrons has no Fermi level.
            del variables["spinmagntarget"]
            variables |= {"nband": [1, 1], "occopt": 2, "occ": [1.0, 0.0]}
        variables |= self.variables or {}
        path = directory / _INPUT
        with path.open("w") as stream:
            write_abinit_in(stream, structure, variables, species, [file.name for file in ordered])
            stream.write(f'pp_dirpath "{ordered[0].parent}"\n')
        return path

    def _variables(self, atoms: Atoms, files: dict[int, Path]) -> dict[str, Any]:
        n_electrons = sum(_valence(files[number]) for number in atoms.numbers)
        molecule = not atoms.pbc.any()
        occupied = math.ceil((n_electrons + _unpaired(atoms, round(n_electrons))) / 2)
        empty = self.empty_bands
        if empty is None:
            empty = 2 if molecule and len(atoms) > 1 else max(4, math.ceil(occupied / 5))
        return {
            "xc": "PBE",
            # ASE writes these two with the unit eV.
            "ecut": self.ecut,
            "ngkpt": list(kpoint_grid(atoms, spacing=self.kpoint_spacing)),
            "nshiftk": 1,
            "shiftk": [0.0, 0.0, 0.0],
            "nband": occupied + empty,
            "occopt": _SMEARINGS[self.smearing],
            "tsmear": self.smearing_width,
            "tolvrs": self.potential_residual,
            "nstep": self.max_steps,
            # Dielectric constant of the mixing: vacuum, or ABINIT's own for matter.
            "diemac": 2.0 if molecule else 1e6,
            "optforces": 1,
            "optstress": int(bool(atoms.pbc.all())),
            # Strained cells have symmetry operations that fit no grid of the density.
            "chksymtnons": 0,
            **dict.fromkeys(("prtwf", "prtden", "prteig", "prtebands", "prtgsr"), 0),
        }


def _needed_cutoff(elements: Iterable[str]) -> float:
    return max((MINIMUM_CUTOFFS.get(element, UNMEASURED_CUTOFF) for element in elements), default=0.0)


def _command() -> tuple[str, ...]:
    return find_program(
        settings().abinit_command,
        ["abinit"],
        setting="abinit_command",
        remedy="Install it (Debian's package 'abinit'), or name its command in ATOMFOUNDRY_ABINIT_COMMAND.",
    )


def _psp8_files(symbols: Iterable[str]) -> dict[int, Path]:
    folder = psp8_folder()
    if folder is None:
        raise EngineUnavailableError(
            "The SPMS pseudopotentials are not installed.", remedy="Run 'atomfoundry engine install espresso'."
        )
    files = {path.name.split("_")[1]: path for path in sorted(folder.glob("*.psp8"))}
    from ase.data import atomic_numbers

    return {atomic_numbers[symbol]: files[symbol] for symbol in sorted(set(symbols))}


def _valence(psp8: Path) -> float:
    with psp8.open() as stream:
        next(stream)
        return float(next(stream).split()[1])


def _unpaired(atoms: Atoms, n_electrons: int) -> int:
    multiplicity = atoms.info.get("spin_multiplicity")
    if atoms.info.get("charge", 0):
        raise LabelError(
            f"{atoms.get_chemical_formula()}: charge {atoms.info['charge']} in a periodic box.",
            reason="unsupported",
            remedy="Compute charged molecules with engine 'pyscf'.",
        )
    if multiplicity is not None:
        return int(multiplicity) - 1
    if atoms.pbc.any():
        return 0
    return unpaired_electrons(atoms.get_chemical_symbols()[0]) if len(atoms) == 1 else n_electrons % 2


def _entropy_term(text: str) -> float:
    """Return -TS, eV: an atom's open shell is smeared for symmetry only, and it has no forces."""
    found = re.findall(r"'?-kT\*entropy'?\s*:\s*(\S+)", text)
    return float(found[-1]) * HARTREE if found else 0.0


def _reason(output: Path) -> str:
    text = output.read_text(errors="replace")
    found = re.findall(r"--- !(?:ERROR|BUG).*?message: \|\s*\n(.*?)\n\.\.\.", text, re.DOTALL)
    if found:
        return " ".join(found[-1].split())
    return last_line(output.with_name(f"{output.name}.err"))


@contextmanager
def _scratch(directory: Path) -> Iterator[None]:
    """Take away what an earlier attempt left, and the big files of this one."""

    def clean(*patterns: str) -> None:
        for pattern in patterns:
            for path in directory.glob(pattern):
                path.unlink()

    clean("abinit.abo*", "abiniti_*", "abinito_*")
    try:
        yield
    finally:
        clean("abinito_*", "abinitt_*")
