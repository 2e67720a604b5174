"""Get GPAW: built by pip into a private folder with a plain compiler, or found in the environment."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from atomfoundry.engines.pip_folder import install_into
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.settings import settings

VERSION = "26.7.0"
REQUIREMENTS = (f"gpaw=={VERSION}", "gpaw-data==1.2.1")
"""The code, built from source, and its PAW data sets."""

BUILD_FLAGS = "compiler = 'g++'\nnolibxc = True\nnoblas = True\nfftw = False\nmpi = False\n"
"""GPAW's siteconfig for a machine with a C++ compiler and nothing else: serial, with GPAW's own functionals."""

_REMEDY = (
    "Install a C++ compiler (g++) and run 'atomfoundry engine install gpaw'; or, with libxc and BLAS at hand, "
    "'pip install atomfoundry[gpaw]' (without them: GPAW_CONFIG naming a file with nolibxc = noblas = True, "
    "fftw = mpi = False, compiler = 'g++')."
)


def gpaw_home() -> Path:
    """Return the folder of the private installation, whether it exists or not."""
    return settings().home_dir / f"gpaw-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"


def _complete(folder: Path) -> bool:
    parts = ("gpaw/__init__.py", "gpaw_data/__init__.py")
    return all((folder / part).is_file() for part in parts) and any(folder.glob("_gpaw*"))


def provide_gpaw() -> None:
    """Make ``import gpaw`` work: from the environment, else from the private folder.

    Raises
    ------
    EngineUnavailableError
        If GPAW is in neither.
    """
    if importlib.util.find_spec("gpaw") is not None:
        return
    home = gpaw_home()
    if not _complete(home):
        raise EngineUnavailableError(f"GPAW is neither in this environment nor in {home}.", remedy=_REMEDY)
    # Last, so that nothing of the environment is hidden.
    sys.path.append(str(home))
    importlib.invalidate_caches()


def install_gpaw(*, force: bool = False, requirements: Sequence[str] = REQUIREMENTS) -> Path:
    """Build GPAW by pip into a private folder; about a minute with a C++ compiler, 120 MB.

    Parameters
    ----------
    force
        Install again what is there already.
    requirements
        What pip is asked for.

    Returns
    -------
    Path
        The folder; complete, or the old one untouched.

    Raises
    ------
    EngineUnavailableError
        If there is no compiler, or pip fails.
    """
    home = gpaw_home()
    if _complete(home) and not force:
        return home
    if shutil.which("g++") is None:
        raise EngineUnavailableError("GPAW needs a C++ compiler: there is no g++ in PATH.", remedy=_REMEDY)
    with tempfile.TemporaryDirectory(prefix="atomfoundry-") as folder:
        flags = Path(folder) / "siteconfig.py"
        flags.write_text(BUILD_FLAGS)
        return install_into(
            home,
            requirements,
            title="GPAW",
            remedy=_REMEDY,
            complete=_complete,
            environment={"GPAW_CONFIG": str(flags)},
            discard=("bin", "c", "doc", "typings"),
        )
