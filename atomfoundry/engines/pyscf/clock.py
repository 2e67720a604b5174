"""A time limit for code that offers a callback."""

from __future__ import annotations

import time

from atomfoundry.deadline import seconds_left
from atomfoundry.errors import LabelError


class Clock:
    """What is left for one structure: the engine's own limit, and the end of the batch job.

    Parameters
    ----------
    what
        Names the structure in errors.
    timeout
        Seconds from now; None: no limit but the batch job's.
    """

    def __init__(self, what: str, timeout: float | None) -> None:
        self._what = what
        self._timeout = timeout
        self._start = time.monotonic()

    def __call__(self, _environment: object = None) -> None:
        """Check the time; PySCF calls this after every iteration.

        Raises
        ------
        LabelError
            With reason ``"timeout"``, when time is up.
        """
        if self._timeout is not None and time.monotonic() - self._start > self._timeout:
            raise LabelError(
                f"{self._what}: PySCF ran longer than {self._timeout:g} s.",
                reason="timeout",
                remedy="Raise 'timeout', or take a smaller basis or density fitting.",
            )
        left = seconds_left()
        if left is not None and left < 0:
            raise LabelError(
                f"{self._what}: the batch job's time was over before PySCF was done.",
                reason="timeout",
                remedy="Run again; what is done is kept.",
            )
