"""Get Quantum ESPRESSO by pip into a private folder, and find which pw.x to run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atomfoundry.engines.pip_folder import install_into
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.settings import settings

VERSION = "7.2"
REQUIREMENTS = ("qepy==7.2.0", "sparc-x-api==1.1.0")
"""pw.x as a shared library, and the SPMS pseudopotentials."""

_LIBRARY = Path("qepy/qepylibs/libqepy_pw.so")
_PSP8 = Path("sparc/psp")


@dataclass(frozen=True)
class PwProgram:
    """A pw.x that can be run.

    Attributes
    ----------
    kind
        ``"command"`` or ``"library"``.
    target
        Words of the command, or the path of the library.
    origin
        Where it comes from, for people: ``"settings"``, ``"PATH"`` or ``"pip"``.
    """

    kind: str
    target: tuple[str, ...]
    origin: str


def espresso_home() -> Path:
    """Return the folder of the pip installation, whether it exists or not."""
    return settings().home_dir / f"espresso-{VERSION}"


def pip_library() -> Path | None:
    """Return pw.x as a library, or None if it is not installed."""
    path = espresso_home() / _LIBRARY
    return path if path.is_file() else None


def psp8_folder() -> Path | None:
    """Return the folder of the SPMS pseudopotentials, or None if they are not installed."""
    path = espresso_home() / _PSP8
    return path if path.is_dir() else None


def find_pw(prefer: str | None = None) -> PwProgram:
    """Find the pw.x to run: the settings' command, one in PATH, or the one by pip.

    Parameters
    ----------
    prefer
        ``"PATH"`` or ``"pip"`` takes that one only.

    Returns
    -------
    PwProgram
        What to run.

    Raises
    ------
    EngineUnavailableError
        If there is none.
    """
    command = settings().espresso_command
    if command and prefer is None:
        words = tuple(shlex.split(command))
        if shutil.which(words[0]) is None:
            raise EngineUnavailableError(
                f"The setting espresso_command names '{words[0]}', which is not an executable.",
                remedy="Correct ATOMFOUNDRY_ESPRESSO_COMMAND, or unset it.",
            )
        return PwProgram("command", words, "settings")
    found = shutil.which("pw.x")
    if found and prefer in (None, "PATH"):
        return PwProgram("command", (found,), "PATH")
    library = pip_library()
    if library and prefer in (None, "pip"):
        return PwProgram("library", (str(library),), "pip")
    raise EngineUnavailableError(
        "Quantum ESPRESSO is not installed: no pw.x in PATH, none by pip."
        if prefer is None
        else f"There is no pw.x from {prefer}.",
        remedy="Run 'atomfoundry engine install espresso', or take the instant engine with '--engine xtb'.",
    )


def install_espresso(*, force: bool = False, requirements: Sequence[str] = REQUIREMENTS) -> Path:
    """Install Quantum ESPRESSO and its pseudopotentials by pip into a private folder.

    The packages go to a folder of their own, without their dependencies: nothing of them is ever imported.

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
        If pip fails: no network, or no build for this Python or machine.
    """
    home = espresso_home()
    if pip_library() and psp8_folder() and not force:
        return home
    return install_into(
        home,
        requirements,
        title="Quantum ESPRESSO",
        remedy="Check the network, or install pw.x another way (Debian's 'quantum-espresso'), or take the instant "
        "engine with '--engine xtb'.",
        complete=lambda folder: all((folder / part).exists() for part in (_LIBRARY, _PSP8)),
    )
