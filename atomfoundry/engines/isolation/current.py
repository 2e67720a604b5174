"""The child process of this thread: started when it is needed, replaced when it has died."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.engines.base import SinglePoint
from atomfoundry.engines.children.process import ChildDiedError
from atomfoundry.engines.isolation.process import EngineProcess, thread_variables
from atomfoundry.errors import EngineUnavailableError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.base import Engine


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
    if process is not None and process.is_alive() and process.threads == thread_variables():
        try:
            process.prepare(engine)
        except ChildDiedError:
            stop_process()
        else:
            return process
    stop_process()
    process = _MINE.process = EngineProcess()
    try:
        process.prepare(engine)
    except ChildDiedError as death:
        raise EngineUnavailableError(
            f"The process that should load engine '{engine.name}' {death.how}: {death.tail or 'it said nothing'}",
            remedy="Check the installation of the engine's code.",
        ) from death
    return process


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
        For its data, on top of what the loaded code has, MB.

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
        except ChildDiedError as death:
            # Before it began, so no fault of this structure: it may have ended for want of work.
            if attempt == 2:
                raise EngineUnavailableError(
                    f"The process that should compute with engine '{engine.name}' {death.how}: {death.tail}",
                    remedy="Check the installation of the engine's code and the machine's memory.",
                ) from death
    raise AssertionError("unreachable")


atexit.register(stop_process)
