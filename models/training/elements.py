"""Errors by element and by size of the force while a model is trained: sums over batches and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from atomfoundry.models.graph import GraphBatch
from atomfoundry.models.training.monitor import FORCE_BINS, ElementErrors, ForceBinErrors, with_alerts


class PartSums:
    """Sums over parts of the atoms, head by head, on the CPU: the same batches give the same bits.

    Parameters
    ----------
    shape
        Sums, heads, parts.
    """

    def __init__(self, *shape: int) -> None:
        self.values = torch.zeros(shape, dtype=torch.float64)

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

    def _add_atoms(self, place: Tensor, columns: Tensor) -> None:
        """Add numbers of atoms, one row a sum, to the parts that `place` (head * parts + part) names."""
        for total, column in zip(self.values, columns, strict=False):
            total += torch.bincount(place, column, minlength=total.numel()).view_as(total)


class ElementSums(PartSums):
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
        # atoms, force components, their absolute and squared errors, shares of structures, energy errors
        super().__init__(6, len(self.head_names), len(self.type_names))

    def add(self, outputs: Mapping[str, Tensor], batch: GraphBatch) -> None:
        """Add the structures of a batch.

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
        counted = [labelled.any(1).double(), labelled.sum(1).double()]
        columns = torch.stack([*counted, error.abs().sum(1), (error**2).sum(1)]).cpu()
        self._add_atoms(head[structure] * n_types + types, columns)

        n_graphs = len(head)
        counts = torch.bincount(structure * n_types + types, minlength=n_graphs * n_types).view(n_graphs, n_types)
        known = torch.isfinite(batch.energy).cpu()
        n_atoms = counts.sum(1)
        error = (outputs["energy"].detach().cpu() - batch.energy.cpu()).double() / n_atoms
        shares = (counts / n_atoms[:, None].double())[known]
        self.values[4].index_add_(0, head[known], shares)
        self.values[5].index_add_(0, head[known], shares * error[known].abs()[:, None])

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


class ForceBinSums(PartSums):
    """Sums over the labelled atoms of a set, by head and size of the reference force (ALGORITHMS 3.7).

    Parameters
    ----------
    head_names
        Of the model, in its order.
    """

    def __init__(self, head_names: Sequence[str]) -> None:
        self.head_names = list(head_names)
        # atoms, absolute and squared errors of their force components
        super().__init__(3, len(self.head_names), len(FORCE_BINS) - 1)

    def add(self, outputs: Mapping[str, Tensor], batch: GraphBatch) -> None:
        """Add the atoms of a batch that have all three labels.

        Parameters
        ----------
        outputs
            ``forces`` (N, 3), eV/A, as predicted.
        batch
            With labels.
        """
        labelled = torch.isfinite(batch.forces).all(1)
        reference = batch.forces[labelled]
        error = (outputs["forces"].detach()[labelled] - reference).double()
        edges = torch.tensor(FORCE_BINS[1:-1], dtype=torch.float64, device=reference.device)
        bins = torch.bucketize(torch.linalg.vector_norm(reference, dim=1), edges, right=True)
        place = batch.head[batch.batch[labelled]] * (len(FORCE_BINS) - 1) + bins
        columns = torch.stack([torch.ones_like(error[:, 0]), error.abs().sum(1), (error**2).sum(1)])
        self._add_atoms(place.cpu(), columns.cpu())

    def errors(self) -> list[ForceBinErrors]:
        """Return one entry for each head and bin that has atoms, small forces first."""
        found = []
        for head, name in enumerate(self.head_names):
            for i, (low, high) in enumerate(pairwise(FORCE_BINS)):
                atoms, absolute, squared = self.values[:, head, i].tolist()
                if atoms:
                    rmse, mae = math.sqrt(squared / (3 * atoms)), absolute / (3 * atoms)
                    found.append(ForceBinErrors(name, low, high, int(atoms), forces_rmse=rmse, forces_mae=mae))
        return found
