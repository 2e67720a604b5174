"""Start a program, wait a limited time, and return what it said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What a program said.

    Attributes
    ----------
    code
        Exit code; None if it was ended by the time limit or could not be started.
    output, error
        Its two streams; of a program that could not be started ``error`` says why.
    """

    code: int | None
    output: str
    error: str

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """The last line it wrote, for messages."""
        lines = (self.error.strip() or self.output.strip()).splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def ask(words: Sequence[str], *, timeout: float = 8.0, cwd: str | Path | None = None) -> Answer:
    """Run a program without input.

    Parameters
    ----------
    words
        The command.
    timeout
        Seconds after which it is killed.
    cwd
        Where it runs.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(words),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"no answer in {timeout:g} s")
    except OSError as error:
        return Answer(None, "", error.strerror or str(error))
    return Answer(done.returncode, done.stdout, done.stderr)


def missing_libraries(program: str | Path) -> list[str]:
    """Return the shared libraries that a program or library needs and the loader does not find.

    Parameters
    ----------
    program
        An ELF file; of anything else, a script for example, nothing is known and nothing is returned.
    """
    path = Path(program).resolve()
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"\x7fELF":
                return []
    except OSError:
        return []
    if shutil.which("ldd") is None:
        return []
    lines = ask(["ldd", str(path)]).output.splitlines()
    return sorted({line.split("=>")[0].strip() for line in lines if "not found" in line and "=>" in line})
