"""One step of the optimiser, and what becomes of steps whose loss is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from atomfoundry.errors import TrainingError
from atomfoundry.models.training.gradient import Gradient
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
        self.course = course
        self.settings = settings
        self.gradient = Gradient(model, course.parameters, processes)

    def __call__(
        self, batches: Sequence[GraphBatch], names: Sequence[str], *, loss: Loss, done: float, in_parts: bool = False
    ) -> None:
        """Do one optimiser step; a NaN skips it.

        Parameters
        ----------
        batches
            This process's structures; none, if it has no part in this step.
        names
            Of all processes' structures.
        loss
            To be lowered.
        done
            Part of the training that is done, 0 to 1.
        in_parts
            Whether any process has several batches: then they are evaluated one after the other, so that memory
            holds one at a time, and the gradients add up.

        Raises
        ------
        TrainingError
            If too many steps in a row had to be skipped.
        """
        course, progress = self.course, self.course.progress
        if not progress.gradient_shares:
            progress.gradient_shares = self.gradient.shares(batches, loss)
        differentiate = self.gradient.in_parts if in_parts else self.gradient.at_once
        value = differentiate(batches, loss)
        if value is None:
            return
        finite = math.isfinite(value)
        if finite and self.settings.sam_rho > 0:
            with ascended(course.parameters, rho=self.settings.sam_rho, adaptive=self.settings.sam_adaptive):
                uphill = differentiate(batches, loss)
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
