"""Loss and mean absolute errors of a set of graphs under the current weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from atomfoundry.models.graph import GraphBatch, collate
from atomfoundry.models.training.elements import ElementSums, ForceBinSums
from atomfoundry.models.training.loss import Loss, LossTerms, over_all
from atomfoundry.models.training.part_history import PartErrors
from atomfoundry.models.training.processes import Processes

if TYPE_CHECKING:
    from torch import Tensor

    from atomfoundry.models.allegro.model import Allegro

UPPER = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""Rows and columns of the Voigt components xx, yy, zz, yz, xz, xy."""


@dataclass(frozen=True)
class ValidationErrors:
    """Loss and mean absolute errors; None where there was no label.

    Parameters
    ----------
    loss
        The training loss, over the whole set.
    energy_mae, forces_mae, stress_mae
        eV/atom, eV/A over components, eV/A^3 over the six components.
    parts
        The same by head and element, and by size of the force.
    """

    loss: float
    energy_mae: float | None
    forces_mae: float | None
    stress_mae: float | None
    parts: PartErrors = field(default_factory=PartErrors)


class _Mean:
    """A running mean of absolute values that skips what is not a number."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, error: Tensor, reference: Tensor) -> None:
        values = error[torch.isfinite(reference)].abs()
        self.total += float(values.sum())
        self.count += values.numel()

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def on_device(batch: GraphBatch, device: torch.device) -> GraphBatch:
    """Return the batch where the model is; the same object if it is there."""
    return batch if batch.positions.device == device else batch.to(device)


def in_chunks(graphs: Sequence[GraphBatch], size: int, *, processes: Processes | None = None) -> list[GraphBatch]:
    """Return the graphs collated, `size` a batch, in order.

    Parameters
    ----------
    graphs
        One structure each.
    size
        Most structures a batch.
    processes
        Return only this process's share of the batches; None: all.
    """
    starts = (processes or Processes()).share(range(0, len(graphs), size))
    return [collate(list(graphs[start : start + size])) for start in starts]


def validate(
    model: Allegro, batches: Sequence[GraphBatch], loss: Loss, *, processes: Processes | None = None
) -> ValidationErrors:
    """Return the errors of a model; sums run over the whole set, so batches do not matter.

    Parameters
    ----------
    model
        With the weights to judge.
    batches
        Labelled structures.
    loss
        The training loss.
    processes
        Who validates together, each with its own batches; None: this process alone.
    """
    processes = processes or Processes()
    device = next(model.parameters()).device
    terms = LossTerms()
    means = {"energy": _Mean(), "forces": _Mean(), "stress": _Mean()}
    heads = [head.name for head in model.config.heads]
    elements, bins = ElementSums(heads, model.config.type_names), ForceBinSums(heads)
    for batch in batches:
        batch = on_device(batch, device)
        outputs = model(batch, forces=True, stress=True, create_graph=False)
        terms.add(loss.terms(outputs, batch))
        with torch.no_grad():
            n_atoms = torch.bincount(batch.batch, minlength=batch.energy.shape[0])
            means["energy"].add((outputs["energy"] - batch.energy) / n_atoms, batch.energy)
            means["forces"].add(outputs["forces"] - batch.forces, batch.forces)
            elements.add(outputs, batch)
            bins.add(outputs, batch)
            error, reference = outputs["stress"] - batch.stress, batch.stress
            means["stress"].add(error[:, UPPER[0], UPPER[1]], reference[:, UPPER[0], UPPER[1]])
    terms = over_all(terms, processes, n_heads=len(heads))
    numbers = [number for mean in means.values() for number in (mean.total, mean.count)]
    of_elements, of_bins = elements.flat(), bins.flat()
    summed = processes.sum([*numbers, *of_elements, *of_bins])
    first, second = len(numbers), len(numbers) + len(of_elements)
    elements.set_flat(summed[first:second])
    bins.set_flat(summed[second:])
    summed = summed[:first]
    for mean, total, count in zip(means.values(), summed[::2], summed[1::2], strict=True):
        mean.total, mean.count = total, int(count)
    return ValidationErrors(
        loss=float(loss.total(terms)),
        energy_mae=means["energy"].value,
        forces_mae=means["forces"].value,
        stress_mae=means["stress"].value,
        parts=PartErrors(elements.errors(), bins.errors()),
    )
