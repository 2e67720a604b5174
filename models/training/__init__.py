"""Losses, isolated-atom energies, the training loop and its checkpoints.

Names are loaded when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ElementErrors": "monitor",
    "LiveLine": "logs",
    "Loss": "loss",
    "LossSettings": "settings",
    "ReferenceEnergies": "energies",
    "Sharpness": "sharpness",
    "TrainingJob": "distributed",
    "TrainingResult": "result",
    "TrainingSettings": "settings",
    "allegro_fm_profile": "settings",
    "average_num_neighbors": "energies",
    "finetune_profile": "settings",
    "fit_reference_energies": "energies",
    "force_rms": "energies",
    "measure_sharpness": "sharpness",
    "read_csv_log": "logs",
    "run_job": "distributed",
    "train": "trainer",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
