"""What a parser hands over: one finished (or broken) run, its ionic steps and what it says about itself."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO, cast

from ase import Atoms

from atomfoundry.datasets import attach_labels
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError


class ParseFailure(Exception):
    """A file gave no step at all; ``reason`` is the code of the rejection."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Step:
    """One ionic step: a labelled structure, or the reason why it is none.

    Attributes
    ----------
    atoms
        The structure with its force-consistent energy, forces and stress; None if it could not be read.
    sigma0
        The energy extrapolated to zero smearing (eV), where the output gives one.
    """

    atoms: Atoms | None
    reason: str | None = None
    message: str = ""
    sigma0: float | None = None

    def refuse(self, reason: str, message: str) -> Step:
        """Set the reason, unless there is one already."""
        if self.reason is None:
            self.reason, self.message = reason, message
        return self


@dataclass
class Run:
    """All that one output says.

    Attributes
    ----------
    steps
        In order.
    complete
        The program came to its end.
    relaxed
        True or False for a relaxation that did or did not converge; None where nothing was relaxed.
    states_level
        The format tells the level of theory, so a missing ``level`` means that it is not a known one.
    level
        Level of theory, None if it could not be named beyond doubt.
    level_problem
        Why it could not.
    potentials
        Element -> pseudopotential, as the output names it.
    kpoints
        The mesh, as the output names it.
    result
        Number of the step that is the run's result, where it is not the last: a program may end with an energy alone.
    temperatures
        K, of each step of a dynamics, where the output prints them.
    """

    steps: list[Step] = field(default_factory=list)
    complete: bool = True
    relaxed: bool | None = None
    states_level: bool = True
    level: LevelOfTheory | None = None
    level_problem: str = ""
    potentials: dict[str, str] = field(default_factory=dict)
    kpoints: str | None = None
    result: int | None = None
    temperatures: list[float] = field(default_factory=list)


Parser = Callable[[Path], Run]


def labelled_step(
    atoms: Atoms,
    energy: float | None,
    forces: object = None,
    stress: object = None,
    *,
    sigma0: float | None = None,
) -> Step:
    """Return a step of bare atoms and labels; labels that do not fit make it ``unreadable``.

    Parameters
    ----------
    atoms
        The structure; only numbers, positions, cell, pbc, charge and spin are kept.
    energy
        eV, force-consistent.
    forces
        eV/A, ``[N, 3]``.
    stress
        eV/A^3, tension positive, Voigt or full.
    sigma0
        eV, extrapolated to zero smearing.
    """
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {key: atoms.info[key] for key in ("charge", "spin_multiplicity") if key in atoms.info}
    if not len(bare):
        return Step(None, "unreadable", "a structure without atoms")
    try:
        return Step(attach_labels(bare, energy, forces, stress), sigma0=sigma0)  # type: ignore[arg-type]
    except (DatasetError, ValueError, TypeError) as error:
        return Step(None, "unreadable", f"labels that do not fit their structure: {error}")


def read_head(path: Path, size: int = 4096) -> bytes:
    """Return the first bytes of a file, uncompressed; none if it is damaged."""
    try:
        with open_binary(path) as stream:
            return stream.read(size)
    except (OSError, EOFError):
        return b""


def open_binary(path: Path) -> IO[bytes]:
    """Open a file, uncompressed."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def open_text(path: Path) -> TextIO:
    """Open a file as text, uncompressed; bytes that are no text are replaced."""
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", errors="replace"))
    return path.open(encoding="utf-8", errors="replace")


def describe(error: BaseException) -> str:
    """Return an error on one line."""
    return f"{type(error).__name__}: {error}"
