"""What training a checkpoint belongs to: settings, first weights, data and head weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from atomfoundry.models.training.settings import RESUME_MAY_CHANGE, TrainingSettings

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch


def fingerprint(
    model: Allegro, settings: TrainingSettings, graphs: Sequence[GraphBatch], *, head_weights: Mapping[int, float]
) -> dict[str, Any]:
    """Return what decides the course of a training, JSON-ready.

    Parameters
    ----------
    model
        Before its first step.
    settings
        Of the training; those that a resumption may change are left out.
    graphs
        Training and validation structures, in order.
    head_weights
        Head index -> weight.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return {
        "settings": _of_course(settings),
        "model": digest.hexdigest(),
        "data": data_fingerprint(graphs),
        "head_weights": {str(head): weight for head, weight in sorted(head_weights.items())},
    }


def differences(own: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return the names of the parts in which two trainings differ.

    Parameters
    ----------
    own
        Fingerprint of this training.
    stored
        Of a checkpoint, perhaps an older one: settings that came later count as their defaults.
    """
    known = {**stored, "settings": _with_defaults(stored.get("settings"))}
    return [key for key, value in own.items() if known.get(key) != value]


def _of_course(settings: TrainingSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude=set(RESUME_MAY_CHANGE))


def _with_defaults(stored: Any) -> Any:
    try:
        return _of_course(TrainingSettings.model_validate(stored))
    except ValidationError:
        return stored


def data_fingerprint(graphs: Sequence[GraphBatch]) -> str:
    """Return a hash of structures, labels, weights and heads, in order.

    Parameters
    ----------
    graphs
        One structure each.
    """
    digest = hashlib.sha256()
    for graph in graphs:
        parts = (
            graph.types, graph.positions, graph.cell, graph.head, graph.energy, graph.forces, graph.stress,
            graph.weight,
        )  # fmt: skip
        for part in parts:
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
