"""GPAW as an engine: plane waves and projector-augmented waves, in this process."""

from __future__ import annotations

import json
import os
import pprint
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.engines.gpaw.install import provide_gpaw
from atomfoundry.engines.time_limit import TimeLimit
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

DATASETS = "gpaw-data-1.2"
"""Projector-augmented waves of the package gpaw-data (J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024))."""

OWN_FUNCTIONALS = ("LDA", "PBE", "RPBE", "revPBE")
"""What GPAW computes without libxc and has data sets for."""

# Elements with a PBE data set; a test compares this with the installed files.
_PBE = (
    "Ag Al Ar As Au B Ba Be Bi Br C Ca Cd Ce Cl Co Cr Cs Cu Dy Er Eu F Fe Ga Gd Ge H He Hf Hg Ho I In Ir K Kr La Li "
    "Lu Mg Mn Mo N Na Nb Nd Ne Ni O Os P Pb Pd Pm Pr Pt Rb Re Rh Rn Ru S Sb Sc Se Si Sm Sn Sr Ta Tb Te Ti Tl Tm V W "
    "Xe Y Yb Zn Zr"
)
GPAW_ELEMENTS = frozenset(_PBE.split())
_LANTHANIDES = frozenset(["Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu"])

_SMEARINGS: dict[str, dict[str, Any]] = {
    "fermi-dirac": {"name": "fermi-dirac"},
    # Methfessel and Paxton's of order zero is Gaussian smearing.
    "gaussian": {"name": "methfessel-paxton", "order": 0},
}


@dataclass(kw_only=True)
class GpawEngine(Engine):
    """Plane-wave PAW; labels are free energies, which the forces are derivatives of.

    Energies are relative to GPAW's reference atoms. Molecules and atoms sit in a box with vacuum, at Gamma,
    without stress; isolated atoms have their ground state's spin, open shells are occupied evenly by
    smearing, whose entropy is taken out again.

    Parameters
    ----------
    functional
        ``"PBE"``, ``"LDA"``, ``"RPBE"`` or ``"revPBE"``; any other that GPAW knows needs a GPAW with libxc.
    ecut
        Cutoff of the wave functions, eV.
    kpoint_spacing
        Largest distance of neighbouring k-points, 1/A with the factor 2 pi.
    kpoints
        A fixed Gamma-centred grid instead, three numbers.
    smearing
        ``"fermi-dirac"`` or ``"gaussian"``.
    smearing_width
        Its width, eV.
    spin
        ``"auto"``: what ``info["spin_multiplicity"]`` says, else closed shells, atoms in their ground state and
        odd molecules as doublets; ``"polarised"``: crystals too, from the structure's initial magnetic moments
        or, where it has none, the atoms' own, the total free.
    vacuum
        Empty space on each side where a structure is not periodic, A.
    bands
        Number of bands; None: GPAW's own choice. Not part of the level of theory.
    density_tolerance
        Change of the density at which the cycle ends, electrons per valence electron.
    max_steps
        Steps of one self-consistency cycle; a second one, with gentle mixing, has twice as many.
    timeout
        Seconds for one structure, seen after every step.
    datasets
        Name of the PAW data sets; give your own name where ``GPAW_SETUP_PATH`` names others.
    parameters
        Further plain parameters of GPAW, ``{"gpts": [24, 24, 24]}``; part of the level of theory.
    """

    name: ClassVar[str] = "gpaw"
    profile: ClassVar[str] = "dft"

    functional: str = "PBE"
    ecut: float = 400.0
    kpoint_spacing: float = 0.4
    kpoints: list[int] | None = None
    smearing: str = "fermi-dirac"
    smearing_width: float = 0.05
    spin: str = "auto"
    vacuum: float = 5.0
    bands: int | None = None
    density_tolerance: float = 1e-5
    max_steps: int = 100
    timeout: float = 3600.0
    datasets: str = DATASETS
    parameters: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in ("ecut", "kpoint_spacing", "smearing_width", "vacuum", "density_tolerance", "timeout", "max_steps"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"gpaw: {key} is {getattr(self, key)}.", remedy="It must be positive.")
        if self.smearing not in _SMEARINGS:
            raise ConfigurationError(
                f"gpaw: smearing is '{self.smearing}'.", remedy=f"Take one of {', '.join(_SMEARINGS)}."
            )
        if self.spin not in ("auto", "polarised"):
            raise ConfigurationError(f"gpaw: spin is '{self.spin}'.", remedy="Take 'auto' or 'polarised'.")
        if self.kpoints is not None:
            self.kpoints = [int(n) for n in self.kpoints]
            if len(self.kpoints) != 3 or min(self.kpoints) < 1:
                raise ConfigurationError(f"gpaw: kpoints is {self.kpoints}.", remedy="Give three positive numbers.")

    @property
    def level(self) -> LevelOfTheory:
        """Functional, cutoff, k-points and smearing."""
        extra: dict[str, str | float | bool] = {"vacuum": self.vacuum, "open_shell_atoms": "spherical"}
        if self.kpoints is not None:
            extra["kpoints"] = "x".join(str(n) for n in self.kpoints)
        if self.parameters:
            extra["parameters"] = json.dumps(self.parameters, sort_keys=True)
        return LevelOfTheory(
            code="gpaw",
            method=self.functional,
            cutoff=self.ecut,
            pseudopotentials=self.datasets,
            kpoint_spacing=None if self.kpoints is not None else self.kpoint_spacing,
            smearing=f"{self.smearing} {self.smearing_width:g}",
            spin=self.spin,
            extra=extra,
        )

    def supported_elements(self) -> set[str]:
        """Return the elements with a data set."""
        revised = self.functional in ("RPBE", "revPBE")
        return set(GPAW_ELEMENTS - _LANTHANIDES) if revised else set(GPAW_ELEMENTS)

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return settings with k-points and bands for any structure.

        Parameters
        ----------
        symbols
            Chemical symbols.
        """
        spacing = min(self.kpoint_spacing, type(self).kpoint_spacing)
        return self.settings() | {"kpoints": None, "bands": None, "kpoint_spacing": spacing}

    def check_available(self) -> None:
        """Check that GPAW and its data sets are there and know the functional.

        Raises
        ------
        EngineUnavailableError
            If something is missing.
        ConfigurationError
            If the data sets are not those that the level of theory names.
        """
        provide_gpaw()
        import gpaw

        found = [str(path) for path in gpaw.setup_paths]
        if not found:
            raise EngineUnavailableError(
                "GPAW has no PAW data sets.", remedy="Run 'pip install gpaw-data', or set GPAW_SETUP_PATH."
            )
        if self.datasets == DATASETS and found != [str(path) for path in gpaw.standard_setup_paths()]:
            raise ConfigurationError(
                f"GPAW takes data sets from {os.pathsep.join(found)}, which '{DATASETS}' does not name.",
                remedy="Unset GPAW_SETUP_PATH, or name them by the setting 'datasets'.",
            )
        if self.functional not in OWN_FUNCTIONALS and not gpaw.get_libraries()["libxc"]:
            raise EngineUnavailableError(
                f"GPAW was built without libxc, which the functional '{self.functional}' needs.",
                remedy=f"Take one of {', '.join(OWN_FUNCTIONALS)}, or build GPAW with libxc.",
            )

    def input_parameters(self, atoms: Atoms) -> tuple[Atoms, dict[str, Any]]:
        """Return the structure as GPAW gets it and the parameters of the calculator, plain values all.

        Parameters
        ----------
        atoms
            The structure; never changed.
        """
        structure = boxed(atoms, vacuum=self.vacuum)
        structure.set_constraint()
        moments, fixed = self._moments(atoms)
        structure.set_initial_magnetic_moments(moments)
        grid = kpoint_grid(atoms, spacing=self.kpoint_spacing)
        if self.kpoints is not None and atoms.pbc.any():
            grid = tuple(n if periodic else 1 for n, periodic in zip(self.kpoints, atoms.pbc, strict=True))  # type: ignore[assignment]
        occupations = {**_SMEARINGS[self.smearing], "width": self.smearing_width}
        parameters: dict[str, Any] = {
            "mode": {"name": "pw", "ecut": self.ecut},
            "xc": self.functional,
            "kpts": {"size": list(grid), "gamma": True},
            "occupations": occupations | ({"fixmagmom": True} if fixed else {}),
            "convergence": {"density": self.density_tolerance},
            "maxiter": self.max_steps,
            "spinpol": moments is not None,
        }
        if self.bands is not None:
            parameters["nbands"] = self.bands
        return structure, parameters | (self.parameters or {})

    def _moments(self, atoms: Atoms) -> tuple[np.ndarray | None, bool]:
        symbols = atoms.get_chemical_symbols()
        multiplicity = atoms.info.get("spin_multiplicity")
        if multiplicity is not None:
            unpaired = int(multiplicity) - 1
        elif atoms.pbc.any():
            if self.spin == "polarised":
                given = atoms.get_initial_magnetic_moments()
                return (given if given.any() else np.array([float(unpaired_electrons(s)) for s in symbols])), False
            unpaired = 0
        else:
            unpaired = unpaired_electrons(symbols[0]) if len(atoms) == 1 else int(atoms.numbers.sum()) % 2
        return (np.full(len(atoms), unpaired / len(atoms)) if unpaired else None), bool(unpaired)

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure; a cycle that does not converge is tried once more with gentle mixing.

        Raises
        ------
        LabelError
            With reason ``"unconverged"``, ``"timeout"`` or ``"unsupported"``.
        """
        provide_gpaw()
        from gpaw import KohnShamConvergenceError

        formula = atoms.get_chemical_formula()
        if atoms.info.get("charge", 0):
            raise LabelError(
                f"{formula}: charge {atoms.info['charge']} in a periodic box.",
                reason="unsupported",
                remedy="Compute charged molecules with engine 'pyscf'.",
            )
        limit = TimeLimit(self.timeout)
        structure, parameters = self.input_parameters(atoms)
        try:
            return self._run(atoms, structure, parameters, directory, limit)
        except KohnShamConvergenceError:
            gentle = {"mixer": {"beta": 0.02, "nmaxold": 10, "weight": 100}, "maxiter": 2 * self.max_steps}
        try:
            return self._run(atoms, structure, parameters | gentle, directory, limit)
        except KohnShamConvergenceError as error:
            raise LabelError(
                f"{formula}: the self-consistency cycle of GPAW did not converge.",
                reason="unconverged",
                remedy="Raise 'max_steps' or 'smearing_width', or check spin and geometry.",
            ) from error

    def _run(
        self, atoms: Atoms, structure: Atoms, parameters: dict[str, Any], directory: Path, limit: TimeLimit
    ) -> SinglePoint:
        from gpaw import GPAW

        from atomfoundry.engines.gpaw.watch import Watch

        copy = structure.copy()
        watch = Watch(limit, what=f"{atoms.get_chemical_formula()}: GPAW")
        with warnings.catch_warnings():
            # GPAW warns that a criterion of ours cannot be stored in its own files, which are not written.
            warnings.filterwarnings("ignore", message="Custom convergence criterion")
            copy.calc = GPAW(
                **parameters | {"convergence": {**parameters["convergence"], "custom": watch}},
                txt=str(directory / "gpaw.txt"),
            )
            energy = copy.get_potential_energy(force_consistent=True)
            forces = copy.get_forces()
            stress = copy.get_stress() if atoms.pbc.all() else None
        if len(atoms) == 1 and not atoms.pbc.any():
            # Both smearings' energies at zero width are halfway between free and inner energy.
            energy = 2 * copy.get_potential_energy(force_consistent=False) - energy
        return SinglePoint(energy, forces, stress)

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write the structure and a script that computes it, ``gpaw.py`` would hide GPAW: ``run_gpaw.py``.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Existing folder for the files.

        Returns
        -------
        list of Path
            Script and structure.
        """
        self.check_elements(atoms.get_chemical_symbols())
        structure, parameters = self.input_parameters(atoms)
        files = [directory / "run_gpaw.py", directory / "structure.json"]
        structure.write(files[1])
        stress = "print('stress, eV/A^3:', atoms.get_stress())\n" if atoms.pbc.all() else ""
        files[0].write_text(
            "from ase.io import read\nfrom gpaw import GPAW\n\n"
            "atoms = read('structure.json')\n"
            f"parameters = {pprint.pformat(parameters, sort_dicts=False)}\n"
            "atoms.calc = GPAW(**parameters, txt='gpaw.txt')\n"
            "print('energy, eV:', atoms.get_potential_energy(force_consistent=True))\n"
            f"print('forces, eV/A:', atoms.get_forces())\n{stress}"
        )
        return files
