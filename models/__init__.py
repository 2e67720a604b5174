"""The torch side: graphs, the Allegro model, training, uncertainty, and the ASE calculator.

Names are loaded when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomfoundry.models.accuracy import Accuracy
    from atomfoundry.models.allegro.config import (
        AllegroConfig,
        HeadConfig,
        allegro_fm64,
        allegro_fm256,
        allegro_fm512,
        alumina,
    )
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.calculator import FoundryCalculator
    from atomfoundry.models.dispersion import D3Dispersion
    from atomfoundry.models.graph import GraphBatch, build_graph, collate
    from atomfoundry.models.io import load_model, save_model
    from atomfoundry.models.prediction import predict
    from atomfoundry.models.similarity import training_similarity
    from atomfoundry.models.train_plan import training_plan
    from atomfoundry.models.training_folder import train_folder
    from atomfoundry.models.uncertainty.committee import CommitteeUncertainty

_HOMES = {
    "Accuracy": "atomfoundry.models.accuracy",
    "CommitteeUncertainty": "atomfoundry.models.uncertainty.committee",
    "predict": "atomfoundry.models.prediction",
    "train_folder": "atomfoundry.models.training_folder",
    "training_plan": "atomfoundry.models.train_plan",
    "Allegro": "atomfoundry.models.allegro.model",
    "AllegroConfig": "atomfoundry.models.allegro.config",
    "HeadConfig": "atomfoundry.models.allegro.config",
    "allegro_fm64": "atomfoundry.models.allegro.config",
    "allegro_fm256": "atomfoundry.models.allegro.config",
    "allegro_fm512": "atomfoundry.models.allegro.config",
    "alumina": "atomfoundry.models.allegro.config",
    "D3Dispersion": "atomfoundry.models.dispersion",
    "FoundryCalculator": "atomfoundry.models.calculator",
    "GraphBatch": "atomfoundry.models.graph",
    "build_graph": "atomfoundry.models.graph",
    "collate": "atomfoundry.models.graph",
    "load_model": "atomfoundry.models.io",
    "save_model": "atomfoundry.models.io",
    "training_similarity": "atomfoundry.models.similarity",
}

__all__ = [
    "Accuracy",
    "Allegro",
    "AllegroConfig",
    "CommitteeUncertainty",
    "D3Dispersion",
    "FoundryCalculator",
    "GraphBatch",
    "HeadConfig",
    "allegro_fm64",
    "allegro_fm256",
    "allegro_fm512",
    "alumina",
    "build_graph",
    "collate",
    "load_model",
    "predict",
    "save_model",
    "train_folder",
    "training_plan",
    "training_similarity",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
