"""One step of the optimiser: the gradient of the whole batch, over all processes, and what follows from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from atomfoundry.errors import TrainingError
from atomfoundry.models.training.loss import LossTerms, over_all
from atomfoundry.models.training.sharpness import ascended

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch
    from atomfoundry.models.training.course import Course
    from atomfoundry.models.training.loss import Loss
    from atomfoundry.models.training.processes import Processes
    from atomfoundry.models.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

HALVE_AFTER = 3
"""NaN losses in a row that halve the learning rate."""
ABORT_AFTER = 10
"""NaN losses in a row that end the training."""


class Stepper:
    """Does the steps of a training.

    Parameters
    ----------
    model
        In training.
    course
        Its weights, optimiser and progress.
    settings
        Of the training.
    processes
        Who trains.
    """

    def __init__(self, model: Allegro, course: Course, settings: TrainingSettings, processes: Processes) -> None:
        self.model = model
        self.course = course
        self.settings = settings
        self.processes = processes

    def __call__(self, batch: GraphBatch | None, names: Sequence[str], *, loss: Loss, done: float) -> None:
        """Do one optimiser step; a NaN skips it.

        Parameters
        ----------
        batch
            This process's structures; None if it has none.
        names
            Of all processes' structures.
        loss
            To be lowered.
        done
            Part of the training that is done, 0 to 1.

        Raises
        ------
        TrainingError
            If too many steps in a row had to be skipped.
        """
        course, progress = self.course, self.course.progress
        value = self._gradient(batch, loss)
        if value is None:
            return
        finite = math.isfinite(value)
        if finite and self.settings.sam_rho > 0:
            with ascended(course.parameters, rho=self.settings.sam_rho, adaptive=self.settings.sam_adaptive):
                uphill = self._gradient(batch, loss)
            finite = uphill is not None and math.isfinite(uphill)
        limit = self.settings.clip_norm if self.settings.clip_norm is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(course.parameters, limit)
        if not (finite and math.isfinite(norm.item())):
            self._skip(names)
            return
        progress.nan_streak = 0
        course.learning_rate = course.schedule.learning_rate(done)
        course.optimizer.step()
        if course.ema is not None:
            course.ema.update(course.named)
        progress.loss_sum += value * len(names)
        progress.frames_sum += len(names)

    def _gradient(self, batch: GraphBatch | None, loss: Loss) -> float | None:
        """Set the gradients to those of the whole step and return its loss; None without any label."""
        terms = LossTerms()
        if batch is not None:
            forces, stress = loss.needs
            outputs = self.model(batch, forces=forces, stress=stress, create_graph=True)
            terms = loss.terms(outputs, batch)
        terms = over_all(terms, self.processes, n_heads=len(self.model.config.heads))
        if not terms.sums:
            return None
        if not self.course.progress.gradient_shares:
            self.course.progress.gradient_shares = self._gradient_shares(terms, loss)
        value = loss.total(terms)
        self.course.optimizer.zero_grad(set_to_none=True)
        if value.requires_grad:
            value.backward()
        self.processes.sum_gradients(self.course.parameters)
        return value.item()

    def _skip(self, names: Sequence[str]) -> None:
        progress = self.course.progress
        progress.nan_streak += 1
        progress.n_skipped += 1
        listed = ", ".join(names)
        logger.warning("Loss or gradient is not finite in epoch %d; skipped %s", progress.epoch, listed)
        if progress.nan_streak % HALVE_AFTER == 0:
            self.course.schedule.halve()
        if progress.nan_streak >= ABORT_AFTER:
            raise TrainingError(
                f"Loss or gradient was not finite in {ABORT_AFTER} steps in a row, "
                f"in epoch {progress.epoch}, last for the frames {listed}.",
                remedy="Check these frames' labels, or lower the learning rate.",
            )

    def _gradient_shares(self, terms: LossTerms, loss: Loss) -> dict[str, float]:
        norms = {}
        parameters = self.course.parameters
        for (head, quantity), value in terms.sums.items():
            part = loss.total(LossTerms({(head, quantity): value}, {(head, quantity): terms.counts[head, quantity]}))
            self.course.optimizer.zero_grad(set_to_none=True)
            if part.requires_grad:
                gradients = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
            self.processes.sum_gradients(parameters)
            total = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters if p.grad is not None))
            norms[f"{self.model.config.heads[head].name}/{quantity}"] = total
        whole = sum(norms.values())
        shares = {name: norm / whole for name, norm in norms.items()} if whole > 0 else norms
        logger.info("Gradient shares of the loss terms: %s", shares)
        return shares
