"""Compile the kernel for a model's shape, once; later processes load the library from the cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from atomfoundry.errors import ModelError
from atomfoundry.settings import settings

logger = logging.getLogger(__name__)

FLAGS = [
    "-std=c++17", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-march=native", "-fno-math-errno",
    "-fno-trapping-math", "-fopenmp-simd", "-fPIC", "-shared", "-pthread",
]  # fmt: skip
"""With -O3 g++ unrolls the short loops over channels so far that a sweep takes 1.4 times as long."""
SOURCES = [
    "activation.hpp", "allegro.hpp", "geometry.hpp", "interface.cpp", "matrices.hpp", "model.hpp", "numbers.hpp",
    "threads.hpp", "track.hpp",
]  # fmt: skip
COMPILE_SECONDS = 600
"""The compiler is given up after this time."""


def sources(names: Iterable[str] = SOURCES) -> dict[str, str]:
    """Return file name -> text of the kernel's files."""
    folder = files("atomfoundry.models.kernel") / "source"
    return {name: (folder / name).read_text() for name in names}


def compiler() -> str:
    """Return the C++ compiler.

    Raises
    ------
    ModelError
        If there is none.
    """
    found = shutil.which(os.environ.get("CXX") or "g++")
    if found is None:
        raise ModelError(
            "There is no C++ compiler (g++) in PATH.", remedy="Install g++, or set CXX to another compiler."
        )
    return found


@lru_cache
def _machine(command: str) -> str:
    """Return what decides the machine code: compiler and the instructions of this processor."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60)
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line for line in info.read_text().splitlines() if line.startswith(("flags", "Features", "model name")))
        flags = "\n".join(sorted(set(lines)))
    return "\n".join([done.stdout, platform.machine(), platform.processor(), flags])


def compile_library(files_: dict[str, str], main: str, *, name: str, flags: list[str] | None = None) -> Path:
    """Compile sources into a shared library, or return it from the cache.

    Parameters
    ----------
    files_
        File name -> text.
    main
        The file to compile.
    name
        Beginning of the library's name.
    flags
        Further arguments of the compiler.

    Returns
    -------
    Path
        In ``kernels`` of Atomfoundry's home folder; its name has a hash of sources, flags, compiler and processor.

    Raises
    ------
    ModelError
        With the compiler's last lines, if it fails; if the home folder cannot be written to.
    """
    command = compiler()
    digest = hashlib.sha256()
    for part in [
        _machine(command),
        *FLAGS,
        *(flags or []),
        *(f"{key}\0{text}" for key, text in sorted(files_.items())),
    ]:
        digest.update(part.encode())
        digest.update(b"\0")
    folder = settings().home_dir / "kernels"
    library = folder / f"{name}-{digest.hexdigest()[:24]}.so"
    try:
        if not library.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(command, files_, main, library, flags or [])
    except OSError as error:
        raise ModelError(
            f"No kernel can be made in {folder}: {error}.",
            remedy="Name a folder that you may write to and run from: ATOMFOUNDRY_HOME.",
        ) from error
    return library


def _compile(command: str, files_: dict[str, str], main: str, library: Path, flags: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as temporary:
        work = Path(temporary)
        for file, text in files_.items():
            (work / file).write_text(text)
        made = work / "kernel.so"
        arguments = [command, *FLAGS, "-o", str(made), str(work / main), *flags]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"The compiler {command} failed: {error}.", remedy="Check the compiler.") from error
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise ModelError(
                f"{command} could not compile {main}:\n{last}",
                remedy="Use a g++ of version 9 or newer (CXX names another compiler).",
            )
        with made.open("rb") as handle:
            os.fsync(handle.fileno())
        made.replace(library)
    logger.info("Compiled %s", library)


@lru_cache(maxsize=64)
def load_library(path: Path) -> ctypes.CDLL:
    """Load a compiled kernel and declare its functions.

    Raises
    ------
    ModelError
        If the system does not load it, e.g. from a file system without execution.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ModelError(
            f"The kernel {path} cannot be loaded: {error}.",
            remedy="Name a folder that you may write to and run from: ATOMFOUNDRY_HOME.",
        ) from error
    pointer: Any = ctypes.c_void_p
    number, large = ctypes.c_int, ctypes.c_int64
    library.foundry_kernel_size.restype = large
    library.foundry_kernel_size.argtypes = [number, number]
    library.foundry_kernel_new.restype = pointer
    library.foundry_kernel_new.argtypes = [number, number, ctypes.c_double, pointer, pointer]
    library.foundry_kernel_free.restype = None
    library.foundry_kernel_free.argtypes = [pointer]
    atoms: list[Any] = [pointer, large, *[pointer] * 6]
    library.foundry_kernel_evaluate.argtypes = [*atoms, *[pointer] * 4, number]
    library.foundry_kernel_differentiate.argtypes = [*atoms, *[pointer] * 3, number]
    return library
