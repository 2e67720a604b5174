"""An engine that computes in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.isolation.current import evaluate, own_process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ase import Atoms


class IsolatedEngine(Engine):
    """Another engine in a child process, which is kept from one structure to the next.

    Only the child's own death counts: reason ``"crashed"`` where the code segfaults, aborts or exits,
    ``"out_of_memory"`` where it is killed by the kernel or meets the memory limit, ``"timeout"`` where it takes
    too long. The next structure is computed in a new child.

    Parameters
    ----------
    engine
        The engine that computes.
    timeout
        Seconds a structure may take.
    memory_limit
        Memory for a structure's data, on top of what the loaded code has, MB.
    """

    def __init__(self, engine: Engine, *, timeout: float | None = None, memory_limit: float | None = None) -> None:
        self.engine = engine
        self.timeout = timeout
        self.memory_limit = memory_limit
        self.name = engine.name  # type: ignore[misc]
        self.profile = engine.profile  # type: ignore[misc]
        self.in_process = False  # type: ignore[misc]

    @property
    def level(self) -> LevelOfTheory:
        """That of the engine."""
        return self.engine.level

    def supported_elements(self) -> set[str]:
        """Return the symbols that the engine can compute."""
        return self.engine.supported_elements()

    def check_available(self) -> None:
        """Let the child load the code: what it costs is paid once, and not in this process.

        Raises
        ------
        EngineUnavailableError
            If something is missing, or the loading itself crashes.
        """
        own_process(self.engine)

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure in the child."""
        return evaluate(self.engine, atoms, directory, timeout=self.timeout, memory_limit=self.memory_limit)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the engine."""
        return self.engine.settings()

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return the engine's settings for these elements."""
        return self.engine.settings_for(symbols)

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write the engine's input files."""
        return self.engine.write_inputs(atoms, directory)


def isolated(engine: Engine, *, timeout: float | None = None, memory_limit: float | None = None) -> Engine:
    """Put an engine that computes in the calling process into a child of it; leave others as they are.

    Parameters
    ----------
    engine
        The engine.
    timeout
        Seconds a structure may take.
    memory_limit
        Memory for a structure's data, on top of what the loaded code has, MB.

    Returns
    -------
    Engine
        With the same labels.
    """
    return IsolatedEngine(engine, timeout=timeout, memory_limit=memory_limit) if engine.in_process else engine
