"""What a batch of labels can still do before its job ends."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from atomfoundry.deadline import must_stop, stop_requested, working_time
from atomfoundry.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.documents import LabelDoc

GROWTH = 3
"""Cost grows at most with this power of the number of atoms, as density functional theory does."""

MORE_TIME = 1.25
"""A label that a job's end has interrupted is begun again only where it has so many times the time."""

MAX_INTERRUPTIONS = 5
"""A label that so many jobs' ends have interrupted is begun again only where it has more time than ever."""

ROUNDING_S = 0.1
"""A label that was ended this close to the end was ended by it."""


class TimePlan:
    """Decides which label may still be begun.

    Parameters
    ----------
    tried
        Frame id -> seconds that a label had in each earlier job whose end interrupted it.
    """

    def __init__(self, tried: dict[str, list[float]] | None = None) -> None:
        self.tried = {key: list(seconds) for key, seconds in (tried or {}).items()}
        self._per_label: list[tuple[float, int]] = []
        self._begun = 0
        self._clock = 0.0

    def order(self, keys: Sequence[str]) -> list[str]:
        """Put frames that were interrupted first where this job gives them more time than that, else last."""
        time = working_time()
        more = [key for key in keys if key in self.tried and (time is None or time >= MORE_TIME * max(self.tried[key]))]
        rest = [key for key in keys if key not in self.tried]
        return [*more, *rest, *(key for key in keys if key in self.tried and key not in more)]

    def note(self, label: LabelDoc) -> None:
        """Learn how long a label took."""
        self._per_label.append((label.wall_time_s, max(1, label.n_atoms)))

    def may_begin(self, atoms: Atoms) -> bool:
        """Tell whether a label can be begun: the first one as long as there is any time, the others if they fit.

        Parameters
        ----------
        atoms
            The structure.
        """
        if must_stop():
            return False
        time = working_time()
        if time is None or not self._begun or not self._per_label:
            return True
        # No smaller structure is taken to be faster: part of the cost is the same for all.
        estimate = max(seconds * max(1.0, len(atoms) / n_atoms) ** GROWTH for seconds, n_atoms in self._per_label)
        return estimate <= time

    def begin(self, key: str, atoms: Atoms) -> None:
        """Start the clock of a label.

        Parameters
        ----------
        key
            The frame's id.
        atoms
            The structure.

        Raises
        ------
        LabelError
            With reason ``"timeout"``, if it had about as much time in vain before as this job gives it, or was
            interrupted too often.
        """
        time = working_time()
        tried = self.tried.get(key, [])
        before = max(tried, default=0.0)
        self._begun += 1
        # A job with far less time proves nothing about the next; but there may be no other.
        enough = before / MORE_TIME if len(tried) < MAX_INTERRUPTIONS else 0.0
        if tried and time is not None and enough <= time < MORE_TIME * before:
            raise LabelError(
                f"{atoms.get_chemical_formula()}: not computed within {before:.0f} s, and no job gives it more.",
                reason="timeout",
                remedy="Run it in longer jobs or on a faster machine.",
            )
        self._clock = monotonic()

    def interrupted(self, key: str, reason: str) -> bool:
        """Tell whether a label failed only because this job ends, and remember what time it had.

        Parameters
        ----------
        key
            The frame's id.
        reason
            Reason code of its failure.
        """
        # At its end a queue sends SIGTERM to all processes of a job, so to the code's as well, which dies of it.
        by_signal = reason == "crashed" and stop_requested() == "SIGTERM"
        left = working_time()
        by_deadline = reason == "timeout" and left is not None and left <= ROUNDING_S
        if by_signal or by_deadline:
            self.tried.setdefault(key, []).append(monotonic() - self._clock)
        return by_signal or by_deadline
