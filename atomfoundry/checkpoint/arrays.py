"""Computations of many like items, one array each: what is finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from atomfoundry.checkpoint.files import Saved
from atomfoundry.checkpoint.keeper import Checkpoints, opened


class KeptArrays:
    """Arrays of finished items; nothing is kept without checkpoints.

    Parameters
    ----------
    checkpoints
        Where to; None: nowhere.
    name
        Kind of computation; part of the file's name.
    what
        The computation, for messages.
    identity
        Returns all that its outcome depends on.

    Attributes
    ----------
    saved
        All that is known; a caller may keep more in it.

    Raises
    ------
    CheckpointError
        If the checkpoint is corrupt.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, name: str, what: str, identity: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.what = what
        self._checkpoint = opened(checkpoints, name, identity)
        self.saved = self._checkpoint.load() or Saved()

    def each(self, key: str, n: int, compute: Callable[[int], np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the array of every item, known or computed.

        Parameters
        ----------
        key
            Of this kind of items.
        n
            Their number.
        compute
            Returns the array of an item's number.

        Raises
        ------
        NoTimeLeftError
            If the process must end; what is finished has been kept.
        """
        computed = False
        for number in range(n):
            name = f"{key}/{number}"
            if name not in self.saved.arrays:
                computed = True
                with self._checkpoint.guard(self.what, self._collect):
                    self.saved.arrays[name] = np.asarray(compute(number))
                self.pause(f"{key} {number + 1} of {n}", (number + 1) / n)
            yield self.saved.arrays[name]
        if computed:
            self._checkpoint.finish(self.saved)

    def pause(self, where: str, fraction: float) -> None:
        """Tell how far the computation is, save where it is time to, and stop where the process must end.

        Parameters
        ----------
        where
            For messages.
        fraction
            How much of this part is done.

        Raises
        ------
        NoTimeLeftError
            If the process must end; what is finished has been kept.
        """
        message = f"{self.what}, {where}"
        self._checkpoint.tell(lambda: message, fraction)
        self._checkpoint.keep(self._collect, what=message)

    def _collect(self) -> Saved:
        return self.saved
