"""A child process in which engines compute, seen from its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atomfoundry.errors
from atomfoundry.engines.base import SinglePoint
from atomfoundry.engines.children.messages import atoms_to_message, pack
from atomfoundry.engines.children.process import AnswerTimeoutError, ChildDiedError, ChildProcess, is_out_of_memory
from atomfoundry.engines.isolation import child
from atomfoundry.errors import AtomfoundryError, EngineUnavailableError, InputError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.base import Engine

CHILD_VARIABLE = "ATOMFOUNDRY_LABEL_PROCESS"
"""Set in a child's environment and so in all that it starts; how programs left over by it are known."""

STARTUP_S = 600.0
"""Loading a code may take long where many nodes read it from one file system."""

WORKER_KILL_S = 0.1
"""Whoever kills a child may be killing us with it; then no label is to blame."""


def thread_variables() -> dict[str, str]:
    """Return what numerical libraries read once, when they are loaded."""
    return {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}


class EngineProcess(ChildProcess):
    """A child in which engines compute; it ends with the thread that started it."""

    def __init__(self) -> None:
        self.threads = thread_variables()
        self._world: dict[str, Any] = {}
        self._mark = uuid.uuid4().hex
        super().__init__(child.command("{link}"), environment={**os.environ, CHILD_VARIABLE: self._mark})

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
            reply, _ = self._ask(pack({"kind": "engine", **world}), startup=STARTUP_S, timeout=None)
        except AnswerTimeoutError as error:
            raise EngineUnavailableError(
                f"Engine '{engine.name}' was not loaded within {STARTUP_S:g} s{self.last_words()}",
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
            reply, values = self._ask(pack(header, arrays), startup=None, timeout=timeout)
        except AnswerTimeoutError as error:
            raise LabelError(
                f"{formula}: not computed within {timeout:g} s{self.last_words()}",
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
        message = f"{formula}: {reply['message']}{self.last_words()}"
        self._output.forward()
        raise LabelError(message, reason=_reason(reply))

    def _has_died(self, status: int) -> None:
        if status == -signal.SIGKILL:
            time.sleep(WORKER_KILL_S)
        self._output.forward()

    def _kill(self) -> None:
        super()._kill()
        _kill_marked(self._mark)


def _error(reply: dict[str, Any]) -> AtomfoundryError:
    """Make the child's error ours, of the same class where that is one of our own."""
    if reply["reason"] is not None:
        return LabelError(reply["message"], remedy=reply["remedy"], reason=reply["reason"])
    kind = getattr(atomfoundry.errors, reply["class"], InputError)
    return kind(reply["message"], remedy=reply["remedy"])


def _reason(reply: dict[str, Any]) -> str:
    no_memory = reply["kind"] == "out_of_memory" or is_out_of_memory(reply["message"])
    return "out_of_memory" if no_memory else "crashed"


def _kill_marked(mark: str) -> None:
    """Kill programs that a child has left behind; its death has made them nobody's children."""
    entry = f"{CHILD_VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)
