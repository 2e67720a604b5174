"""Run pw.x under custodian: repair what can be repaired, say plainly what cannot."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.engines.espresso.files import EXIT
from atomfoundry.engines.espresso.outcome import (
    INPUT_MISTAKE,
    MEMORY,
    PSEUDOPOTENTIAL,
    UNCONVERGED,
    WALL_TIME,
    read_outcome,
)
from atomfoundry.errors import AtomfoundryError, ConfigurationError, EngineUnavailableError, LabelError

if TYPE_CHECKING:
    from atomfoundry.engines.espresso.install import PwProgram

logger = logging.getLogger(__name__)

LOG_FILE = "custodian.json"
_REASONS = {
    UNCONVERGED: ("unconverged", "Raise 'max_steps' or lower 'mixing_beta'."),
    WALL_TIME: ("timeout", "Raise 'timeout'."),
    MEMORY: ("out_of_memory", "Give the job more memory, or more nodes by 'espresso_command'."),
}


def run_recovering(
    directory: Path,
    program: PwProgram,
    *,
    formula: str,
    end_time: float | None,
    may_add_bands: bool = False,
    max_corrections: int = 6,
) -> list[str]:
    """Run pw.x on the input in a folder until it converges or nothing is left to try.

    Parameters
    ----------
    directory
        Where the input is. After a repair ``custodian.json`` and the failed attempts' files stay there.
    program
        Which pw.x.
    formula
        The structure, for messages.
    end_time
        Seconds since 1970 at which all attempts together must have ended; None: no limit.
    may_add_bands
        See ``UnconvergedHandler``.
    max_corrections
        Largest number of corrections in all.

    Returns
    -------
    list of str
        The corrections, one text each; empty for a run that went well at once.

    Raises
    ------
    LabelError
        With reason ``"unconverged"``, ``"timeout"``, ``"out_of_memory"`` or ``"crashed"``, and what was tried.
    EngineUnavailableError
        If pw.x cannot read a pseudopotential: no structure could be computed.
    ConfigurationError
        If pw.x refuses the input's cutoffs.
    """
    from custodian.custodian import Custodian, CustodianError

    from atomfoundry.engines.espresso.handlers import ConvergedValidator, pw_handlers
    from atomfoundry.engines.espresso.job import PwJob

    _silence_custodian()
    for old in directory.glob("failed-*"):
        shutil.rmtree(old, ignore_errors=True)
    custodian = Custodian(
        pw_handlers(may_add_bands=may_add_bands, end_time=end_time) if max_corrections else [],
        [PwJob.of(program, end_time=end_time)],
        validators=[ConvergedValidator()],
        # custodian gives up when it reaches this number, before it runs the last correction
        max_errors=max_corrections + 1,
        terminate_on_nonzero_returncode=False,
        directory=str(directory),
    )
    try:
        custodian.run()
    except CustodianError as error:
        raise _failure(directory, formula, corrections(custodian.run_log)) from error
    done = corrections(custodian.run_log)
    (directory / EXIT).unlink(missing_ok=True)
    if done:
        logger.warning("%s: pw.x converged after corrections: %s.", formula, "; ".join(done))
    else:
        (directory / LOG_FILE).unlink(missing_ok=True)
    return done


def corrections(run_log: list[dict[str, Any]]) -> list[str]:
    """Return custodian's corrections as texts, ``"unconverged -> electrons.mixing_beta = 0.175"``.

    Parameters
    ----------
    run_log
        As custodian keeps it.
    """
    texts = []
    for entry in run_log:
        for step in entry["corrections"]:
            if not step["actions"]:
                continue
            changes = {k: v for action in step["actions"] for k, v in action["action"]["_set"].items()}
            told = ", ".join(f"{key} = {value}" for key, value in changes.items())
            texts.append(f"{step['handler'].cause} -> {told}")
    return texts


def _failure(directory: Path, formula: str, tried: list[str]) -> AtomfoundryError:
    outcome = read_outcome(directory)
    after = f" Tried: {'; '.join(tried)}." if tried else ""
    if outcome.cause == PSEUDOPOTENTIAL:
        return EngineUnavailableError(
            f"{formula}: pw.x cannot read a pseudopotential: {outcome.detail}.{after}",
            remedy="Get the file again, or remove it from the pseudopotentials' folder.",
        )
    if outcome.cause == INPUT_MISTAKE:
        return ConfigurationError(
            f"{formula}: pw.x refuses its input: {outcome.detail}.{after}",
            remedy="Correct ecutwfc, ecutrho or input_data.",
        )
    if outcome.cause == UNCONVERGED:
        message = f"{formula}: the self-consistency cycle of pw.x did not converge.{after}"
    elif outcome.cause == WALL_TIME:
        message = f"{formula}: pw.x did not end in time: {outcome.detail}.{after}"
    else:
        message = f"{formula}: pw.x failed: {outcome.detail}.{after}"
    reason, remedy = _REASONS.get(outcome.cause, ("crashed", "Look at the structure."))
    return LabelError(message, reason=reason, remedy=remedy)


def _silence_custodian() -> None:
    # Without any handler Python would print custodian's bare class names to standard error.
    log = logging.getLogger("custodian")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
