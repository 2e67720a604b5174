"""Where VASP and its POTCARs are: atomate2's command and pymatgen's folder, or what to do about it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from os.path import expandvars
from pathlib import Path

from atomfoundry.errors import EngineUnavailableError

_LAUNCHER = Path(__file__).parents[1] / "launcher.py"
_LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "srun")


def vasp_command(chosen: str | None = None) -> str:
    """Return the command line that runs VASP: the one chosen, else atomate2's setting ``VASP_CMD``."""
    from atomate2 import SETTINGS

    return expandvars(chosen or str(SETTINGS.VASP_CMD))


def attached(command: str) -> str:
    """Return a command line whose program dies with this process (Linux).

    custodian starts VASP in a session of its own, so that it would go on computing for a worker that was killed.
    """
    start = [sys.executable, "-I", str(_LAUNCHER), "--parent", str(os.getpid()), "--command"]
    return shlex.join([*start, *shlex.split(expandvars(command))])


def check_command(command: str) -> None:
    """Check that a command can be started.

    Raises
    ------
    EngineUnavailableError
        Naming the program that is missing.
    """
    words = shlex.split(command)
    needed = words[:1]
    # mpirun and srun look for the program where we do; a container's program is not on our side.
    if words and Path(words[0]).name in _LAUNCHERS:
        needed = [words[0], words[-1]]
    for word in needed or [command]:
        if not shutil.which(word):
            raise EngineUnavailableError(
                f"vasp: there is no program '{word}' (the command is '{command}').",
                remedy="Set ATOMATE2_VASP_CMD to the command that runs VASP, e.g. 'mpirun -np 16 vasp_std', or VASP_CMD"
                " in ~/.atomate2.yaml. VASP is licensed software: vasp.at.",
            )


def potcar_folder(functional: str) -> Path | None:
    """Return the folder of a functional's POTCARs, None where pymatgen knows no folder of POTCARs.

    Raises
    ------
    EngineUnavailableError
        If the folder it knows, or the functional's in it, is not there.
    """
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp.inputs import PotcarSingle

    root = SETTINGS.get("PMG_VASP_PSP_DIR")
    if not root:
        return None
    names = {**PotcarSingle.functional_dir, **SETTINGS.get("PMG_VASP_PSP_SUB_DIRS", {})}
    folder = Path(root).expanduser() / names.get(functional, functional)
    if not folder.is_dir():
        raise EngineUnavailableError(
            f"vasp: there are no {functional} POTCARs: no folder {folder}.",
            remedy=f"Put your POTCARs there as 'POTCAR.<symbol>[.gz]' or '<symbol>/POTCAR', or set"
            f" user_potcar_functional to one there is: {_others(Path(root).expanduser(), names)}.",
        )
    return folder


def check_potcar_folder(functional: str) -> None:
    """Check that there are POTCARs of a functional.

    Raises
    ------
    EngineUnavailableError
        With the remedy.
    """
    if potcar_folder(functional) is None:
        raise EngineUnavailableError(
            "vasp: pymatgen knows no folder of POTCARs.",
            remedy="Set PMG_VASP_PSP_DIR to it, in the environment or in ~/.config/.pmgrc.yaml"
            " (`pmg config -p <VASP's folder> <new folder>` makes one). POTCARs come with a VASP licence.",
        )


def missing_potcars(symbols: Iterable[str], functional: str) -> list[str]:
    """Return the POTCAR symbols that the folder lacks; none where there is no folder to look in."""
    from monty.os.path import zpath

    folder = potcar_folder(functional)
    if folder is None:
        return []
    return [
        symbol
        for symbol in symbols
        if not any(
            Path(zpath(str(path))).is_file() for path in (folder / f"POTCAR.{symbol}", folder / symbol / "POTCAR")
        )
    ]


def _others(root: Path, names: dict[str, str]) -> str:
    there = [functional for functional, name in names.items() if (root / name).is_dir()]
    return ", ".join(there) or "there is none"
