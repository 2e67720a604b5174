"""Find and run a code as a child process that cannot outlive this one."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from atomfoundry.engines import launcher
from atomfoundry.engines.time_limit import TimeLimit
from atomfoundry.errors import EngineUnavailableError, LabelError

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit status of a code that the kernel killed, itself or under a shell or mpirun."""


_GRACE = 3.0
"""Seconds between asking a code to end and killing it."""


def find_program(command: str | None, names: Sequence[str], *, setting: str, remedy: str) -> tuple[str, ...]:
    """Return the words that start a code.

    Parameters
    ----------
    command
        The user's own command, or None.
    names
        Executables to look for in PATH, the first found is taken.
    setting
        Name of the setting that ``command`` comes from.
    remedy
        How to get the code.

    Returns
    -------
    tuple of str
        Words of the command.

    Raises
    ------
    EngineUnavailableError
        If there is none.
    """
    if command:
        words = tuple(shlex.split(command))
        if not words or shutil.which(words[0]) is None:
            raise EngineUnavailableError(
                f"The setting {setting} is '{command}', which begins with no executable.",
                remedy=f"Correct ATOMFOUNDRY_{setting.upper()}, or unset it.",
            )
        return words
    for name in names:
        if found := shutil.which(name):
            return (found,)
    raise EngineUnavailableError(f"There is no {' or '.join(names)} in PATH.", remedy=remedy)


def run_child(
    words: Sequence[str],
    directory: Path,
    *,
    output: str,
    limit: TimeLimit,
    what: str,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a code serially per process and wait for it; it and its children die with this process.

    Parameters
    ----------
    words
        Command and arguments.
    directory
        Where it runs.
    output
        File there for its standard output; its standard error goes to the same name with ``.err``.
    limit
        When it is killed.
    what
        Structure and code, for messages.
    environment
        Variables besides the present ones.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    LabelError
        With reason ``"timeout"``, or ``"out_of_memory"`` where the kernel killed it.
    """
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    launched = [sys.executable, "-I", str(Path(launcher.__file__)), "--parent", str(os.getpid()), "--command", *words]
    with (directory / output).open("wb") as out, (directory / f"{output}.err").open("wb") as err:
        # A session of its own lets a time limit kill mpirun's children too.
        child = subprocess.Popen(
            launched,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **threads, **(environment or {})},
            start_new_session=True,
        )
        try:
            status = child.wait(limit.remaining())
        except subprocess.TimeoutExpired as error:
            raise limit.error(what) from error
        finally:
            if child.poll() is None:
                _end(child)
    if status in _KILLED:
        raise LabelError(
            f"{what} was killed by the system, as it does when memory runs out.",
            reason="out_of_memory",
            remedy="Give the job more memory, or run fewer at a time.",
        )
    return status


def _end(child: subprocess.Popen[bytes]) -> None:
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # The group outlives its leader where a rank did not listen.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def last_line(path: Path) -> str:
    """Return the last line of a text file that is not empty, or what to say where there is none."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a message"
