"""The child process of another interpreter, seen from its parent."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.engines.interpreter import child
from atomfoundry.engines.isolation.messages import pack, unpack
from atomfoundry.engines.isolation.output import Output
from atomfoundry.engines.isolation.process import LARGEST_MESSAGE, STARTUP_S, ChildDiedError
from atomfoundry.errors import EngineUnavailableError

FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONSTARTUP")
"""What leads an interpreter to the packages of another one."""


class AnswerTimeoutError(Exception):
    """The child did not answer in time; it has been ended."""


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


class InterpreterProcess:
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
        self.owner = os.getpid()
        self._stopped = False
        self._output = Output()
        self._link, theirs = Pipe()
        present = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        try:
            # A session of its own, so that what the child has started can be ended with it.
            self._process = subprocess.Popen(
                [self.interpreter, "-u", str(Path(child.__file__)), str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output.descriptor,
                stderr=subprocess.STDOUT,
                env={**present, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            self._link.close()
            raise EngineUnavailableError(
                f"The interpreter {self.interpreter} cannot be started: {error.strerror}.",
                remedy="Give the path of a Python executable.",
            ) from error
        finally:
            theirs.close()
        # The link alone would not tell of a death while something that the child has started holds the other end.
        self._alive = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether the child runs and is this process's own."""
        return not self._stopped and self.owner == os.getpid() and self._process.poll() is None

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
        deadline = time.monotonic() + STARTUP_S
        begun = False
        try:
            self._link.send_bytes(pack(header, arrays))
            while True:
                left = None if begun and timeout is None else max(0.0, deadline - time.monotonic())
                watched: list[Connection | int] = [self._link] if self._alive is None else [self._link, self._alive]
                ready = wait(watched, left)
                if self._link in ready:
                    reply, values = unpack(self._link.recv_bytes(LARGEST_MESSAGE))
                    if reply["kind"] != "begun":
                        return reply, values
                    begun = True
                    deadline = time.monotonic() + (0.0 if timeout is None else timeout)
                elif not ready:
                    raise AnswerTimeoutError
                elif not self._link.poll():
                    raise EOFError
        except (EOFError, OSError, ValueError, KeyError) as error:
            status = self._ended()
            tail = self._output.tail()
            self.stop()
            raise ChildDiedError(status, tail, begun=begun) from error
        except BaseException:
            # Whatever this was (the time limit, Ctrl-C): its late answer must not be taken for the next one's.
            self.stop()
            raise

    def last_words(self) -> str:
        """Return the end of what the child has written, as the end of a sentence; the next request's begins anew."""
        tail = self._output.tail()
        return f"; it last wrote:\n{tail}" if tail else "."

    def forward(self) -> None:
        """Pass on what the child has written: as messages, for libraries greet their user on standard output."""
        self._output.forward(sys.stderr)

    def _ended(self) -> int:
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def stop(self) -> None:
        """End the child and what it has started; a child of the process that forked us is left alone."""
        if self._stopped:
            return
        self._stopped = True
        if os.getpid() == self.owner:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._link.close()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
        self._output.close()

    def __del__(self) -> None:
        if hasattr(self, "_alive"):
            self.stop()
