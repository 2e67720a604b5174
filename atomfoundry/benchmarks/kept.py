"""Finished items of a benchmark, kept so that an interrupted run computes none of them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.benchmarks.records import Failure
from atomfoundry.checkpoint import Saved, opened
from atomfoundry.checkpoint.dynamics import structure_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from ase import Atoms

    from atomfoundry.checkpoint import Checkpoints


class KeptItems:
    """What is known of a benchmark's items; nothing is kept without checkpoints.

    Parameters
    ----------
    checkpoints
        Where to; None: nowhere.
    name
        Of the benchmark.
    identity
        What the outcome depends on beside the structures.
    structures
        All structures of the benchmark.

    Raises
    ------
    CheckpointError
        If the checkpoint is corrupt.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, name: str, identity: Mapping[str, Any], structures: Sequence[Atoms]
    ) -> None:
        self.name = name
        self.keeping = checkpoints is not None
        self.checkpoint = opened(
            checkpoints, name, lambda: {**identity, "structures": [structure_identity(atoms) for atoms in structures]}
        )
        self.saved = self.checkpoint.load() or Saved()

    @property
    def earlier_s(self) -> float:
        """Seconds that earlier processes have taken."""
        return self.checkpoint.earlier_s

    def get(self, key: str, structure: Atoms) -> tuple[Atoms | Failure, dict[str, Any]] | None:
        """Return the labelled frame or the failure of an item, and its details; None if it is not known.

        Parameters
        ----------
        key
            Of the item.
        structure
            The structure asked for; a relaxed frame has other positions or another cell.
        """
        entry = self.saved.state.get(key)
        if entry is None:
            return None
        arrays = self.saved.arrays
        details = {
            name: value if value is not None else arrays.get(f"{key}/details/{name}")
            for name, value in entry["details"].items()
        }
        if entry["failure"] is not None:
            return Failure(**entry["failure"]), details
        frame = structure.copy()
        frame.set_cell(arrays[f"{key}/cell"])
        frame.positions = arrays[f"{key}/positions"]
        found = (name for name in ("forces", "stress") if f"{key}/{name}" in arrays)
        labels = {name: arrays[f"{key}/{name}"].copy() for name in found}
        frame.calc = SinglePointCalculator(frame, energy=entry["energy"], **labels)
        return frame, details

    def put(self, key: str, result: Atoms | Failure, details: Mapping[str, Any] | None = None) -> None:
        """Take note of a finished item.

        Parameters
        ----------
        key
            Of the item.
        result
            The labelled frame, or why there is none.
        details
            Further values of the item's record: arrays, and what fits JSON.
        """
        if not self.keeping:
            return
        entry: dict[str, Any] = {"details": {}, "failure": None, "energy": None}
        for name, value in (details or {}).items():
            if isinstance(value, np.ndarray):
                self.saved.arrays[f"{key}/details/{name}"] = value
                value = None
            entry["details"][name] = value
        if isinstance(result, Failure):
            entry["failure"] = result.as_record()
        else:
            self.saved.arrays[f"{key}/positions"] = result.positions.copy()
            self.saved.arrays[f"{key}/cell"] = np.array(result.cell)
            for name in ("forces", "stress"):
                if result.calc.results.get(name) is not None:
                    self.saved.arrays[f"{key}/{name}"] = np.array(result.calc.results[name])
            entry["energy"] = float(result.calc.results["energy"])
        self.saved.state[key] = entry

    def saving(self) -> AbstractContextManager[None]:
        """Return a context that saves finished items where this process's end ends the calculation in work."""
        return self.checkpoint.guard(self.name, self._collect)

    def _collect(self) -> Saved:
        return self.saved

    def pause(self, done: int, n: int) -> None:
        """Tell how far the benchmark is, save where it is time to, and stop where the process must end.

        Parameters
        ----------
        done, n
            Finished items, and all.

        Raises
        ------
        NoTimeLeftError
            If the process must end; what is finished has been kept.
        """
        if done < n:
            self.checkpoint.tell(lambda: f"{self.name} {done}/{n}", done / n)
            self.checkpoint.keep(self._collect, what=f"{self.name}, {done} of {n} items")
