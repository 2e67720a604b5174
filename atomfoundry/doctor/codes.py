"""The codes that compute labels: found, loadable, with their pseudopotentials."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.commands import missing_libraries
from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check
from atomfoundry.errors import AtomfoundryError, EngineUnavailableError, UnsupportedElementError

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World
    from atomfoundry.engines import Engine

LIMIT_S = 30.0
"""Importing PySCF or atomate2 takes seconds on a busy machine."""
LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "srun", "env", "apptainer", "singularity")


def _asked_for(world: World, name: str) -> list[str]:
    """Return the settings by which somebody asked for an engine: what is not there is a problem only then."""
    settings = world.settings
    found = []
    if name == "espresso":
        found = [each for each in ("espresso_command", "espresso_pseudo_dir") if getattr(settings, each) is not None]
    elif name in ("abinit", "cp2k"):
        found = [f"{name}_command"] if getattr(settings, f"{name}_command") is not None else []
    elif name == "vasp":
        found = [each for each in ("ATOMATE2_VASP_CMD", "PMG_VASP_PSP_DIR") if each in os.environ]
    return found


def _program(world: World, name: str) -> str | None:
    """Return the program of an engine, where its libraries can be looked at."""
    if name == "espresso":
        from atomfoundry.engines.espresso.install import find_pw

        words: list[str] = list(find_pw().target)
    elif name in ("abinit", "cp2k"):
        command = getattr(world.settings, f"{name}_command")
        programs = {"abinit": ("abinit",), "cp2k": ("cp2k.psmp", "cp2k.ssmp", "cp2k.popt", "cp2k")}[name]
        words = shlex.split(command) if command else [next(filter(shutil.which, programs), "")]
    elif name == "vasp":
        from atomfoundry.engines.vasp.program import vasp_command

        words = shlex.split(vasp_command())
    else:
        return None
    if words and Path(words[0]).name in LAUNCHERS:
        words = words[-1:]
    return shutil.which(words[0]) or words[0] if words and words[0] else None


def examine(world: World, name: str) -> Iterator[Finding]:
    """Look at one engine.

    Parameters
    ----------
    world
        What to look at.
    name
        The engine's name.
    """
    from atomfoundry.engines import get_engine

    asked = _asked_for(world, name)
    try:
        engine = get_engine(name)
        engine.check_available()
    except EngineUnavailableError as error:
        cure = error.remedy or "atomfoundry engine list"
        if asked:
            yield problem(f"{error.message} (asked for by {', '.join(asked)})", cure, engine=name)
        else:
            yield skipped(error.message, cure, engine=name)
        return
    except AtomfoundryError as error:
        yield problem(error.message, error.remedy or "atomfoundry engine list", engine=name)
        return
    program = _program(world, name)
    lacking = missing_libraries(program) if program else []
    if lacking:
        yield problem(
            f"{program} cannot be started: the loader does not find {', '.join(lacking)}.",
            f"ldd {program}; load the modules it was compiled with (module load ...), or set LD_LIBRARY_PATH.",
            engine=name,
            libraries=lacking,
        )
        return
    yield _described(engine, name, program)


def _described(engine: Engine, name: str, program: str | None) -> Finding:
    elements = sorted(engine.supported_elements())
    details: dict[str, Any] = {"engine": name, "program": program, "n_elements": len(elements)}
    if not elements:
        return warning(
            f"{name} is there, but it has pseudopotentials for no element.",
            "atomfoundry engine install espresso (brings pseudopotentials), or set the folder of your own.",
            **details,
        )
    try:
        engine.check_elements(elements)
    except UnsupportedElementError as error:
        return warning(error.message, error.remedy or "atomfoundry engine list", **details)
    where = f", {program}" if program else ""
    return ok(f"{name}: {engine.level.label}, {len(elements)} elements{where}", **details)


@check("espresso", "codes", limit=LIMIT_S)
def espresso(world: World) -> Iterator[Finding]:
    """Check that Quantum ESPRESSO is there, with pseudopotentials."""
    yield from examine(world, "espresso")


@check("pyscf", "codes", limit=LIMIT_S)
def pyscf(world: World) -> Iterator[Finding]:
    """Check that PySCF is there."""
    yield from examine(world, "pyscf")


@check("xtb", "codes", limit=LIMIT_S)
def xtb(world: World) -> Iterator[Finding]:
    """Check that tblite is there."""
    yield from examine(world, "xtb")


@check("abinit", "codes", limit=LIMIT_S)
def abinit(world: World) -> Iterator[Finding]:
    """Check that ABINIT is there, with pseudopotentials."""
    yield from examine(world, "abinit")


@check("cp2k", "codes", limit=LIMIT_S)
def cp2k(world: World) -> Iterator[Finding]:
    """Check that CP2K is there."""
    yield from examine(world, "cp2k")


@check("gpaw", "codes", limit=LIMIT_S)
def gpaw(world: World) -> Iterator[Finding]:
    """Check that GPAW is there."""
    yield from examine(world, "gpaw")


@check("vasp", "codes", limit=LIMIT_S)
def vasp(world: World) -> Iterator[Finding]:
    """Check that VASP is there, with POTCARs."""
    yield from examine(world, "vasp")
