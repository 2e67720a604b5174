"""Install packages by pip into a private folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from atomfoundry.errors import EngineUnavailableError


def install_into(
    home: Path,
    requirements: Sequence[str],
    *,
    title: str,
    remedy: str,
    complete: Callable[[Path], bool],
    environment: Mapping[str, str] | None = None,
    discard: Sequence[str] = (),
) -> Path:
    """Install packages, without their dependencies, into a folder of their own.

    Parameters
    ----------
    home
        The folder; replaced as a whole when everything is there.
    requirements
        What pip is asked for.
    title
        Name of the code, for messages.
    remedy
        What to do where pip fails.
    complete
        Tells whether a folder holds all that is needed.
    environment
        Variables that pip and the builds it starts see besides the present ones.
    discard
        Names in the folder that nothing needs.

    Returns
    -------
    Path
        ``home``, complete; after an error the old one is untouched.

    Raises
    ------
    EngineUnavailableError
        If pip fails, or the packages lack something.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        _pip(temporary, requirements, title=title, remedy=remedy, environment=environment or {})
        for name in discard:
            shutil.rmtree(temporary / name, ignore_errors=True)
        if not complete(temporary):
            raise EngineUnavailableError(
                f"The packages {', '.join(requirements)} were installed but are not complete.", remedy=remedy
            )
        temporary.chmod(0o755)
        if home.exists():
            home.rename(Path(tempfile.mkdtemp(prefix=f".{home.name}-old-", dir=home.parent)) / home.name)
        try:
            temporary.rename(home)
        except OSError:
            # Another process has installed it in the meantime.
            if not complete(home):
                raise
    finally:
        for leftover in (temporary, *home.parent.glob(f".{home.name}-old-*")):
            shutil.rmtree(leftover, ignore_errors=True)
    return home


def _pip(target: Path, requirements: Sequence[str], *, title: str, remedy: str, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(target), *requirements]
    present = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=present | dict(environment), check=False)
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # A build says first why it failed; pip's own last line only that it did.
    marks = [line for line in lines if "error:" in line.lower()]
    reason = marks[0] if marks else lines[-1] if lines else "no message"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise EngineUnavailableError(
        f"pip could not install {title} ({', '.join(requirements)}) for Python {version}: {reason}", remedy=remedy
    )
