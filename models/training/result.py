"""What a training gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomfoundry.documents.model import EpochRecord
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.training.monitor import ElementErrors


@dataclass
class TrainingResult:
    """A trained model and how it came to be.

    Parameters
    ----------
    model
        With the averaged weights of the best validation loss (of the end, without validation frames).
    history
        One record an epoch.
    stop_reason
        'max_epochs', 'early_stop', 'min_lr', 'wall_time' (``max_wall_time_s``, or the end of the batch job) or
        'signal'.
    n_epochs
        Epochs done, over all resumptions.
    wall_time_s
        Over all resumptions.
    best_epoch, best_loss
        Of the weights returned, ``best_loss`` as ``judge`` measures it; None without validation.
    n_skipped
        Steps skipped for a NaN loss.
    gradient_shares
        'HEAD/QUANTITY' -> share of the loss term in the sum of the gradient norms, at the first batch.
    elements
        Validation errors of the weights returned by head and element, the largest force RMSE first; empty without
        validation.
    interrupted
        Whether it stopped only because its process must end (see :mod:`atomfoundry.deadline`): the same call in
        another process goes on from the checkpoint.
    """

    model: Allegro
    history: list[EpochRecord]
    stop_reason: str
    n_epochs: int
    wall_time_s: float
    best_epoch: int | None = None
    best_loss: float | None = None
    n_skipped: int = 0
    gradient_shares: dict[str, float] = field(default_factory=dict)
    elements: list[ElementErrors] = field(default_factory=list)
    interrupted: bool = False
