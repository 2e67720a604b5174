"""The child process of this thread: started when it is needed, replaced when it has died."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
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
from atomfoundry.errors import AtomfoundryError, EngineUnavailableError, InputError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.base import Engine

CHILD_VARIABLE = "ATOMFOUNDRY_LABEL_PROCESS"
"""Set in a child's environment and so in all that it starts; how programs left over by it are known."""

LARGEST_MESSAGE = 1 << 30
TAIL_CHARACTERS = 2000
WORKER_KILL_S = 0.1
"""Whoever kills a child may be killing us with it; then no label is to blame."""

_NO_MEMORY = re.compile(r"bad_alloc|MemoryError|[Oo]ut of memory|[Cc]annot allocate memory|insufficient memory")


class _Died(Exception):
    """The child has ended.

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


class _TimedOut(Exception):
    """The child did not answer in time."""


class EngineProcess:
    """A child in which engines compute; it ends with the thread that started it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.threads = _thread_variables()
        self._world: dict[str, Any] = {}
        self._saved_tail = ""
        self._mark = uuid.uuid4().hex
        self._words = tempfile.TemporaryFile(prefix="atomfoundry-")  # noqa: SIM115 (it lives as long as the child)
        self._link, theirs = Pipe()
        self._process = subprocess.Popen(
            child.command(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # Appending, so that emptying the file between two labels moves the child's place in it.
            stdout=self._appending(),
            stderr=subprocess.STDOUT,
            env={**os.environ, CHILD_VARIABLE: self._mark},
        )
        theirs.close()
        # The link alone would not tell of a death while something that the child has started holds the other end.
        self._alive = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None

    def _appending(self) -> int:
        import fcntl

        descriptor = self._words.fileno()
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
        return descriptor

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether the child runs and is this process's own."""
        return self.owner == os.getpid() and not self._words.closed and self._process.poll() is None

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
        _Died
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
        reply, _ = self._ask(pack({"kind": "engine", **world}))
        self.forward_words()
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
            Of the child's data, MB.

        Returns
        -------
        SinglePoint
            Unchecked.

        Raises
        ------
        LabelError
            If this one structure cannot be computed.
        _Died
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
        except _TimedOut as error:
            raise LabelError(
                f"{formula}: not computed within {timeout:g} s{self._last_words()}",
                reason="timeout",
                remedy="Allow more time or run it on a faster machine.",
            ) from error
        except _Died as death:
            if not death.begun:
                raise
            said = f"; it last wrote:\n{death.tail}" if death.tail else "."
            raise LabelError(
                f"{formula}: the process that computed it {death.how}{said}", reason=death.reason
            ) from death
        if reply["kind"] == "result":
            self.forward_words()
            return SinglePoint(reply["energy"], values["forces"], values.get("stress"))
        if reply["kind"] == "error":
            self.forward_words()
            raise _error(reply)
        message = f"{formula}: {reply['message']}{self._last_words()}"
        self.forward_words()
        raise LabelError(message, reason=_reason(reply))

    def _ask(self, message: bytes, *, timeout: float | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request and wait for its answer; a child that does not answer properly is gone afterwards."""
        deadline = None
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
                    raise _TimedOut
                elif not self._link.poll():
                    raise EOFError
        except (EOFError, OSError, ValueError, KeyError) as error:
            status = self._ended()
            tail = self._tail()
            self.forward_words()
            self.stop()
            raise _Died(status, tail, begun=begun) from error
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
        if self._words.closed:
            return
        if os.getpid() == self.owner:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            _kill_marked(self._mark)
        self._link.close()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
        self._saved_tail = self._tail()
        self._words.close()

    def __del__(self) -> None:
        # Of a thread that has ended.
        if hasattr(self, "_alive"):
            self.stop()

    def _tail(self) -> str:
        """Return the last that the child wrote."""
        if self._words.closed:
            return self._saved_tail
        size = os.fstat(self._words.fileno()).st_size
        start = max(0, size - 4 * TAIL_CHARACTERS)
        text = os.pread(self._words.fileno(), size - start, start).decode(errors="replace")
        return text.strip()[-TAIL_CHARACTERS:]

    def _last_words(self) -> str:
        tail = self._tail()
        return f"; it last wrote:\n{tail}" if tail else "."

    def forward_words(self) -> None:
        """Write what the code has printed to our own standard output, where it went without a child."""
        descriptor = self._words.fileno()
        size = os.fstat(descriptor).st_size
        if size == 0:
            return
        for start in range(0, size, 1 << 20):
            sys.stdout.write(os.pread(descriptor, min(1 << 20, size - start), start).decode(errors="replace"))
        sys.stdout.flush()
        os.ftruncate(descriptor, 0)


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


class _Mine(threading.local):
    """The kernel ends a child with the thread that started it, so every thread has its own."""

    process: EngineProcess | None = None


_MINE = _Mine()


def own_process(engine: Engine) -> EngineProcess:
    """Return this thread's child with an engine prepared, a new one where there is none or it has ended.

    Parameters
    ----------
    engine
        The engine.

    Raises
    ------
    InputError
        If the engine cannot be used.
    """
    process = _MINE.process
    if process is not None and process.is_alive() and process.threads == _thread_variables():
        try:
            process.prepare(engine)
        except _Died:
            stop_process()
        else:
            return process
    stop_process()
    process = _MINE.process = EngineProcess()
    try:
        process.prepare(engine)
    except _Died as death:
        raise EngineUnavailableError(
            f"The process that should load engine '{engine.name}' {death.how}: {death.tail or 'it said nothing'}",
            remedy="Check the installation of the engine's code.",
        ) from death
    return process


def _thread_variables() -> dict[str, str]:
    """Return what numerical libraries read once, when they are loaded."""
    return {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}


def stop_process() -> None:
    """End this thread's child, if there is one."""
    process, _MINE.process = _MINE.process, None
    if process is not None:
        process.stop()


def evaluate(
    engine: Engine, atoms: Atoms, directory: Path, *, timeout: float | None = None, memory_limit: float | None = None
) -> SinglePoint:
    """Compute one structure in this thread's child.

    Parameters
    ----------
    engine
        The engine.
    atoms
        The structure.
    directory
        Folder of this calculation.
    timeout
        Seconds after which the child is killed.
    memory_limit
        Of the child's data, MB.

    Returns
    -------
    SinglePoint
        Unchecked.

    Raises
    ------
    LabelError
        If this one structure cannot be computed.
    InputError
        If none can.
    """
    for attempt in (1, 2):
        try:
            return own_process(engine).evaluate(atoms, directory, timeout=timeout, memory_limit=memory_limit)
        except _Died as death:
            # Before it began, so no fault of this structure: it may have ended for want of work.
            if attempt == 2:
                raise EngineUnavailableError(
                    f"The process that should compute with engine '{engine.name}' {death.how}: {death.tail}",
                    remedy="Check the installation of the engine's code and the machine's memory.",
                ) from death
    raise AssertionError("unreachable")


atexit.register(stop_process)
