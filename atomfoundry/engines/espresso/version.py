"""Which version of pw.x a program is."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from atomfoundry.engines.espresso.install import VERSION, PwProgram
from atomfoundry.engines.espresso.process import run_program
from atomfoundry.errors import EngineUnavailableError

_BANNER = re.compile(r"Program PWSCF\s+v\.?\s*(\d+)\.(\d+)")
_TIME_LIMIT = 60.0
"""Seconds; the program ends at once, but mpirun on a busy machine takes its time."""


@lru_cache(maxsize=8)
def pw_version(program: PwProgram) -> tuple[int, int]:
    """Return the version of a pw.x, asked once per process.

    Parameters
    ----------
    program
        What to run.

    Returns
    -------
    tuple of int
        Major and minor number.

    Raises
    ------
    EngineUnavailableError
        If the program does not say.
    """
    if program.kind == "library":
        major, minor = VERSION.split(".")[:2]
        return int(major), int(minor)
    with tempfile.TemporaryDirectory(prefix="atomfoundry-") as name:
        folder = Path(name)
        # An empty input: pw.x prints its banner, then complains.
        (folder / "empty.in").touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            run_program(program, folder, input_name="empty.in", output_name="out", error_name="err", limit=_TIME_LIMIT)
        found = _BANNER.search((folder / "out").read_text(errors="replace"))
        if found is None:
            error = (folder / "err").read_text(errors="replace").strip().splitlines()
            raise EngineUnavailableError(
                f"'{' '.join(program.target)}' does not say which version of pw.x it is"
                f"{': ' + error[-1] if error else ''}.",
                remedy="Check that it runs, and ATOMFOUNDRY_ESPRESSO_COMMAND.",
            )
    return int(found[1]), int(found[2])
