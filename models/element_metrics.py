"""Errors by element of an evaluation, as documents keep them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from atomfoundry.documents.model import ElementMetrics
from atomfoundry.models.evaluation import Predictions
from atomfoundry.models.training.monitor import ElementErrors


def element_metrics(predictions: Predictions, bonded: Sequence[bool]) -> list[ElementMetrics]:
    """Return errors element by element, the largest force RMSE first.

    Parameters
    ----------
    predictions
        Of one head and split.
    bonded
        Of each frame, whether it has edges: isolated atoms do not count, as in the metrics over all elements.
    """
    chosen = Predictions(predictions.type_names, predictions.head, predictions.split)
    for name, values in vars(predictions).items():
        if isinstance(values, list) and name != "type_names":
            setattr(chosen, name, [value for value, counts in zip(values, bonded, strict=True) if counts])
    return [_document(entry, split=predictions.split) for entry in chosen.by_element()]


def _document(entry: ElementErrors, *, split: str) -> ElementMetrics:
    """Return an entry with None for what has no label."""
    numbers = {name: getattr(entry, name) for name in ("forces_mae", "forces_rmse", "energy_mae")}
    return ElementMetrics(
        split=split,
        head=entry.head,
        element=entry.element,
        n_atoms=entry.n_atoms,
        alerts=list(entry.alerts),
        **{name: None if math.isnan(number) else number for name, number in numbers.items()},
    )
