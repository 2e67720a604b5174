"""How long this process may still work: until its batch job ends, or until it is asked to stop soon."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType

from atomfoundry.errors import AtomfoundryError, ConfigurationError, InputError

MARGIN_S = 30.0
"""Nothing new is begun in the last seconds before the end: results are stored then."""

NO_TIME_STATUS = 75
"""Exit status of a program that is not at its end and goes on when it is run again (EX_TEMPFAIL)."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What queues send ahead of the end: Slurm as asked by ``--signal`` and SIGTERM, SGE and LSF SIGUSR1 or SIGUSR2."""

_END_TIMES = ("ATOMFOUNDRY_DEADLINE", "SLURM_JOB_END_TIME")


class NoTimeLeftError(AtomfoundryError):
    """The process must end before this work could begin or end; nothing is lost, a later job does the rest."""


def end_time() -> float | None:
    """Return when this process must have ended.

    Returns
    -------
    float or None
        Seconds since 1970, the earliest of ``ATOMFOUNDRY_DEADLINE``, Slurm's ``SLURM_JOB_END_TIME``, and in a
        Torque job ``PBS_WALLTIME`` (s) after its start; None where nothing limits it. PBS Professional tells a
        job neither: set ``ATOMFOUNDRY_DEADLINE`` in the job's script.

    Raises
    ------
    ConfigurationError
        If a variable is not a number.
    """
    ends = [value for name in _END_TIMES if (value := _number(name, "a time in seconds since 1970")) is not None]
    walltime = _number("PBS_WALLTIME", "a duration in seconds")
    if walltime is not None and (job := os.environ.get("PBS_JOBID")):
        ends.append(_job_start("PBS_JOBID", job, os.getpid()) + walltime)
    return min(ends, default=None)


def seconds_left() -> float | None:
    """Return the seconds until ``end_time``, negative when it has passed; None where nothing limits it."""
    end = end_time()
    return None if end is None else end - time.time()


def working_time() -> float | None:
    """Return the seconds that work begun now may take.

    Returns
    -------
    float or None
        The seconds until a margin before ``end_time``, at least 0; the margin is ``ATOMFOUNDRY_DEADLINE_MARGIN``
        seconds, 30 by default. None where nothing limits it.

    Raises
    ------
    ConfigurationError
        If a variable is not a number.
    """
    left = seconds_left()
    if left is None:
        return None
    margin = _number("ATOMFOUNDRY_DEADLINE_MARGIN", "a duration in seconds")
    return max(0.0, left - (MARGIN_S if margin is None else margin))


def must_stop() -> bool:
    """Tell whether nothing new may be begun: the end is near, or a signal has asked to stop."""
    return stop_requested() is not None or working_time() == 0.0


def reason_to_stop() -> str:
    """Say why nothing new is begun."""
    name = stop_requested()
    return f"{name} asked this process to stop" if name else "the job ends soon"


def ended_by_stop(error: Exception) -> bool:
    """Tell whether a calculation failed only because this process has to end.

    At its end a queue sends SIGTERM to all processes of a job, so to those of an external code as well, which dies of
    it; and calculations with a time limit are ended in time.

    Parameters
    ----------
    error
        What the calculation raised; one that is the user's own is never taken for the end.
    """
    if isinstance(error, InputError):
        return False
    reason = getattr(error, "reason", "crashed")
    return (reason == "crashed" and stop_requested() == "SIGTERM") or (reason == "timeout" and must_stop())


def _number(name: str, meaning: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} is '{text}'.", remedy=f"It must be {meaning}.") from error


@lru_cache(maxsize=8)
def _job_start(variable: str, value: str, pid: int) -> float:
    """Return when the batch job began: when the oldest ancestor process that belongs to it was started."""
    import psutil

    process = psutil.Process(pid)
    start = process.create_time()
    for ancestor in process.parents():
        try:
            if ancestor.environ().get(variable) != value:
                break
        except (psutil.Error, OSError):
            break
        start = min(start, ancestor.create_time())
    return start


class _Request:
    """Which signal has asked this process to stop; a plain attribute, as a signal handler must take no lock."""

    signal: str | None = None


def stop_requested() -> str | None:
    """Return the name of the signal that has asked this process to stop soon, e.g. ``"SIGUSR1"``, or None.

    A request holds for the rest of the process's life: a script that makes several runs begins none after it.
    """
    return _Request.signal


def forget_stop() -> None:
    """Let this process go on as if nothing had asked it to stop; for those who outlive the request."""
    _Request.signal = None


@contextmanager
def stop_signals(numbers: Sequence[signal.Signals] = STOP_SIGNALS) -> Iterator[None]:
    """Take signals as a request to stop soon, see ``stop_requested``; the second of a kind acts as it did before.

    Under torchrun, which passes signals on, any number of them is one request.

    Signals reach the main thread only: in another one this does nothing. Whoever owns the process decides about
    its signals, so this is for programs (the local runner and its workers use it), not for jobs.

    Parameters
    ----------
    numbers
        Which signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        _Request.signal = signal.Signals(number).name
        # under torchrun one word comes twice: from whoever says it to all processes, and passed on by torchrun
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, before[signal.Signals(number)])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
