"""A clock inside GPAW's self-consistency cycle. Imports GPAW, which ``provide_gpaw`` has to find first."""

from __future__ import annotations

from typing import Any

from gpaw.convergence_criteria import Criterion

from atomfoundry.engines.time_limit import TimeLimit


class Watch(Criterion):  # type: ignore[misc]
    """A convergence criterion that is always met, and that looks at the clock.

    Parameters
    ----------
    limit
        When to end.
    what
        What is running, for the message.
    """

    name = "time"
    tablename = "time"
    description = "Time limit"

    def __init__(self, limit: TimeLimit, what: str) -> None:
        self.limit = limit
        self.what = what

    def __call__(self, context: Any) -> tuple[bool, str]:
        """Look at the clock.

        Raises
        ------
        LabelError
            With reason ``"timeout"``.
        """
        self.limit.check(self.what)
        return True, ""
