"""Errors of parts of the validation, epoch after epoch: what logs show and checkpoints keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from atomfoundry.models.training.monitor import ElementErrors, ForceBinErrors, with_alerts

PARTS: dict[str, tuple[type, tuple[str, ...], tuple[str, ...]]] = {
    "elements": (ElementErrors, ("head", "element"), ("n_atoms", "forces_mae", "forces_rmse", "energy_mae")),
    "force_bins": (ForceBinErrors, ("head",), ("low", "high", "n_atoms", "forces_mae", "forces_rmse")),
}
"""Kind -> class of an entry, the names that say what it is about, and its numbers."""


@dataclass(frozen=True)
class PartErrors:
    """Errors of one validation by part.

    Parameters
    ----------
    elements
        By head and element, in the model's order.
    force_bins
        By head and size of the reference force.
    """

    elements: list[ElementErrors] = field(default_factory=list)
    force_bins: list[ForceBinErrors] = field(default_factory=list)


class PartHistory:
    """Errors by part after each validation; small enough for every checkpoint."""

    def __init__(self) -> None:
        self._names: dict[str, dict[tuple[str, ...], int]] = {kind: {} for kind in PARTS}
        self._rows: dict[str, dict[int, Tensor]] = {kind: {} for kind in PARTS}

    def add(self, epoch: int, parts: PartErrors) -> None:
        """Add one validation.

        Parameters
        ----------
        epoch
            After which.
        parts
            Its errors, those of one head together.
        """
        for kind, (_, keys, numbers) in PARTS.items():
            known, rows = self._names[kind], []
            for entry in getattr(parts, kind):
                number = known.setdefault(tuple(getattr(entry, key) for key in keys), len(known))
                rows.append([epoch, number, *(getattr(entry, name) for name in numbers)])
            if rows:
                self._rows[kind][epoch] = torch.tensor(rows, dtype=torch.float64)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[int]:
        """Go through the epochs that were validated."""
        return iter(sorted(set().union(*self._rows.values())))

    def of(self, epoch: int | None) -> PartErrors:
        """Return the errors after an epoch; empty ones if it was not validated.

        Parameters
        ----------
        epoch
            Which.
        """
        found: dict[str, list[Any]] = {kind: self._entries(kind, epoch) for kind in PARTS}
        by_head = groupby(found["elements"], key=lambda entry: entry.head)
        found["elements"] = [entry for _, entries in by_head for entry in with_alerts(list(entries))]
        return PartErrors(**found)

    def _entries(self, kind: str, epoch: int | None) -> list[Any]:
        if epoch not in self._rows[kind]:
            return []
        entry, keys, numbers = PARTS[kind]
        names, found = list(self._names[kind]), []
        for _, number, *values in self._rows[kind][epoch].tolist():
            of_entry = dict(zip(numbers, values, strict=True))
            of_entry["n_atoms"] = int(of_entry["n_atoms"])
            found.append(entry(**dict(zip(keys, names[int(number)], strict=True)), **of_entry))
        return found

    @property
    def names(self) -> dict[str, list[tuple[str, ...]]]:
        """By kind, what the second column's numbers in its table stand for."""
        return {kind: list(known) for kind, known in self._names.items()}

    def tables(self) -> dict[str, Tensor]:
        """Return by kind what there is: epoch, number of the name, numbers; a row an entry, float64."""
        return {kind: torch.cat(list(rows.values())) for kind, rows in self._rows.items() if rows}

    @classmethod
    def of_tables(cls, names: Mapping[str, Sequence[Sequence[str]]], tables: Mapping[str, Tensor]) -> PartHistory:
        """Return what `names` and `tables` were taken from.

        Parameters
        ----------
        names, tables
            By kind; a kind that is missing is empty.
        """
        history = cls()
        for kind, table in tables.items():
            history._names[kind] = {tuple(key): number for number, key in enumerate(names[kind])}
            epochs, counts = table[:, 0].unique_consecutive(return_counts=True)
            parts = table.split(counts.tolist())
            history._rows[kind] = dict(zip(map(int, epochs.tolist()), parts, strict=True))
        return history
