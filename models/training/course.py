"""All that changes while a model is trained, which is all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atomfoundry.documents.model import EpochRecord
from atomfoundry.models.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from atomfoundry.models.training.part_history import PartHistory
from atomfoundry.models.training.schedule import MovingAverage, Schedule

if TYPE_CHECKING:
    from torch.nn import Parameter

    from atomfoundry.models.training.settings import TrainingSettings


@dataclass
class Progress:
    """The numbers: where the training is, its best, and why it stopped.

    Parameters
    ----------
    epoch, step
        Epochs done, and steps done of the next one.
    loss_sum, frames_sum
        Of the steps done of this epoch: loss times structures, and structures.
    best_loss, best_epoch, bad_evaluations
        Best validation so far, and evaluations since.
    in_stage_two
        Whether the energy weight has been raised.
    nan_streak, n_skipped
        Steps skipped for a loss that is not finite: in a row, and in all.
    elapsed_s
        Time used before this process began.
    stop_reason, interrupted
        Why the training stopped, and whether only because its process had to; None and False while it goes on.
    gradient_shares
        'HEAD/QUANTITY' -> share of the gradient at the first step.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    frames_sum: int = 0
    best_loss: float | None = None
    best_epoch: int | None = None
    bad_evaluations: int = 0
    in_stage_two: bool = False
    nan_streak: int = 0
    n_skipped: int = 0
    elapsed_s: float = 0.0
    stop_reason: str | None = None
    interrupted: bool = False
    gradient_shares: dict[str, float] = field(default_factory=dict)


class Course:
    """Weights, optimiser, average, schedule, progress and histories of one training.

    Parameters
    ----------
    parameters
        Names and parameters that are trained.
    settings
        Of the training.
    """

    def __init__(self, parameters: list[tuple[str, Parameter]], settings: TrainingSettings) -> None:
        self.named = parameters
        self.names = [name for name, _ in parameters]
        self.parameters = [parameter for _, parameter in parameters]
        self.settings = settings
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=settings.lr,
            betas=settings.betas,
            amsgrad=settings.amsgrad,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.ema = None if settings.ema_decay is None else MovingAverage(parameters, decay=settings.ema_decay)
        self.best: dict[str, Tensor] | None = None
        self.schedule = Schedule(settings)
        self.progress = Progress()
        self.history: list[EpochRecord] = []
        self.parts = PartHistory()

    @property
    def averaged(self) -> dict[str, Tensor] | None:
        """Averaged weights by name; None without averaging."""
        return None if self.ema is None else self.ema.values

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def keep_best(self) -> None:
        """Keep a copy of the present (averaged) weights as the best."""
        values = self.averaged or dict(self.named)
        self.best = {name: value.detach().clone() for name, value in values.items()}

    def adopt_best(self) -> None:
        """Give the model the best weights, or the averaged ones where none was judged."""
        values = self.best if self.best is not None else self.averaged
        if values is not None:
            with torch.no_grad():
                for name, parameter in self.named:
                    parameter.copy_(values[name])

    def checkpoint(self, *, fingerprint: Mapping[str, Any], elapsed_s: float) -> Checkpoint:
        """Return a copy of everything.

        Parameters
        ----------
        fingerprint
            What training this is.
        elapsed_s
            Time used up to now.
        """
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": dict(self.named),
            "ema": self.averaged or {},
            "best": self.best or {},
            "optimizer": optimizer_tensors(self.optimizer, self.names),
            "rng": {"torch": torch.get_rng_state()},
            "parts": self.parts.tables(),
        }
        tensors = {f"{group}/{name}": value for group, entry in groups.items() for name, value in entry.items()}
        # clones: two groups may share memory, which the file format refuses
        tensors = {name: value.detach().clone() for name, value in tensors.items()}
        state = {
            "fingerprint": dict(fingerprint),
            "progress": vars(self.progress) | {"elapsed_s": elapsed_s},
            "schedule": self.schedule.state.as_dict(),
            "ema_step": 0 if self.ema is None else self.ema.step,
            "learning_rate": self.learning_rate,
            "history": [record.model_dump() for record in self.history],
            "part_names": self.parts.names,
        }
        return Checkpoint(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `checkpoint` returned.

        Parameters
        ----------
        checkpoint
            Of a training with the same fingerprint.
        """
        state = checkpoint.state
        values = checkpoint.group("model")
        with torch.no_grad():
            for name, parameter in self.named:
                parameter.copy_(values[name])
        restore_optimizer(self.optimizer, self.names, checkpoint.group("optimizer"))
        self.learning_rate = state["learning_rate"]
        if self.ema is not None:
            self.ema.step = state["ema_step"]
            for name, value in checkpoint.group("ema").items():
                self.ema.values[name].copy_(value)
        self.best = checkpoint.group("best") or None
        torch.set_rng_state(checkpoint.tensors["rng/torch"])
        self.schedule = Schedule(self.settings, state["schedule"])
        self.progress = Progress(**state["progress"])
        self.history = [EpochRecord.model_validate(entry) for entry in state["history"]]
        # a checkpoint of an older version has none
        self.parts = PartHistory.of_tables(state.get("part_names", {}), checkpoint.group("parts"))
