"""The torch side: graphs, the Allegro model, training, uncertainty, and the ASE calculator.

Names are loaded when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "Allegro": "atomfoundry.models.allegro.model",
    "AllegroConfig": "atomfoundry.models.allegro.config",
    "HeadConfig": "atomfoundry.models.allegro.config",
    "allegro_fm64": "atomfoundry.models.allegro.config",
    "allegro_fm256": "atomfoundry.models.allegro.config",
    "allegro_fm512": "atomfoundry.models.allegro.config",
    "alumina": "atomfoundry.models.allegro.config",
    "FoundryCalculator": "atomfoundry.models.calculator",
    "GraphBatch": "atomfoundry.models.graph",
    "build_graph": "atomfoundry.models.graph",
    "collate": "atomfoundry.models.graph",
    "load_model": "atomfoundry.models.io",
    "save_model": "atomfoundry.models.io",
    "training_similarity": "atomfoundry.models.similarity",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
