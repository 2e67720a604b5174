"""How long one calculation may take: its own limit, or the end of the batch job that it runs in."""

from __future__ import annotations

import time

from atomfoundry.deadline import seconds_left
from atomfoundry.errors import LabelError


class TimeLimit:
    """A clock that starts now.

    Parameters
    ----------
    seconds
        Limit of this calculation.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    def remaining(self) -> float:
        """Return the seconds left of both limits, 0 when one has passed."""
        own = self.seconds - (time.monotonic() - self._start)
        left = seconds_left()
        return max(0.0, own if left is None else min(own, left))

    def error(self, what: str) -> LabelError:
        """Return the error of a calculation that has to end.

        Parameters
        ----------
        what
            Structure and code.
        """
        left = seconds_left()
        if left is not None and left <= 0:
            return LabelError(
                f"{what} was stopped at the end of its job's time.", reason="timeout", remedy="It is tried again."
            )
        return LabelError(f"{what} ran longer than {self.seconds:g} s.", reason="timeout", remedy="Raise 'timeout'.")

    def check(self, what: str) -> None:
        """Stop a calculation whose time is over.

        Raises
        ------
        LabelError
            With reason ``"timeout"``.
        """
        if self.remaining() <= 0:
            raise self.error(what)
