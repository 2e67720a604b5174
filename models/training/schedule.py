"""Learning rate as a function of progress, and the moving average of the weights (ALGORITHMS 3.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn import Module

    from atomfoundry.models.training.settings import TrainingSettings


@dataclass
class ScheduleState:
    """What a schedule remembers: its factor, the best loss, bad evaluations since."""

    factor: float = 1.0
    best: float | None = None
    bad: int = 0

    def as_dict(self) -> dict[str, float | int | None]:
        """Return a JSON-ready copy."""
        return asdict(self)


class Schedule:
    """Learning rate of a training.

    It depends on progress alone (epochs done over epochs to do), not on how many batches an epoch makes.

    Parameters
    ----------
    settings
        Of the training.
    state
        Of an earlier training that goes on.
    """

    def __init__(self, settings: TrainingSettings, state: Mapping[str, float | int | None] | None = None) -> None:
        self.settings = settings
        self.state = ScheduleState(**(state or {}))  # type: ignore[arg-type]

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate.

        Parameters
        ----------
        progress
            0 at the beginning, 1 after the last epoch; taken at the middle of a step, so never exactly 0.
        """
        settings = self.settings
        peak = settings.lr * self.state.factor
        warmup = settings.warmup_fraction
        if progress < warmup:
            return peak * progress / warmup
        if settings.schedule in ("constant", "plateau"):
            return peak
        x = min(1.0, (progress - warmup) / (1.0 - warmup))
        end = settings.final_lr_fraction
        return peak * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * x)))

    def evaluated(self, loss: float) -> None:
        """Take note of a validation loss; a plateau lowers the factor."""
        if self.settings.schedule != "plateau":
            return
        if self.state.best is None or loss < self.state.best:
            self.state.best, self.state.bad = loss, 0
            return
        self.state.bad += 1
        if self.state.bad > self.settings.plateau_patience:
            self.state.factor *= self.settings.plateau_factor
            self.state.bad = 0

    def halve(self) -> None:
        """Halve the learning rate, after NaN losses."""
        self.state.factor *= 0.5

    @property
    def exhausted(self) -> bool:
        """Whether a plateau schedule fell below its smallest learning rate."""
        return self.settings.schedule == "plateau" and self.settings.lr * self.state.factor < self.settings.min_lr


class MovingAverage:
    """Exponential moving average of the trainable parameters.

    ``theta_ema <- d theta_ema + (1 - d) theta`` with ``d = min(decay, (1 + t)/(10 + t))`` at step t, so that
    early averages do not remember the random start.

    Parameters
    ----------
    parameters
        (name, parameter) pairs to follow.
    decay
        Largest decay.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], *, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.values = {name: value.detach().clone() for name, value in parameters}

    def update(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take in the parameters after one optimiser step."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        with torch.no_grad():
            for name, value in parameters:
                self.values[name].lerp_(value.detach(), 1.0 - decay)


@contextmanager
def weights_of(model: Module, values: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Lend a model other parameter values for a while.

    Parameters
    ----------
    model
        The model.
    values
        Name -> value for some or all parameters; None leaves the model as it is.
    """
    if values is None:
        yield
        return
    parameters = {name: p for name, p in model.named_parameters() if name in values}
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])
