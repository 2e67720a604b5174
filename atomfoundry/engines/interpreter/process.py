"""The child process of another interpreter, seen from its parent."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.engines.children.messages import pack
from atomfoundry.engines.children.process import ChildProcess
from atomfoundry.engines.interpreter import child
from atomfoundry.errors import EngineUnavailableError

STARTUP_S = 600.0
"""Loading a code may take long where many nodes read it from one file system."""

FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONSTARTUP")
"""What leads an interpreter to the packages of another one."""


def find_interpreter(interpreter: str) -> str:
    """Return the path of a Python interpreter.

    Parameters
    ----------
    interpreter
        A path, a name in PATH, or the folder of a virtual environment.

    Raises
    ------
    EngineUnavailableError
        If there is none.
    """
    path = Path(interpreter).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    found = shutil.which(str(path))
    if found is None:
        raise EngineUnavailableError(
            f"There is no interpreter '{interpreter}'.",
            remedy="Give the path of a Python executable, e.g. '/opt/mace/bin/python', or the folder of its "
            "virtual environment.",
        )
    return str(Path(found).absolute())


class InterpreterProcess(ChildProcess):
    """A process of another interpreter that waits for requests; it ends with this one.

    Parameters
    ----------
    interpreter
        See `find_interpreter`.
    environment
        Variables besides the present ones. Those that would lead the interpreter to our packages are taken away.
    """

    def __init__(self, interpreter: str, *, environment: Mapping[str, str] | None = None) -> None:
        self.interpreter = find_interpreter(interpreter)
        present = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        try:
            super().__init__(
                [self.interpreter, "-u", str(Path(child.__file__)), "{link}", str(os.getpid())],
                environment={**present, **(environment or {})},
                own_session=True,
            )
        except OSError as error:
            raise EngineUnavailableError(
                f"The interpreter {self.interpreter} cannot be started: {error.strerror}.",
                remedy="Give the path of a Python executable.",
            ) from error

    def ask(
        self,
        header: dict[str, Any],
        arrays: dict[str, np.ndarray] | None = None,
        *,
        timeout: float | None = STARTUP_S,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request and wait for its answer; a child that does not answer properly is gone afterwards.

        Parameters
        ----------
        header, arrays
            The request.
        timeout
            Seconds, from the moment that the child has begun; None: no limit.

        Returns
        -------
        tuple
            Header and arrays of the answer.

        Raises
        ------
        ChildDiedError
            If the child ended.
        AnswerTimeoutError
            If it took too long.
        """
        return self._ask(pack(header, arrays), startup=STARTUP_S, timeout=timeout)

    def forward(self) -> None:
        """Pass on what the child has written: as messages, for libraries greet their user on standard output."""
        self._output.forward(sys.stderr)
