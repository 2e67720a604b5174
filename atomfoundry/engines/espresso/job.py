"""One run of pw.x as a custodian ``Job``."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from custodian.custodian import Job

from atomfoundry.engines.espresso.files import ERROR, EXIT, INPUT, OUTPUT, SCRATCH
from atomfoundry.engines.espresso.input_file import PwInput
from atomfoundry.engines.espresso.install import PwProgram
from atomfoundry.engines.espresso.outcome import note_exit
from atomfoundry.engines.espresso.process import run_program

SOFT_SHARE = 0.9
"""Part of the time left after which pw.x is asked to stop by itself, keeping its density."""

NO_LIMIT = 1e7
"""pw.x's own ``max_seconds``."""


class PwJob(Job):  # type: ignore[misc]
    """Run pw.x on the input file in a folder, within a time limit.

    The job waits for the program itself instead of handing a process to custodian, whose polling would add to
    every run; the launcher ends all processes when the time is up.

    Parameters
    ----------
    kind, target, origin
        Which pw.x, see ``PwProgram``.
    end_time
        Seconds since 1970 at which all attempts together must have ended; None: no limit.
    """

    def __init__(self, kind: str, target: tuple[str, ...] | list[str], origin: str, end_time: float | None) -> None:
        self.kind = kind
        self.target = tuple(target)
        self.origin = origin
        self.end_time = end_time

    @classmethod
    def of(cls, program: PwProgram, *, end_time: float | None) -> PwJob:
        """Return the job of a program."""
        return cls(program.kind, program.target, program.origin, end_time)

    @property
    def program(self) -> PwProgram:
        """Which pw.x."""
        return PwProgram(self.kind, self.target, self.origin)

    def setup(self, directory: str = "./") -> None:
        """Remove what an earlier job said."""
        for name in (OUTPUT, ERROR, EXIT):
            (Path(directory) / name).unlink(missing_ok=True)

    def run(self, directory: str = "./") -> None:
        """Run pw.x and wait; how it ended is written down, not judged.

        Parameters
        ----------
        directory
            Where the input file is.
        """
        folder = Path(directory)
        left = None if self.end_time is None else self.end_time - time.time()
        if left is not None:
            self._ask_to_stop(folder / INPUT, SOFT_SHARE * left)
        code: int | None = None
        try:
            if left is None or left > 0:
                code = run_program(
                    self.program, folder, input_name=INPUT, output_name=OUTPUT, error_name=ERROR, limit=left
                )
        except subprocess.TimeoutExpired:
            code = None
        note_exit(folder, code=code, stopped=code is None)

    @staticmethod
    def _ask_to_stop(path: Path, seconds: float) -> None:
        text = PwInput.read(path)
        own = text.get("control", "max_seconds")
        # A limit of the user's own, in the input, may be shorter.
        limit = min(float(own), seconds) if isinstance(own, int | float) else seconds
        text.set("control", "max_seconds", float(f"{max(limit, 0.01):.4g}"))
        text.write(path)

    def postprocess(self, directory: str = "./") -> None:
        """Nothing is left to do: results and scratch files are the engine's affair."""

    def terminate(self, directory: str = "./") -> None:
        """Nothing runs any more when custodian could ask."""


def clean_scratch(directory: Path, *, density: bool = True) -> None:
    """Remove what pw.x keeps between runs.

    Parameters
    ----------
    directory
        Where it ran.
    density
        The charge density, too; otherwise only wave functions and the history of the mixing.
    """
    if density:
        shutil.rmtree(directory / SCRATCH, ignore_errors=True)
        return
    for path in [*(directory / SCRATCH).glob("*.wfc*"), *(directory / SCRATCH).glob("*.mix*")]:
        path.unlink()
