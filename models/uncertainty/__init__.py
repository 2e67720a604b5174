"""Last-layer prediction rigidity and conformal calibration.

Names are loaded when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "LLPRUncertainty": "llpr",
    "ReadoutPosterior": "posterior",
    "conformal_quantile": "conformal",
    "coverage": "conformal",
    "fit_uncertainty": "llpr",
    "load_uncertainty": "llpr",
    "save_uncertainty": "llpr",
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
