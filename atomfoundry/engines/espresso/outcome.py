"""How a run of pw.x ended: read from its output, its messages and its exit code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from atomfoundry.engines.espresso.files import ERROR, EXIT, OUTPUT, SAVE, SCRATCH

CONVERGED = "converged"
UNCONVERGED = "unconverged"
WALL_TIME = "wall time"
PSEUDOPOTENTIAL = "pseudopotential"
INPUT_MISTAKE = "input"
MEMORY = "memory"
DIAGONALIZATION = "diagonalization"
SYMMETRY = "symmetry"
SILENT = "silent crash"
ERROR_MESSAGE = "error"

_MESSAGES = (
    (PSEUDOPOTENTIAL, r"readpp|read_upf|upf_|read_pseudo|xmltools|pseudopotential file .* not"),
    (
        INPUT_MISTAKE,
        r"set_cutoff|meaningless value for ecut|more bands than PWs|read_namelists|read_cards|read_input|iosys",
    ),
    (MEMORY, r"allocat|out of memory|insufficient virtual memory"),
    (
        DIAGONALIZATION,
        r"cdiaghg|rdiaghg|pcdiaghg|prdiaghg|too many bands are not converged|S matrix not positive definite"
        r"|computing cholesky|zhegv|dsygv|rotate_HSpsi|diagonali[sz]ation .*failed|error in calculating eigenvalues",
    ),
    (SYMMETRY, r"not orthogonal|wrong symmetr|wrong representation|checkallsym|not a group|lone vector"),
)
_MEMORY_SIGNS = re.compile(
    r"(?i)cannot allocate|out of memory|insufficient virtual memory|bad_alloc|oom.?kill|error allocating|"
    r"allocation would exceed|not enough memory"
)
_KILLED = re.compile(r"signal 9\b|SIGKILL|\bKilled\b")
_ACCURACY = re.compile(r"estimated scf accuracy\s*<\s*(\S+)")
_KILL_CODES = (-9, 137)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes
    ----------
    cause
        ``CONVERGED`` or why it failed, one of the names of this module.
    detail
        What pw.x said about it.
    accuracies
        Estimated error of the energy after each step of the cycle, Ry.
    has_density
        Whether it left a charge density behind.
    """

    cause: str
    detail: str = ""
    accuracies: tuple[float, ...] = field(default=())
    has_density: bool = False

    @property
    def improving(self) -> bool:
        """Whether the cycle came closer to its end, so that its density is worth a start."""
        return len(self.accuracies) > 1 and self.accuracies[-1] < self.accuracies[0]


def note_exit(directory: Path, *, code: int | None, stopped: bool) -> None:
    """Write down how the program ended.

    Parameters
    ----------
    directory
        Where it ran.
    code
        Its exit code; None if it was stopped.
    stopped
        Whether it was killed because its time was up.
    """
    (directory / EXIT).write_text(json.dumps({"code": code, "stopped": stopped}) + "\n")


def read_outcome(directory: Path) -> Outcome:
    """Read what became of the run in a folder.

    Parameters
    ----------
    directory
        Where it ran.

    Returns
    -------
    Outcome
        The cause is the first that explains the run.
    """
    output, messages = _text(directory / OUTPUT), _text(directory / ERROR)
    state = json.loads(_text(directory / EXIT) or "{}")
    cause, detail = _cause(output, messages, code=state.get("code"), stopped=bool(state.get("stopped")))
    return Outcome(
        cause,
        detail,
        accuracies=tuple(_reals(_ACCURACY.findall(output))),
        has_density=any((directory / SCRATCH / SAVE).glob("charge-density.*")),
    )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _reals(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:  # Fortran writes stars where a number does not fit
        return []


def _cause(output: str, messages: str, *, code: int | None, stopped: bool) -> tuple[str, str]:
    if stopped:
        return WALL_TIME, "its time was up"
    if "Maximum CPU time exceeded" in output:
        return WALL_TIME, "it stopped by itself at its time limit"
    if "convergence NOT achieved" in output:
        return UNCONVERGED, "convergence NOT achieved"
    if "convergence has been achieved" in output and "JOB DONE" in output:
        return CONVERGED, ""
    error = _error(output) or _error(messages)
    if error:
        for cause, pattern in _MESSAGES:
            if re.search(pattern, error, re.IGNORECASE):
                return cause, error
        return ERROR_MESSAGE, error
    lines = [line.strip() for line in messages.splitlines() if line.strip(" -#")]
    last = lines[-1] if lines else "it ended without a message"
    if _MEMORY_SIGNS.search(messages) or _MEMORY_SIGNS.search(output):
        return MEMORY, next((line for line in lines if _MEMORY_SIGNS.search(line)), last)
    if code in _KILL_CODES or _KILLED.search(messages):
        return MEMORY, "it was killed (signal 9), as a system short of memory does"
    if "Max angular momentum in pseudopotentials" in output and "bravais-lattice index" not in output:
        return PSEUDOPOTENTIAL, f"it ended while it read the pseudopotentials ({last})"
    return SILENT, last


def _error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    marks = [i for i, line in enumerate(lines) if line.startswith("Error in routine")]
    return " ".join(" ".join(lines[marks[-1] : marks[-1] + 2]).split()) if marks else ""
