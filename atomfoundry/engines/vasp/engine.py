"""VASP as an engine: atomate2's static input sets, run under custodian."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.deadline import seconds_left
from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.vasp.inputs import VaspStructure, adapt, vasp_structure, write_input_files
from atomfoundry.engines.vasp.presets import build_maker, check_settings
from atomfoundry.engines.vasp.program import (
    check_command,
    check_potcar_folder,
    missing_potcars,
    potcar_folder,
    vasp_command,
)
from atomfoundry.engines.vasp.tags import COST_ONLY
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError, UnsupportedElementError

if TYPE_CHECKING:
    from ase import Atoms
    from atomate2.vasp.jobs.base import BaseVaspMaker

_BULKY = (
    "WAVECAR",
    "CHGCAR",
    "CHG",
    "AECCAR*",
    "LOCPOT",
    "ELFCAR",
    "PROCAR",
    "DOSCAR",
    "EIGENVAL",
    "vaspout.h5",
    "vaspwave.h5",
    "POTCAR",
    "POTCAR.orig",
)
_VOLUMETRIC = ("LWAVE", "LCHARG", "LAECHG", "LVTOT", "LVHAR", "LELF")


@dataclass(kw_only=True)
class VaspEngine(Engine):
    """Single points by VASP; labels are free energies, which the forces are derivatives of.

    Inputs are those of atomate2's static Makers, and a run is watched and repaired by custodian's handlers as
    atomate2 sets them up. A label that a repair took to another level of theory (other smearing, k-points, cutoff) or
    to another structure is refused. Structures that are not periodic sit in a box with vacuum, with one k-point along
    its empty directions; isolated atoms are in their ground-state moment. While VASP runs the whole process stands in
    the calculation's folder, as atomate2 and custodian ask, one calculation at a time.

    Parameters
    ----------
    preset
        Input set: ``"static"`` (atomate2's ``StaticMaker``: PBEsol, +U), ``"static_pbe"`` (Materials Project, PBE,
        +U), ``"static_hse"``, ``"mp_static_r2scan"``, ``"mp24_static_r2scan"``, ``"matpes_pbe"``,
        ``"matpes_r2scan"``.
    user_incar_settings
        INCAR tags over the preset's, as ``atomate2.vasp.powerups.update_user_incar_settings`` takes them; None takes
        a tag out. Part of the level of theory unless they change only cost (``NCORE``, ``ALGO`` ...). ``MAGMOM`` by
        element replaces the preset's table: elements that are not named then start from 0.6.
    user_kpoints_settings
        ``{"reciprocal_density": 100}``, ``{"grid_density": 1000}`` or ``{"grid": [4, 4, 4], "shift": [0, 0, 0]}``.
    user_potcar_settings
        POTCAR symbols by element, ``{"Fe": "Fe_pv"}``.
    user_potcar_functional
        Release of the POTCARs, e.g. ``"PBE_54"``.
    vacuum
        Empty space on each side where a structure is not periodic, A.
    handlers
        Classes of ``custodian.vasp.handlers``; None takes atomate2's without those that would change the level of
        theory or refuse a positive energy, an empty list none.
    timeout
        Seconds for one structure with all repairs; the batch job's end, where it is sooner.
    polling_time_step
        Seconds between two looks at whether VASP has ended.
    run_vasp_kwargs
        Further arguments of atomate2's ``run_vasp``: ``vasp_cmd``, ``vasp_gamma_cmd``, ``max_errors``,
        ``scratch_dir``, ``vasp_job_kwargs``, ``custodian_kwargs``.
    keep_files
        Let VASP write all the preset writes and keep it, wave functions, densities and POTCAR included.
    keep_wavecar
        Write and keep the wave functions, for ``restart_from``.
    restart_from
        A folder whose ``WAVECAR`` to start from: the same structure, cutoff and k-points, any functional. Only
        the start changes by it, not the level of theory.
    """

    name: ClassVar[str] = "vasp"
    profile: ClassVar[str] = "dft"
    in_process: ClassVar[bool] = False

    preset: str = "matpes_pbe"
    user_incar_settings: dict[str, Any] = field(default_factory=dict)
    user_kpoints_settings: dict[str, Any] = field(default_factory=dict)
    user_potcar_settings: dict[str, str] = field(default_factory=dict)
    user_potcar_functional: str | None = None
    vacuum: float = 7.5
    handlers: list[str] | None = None
    timeout: float = 24 * 3600.0
    polling_time_step: float = 2.0
    run_vasp_kwargs: dict[str, Any] = field(default_factory=dict)
    keep_files: bool = False
    keep_wavecar: bool = False
    restart_from: str | None = None

    def __post_init__(self) -> None:
        check_settings(self.preset, self.user_incar_settings, self.user_kpoints_settings)
        for key in ("vacuum", "timeout", "polling_time_step"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"vasp: {key} is {getattr(self, key)}.", remedy="It must be positive.")

    @property
    def level(self) -> LevelOfTheory:
        """What the input set says, see ``atomfoundry.engines.vasp.level``."""
        return _level(json.dumps([self._inputs(), self.vacuum], sort_keys=True))

    def _inputs(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "incar": self.user_incar_settings,
            "kpoints": self.user_kpoints_settings,
            "potcars": self.user_potcar_settings,
            "potcar_functional": self.user_potcar_functional,
        }

    def _potcar_table(self) -> dict[str, str]:
        return _potcars(json.dumps(self._inputs(), sort_keys=True))[0]

    def _potcar_functional(self) -> str:
        return _potcars(json.dumps(self._inputs(), sort_keys=True))[1]

    def supported_elements(self) -> set[str]:
        """Return the elements that the preset names a POTCAR for."""
        return set(self._potcar_table())

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return settings without a k-point grid, which fits one cell only, and without a start.

        Parameters
        ----------
        symbols
            Chemical symbols.
        """
        kpoints = {} if "grid" in self.user_kpoints_settings else self.user_kpoints_settings
        return self.settings() | {"user_kpoints_settings": kpoints, "restart_from": None}

    def check_elements(self, symbols: Iterable[str]) -> None:
        """Check that the preset names a POTCAR for all elements, and that it is there.

        Raises
        ------
        UnsupportedElementError
            Naming the elements, or the POTCARs that are missing.
        """
        elements = sorted(set(symbols))
        super().check_elements(elements)
        table, functional = self._potcar_table(), self._potcar_functional()
        missing = missing_potcars([table[element] for element in elements], functional)
        if missing:
            raise UnsupportedElementError(
                f"vasp: there is no {functional} POTCAR {', '.join(missing)} in {potcar_folder(functional)}.",
                remedy="Put it there, or choose another by user_potcar_settings, e.g. {'Fe': 'Fe_pv'}.",
            )

    def check_available(self) -> None:
        """Check for VASP's program, the POTCARs and the names of handlers.

        Raises
        ------
        EngineUnavailableError
            If the program or the POTCARs are missing.
        ConfigurationError
            If a handler or an argument of ``run_vasp`` is unknown, or if atomate2's settings change the INCAR.
        """
        check_command(vasp_command(self.run_vasp_kwargs.get("vasp_cmd")))
        check_potcar_folder(self._potcar_functional())
        from atomfoundry.engines.vasp.handlers import check_run_settings, make_handlers

        make_handlers(self.handlers)
        check_run_settings(self.run_vasp_kwargs)
        _check_machine_updates()

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write POSCAR, INCAR, KPOINTS and POTCAR.spec of one structure; the POTCAR itself where it is at hand.

        ``KPOINTS`` is absent where the INCAR has ``KSPACING``. The harvest reads the finished folders, with
        ``level=engine.level`` at this engine's level.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Existing folder for the files.

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        UnsupportedElementError
            If the preset names no POTCAR for an element.
        """
        super().check_elements(atoms.get_chemical_symbols())
        maker, prepared = self._prepare(atoms, outputs=True)
        files = write_input_files(maker, prepared.structure, directory, potcar=False)
        table, functional = self._potcar_table(), self._potcar_functional()
        symbols = [table[symbol] for symbol in dict.fromkeys(atoms.get_chemical_symbols())]
        try:
            at_hand = potcar_folder(functional) is not None and not missing_potcars(symbols, functional)
        except EngineUnavailableError:
            at_hand = False
        if at_hand:
            maker, prepared = self._prepare(atoms, outputs=True)
            maker.write_input_set_kwargs["clean_prev"] = False
            files += [f for f in write_input_files(maker, prepared.structure, directory, potcar=True) if f not in files]
        return files

    def _prepare(self, atoms: Atoms, *, outputs: bool) -> tuple[BaseVaspMaker, VaspStructure]:
        maker = build_maker(**self._inputs())
        prepared = vasp_structure(atoms, vacuum=self.vacuum)
        with warnings.catch_warnings():
            # "Too few KPOINTS for tetrahedron method": a rule of the level of theory.
            warnings.simplefilter("ignore")
            adapt(maker, atoms, prepared)
        generator = maker.input_set_generator
        settings = generator.user_incar_settings
        if not outputs:
            # LWAVE and LCHARG are VASP's defaults, the others a preset's wish.
            written = {"LWAVE", "LCHARG"} | {key for key, value in generator.incar.items() if value is True}
            settings |= {tag: False for tag in _VOLUMETRIC if tag in written - self.user_incar_settings.keys()}
        if self.keep_wavecar:
            settings["LWAVE"] = True
        return maker, prepared

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure, repaired by custodian where it can be.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            A folder of this calculation alone: outputs of a former one are removed, and custodian unpacks what is
            compressed there.

        Returns
        -------
        SinglePoint
            Free energy, forces and, where all three directions are periodic, stress.

        Raises
        ------
        LabelError
            ``"unconverged"``, ``"timeout"``, ``"crashed"``, ``"unsupported"``, or ``"level_changed"`` where a repair
            changed the level of theory.
        EngineUnavailableError
            If VASP or a POTCAR is not installed.
        """
        from custodian.custodian import CustodianError
        from pymatgen.io.vasp import Incar, Kpoints

        from atomfoundry.engines.vasp import repairs
        from atomfoundry.engines.vasp.handlers import run_custodian
        from atomfoundry.engines.vasp.outcome import read_label

        formula = atoms.get_chemical_formula()
        left = seconds_left()
        seconds = self.timeout if left is None else min(self.timeout, left)
        if seconds <= 0:
            raise LabelError(f"{formula}: there is no time left.", reason="timeout", remedy="Run it in a next job.")
        _check_machine_updates()
        maker, prepared = self._prepare(atoms, outputs=self.keep_files)
        self._clear(directory)
        try:
            self._write(maker, prepared, directory)
            incar = Incar.from_file(directory / "INCAR")
            mesh = Kpoints.from_file(directory / "KPOINTS") if (directory / "KPOINTS").is_file() else None
            try:
                run_custodian(
                    directory,
                    handlers=self.handlers,
                    seconds=seconds,
                    polling=self.polling_time_step,
                    settings={**maker.run_vasp_kwargs, **self.run_vasp_kwargs},
                )
            except CustodianError as error:
                check_command(vasp_command(self.run_vasp_kwargs.get("vasp_cmd")))
                raise repairs.failure_of(error, formula, directory) from error
            entries = repairs.corrections(directory)
            changed = repairs.level_changes(directory, incar, mesh) if entries else []
            if changed:
                raise LabelError(
                    f"{formula}: a repair changed the level of theory: {', '.join(changed)}."
                    f" Repairs: {repairs.describe_corrections(entries)}.",
                    reason="level_changed",
                    remedy="Give all structures that setting by user_incar_settings or user_kpoints_settings.",
                )
            # Stopped by a STOPCAR, vasprun.xml is whole, and has few enough electronic steps to look converged.
            if repairs.stopped_by_time(entries) and not repairs.reached_ediff(directory):
                raise repairs.timed_out(formula, directory)
            return read_label(_output(directory, formula), atoms, prepared)
        finally:
            self._tidy(directory)

    def _write(self, maker: BaseVaspMaker, prepared: VaspStructure, directory: Path) -> None:
        from pymatgen.io.vasp.inputs import PmgVaspPspDirError

        functional = self._potcar_functional()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write_input_files(maker, prepared.structure, directory, potcar=True)
        except (PmgVaspPspDirError, FileNotFoundError):
            check_potcar_folder(functional)
            raise
        if self.restart_from is not None:
            source = Path(self.restart_from) / "WAVECAR"
            if not source.is_file():
                raise ConfigurationError(
                    f"vasp: there is no {source} to start from.",
                    remedy="The first calculation needs keep_wavecar=True and a folder of its own.",
                )
            shutil.copyfile(source, directory / "WAVECAR")

    def _clear(self, directory: Path) -> None:
        """Remove what a former run left: its outputs would be taken for this one's."""
        for pattern in (
            "vasprun.xml*",
            "OUTCAR*",
            "OSZICAR*",
            "CONTCAR*",
            "custodian.json*",
            "vasp.out*",
            "STOPCAR*",
            "WAVECAR",
            "CHGCAR",
        ):
            for path in directory.glob(pattern):
                path.unlink()

    def _tidy(self, directory: Path) -> None:
        if self.keep_files:
            return
        for pattern in _BULKY:
            if pattern == "WAVECAR" and self.keep_wavecar:
                continue
            for path in directory.glob(pattern):
                path.unlink()


def _output(directory: Path, formula: str) -> Path:
    for name in ("vasprun.xml", "vasprun.xml.gz"):
        if (directory / name).is_file():
            return directory / name
    raise LabelError(f"{formula}: VASP wrote no vasprun.xml.", reason="crashed", remedy="Look at the structure.")


def _check_machine_updates() -> None:
    """Check that atomate2's settings file changes no tag of the level of theory.

    ``VASP_INCAR_UPDATES`` holds what suits a machine (``NCORE``). A cutoff there would make labels of one engine
    differ from machine to machine.
    """
    from atomate2 import SETTINGS

    tags = sorted(key for key in SETTINGS.VASP_INCAR_UPDATES if key.upper() not in COST_ONLY)
    if tags:
        raise ConfigurationError(
            f"vasp: atomate2's setting VASP_INCAR_UPDATES changes {', '.join(tags)} for all calculations of this"
            " machine.",
            remedy="Take it out of ~/.atomate2.yaml and give it in user_incar_settings.",
        )


@lru_cache(maxsize=64)
def _level(key: str) -> LevelOfTheory:
    from atomfoundry.engines.vasp.level import level_of

    inputs, vacuum = json.loads(key)
    return level_of(build_maker(**inputs).input_set_generator, vacuum=vacuum)


@lru_cache(maxsize=64)
def _potcars(key: str) -> tuple[dict[str, str], str]:
    """Return the POTCAR symbol of every element, and the release."""
    generator = build_maker(**json.loads(key)).input_set_generator
    table = generator._config_dict["POTCAR"]
    symbols = {element: value["symbol"] if isinstance(value, dict) else value for element, value in table.items()}
    return symbols, str(generator.user_potcar_functional)
