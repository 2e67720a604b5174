"""Losses on energies, forces and stresses of one or several heads (ALGORITHMS 3.1).

Every loss is kept as sums and counts, so that batches, and processes, add up exactly. A missing label (NaN)
leaves both. A structure's weight multiplies its terms; counts are not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atomfoundry.errors import TrainingError
from atomfoundry.units import EV_PER_A3_IN_GPA

if TYPE_CHECKING:
    from atomfoundry.models.graph import GraphBatch
    from atomfoundry.models.training.processes import Processes
    from atomfoundry.models.training.settings import LossSettings

ENERGY_DELTA = 0.01
"""Huber width of energies, eV/atom (MACE-MP-0 Eq. C1)."""
FORCES_DELTA = 0.01
"""Huber width of small forces, eV/A."""
STRESS_DELTA = 0.01
"""Huber width of stresses, eV/A^3."""

QUANTITIES = ("energy", "forces", "stress")
"""What a structure may be labelled with."""

TermKey = tuple[int, str]
"""Head index and 'energy', 'forces' or 'stress'."""


@dataclass
class LossTerms:
    """Weighted sums of errors and how many went in, per head and quantity."""

    sums: dict[TermKey, Tensor] = field(default_factory=dict)
    counts: dict[TermKey, int] = field(default_factory=dict)

    def add(self, other: LossTerms) -> None:
        """Add the detached sums and the counts of another batch."""
        for key, value in other.sums.items():
            self.sums[key] = self.sums.get(key, torch.zeros((), dtype=torch.float64)) + value.detach()
            self.counts[key] = self.counts.get(key, 0) + other.counts[key]


def over_all(terms: LossTerms, processes: Processes, *, n_heads: int) -> LossTerms:
    """Return the terms of all processes, as one of them can differentiate them.

    The sums have everybody's value but the gradient of this process's part. For one process alone they are `terms`.

    Parameters
    ----------
    terms
        Of this process.
    processes
        All of them.
    n_heads
        Heads of the model.
    """
    if processes.alone:
        return terms
    keys = [(head, quantity) for head in range(n_heads) for quantity in QUANTITIES]
    own = [float(terms.sums[key].detach()) if key in terms.sums else 0.0 for key in keys]
    summed = processes.sum([*own, *(float(terms.counts.get(key, 0)) for key in keys)])
    whole = LossTerms()
    for key, value, count in zip(keys, summed[: len(keys)], summed[len(keys) :], strict=True):
        if count:
            whole.counts[key] = int(count)
            whole.sums[key] = torch.tensor(value, dtype=torch.float64)
            if key in terms.sums:
                # the second summand is zero, so that all processes see the same bits
                whole.sums[key] = whole.sums[key] + (terms.sums[key] - terms.sums[key].detach())
    return whole


def huber(error: Tensor, delta: float | Tensor) -> Tensor:
    """Return the Huber function: d^2/2 inside |d| <= delta, delta (|d| - delta/2) outside.

    Parameters
    ----------
    error
        Any shape.
    delta
        Width, same unit; a number or broadcastable.
    """
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


def conditional_force_delta(forces: Tensor) -> Tensor:
    """Return the Huber width of each atom's force (MACE-MP-0 Eq. C2, on the norm of the reference force).

    Parameters
    ----------
    forces
        (N, 3) reference forces, eV/A.

    Returns
    -------
    Tensor
        (N,) eV/A: 0.01 x 1 below 100 eV/A, x 0.7 below 200, x 0.4 below 300, x 0.1 beyond.
    """
    norm = forces.norm(dim=-1)
    factor = torch.full_like(norm, 0.1)
    for limit, value in ((300.0, 0.4), (200.0, 0.7), (100.0, 1.0)):
        factor = torch.where(norm < limit, value, factor)
    return FORCES_DELTA * factor


class Loss:
    """A loss with its weights.

    Parameters
    ----------
    settings
        Kind, weights and units.
    force_rms
        Head index -> force RMS of that head's training set, eV/A; needed for ``normalise_by_force_rms``.
    head_weights
        Head index -> weight of the head's loss; 1 where not given.
    energy_factor
        Multiplies the energy weight (stage two).

    Raises
    ------
    TrainingError
        If the normalisation is asked for and a force RMS is missing or not positive.
    """

    def __init__(
        self,
        settings: LossSettings,
        *,
        force_rms: Mapping[int, float] | None = None,
        head_weights: Mapping[int, float] | None = None,
        energy_factor: float = 1.0,
    ) -> None:
        self.settings = settings
        energy, forces, stress = settings.weights
        self.weights = {"energy": energy * energy_factor, "forces": forces, "stress": stress}
        self.force_rms = dict(force_rms or {})
        self.head_weights = dict(head_weights or {})
        if settings.normalise_by_force_rms:
            for head, value in self.force_rms.items():
                if not value > 0:
                    raise TrainingError(
                        f"Loss normalisation by the force RMS: head {head} has a force RMS of {value} eV/A.",
                        remedy="Add frames with forces, or set 'normalise_by_force_rms' to false.",
                    )

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether forces and stress have a weight."""
        return self.weights["forces"] > 0, self.weights["stress"] > 0

    def terms(self, outputs: Mapping[str, Tensor], batch: GraphBatch) -> LossTerms:
        """Return sums and counts of one batch.

        Parameters
        ----------
        outputs
            What the model returned: energy (B,), and forces (N, 3), stress (B, 3, 3) where computed.
        batch
            The same structures with their labels, NaN where missing.
        """
        terms = LossTerms()
        n_atoms = torch.bincount(batch.batch, minlength=batch.energy.shape[0])
        for head in batch.head.unique().tolist():
            chosen = batch.head == head
            errors = self._errors(outputs, batch, chosen, n_atoms, head)
            for quantity, (error, weight) in errors.items():
                if error.numel():
                    terms.sums[head, quantity] = (weight * error).sum()
                    terms.counts[head, quantity] = error.numel()
        return terms

    def total(self, terms: LossTerms) -> Tensor:
        """Return the sum over heads and quantities of weight x mean."""
        value = torch.zeros((), dtype=torch.float64)
        for (head, quantity), part in terms.sums.items():
            mean = part / terms.counts[head, quantity]
            if not self.is_linear:
                # the square root's slope is infinite at zero error
                mean = torch.sqrt(mean + 1e-30)
            value = value + self.head_weights.get(head, 1.0) * self.weights[quantity] * mean
        return value

    @property
    def is_linear(self) -> bool:
        """Whether the loss is linear in the sums: all but root mean squares are."""
        return self.settings.kind == "mace_universal" or self.settings.form == "mse"

    def counts(self, batch: GraphBatch) -> dict[TermKey, int]:
        """Return the counts that `terms` will find, from the labels alone.

        Parameters
        ----------
        batch
            Structures with labels.
        """
        found: dict[TermKey, int] = {}
        for head in batch.head.unique().tolist():
            chosen = batch.head == head
            masks = {
                "energy": chosen & torch.isfinite(batch.energy),
                "forces": chosen[batch.batch][:, None] & torch.isfinite(batch.forces),
                "stress": chosen[:, None, None] & torch.isfinite(batch.stress),
            }
            for quantity, mask in masks.items():
                if self.weights[quantity] > 0 and (count := int(mask.sum())):
                    found[head, quantity] = count
        return found

    def slopes(self, terms: LossTerms) -> dict[TermKey, Tensor]:
        """Return the derivative of `total` by each of the sums.

        Parameters
        ----------
        terms
            Of the whole step.
        """
        leaves = {key: value.detach().clone().requires_grad_() for key, value in terms.sums.items()}
        gradients = torch.autograd.grad(self.total(LossTerms(leaves, terms.counts)), list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))

    def __call__(self, outputs: Mapping[str, Tensor], batch: GraphBatch) -> Tensor:
        """Return the loss of one batch, a float64 scalar."""
        return self.total(self.terms(outputs, batch))

    def _errors(
        self,
        outputs: Mapping[str, Tensor],
        batch: GraphBatch,
        chosen: Tensor,
        n_atoms: Tensor,
        head: int,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return per quantity the penalties of one head's labelled components and their weights."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        huberised = self.settings.kind == "mace_universal"
        unit = 1.0
        if self.settings.normalise_by_force_rms:
            if head not in self.force_rms:
                raise TrainingError(
                    f"Loss normalisation by the force RMS: none is known for head {head}.",
                    remedy="Give the force RMS of every head that has frames.",
                )
            unit = self.force_rms[head]

        if self.weights["energy"] > 0:
            mask = chosen & torch.isfinite(batch.energy)
            error = (outputs["energy"][mask] - batch.energy[mask]) / n_atoms[mask]
            penalty = huber(error, ENERGY_DELTA) if huberised else (error / unit) ** 2
            found["energy"] = (penalty, batch.weight[mask])

        if self.weights["forces"] > 0 and "forces" in outputs:
            atom_chosen = chosen[batch.batch]
            mask = atom_chosen[:, None] & torch.isfinite(batch.forces)
            error = outputs["forces"].double()[mask] - batch.forces[mask]
            if huberised:
                delta = conditional_force_delta(batch.forces)[:, None].expand_as(mask)[mask]
                penalty = huber(error, delta)
            else:
                penalty = (error / unit) ** 2
            found["forces"] = (penalty, batch.weight[batch.batch][:, None].expand_as(mask)[mask])

        if self.weights["stress"] > 0 and "stress" in outputs:
            mask = chosen[:, None, None] & torch.isfinite(batch.stress)
            factor = self._stress_factor(batch, n_atoms)[:, None, None].expand_as(mask)[mask]
            error = (outputs["stress"].double()[mask] - batch.stress[mask]) * factor
            penalty = huber(error, STRESS_DELTA) if huberised else (error / unit) ** 2
            found["stress"] = (penalty, batch.weight[:, None, None].expand_as(mask)[mask])
        return found

    def _stress_factor(self, batch: GraphBatch, n_atoms: Tensor) -> Tensor:
        """Return (B,) what takes eV/A^3 to the loss's stress unit."""
        if self.settings.stress_unit == "GPa":
            return torch.full_like(batch.energy, EV_PER_A3_IN_GPA)
        if self.settings.stress_unit == "eV/atom":
            return torch.linalg.det(batch.cell.double()).abs() / n_atoms
        return torch.ones_like(batch.energy)
