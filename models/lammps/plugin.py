"""The pair style and a model's kernel, compiled into one plugin of LAMMPS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from atomfoundry.errors import ModelError
from atomfoundry.models.kernel.build import compile_library
from atomfoundry.models.lammps.installation import LammpsInstallation

PLUGIN = "foundry.so"
MAIN = "plugin.cpp"
# Two plugins in one process must not answer each other's calls; what LAMMPS has stays undefined until it loads them.
FLAGS = ("-pthread", "-fvisibility=hidden", "-fno-gnu-unique", "-Wl,-Bsymbolic")


def plugin_sources() -> dict[str, str]:
    """Return the pair style's own C++, file name -> text."""
    folder = resources.files("atomfoundry.models.lammps") / "source"
    return {each.name: each.read_text(encoding="utf-8") for each in folder.iterdir() if not each.name.startswith("_")}


def compile_plugin(kernel: Mapping[str, str], lammps: LammpsInstallation) -> Path:
    """Compile a plugin, or return the one that was compiled from the same before.

    Parameters
    ----------
    kernel
        C++ with ``foundry_model.h`` and, in ``exported.cpp``, its implementation: file name -> text.
    lammps
        What it is compiled for.

    Returns
    -------
    Path
        The plugin, in Atomfoundry's private folder.

    Raises
    ------
    ModelError
        If there is no compiler, or it fails; its last words are in the message.
    """
    flags = [*FLAGS, *lammps.flags, f'-DFOUNDRY_LAMMPS_HEADERS="{_headers_hash(lammps)}"']
    if lammps.version is not None:
        flags.append(f'-DFOUNDRY_LAMMPS_VERSION="{lammps.version}"')
    try:
        return compile_library({**kernel, **plugin_sources()}, MAIN, name="lammps", flags=flags)
    except ModelError as error:
        raise ModelError(
            f"No plugin for the LAMMPS in {lammps.include}: {error.message}",
            remedy=f"{error.remedy} LAMMPS must be of 23 Jun 2022 or newer.",
        ) from error


def _headers_hash(lammps: LammpsInstallation) -> str:
    """Hash the headers: LAMMPS may be installed anew in the same place."""
    digest = hashlib.sha256()
    headers = sorted(lammps.include.glob("*.h"))
    headers += [folder / "mpi.h" for folder in lammps.mpi_include if (folder / "mpi.h").is_file()]
    for header in headers:
        digest.update(header.name.encode() + b"\0" + header.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
