"""Compile the pair style and a model's kernel into one plugin; what was compiled before is kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from atomfoundry.errors import EngineUnavailableError, ModelError
from atomfoundry.models.lammps.installation import LammpsInstallation
from atomfoundry.settings import settings

PLUGIN = "foundry.so"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-fno-gnu-unique", "-w")
ONLY_THE_ENTRY = "{ global: lammpsplugin_init; local: *; };\n"
"""Linker script: two plugins in one process must not answer each other's calls."""


@dataclass(frozen=True)
class KernelSource:
    """C++ that implements ``foundry_model.h`` for models of one shape.

    Parameters
    ----------
    files
        File name -> content; the ``.cpp`` among them are compiled.
    flags
        More options of the compiler.
    """

    files: Mapping[str, str]
    flags: tuple[str, ...] = field(default=())


def source_files() -> dict[str, str]:
    """Return the pair style's own C++, file name -> content."""
    folder = resources.files("atomfoundry.models.lammps") / "source"
    return {each.name: each.read_text(encoding="utf-8") for each in folder.iterdir() if each.name[0] != "_"}


def compile_plugin(kernel: KernelSource, lammps: LammpsInstallation, *, march: str = "native") -> Path:
    """Compile a plugin, or return the one that was compiled from the same before.

    Parameters
    ----------
    kernel
        The model's part.
    lammps
        What it is compiled for.
    march
        Processor: g++'s ``-march``. ``"native"`` is the one of this machine.

    Returns
    -------
    Path
        The plugin in Atomfoundry's private folder.

    Raises
    ------
    EngineUnavailableError
        If there is no g++.
    ModelError
        If it does not compile; the compiler's words are in the message.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise EngineUnavailableError(
            f"There is no C++ compiler ({os.environ.get('CXX', 'g++')}) to make a plugin of LAMMPS with.",
            remedy="Install one, e.g. apt-get install g++, or name it in CXX.",
        )
    files = {**source_files(), **kernel.files, "entry.map": ONLY_THE_ENTRY}
    version = () if lammps.version is None else (f'-DFOUNDRY_LAMMPS_VERSION="{lammps.version}"',)
    flags = [*FLAGS, f"-march={march}", *version, *kernel.flags]
    name = _content_hash(files, flags=flags, lammps=lammps, compiler=compiler, march=march)
    kept = settings().home_dir / "lammps" / name / PLUGIN
    if kept.is_file():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compiling.", dir=kept.parent) as scratch:
        for file, content in files.items():
            (Path(scratch) / file).write_text(content, encoding="utf-8")
        sources = sorted(file for file in files if file.endswith(".cpp"))
        command = [compiler, *flags, "-I.", *lammps.flags, *sources, "-Wl,--version-script=entry.map", "-o", PLUGIN]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ModelError(
                f"The plugin for the LAMMPS in {lammps.include} does not compile:\n{done.stderr[-3000:]}",
                remedy="A LAMMPS of 2022 or newer and g++ 10 or newer are needed.",
            )
        (Path(scratch) / PLUGIN).replace(kept)
    return kept


def _content_hash(
    files: Mapping[str, str], *, flags: list[str], lammps: LammpsInstallation, compiler: str, march: str
) -> str:
    """Hash whatever the compiled code depends on, the processor that ``native`` means among it."""
    digest = hashlib.sha256()

    def add(*parts: str | bytes) -> None:
        for part in parts:
            content = part.encode() if isinstance(part, str) else part
            digest.update(len(content).to_bytes(8, "little") + content)

    for name in sorted(files):
        add(name, files[name])
    add(*flags, *lammps.flags)
    for header in sorted(lammps.include.glob("*.h")):
        add(header.name, header.read_bytes())
    for folder in lammps.mpi_include:
        if (folder / "mpi.h").is_file():
            add((folder / "mpi.h").read_bytes())
    # How g++ would call itself: its version, and every instruction set of this processor.
    asked = [compiler, f"-march={march}", "-###", "-E", "-x", "c++", os.devnull]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    add("\n".join(line for line in done.stderr.splitlines() if "COLLECT_GCC" not in line and " -o " not in line))
    return digest.hexdigest()[:20]
