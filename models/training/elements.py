"""Errors by element while a model is trained: sums that add up over batches and processes, and their history."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from atomfoundry.models.graph import GraphBatch
from atomfoundry.models.training.monitor import ElementErrors, with_alerts

N_SUMS = 6
"""Of an element: atoms, force components, their absolute and squared errors, shares of structures, energy errors."""


class ElementSums:
    """Sums over the labelled structures of a set, by head and element (ALGORITHMS 3.7).

    The work is one pass over the atoms. A structure's energy error goes to its elements by their share of its atoms.

    Parameters
    ----------
    head_names, type_names
        Of the model, in its order.
    """

    def __init__(self, head_names: Sequence[str], type_names: Sequence[str]) -> None:
        self.head_names = list(head_names)
        self.type_names = list(type_names)
        self.values = torch.zeros(N_SUMS, len(self.head_names), len(self.type_names), dtype=torch.float64)

    def add(self, outputs: Mapping[str, Tensor], batch: GraphBatch) -> None:
        """Add the structures of a batch.

        They are counted on the CPU, in order, so that the same batches give the same bits.

        Parameters
        ----------
        outputs
            ``energy`` (B,), eV, and ``forces`` (N, 3), eV/A, as predicted.
        batch
            With labels; what is not a number is left out.
        """
        n_types = len(self.type_names)
        types, structure, head = batch.types.cpu(), batch.batch.cpu(), batch.head.cpu()
        labelled = torch.isfinite(batch.forces)
        error = torch.where(labelled, outputs["forces"].detach() - batch.forces, 0.0).double()
        columns = torch.stack([labelled.any(1), labelled.sum(1), error.abs().sum(1), (error**2).sum(1)]).cpu()
        place = head[structure] * n_types + types
        for total, column in zip(self.values[:4], columns, strict=True):
            total += torch.bincount(place, column, minlength=total.numel()).view_as(total)

        n_graphs = len(head)
        counts = torch.bincount(structure * n_types + types, minlength=n_graphs * n_types).view(n_graphs, n_types)
        known = torch.isfinite(batch.energy).cpu()
        n_atoms = counts.sum(1)
        error = (outputs["energy"].detach().cpu() - batch.energy.cpu()).double() / n_atoms
        shares = (counts / n_atoms[:, None].double())[known]
        self.values[4].index_add_(0, head[known], shares)
        self.values[5].index_add_(0, head[known], shares * error[known].abs()[:, None])

    def flat(self) -> list[float]:
        """Return all sums, to be added up over processes."""
        return self.values.flatten().tolist()

    def set_flat(self, values: Sequence[float]) -> None:
        """Replace the sums.

        Parameters
        ----------
        values
            As `flat` returns them.
        """
        self.values = torch.tensor(values, dtype=torch.float64).view_as(self.values)

    def errors(self) -> list[ElementErrors]:
        """Return one entry for each head and element that has labels, in the model's order."""
        found: list[ElementErrors] = []
        for head, name in enumerate(self.head_names):
            entries = []
            for type_, element in enumerate(self.type_names):
                atoms, components, absolute, squared, share, energy = self.values[:, head, type_].tolist()
                if components or share:
                    entries.append(
                        ElementErrors(
                            element=element,
                            head=name,
                            n_atoms=int(atoms),
                            forces_rmse=math.sqrt(squared / components) if components else math.nan,
                            forces_mae=absolute / components if components else math.nan,
                            energy_mae=energy / share if share else math.nan,
                        )
                    )
            found += with_alerts(entries)
        return found


class ElementHistory:
    """Errors by element, validation after validation; small enough for every checkpoint.

    Parameters
    ----------
    names
        Head and element of each of the second column's numbers in `table`.
    table
        What `table` returned; None: nothing was validated yet.
    """

    def __init__(self, names: Sequence[Sequence[str]] = (), table: Tensor | None = None) -> None:
        self._numbers = {(head, element): number for number, (head, element) in enumerate(names)}
        self._rows: dict[int, Tensor] = {}
        if table is not None and len(table):
            epochs, counts = table[:, 0].unique_consecutive(return_counts=True)
            self._rows = dict(zip(map(int, epochs.tolist()), table.split(counts.tolist()), strict=True))

    @property
    def names(self) -> list[tuple[str, str]]:
        """Heads and elements met so far."""
        return list(self._numbers)

    def add(self, epoch: int, errors: Sequence[ElementErrors]) -> None:
        """Add one validation.

        Parameters
        ----------
        epoch
            After which.
        errors
            One entry a head and element, heads together.
        """
        rows = [
            (
                epoch,
                self._numbers.setdefault((entry.head, entry.element), len(self._numbers)),
                entry.n_atoms,
                entry.forces_rmse,
                entry.forces_mae,
                entry.energy_mae,
            )
            for entry in errors
        ]
        if rows:
            self._rows[epoch] = torch.tensor(rows, dtype=torch.float64)

    def table(self) -> Tensor:
        """Return all as (R, 6) float64: epoch, number of the name, atoms, RMSE and MAE of forces, MAE of energies."""
        return torch.cat([torch.zeros(0, 6, dtype=torch.float64), *self._rows.values()])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        """Go through the epochs that were validated."""
        return iter(self._rows)

    def of(self, epoch: int | None) -> list[ElementErrors]:
        """Return the errors after an epoch; nothing if it was not validated.

        Parameters
        ----------
        epoch
            Which.
        """
        rows = self._rows.get(epoch) if epoch is not None else None
        if rows is None:
            return []
        names = self.names
        found: list[ElementErrors] = []
        for head, entries in groupby(rows.tolist(), key=lambda row: names[int(row[1])][0]):
            found += with_alerts(
                [
                    ElementErrors(
                        element=names[int(number)][1],
                        head=head,
                        n_atoms=int(n_atoms),
                        forces_rmse=rmse,
                        forces_mae=mae,
                        energy_mae=energy_mae,
                    )
                    for _, number, n_atoms, rmse, mae, energy_mae in entries
                ]
            )
        return found
