"""How ASE starts pw.x: through our launcher, with a time limit, serial threads and no surviving children."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from ase.calculators.espresso import EspressoProfile

from atomfoundry.engines.espresso.install import PwProgram

_LAUNCHER = Path(__file__).with_name("launcher.py")


class LaunchedProfile(EspressoProfile):
    """Run pw.x as a child that cannot outlive this process.

    Parameters
    ----------
    program
        Which pw.x.
    pseudo_dir
        Folder of the UPF files.
    timeout
        Seconds after which the child is killed; None: never.
    """

    def __init__(self, program: PwProgram, pseudo_dir: Path, *, timeout: float | None = None) -> None:
        words = [sys.executable, "-I", str(_LAUNCHER), "--parent", str(os.getpid()), f"--{program.kind}"]
        super().__init__(shlex.join([*words, *program.target]), pseudo_dir)
        self.timeout = timeout

    def run(
        self,
        directory: Path,
        inputfile: str | None,
        outputfile: str,
        errorfile: str | None = None,
        append: bool = False,
    ) -> None:
        """Run pw.x and wait; its exit code is not judged, its output is.

        Raises
        ------
        subprocess.TimeoutExpired
            After the time limit.
        """
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        with (
            (directory / outputfile).open("ab" if append else "wb") as out,
            (directory / (errorfile or f"{outputfile}.err")).open("ab" if append else "wb") as err,
        ):
            # A session of its own lets a time limit kill mpirun's children too.
            child = subprocess.Popen(
                self.get_command(inputfile),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
            try:
                child.wait(self.timeout)
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
