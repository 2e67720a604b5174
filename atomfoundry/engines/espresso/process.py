"""Run pw.x as a child that cannot outlive this process: a time limit, serial threads, no surviving MPI ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from atomfoundry.engines.espresso.install import PwProgram

_LAUNCHER = Path(__file__).parents[1] / "launcher.py"
_PATIENCE = 5.0
"""Seconds that the launcher gets to end all processes of its session, before they are killed from here."""


def launch_words(program: PwProgram) -> list[str]:
    """Return the words of a command that runs pw.x under our launcher.

    Parameters
    ----------
    program
        Which pw.x.
    """
    words = [sys.executable, "-I", "-S", str(_LAUNCHER), "--parent", str(os.getpid()), f"--{program.kind}"]
    return [*words, *program.target]


def run_program(
    program: PwProgram,
    directory: Path,
    *,
    input_name: str,
    output_name: str,
    error_name: str,
    limit: float | None = None,
) -> int:
    """Run pw.x and wait.

    Parameters
    ----------
    program
        Which pw.x.
    directory
        Where it runs.
    input_name, output_name, error_name
        Files there; the last two are made.
    limit
        Seconds after which the child and everything it started is killed; None: never.

    Returns
    -------
    int
        Exit code, which is not judged; 128 and more (or negative) for a signal.

    Raises
    ------
    subprocess.TimeoutExpired
        After the time limit.
    """
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with (directory / output_name).open("wb") as out, (directory / error_name).open("wb") as err:
        # A session of its own is what everything that mpirun starts can be found by.
        child = subprocess.Popen(
            [*launch_words(program), "-in", input_name],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        try:
            return child.wait(limit)
        finally:
            if child.poll() is None:
                stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child of ``run_program`` and all processes of its session.

    Parameters
    ----------
    child
        The launcher.
    """
    # mpirun and srun end their ranks when asked; killed, they could not.
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
