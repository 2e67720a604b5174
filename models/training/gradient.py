"""The gradient of one step's loss: of one batch or of several after each other, of one process or of many."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atomfoundry.models.training.loss import LossTerms, TermKey, over_all

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch
    from atomfoundry.models.training.loss import Loss
    from atomfoundry.models.training.processes import Processes

logger = logging.getLogger(__name__)


class Gradient:
    """Sets the gradients of a model's parameters to those of a step's whole loss.

    Parameters
    ----------
    model
        In training.
    parameters
        Those that are trained.
    processes
        Who trains; all of them must call the same methods in the same order.
    """

    def __init__(self, model: Allegro, parameters: Sequence[Tensor], processes: Processes) -> None:
        self.model = model
        self.parameters = parameters
        self.processes = processes

    def at_once(self, batches: Sequence[GraphBatch], loss: Loss) -> float | None:
        """Differentiate the loss of at most one batch a process.

        Parameters
        ----------
        batches
            This process's: one or none.
        loss
            To be lowered.

        Returns
        -------
        float or None
            The loss of the whole step; None, and no gradients, if nothing in it is labelled.
        """
        terms = self._over_all(self._terms(batches[0], loss) if batches else LossTerms())
        if not terms.sums:
            return None
        value = loss.total(terms)
        self._forget()
        if value.requires_grad:
            value.backward()
        self.processes.sum_gradients(self.parameters)
        return value.item()

    def in_parts(self, batches: Sequence[GraphBatch], loss: Loss) -> float | None:
        """Differentiate the loss of several batches a process; memory holds the graph of one at a time.

        The gradient is that of all batches at once: each sum enters with the loss's derivative by it, which for mean
        squares and Huber losses follows from the labels alone. Root mean squares take a further evaluation.

        Parameters
        ----------
        batches, loss
            As for `at_once`.
        """
        whole = self._whole(batches, loss)
        if not whole.sums:
            return None
        done = self._add_up(batches, loss, loss.slopes(whole))
        return loss.total(self._over_all(done)).item()

    def shares(self, batches: Sequence[GraphBatch], loss: Loss) -> dict[str, float]:
        """Return each loss term's share in the sum of the norms of the terms' gradients.

        Parameters
        ----------
        batches, loss
            As for `in_parts`.

        Returns
        -------
        dict
            'HEAD/QUANTITY' -> share; empty if nothing is labelled.
        """
        whole = self._whole(batches, loss)
        slopes = loss.slopes(whole) if whole.sums else {}
        norms = {}
        for key, slope in slopes.items():
            self._add_up(batches, loss, {key: slope})
            squares = sum(float((p.grad.double() ** 2).sum()) for p in self.parameters if p.grad is not None)
            norms[f"{self.model.config.heads[key[0]].name}/{key[1]}"] = math.sqrt(squares)
        total = sum(norms.values())
        shares = {name: norm / total for name, norm in norms.items()} if total > 0 else norms
        logger.info("Gradient shares of the loss terms: %s", shares)
        return shares

    def _terms(self, batch: GraphBatch, loss: Loss) -> LossTerms:
        forces, stress = loss.needs
        return loss.terms(self.model(batch, forces=forces, stress=stress, create_graph=True), batch)

    def _over_all(self, terms: LossTerms) -> LossTerms:
        return over_all(terms, self.processes, n_heads=len(self.model.config.heads))

    def _whole(self, batches: Sequence[GraphBatch], loss: Loss) -> LossTerms:
        """Return what the loss's derivatives depend on: all counts, and the sums unless it is linear in them."""
        terms = LossTerms()
        for batch in batches:
            if loss.is_linear:
                counts = loss.counts(batch)
                terms.add(LossTerms({key: torch.zeros((), dtype=torch.float64) for key in counts}, counts))
            else:
                forces, stress = loss.needs
                with torch.no_grad():
                    outputs = self.model(batch, forces=forces, stress=stress, create_graph=False)
                terms.add(loss.terms(outputs, batch))
        return self._over_all(terms)

    def _add_up(self, batches: Sequence[GraphBatch], loss: Loss, slopes: Mapping[TermKey, Tensor]) -> LossTerms:
        """Set the gradients to those of the sums times their slopes and return this process's terms."""
        self._forget()
        done = LossTerms()
        for batch in batches:
            terms = self._terms(batch, loss)
            parts = [slopes[key] * value for key, value in terms.sums.items() if key in slopes]
            if parts:
                torch.stack(parts).sum().backward()
            done.add(terms)
        self.processes.sum_gradients(self.parameters)
        return done

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
