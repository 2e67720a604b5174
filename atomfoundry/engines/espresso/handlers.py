"""What is tried when pw.x fails: custodian ``ErrorHandler``s, one for each cause.

Corrections change how the ground state is searched for, never which energy surface it lies on: cutoffs, smearing,
functional, k-points and spin stay as they are.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

from custodian.custodian import ErrorHandler, Validator

from atomfoundry.engines.espresso.files import ERROR, INPUT, OUTPUT
from atomfoundry.engines.espresso.input_file import PwInput, Value
from atomfoundry.engines.espresso.job import clean_scratch
from atomfoundry.engines.espresso.outcome import (
    CONVERGED,
    DIAGONALIZATION,
    ERROR_MESSAGE,
    INPUT_MISTAKE,
    MEMORY,
    PSEUDOPOTENTIAL,
    SILENT,
    SYMMETRY,
    UNCONVERGED,
    WALL_TIME,
    Outcome,
    read_outcome,
)

Changes = dict[tuple[str, str], Value]

FROM_FILE: Changes = {("electrons", "startingpot"): "file"}
FROM_ATOMS: Changes = {("electrons", "startingpot"): "atomic"}


class PwHandler(ErrorHandler):  # type: ignore[misc]
    """Base: acts on one cause of failure, a bounded number of times."""

    cause: ClassVar[str]
    is_monitor = False
    max_num_corrections = 1
    raise_on_max = False

    def check(self, directory: str = "./") -> bool:
        """Tell whether the run in a folder failed for this cause."""
        return read_outcome(Path(directory)).cause == self.cause

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Change the input for another attempt.

        Parameters
        ----------
        directory
            Where the failed run is; its files are copied to ``failed-1``, ``failed-2``, ...

        Returns
        -------
        dict
            ``errors`` and ``actions``; no actions where nothing can be done.
        """
        folder = Path(directory)
        outcome = read_outcome(folder)
        text = PwInput.read(folder / INPUT)
        changes = self.changes(text, outcome)
        errors = [f"{self.cause}: {outcome.detail}"]
        if changes is None:
            return {"errors": errors, "actions": None}
        keep_failed(folder)
        if changes.get(("electrons", "startingpot")) != "file":
            clean_scratch(folder)
        for (section, key), value in changes.items():
            text.set(section, key, value)
        text.write(folder / INPUT)
        told = {f"{section}.{key}": value for (section, key), value in changes.items()}
        return {"errors": errors, "actions": [{"dict": INPUT, "action": {"_set": told}}]}

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return what to change for another attempt; None where nothing can be done.

        Parameters
        ----------
        text
            The input that failed.
        outcome
            What became of it.
        """
        return None


class UnconvergedHandler(PwHandler):
    """The cycle did not converge: gentle mixing and more steps, then local Thomas-Fermi mixing, then more bands.

    The cycle goes on from its own density where that came closer. The number of steps is doubled once: never more
    than twice what the user allows in one attempt.

    Parameters
    ----------
    may_add_bands
        Whether empty bands are nothing but convenience (crystals), or part of the state (atoms).
    """

    cause = UNCONVERGED
    max_num_corrections = 3

    def __init__(self, may_add_bands: bool = False) -> None:
        self.may_add_bands = may_add_bands

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return the next rung of the ladder."""
        rung = self.n_applied_corrections
        if rung and not outcome.accuracies:
            return None  # not one step was made: there is nothing to go by
        start = FROM_FILE if outcome.has_density and outcome.improving else FROM_ATOMS
        if rung == 0:
            steps, beta = text.get("electrons", "electron_maxstep"), text.get("electrons", "mixing_beta")
            return start | {
                ("electrons", "mixing_beta"): _number(beta, 0.7) / 4,
                ("electrons", "electron_maxstep"): 2 * int(_number(steps, 100)),
            }
        if rung == 1:
            return start | {("electrons", "mixing_mode"): "local-TF", ("electrons", "diagonalization"): "cg"}
        bands = text.get("system", "nbnd")
        more: Changes = {}
        if self.may_add_bands and bands is not None:
            more = {("system", "nbnd"): int(_number(bands, 0) * 1.2) + 4}
        beta = _number(text.get("electrons", "mixing_beta"), 0.2)
        return FROM_ATOMS | more | {("electrons", "mixing_beta"): beta / 2, ("electrons", "mixing_ndim"): 12}


class DiagonalizationHandler(PwHandler):
    """The eigenvalue problem failed: other algorithms, which need no Cholesky factor of a large overlap."""

    cause = DIAGONALIZATION
    max_num_corrections = 2

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return conjugate gradients, then Davidson with a larger space and gentle mixing."""
        if self.n_applied_corrections == 0 and text.get("electrons", "diagonalization") != "cg":
            return FROM_ATOMS | {("electrons", "diagonalization"): "cg"}
        beta = _number(text.get("electrons", "mixing_beta"), 0.7)
        return FROM_ATOMS | {
            ("electrons", "diagonalization"): "david",
            ("electrons", "diago_david_ndim"): 4,
            ("electrons", "mixing_beta"): beta / 4,
        }


class SymmetryHandler(PwHandler):
    """pw.x stumbles over symmetries: without them the same k-points are all computed."""

    cause = SYMMETRY

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return a calculation without symmetries; None if it was one."""
        if text.get("system", "nosym"):
            return None
        return FROM_ATOMS | {("system", "nosym"): True, ("system", "noinv"): True}


class MemoryHandler(PwHandler):
    """Memory ran out, or the system killed the run: a smaller work space, wave functions on disk."""

    cause = MEMORY

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return settings that need less memory."""
        return FROM_ATOMS | {
            ("electrons", "diago_david_ndim"): 2,
            ("electrons", "mixing_ndim"): 4,
            ("control", "disk_io"): "medium",
        }


class SilentCrashHandler(PwHandler):
    """pw.x ended without a word (a node's trouble, an MPI start that failed): the same again, once."""

    cause = SILENT

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return the same input, from the beginning."""
        return dict(FROM_ATOMS)


class WallTimeHandler(PwHandler):
    """pw.x stopped at a time limit of its input and left its density: go on from there while time is left.

    Parameters
    ----------
    end_time
        Seconds since 1970; None: no limit.
    """

    cause = WALL_TIME
    max_num_corrections = 5

    def __init__(self, end_time: float | None = None) -> None:
        self.end_time = end_time

    def changes(self, text: PwInput, outcome: Outcome) -> Changes | None:
        """Return a continuation; None where the time is up or nothing was left."""
        limit = _number(text.get("control", "max_seconds"), 0.0)
        left = float("inf") if self.end_time is None else self.end_time - time.time()
        if not outcome.has_density or left < limit:
            return None
        return dict(FROM_FILE)


class PseudopotentialHandler(PwHandler):
    """A pseudopotential is missing or unreadable: nothing is tried."""

    cause = PSEUDOPOTENTIAL


class InputHandler(PwHandler):
    """pw.x refuses its input, for instance a density cutoff below the wave functions': nothing is tried."""

    cause = INPUT_MISTAKE


class ErrorMessageHandler(PwHandler):
    """pw.x says why it stopped, and it is nothing we know a cure for: nothing is tried."""

    cause = ERROR_MESSAGE


class ConvergedValidator(Validator):  # type: ignore[misc]
    """Only a run that converged and ended properly is good."""

    def check(self, directory: str = "./") -> bool:
        """Tell whether the run is bad."""
        return read_outcome(Path(directory)).cause != CONVERGED


def pw_handlers(*, may_add_bands: bool, end_time: float | None) -> list[PwHandler]:
    """Return all handlers; no two of them act on one failure.

    Parameters
    ----------
    may_add_bands
        See ``UnconvergedHandler``.
    end_time
        See ``WallTimeHandler``.
    """
    return [
        WallTimeHandler(end_time),
        PseudopotentialHandler(),
        InputHandler(),
        UnconvergedHandler(may_add_bands),
        DiagonalizationHandler(),
        SymmetryHandler(),
        MemoryHandler(),
        SilentCrashHandler(),
        ErrorMessageHandler(),
    ]


def keep_failed(folder: Path) -> Path:
    """Copy the files of a failed attempt into a folder beside it.

    Parameters
    ----------
    folder
        Where the attempt ran.

    Returns
    -------
    Path
        ``failed-N``.
    """
    number = 1 + sum(path.is_dir() for path in folder.glob("failed-*"))
    target = folder / f"failed-{number}"
    target.mkdir()
    for name in (INPUT, OUTPUT, ERROR):
        if (folder / name).is_file():
            shutil.copy2(folder / name, target / name)
    return target


def _number(value: Value | None, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
