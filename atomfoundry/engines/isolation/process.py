"""A child process in which engines compute, seen from its parent."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import atomfoundry.errors
from atomfoundry.engines.base import SinglePoint
from atomfoundry.engines.isolation import child
from atomfoundry.engines.isolation.messages import atoms_to_message, pack, unpack
from atomfoundry.engines.isolation.output import Output
from atomfoundry.errors import AtomfoundryError, EngineUnavailableError, InputError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.base import Engine

CHILD_VARIABLE = "ATOMFOUNDRY_LABEL_PROCESS"
"""Set in a child's environment and so in all that it starts; how programs left over by it are known."""

LARGEST_MESSAGE = 1 << 30
STARTUP_S = 600.0
"""Loading a code may take long where many nodes read it from one file system."""

WORKER_KILL_S = 0.1
"""Whoever kills a child may be killing us with it; then no label is to blame."""

_NO_MEMORY = re.compile(r"bad_alloc|MemoryError|[Oo]ut of memory|[Cc]annot allocate memory|insufficient memory")


class ChildDiedError(Exception):
    """A child has ended; for this package only, whose callers see a ``LabelError``.

    Parameters
    ----------
    status
        As ``Popen.returncode``: negative for a signal.
    tail
        The last it wrote.
    begun
        Whether it had begun the label.
    """

    def __init__(self, status: int, tail: str, *, begun: bool) -> None:
        super().__init__(status, tail)
        self.status = status
        self.tail = tail
        self.begun = begun

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.status >= 0:
            return f"ended with exit code {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"

    @property
    def reason(self) -> str:
        """Reason code of the label that it was at."""
        # Linux ends a process by SIGKILL when memory is out; nobody else has reason to.
        no_memory = self.status == -signal.SIGKILL or _NO_MEMORY.search(self.tail)
        return "out_of_memory" if no_memory else "crashed"


class _TimedOutError(Exception):
    """The child did not answer in time."""


def thread_variables() -> dict[str, str]:
    """Return what numerical libraries read once, when they are loaded."""
    return {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}


class EngineProcess:
    """A child in which engines compute; it ends with the thread that started it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.threads = thread_variables()
        self._world: dict[str, Any] = {}
        self._mark = uuid.uuid4().hex
        self._output = Output()
        self._stopped = False
        self._link, theirs = Pipe()
        self._process = subprocess.Popen(
            child.command(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._output.descriptor,
            stderr=subprocess.STDOUT,
            env={**os.environ, CHILD_VARIABLE: self._mark},
        )
        theirs.close()
        # The link alone would not tell of a death while something that the child has started holds the other end.
        self._alive = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether the child runs and is this process's own."""
        return self.owner == os.getpid() and not self._stopped and self._process.poll() is None

    def prepare(self, engine: Engine) -> None:
        """Let the child build an engine and load its code, unless it has.

        Parameters
        ----------
        engine
            The engine; rebuilt there from its class and settings.

        Raises
        ------
        InputError
            If it cannot be used, e.g. because its code is not installed.
        ChildDiedError
            If the child ends.
        """
        world = {
            "module": type(engine).__module__,
            "class": type(engine).__qualname__,
            "settings": engine.settings(),
            "path": list(sys.path),
            "environment": {**os.environ, CHILD_VARIABLE: self._mark},
        }
        if world == self._world:
            return
        self._world = {}
        try:
            reply, _ = self._ask(pack({"kind": "engine", **world}), startup=STARTUP_S)
        except _TimedOutError as error:
            raise EngineUnavailableError(
                f"Engine '{engine.name}' was not loaded within {STARTUP_S:g} s{self._last_words()}",
                remedy="Check the file system that holds the engine's code.",
            ) from error
        self._output.forward()
        if reply["kind"] == "error":
            raise _error(reply)
        self._world = world

    def evaluate(
        self, atoms: Atoms, directory: Path, *, timeout: float | None, memory_limit: float | None
    ) -> SinglePoint:
        """Compute one structure with the prepared engine.

        Parameters
        ----------
        atoms
            The structure.
        directory
            Folder of this calculation.
        timeout
            Seconds after which the child is killed.
        memory_limit
            For its data, on top of what the loaded code has, MB.

        Returns
        -------
        SinglePoint
            Unchecked.

        Raises
        ------
        LabelError
            If this one structure cannot be computed.
        ChildDiedError
            If the child had ended before it was asked.
        """
        header, arrays = atoms_to_message(atoms)
        header |= {
            "kind": "label",
            "cwd": str(Path.cwd()),
            "directory": str(directory),
            "memory_limit": memory_limit,
        }
        formula = atoms.get_chemical_formula()
        try:
            reply, values = self._ask(pack(header, arrays), timeout=timeout)
        except _TimedOutError as error:
            raise LabelError(
                f"{formula}: not computed within {timeout:g} s{self._last_words()}",
                reason="timeout",
                remedy="Allow more time or run it on a faster machine.",
            ) from error
        except ChildDiedError as death:
            if not death.begun:
                raise
            said = f"; it last wrote:\n{death.tail}" if death.tail else "."
            raise LabelError(
                f"{formula}: the process that computed it {death.how}{said}", reason=death.reason
            ) from death
        if reply["kind"] == "result":
            self._output.forward()
            return SinglePoint(reply["energy"], values["forces"], values.get("stress"))
        if reply["kind"] == "error":
            self._output.forward()
            raise _error(reply)
        message = f"{formula}: {reply['message']}{self._last_words()}"
        self._output.forward()
        raise LabelError(message, reason=_reason(reply))

    def _ask(
        self, message: bytes, *, timeout: float | None = None, startup: float | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request and wait for its answer; a child that does not answer properly is gone afterwards."""
        deadline = None if startup is None else time.monotonic() + startup
        begun = False
        try:
            self._link.send_bytes(message)
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                watched: list[Connection | int] = [self._link] if self._alive is None else [self._link, self._alive]
                ready = wait(watched, left)
                if self._link in ready:
                    header, arrays = unpack(self._link.recv_bytes(LARGEST_MESSAGE))
                    if header["kind"] != "begun":
                        return header, arrays
                    begun = True
                    deadline = None if timeout is None else time.monotonic() + timeout
                elif not ready:
                    raise _TimedOutError
                elif not self._link.poll():
                    raise EOFError
        except (EOFError, OSError, ValueError, KeyError) as error:
            status = self._ended()
            tail = self._output.tail()
            self._output.forward()
            self.stop()
            raise ChildDiedError(status, tail, begun=begun) from error
        except BaseException:
            # Whatever this was (the time limit, Ctrl-C): its late answer must not be taken for the next label's.
            self.stop()
            raise

    def _ended(self) -> int:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status == -signal.SIGKILL:
            time.sleep(WORKER_KILL_S)
        return status

    def stop(self) -> None:
        """End the child and whatever it has started; a child of the process that forked us is left alone."""
        if self._stopped:
            return
        self._stopped = True
        if os.getpid() == self.owner:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            _kill_marked(self._mark)
        self._link.close()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
        self._output.close()

    def __del__(self) -> None:
        # Of a thread that has ended.
        if hasattr(self, "_alive"):
            self.stop()

    def _last_words(self) -> str:
        tail = self._output.tail()
        return f"; it last wrote:\n{tail}" if tail else "."


def _error(reply: dict[str, Any]) -> AtomfoundryError:
    """Make the child's error ours, of the same class where that is one of our own."""
    if reply["reason"] is not None:
        return LabelError(reply["message"], remedy=reply["remedy"], reason=reply["reason"])
    kind = getattr(atomfoundry.errors, reply["class"], InputError)
    return kind(reply["message"], remedy=reply["remedy"])


def _reason(reply: dict[str, Any]) -> str:
    no_memory = reply["kind"] == "out_of_memory" or _NO_MEMORY.search(reply["message"])
    return "out_of_memory" if no_memory else "crashed"


def _kill_marked(mark: str) -> None:
    """Kill programs that a child has left behind; its death has made them nobody's children."""
    entry = f"{CHILD_VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)
