"""How long this process may still run: the end of its batch job, as the queue tells it."""

from __future__ import annotations

import os
import time

from atomfoundry.errors import ConfigurationError

_END_TIMES = ("ATOMFOUNDRY_DEADLINE", "SLURM_JOB_END_TIME")


def end_time() -> float | None:
    """Return when this process must have ended.

    Returns
    -------
    float or None
        Seconds since 1970, the earliest of ``ATOMFOUNDRY_DEADLINE`` and Slurm's ``SLURM_JOB_END_TIME``; None
        where nothing limits it.

    Raises
    ------
    ConfigurationError
        If a variable is not a number.
    """
    ends = []
    for name in _END_TIMES:
        if text := os.environ.get(name):
            try:
                ends.append(float(text))
            except ValueError as error:
                raise ConfigurationError(
                    f"{name} is '{text}'.", remedy="It must be a time in seconds since 1970."
                ) from error
    return min(ends, default=None)


def seconds_left() -> float | None:
    """Return the seconds until ``end_time``, negative when it has passed; None where nothing limits it."""
    end = end_time()
    return None if end is None else end - time.time()
