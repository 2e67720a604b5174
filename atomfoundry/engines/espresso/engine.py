"""Quantum ESPRESSO's pw.x as an engine: PBE, norm-conserving pseudopotentials, through ASE's calculator."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.engines.espresso.install import find_pw
from atomfoundry.engines.espresso.occupations import electron_settings
from atomfoundry.engines.espresso.pseudopotentials import (
    family_name,
    minimum_cutoff,
    supported_elements,
    upf_files,
)
from atomfoundry.errors import ConfigurationError, LabelError
from atomfoundry.units import RYDBERG

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(kw_only=True)
class EspressoEngine(Engine):
    """Plane-wave PBE with Gaussian smearing; labels are free energies, which the forces are derivatives of.

    Molecules and atoms sit in a box with vacuum, at Gamma, without stress; isolated atoms are
    spin-polarised in their ground state, so that their energies are those the atomization energies need.

    Parameters
    ----------
    ecutwfc
        Cutoff of the wave functions, eV; the density has four times as much.
    kpoint_spacing
        Largest distance of neighbouring k-points, 1/A with the factor 2 pi.
    kpoint_shift
        Move the grid by half a step off Gamma along every direction with more than one point (Monkhorst and
        Pack): for cubic semiconductors as good as a Gamma-centred grid of several times as many points.
        Leave it off for hexagonal lattices, whose symmetry it breaks.
    smearing
        Gaussian width, eV.
    vacuum
        Empty space on each side where a structure is not periodic, A.
    empty_bands
        Empty bands of a crystal at which cost and safety balance; None: pw.x's own choice, at least four.
    scf_tolerance
        Estimated energy error at which the cycle ends, eV/atom.
    max_steps
        Steps of one self-consistency cycle; a second one, with gentle mixing, has twice as many.
    mixing_beta
        Mixing factor of the first cycle; boxes with vacuum take at most 0.4.
    timeout
        Seconds for one run of pw.x.
    program
        ``"PATH"`` or ``"pip"`` takes that pw.x only; None takes the best there is.
    keep_files
        Keep the wave functions' folder.
    input_data
        Further input of pw.x, ``{"system": {"nbnd": 8}}``; part of the level of theory.
    """

    name: ClassVar[str] = "espresso"
    profile: ClassVar[str] = "dft"
    in_process: ClassVar[bool] = False

    ecutwfc: float = 30 * RYDBERG
    kpoint_spacing: float = 0.4
    kpoint_shift: bool = False
    smearing: float = 0.05
    vacuum: float = 5.0
    empty_bands: int | None = None
    scf_tolerance: float = 1e-7
    max_steps: int = 100
    mixing_beta: float = 0.7
    timeout: float = 3600.0
    program: str | None = None
    keep_files: bool = False
    input_data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in ("ecutwfc", "kpoint_spacing", "smearing", "vacuum", "scf_tolerance", "timeout"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"espresso: {key} is {getattr(self, key)}.", remedy="It must be positive.")
        if self.program not in (None, "PATH", "pip"):
            raise ConfigurationError(f"espresso: program is '{self.program}'.", remedy="Take 'PATH' or 'pip'.")

    @property
    def level(self) -> LevelOfTheory:
        """PBE at this cutoff, k-point density and smearing."""
        return LevelOfTheory(
            code="espresso",
            method="PBE",
            cutoff=self.ecutwfc,
            density_cutoff=4 * self.ecutwfc,
            pseudopotentials=family_name(),
            kpoint_spacing=self.kpoint_spacing,
            smearing=f"gaussian {self.smearing:g}",
            spin="auto",
            extra=self._extra_input()
            | {"vacuum": self.vacuum, "kpoint_shift": self.kpoint_shift, "open_shell_atoms": "spherical"},
        )

    def _extra_input(self) -> dict[str, str | float | bool]:
        return {"input_data": json.dumps(self.input_data, sort_keys=True)} if self.input_data else {}

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
        return self.settings() | {
            "ecutwfc": max(self.ecutwfc, minimum_cutoff(symbols)),
            "kpoint_spacing": min(self.kpoint_spacing, type(self).kpoint_spacing),
            "kpoint_shift": False,
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
        needed = minimum_cutoff(elements)
        if self.ecutwfc < needed - 1e-6:
            raise ConfigurationError(
                f"espresso: a cutoff of {self.ecutwfc:.6g} eV is too low for {' '.join(elements)}.",
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
        """Compute one structure; a cycle that does not converge is tried once more with gentle mixing.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, ``"timeout"``, ``"crashed"`` or ``"unsupported"``.
        """
        if atoms.info.get("charge", 0):
            raise LabelError(
                f"{atoms.get_chemical_formula()}: charge {atoms.info['charge']} in a periodic box.",
                reason="unsupported",
                remedy="Compute charged molecules with engine 'pyscf'.",
            )
        try:
            return self._run(atoms, directory, beta=self.mixing_beta, steps=self.max_steps)
        except LabelError as error:
            if error.reason != "unconverged":
                raise
        return self._run(atoms, directory, beta=self.mixing_beta / 4, steps=2 * self.max_steps)

    def _run(self, atoms: Atoms, directory: Path, *, beta: float, steps: int) -> SinglePoint:
        from ase.calculators.espresso import Espresso

        from atomfoundry.engines.espresso.profile import LaunchedProfile

        grid = kpoint_grid(atoms, spacing=self.kpoint_spacing)
        files = upf_files(atoms.get_chemical_symbols())
        system = electron_settings(atoms, files, smearing_ry=self.smearing / RYDBERG, empty_bands=self.empty_bands)
        periodic = bool(atoms.pbc.all())
        if not periodic and "nosym" not in system:
            beta = min(beta, 0.4)
        structure = boxed(atoms, vacuum=self.vacuum)
        if "nspin" in system:
            structure.set_initial_magnetic_moments([system["tot_magnetization"] / len(atoms)] * len(atoms))
        structure.calc = Espresso(
            profile=LaunchedProfile(find_pw(self.program), next(iter(files.values())).parent, timeout=self.timeout),
            directory=directory,
            pseudopotentials={element: path.name for element, path in files.items()},
            # None makes pw.x use real wave functions at Gamma, half the cost of a complex (1, 1, 1).
            kpts=grid if atoms.pbc.any() or "nosym" in system else None,
            koffset=tuple(int(self.kpoint_shift and n > 1) for n in grid),
            input_data=self._input_data(len(atoms), system, periodic=periodic, beta=beta, steps=steps),
        )
        formula = atoms.get_chemical_formula()
        try:
            energy = structure.get_potential_energy(force_consistent=True)
            forces = structure.get_forces()
            stress = structure.get_stress() if periodic else None
        except subprocess.TimeoutExpired as error:
            raise LabelError(
                f"{formula}: pw.x ran longer than {self.timeout:g} s.",
                reason="timeout",
                remedy="Raise 'timeout'.",
            ) from error
        except Exception as error:
            # ASE raises whatever its parser trips over; what pw.x wrote tells why.
            raise _failure(formula, directory / structure.calc.template.outputname) from error
        finally:
            if not self.keep_files:
                shutil.rmtree(directory / "scratch", ignore_errors=True)
        output = (directory / structure.calc.template.outputname).read_text(errors="replace")
        if "convergence has been achieved" not in output or "JOB DONE" not in output:
            raise _failure(formula, directory / structure.calc.template.outputname)
        if len(atoms) == 1 and not atoms.pbc.any():
            energy -= _entropy_term(output)
        return SinglePoint(energy, forces, stress)

    def _input_data(
        self, n_atoms: int, system: dict[str, Any], *, periodic: bool, beta: float, steps: int
    ) -> dict[str, Any]:
        data: dict[str, dict[str, Any]] = {
            "control": {
                "calculation": "scf",
                "tprnfor": True,
                "tstress": periodic,
                "outdir": "scratch",
                "disk_io": "none",
            },
            "system": {"ecutwfc": self.ecutwfc / RYDBERG, **system},
            "electrons": {
                "conv_thr": self.scf_tolerance * n_atoms / RYDBERG,
                "electron_maxstep": steps,
                "mixing_beta": beta,
            },
        }
        for section, values in (self.input_data or {}).items():
            data.setdefault(section, {}).update(values)
        return data


def _entropy_term(output: str) -> float:
    """Return -TS, eV: an atom's open shell is smeared for symmetry only, and it has no forces."""
    found = re.findall(r"smearing contrib\. \(-TS\)\s*=\s*(\S+)\s*Ry", output)
    return float(found[-1]) * RYDBERG if found else 0.0


def _failure(formula: str, output: Path) -> LabelError:
    text = output.read_text(errors="replace") if output.is_file() else ""
    if "convergence NOT achieved" in text:
        return LabelError(
            f"{formula}: the self-consistency cycle of pw.x did not converge.",
            reason="unconverged",
            remedy="Raise 'max_steps' or lower 'mixing_beta'.",
        )
    lines = [line.strip() for line in text.splitlines()]
    marks = [i for i, line in enumerate(lines) if line.startswith("Error in routine")]
    if marks:
        detail = " ".join(lines[marks[-1] : marks[-1] + 2])
    else:
        error_file = output.with_suffix(".err")
        tail = error_file.read_text(errors="replace").strip().splitlines() if error_file.is_file() else []
        detail = tail[-1] if tail else "it ended without a message"
    return LabelError(f"{formula}: pw.x failed: {detail}.", reason="crashed", remedy="Look at the structure.")
