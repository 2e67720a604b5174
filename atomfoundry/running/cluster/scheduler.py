"""What the batch queue knows about jobs: Slurm by squeue, PBS and Torque by qstat."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from atomfoundry.errors import ConfigurationError
from atomfoundry.running.cluster.profiles import SCHEDULERS, nearest

logger = logging.getLogger(__name__)

JobState = Literal["pending", "running", "gone", "unknown"]

TIMEOUT_S = 60.0
"""squeue itself gives a silent controller about 20 s."""

_CHUNK = 200
"""Jobs asked for at a time, as a command line is limited and a long answer burdens the controller."""

_SLURM_ID = re.compile(r"\d+(_\d+|\+\d+)?")
_PBS_ID = re.compile(r"(?P<key>\d+(\[\d*\])?)(\.[A-Za-z0-9_.-]*\*?)?")

_SLURM_STATES: dict[str, JobState] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
        "pending",
    ),
    **dict.fromkeys(("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"), "running"),
    **dict.fromkeys(
        ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
        "gone",
    ),
    **dict.fromkeys(("REVOKED", "TIMEOUT"), "gone"),
}
_PBS_STATES: dict[str, JobState] = {
    **dict.fromkeys("QHTW", "pending"),
    **dict.fromkeys("RESUB", "running"),
    **dict.fromkeys("CFX", "gone"),
}
"""M, moved to another server, is unknown here."""

_PBS_GONE = (
    re.compile(r"Unknown Job Id(?: Error)? (\S+)"),
    re.compile(r"qstat: (\S+) Job has finished"),
)


@dataclass(frozen=True)
class Answer:
    """What a command said.

    Parameters
    ----------
    status
        Its exit status.
    output, errors
        What it wrote.
    """

    status: int
    output: str
    errors: str


def job_states(ids: Iterable[str], scheduler: str, *, timeout: float = TIMEOUT_S) -> dict[str, JobState]:
    """Ask the queue what has become of jobs.

    A job is ``"gone"`` only where the scheduler has answered and says so: one that does not answer, or answers
    with something else, makes it ``"unknown"``, so that nobody takes a running job for lost.

    Parameters
    ----------
    ids
        Job ids as the submitting command gave them: Slurm ``"123"``, an array's ``"123_4"``, or ``"123"`` for the
        whole array; PBS ``"123"``, ``"123.server"``, ``"123[4].server"``. An array is running if a part is.
    scheduler
        ``"slurm"``, or ``"pbs"`` for PBS Professional, OpenPBS and Torque.
    timeout
        Seconds that one command may take.

    Returns
    -------
    dict
        State by id: ``"pending"`` (waiting or held), ``"running"`` (suspended and ending ones included),
        ``"gone"`` or ``"unknown"``.

    Raises
    ------
    ConfigurationError
        If there is no such scheduler.
    """
    if scheduler not in SCHEDULERS:
        raise ConfigurationError(f"No scheduler '{scheduler}'.", remedy=nearest(scheduler, SCHEDULERS))
    pattern, ask = (_SLURM_ID, _ask_slurm) if scheduler == "slurm" else (_PBS_ID, _ask_pbs)
    wanted = list(dict.fromkeys(ids))
    states: dict[str, JobState] = dict.fromkeys(wanted, "unknown")
    valid = [job for job in wanted if pattern.fullmatch(job)]
    if len(valid) < len(wanted):
        logger.warning("No ids of %s: %s", scheduler, ", ".join(sorted({*wanted} - {*valid})))
    for start in range(0, len(valid), _CHUNK):
        states.update(ask(valid[start : start + _CHUNK], timeout))
    return states


# -- Slurm -------------------------------------------------------------------------------------------------------


def _ask_slurm(ids: Sequence[str], timeout: float) -> dict[str, JobState]:
    # Hidden partitions too, and ended jobs as long as Slurm remembers them; an array's waiting jobs line by line.
    command = ["squeue", "--noheader", "--all", "--states=all", "--array", "--format=%i|%A|%F|%T"]
    answer = _answer([*command, f"--jobs={','.join(ids)}"], timeout)
    return parse_squeue(answer, ids) if answer else {}


def parse_squeue(answer: Answer, ids: Sequence[str]) -> dict[str, JobState]:
    """Read what ``squeue --array --format='%i|%A|%F|%T'`` said about jobs.

    Parameters
    ----------
    answer
        What it said.
    ids
        The jobs asked for.

    Returns
    -------
    dict
        State by id, empty where squeue has not answered.
    """
    # Of several ids it leaves out those it does not know; about a single one it complains.
    unknown_id = len(ids) == 1 and "Invalid job id specified" in answer.errors
    if not unknown_id and (answer.status or "error:" in answer.errors):
        _complain("squeue", answer)
        return {}
    found: dict[str, set[str]] = {}
    for line in answer.output.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 4:
            _complain("squeue", answer)
            return {}
        # A job of an array has three names: 12_3, one of its own (which its processes see), and the array's.
        for name in set(fields[:3]):
            found.setdefault(name, set()).add(fields[3])
    return {job: _together(_SLURM_STATES.get(word, "unknown") for word in found.get(job, ())) for job in ids}


# -- PBS ---------------------------------------------------------------------------------------------------------


def _ask_pbs(ids: Sequence[str], timeout: float) -> dict[str, JobState]:
    # The short form: the full one (-f) is heavy work for a server, and its JSON is not always valid.
    answer = _answer(["qstat", *ids], timeout)
    return parse_qstat(answer, ids) if answer else {}


def parse_qstat(answer: Answer, ids: Sequence[str]) -> dict[str, JobState]:
    """Read what ``qstat ID ...`` said about jobs.

    Parameters
    ----------
    answer
        What it said; its table cuts the server's name off.
    ids
        The jobs asked for.

    Returns
    -------
    dict
        State by id; without those that the server has not spoken of.
    """
    found: dict[str, set[JobState]] = {}
    for line in answer.output.splitlines():
        words = line.split()
        if len(words) >= 4 and (match := _PBS_ID.fullmatch(words[0])):
            found.setdefault(match["key"], set()).add(_PBS_STATES.get(words[-2], "unknown"))
    for pattern in _PBS_GONE:
        for name in pattern.findall(answer.errors):
            if match := _PBS_ID.match(name):
                found.setdefault(match["key"], set()).add("gone")
    states = {job: _together(found[key]) for job in ids if (key := _pbs_key(job)) in found}
    if len(states) < len(ids):
        _complain("qstat", answer)
    return states


def _pbs_key(job: str) -> str:
    return job.partition(".")[0]


# -- both --------------------------------------------------------------------------------------------------------


def _together(states: Iterable[JobState]) -> JobState:
    """Return the state of an array from those of its parts; of nothing it is gone."""
    present = set(states)
    order: tuple[JobState, ...] = ("running", "pending", "unknown")
    return next((state for state in order if state in present), "gone")


def _complain(program: str, answer: Answer) -> None:
    said = " ".join((answer.errors.strip() or answer.output.strip()).split())[:300]
    logger.warning("%s ended with %d: %s", program, answer.status, said or "no word")


def _answer(command: Sequence[str], timeout: float) -> Answer | None:
    """Run a command that a site may have wrapped in a script; None if it cannot be run or takes too long."""
    # What a user set for the eye (SQUEUE_PARTITION, SQUEUE_STATES, a format) would hide jobs here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        logger.warning("%s cannot be run: %s", command[0], error)
        return None
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # The group: a wrapper's child would hold the pipes open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            logger.warning("%s has not answered in %g s", command[0], timeout)
            return None
    return Answer(process.returncode, output, errors)
