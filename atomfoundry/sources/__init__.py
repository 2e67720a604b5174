"""Structures from files and presets. Names load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.sources.cells import standard_cell
    from atomfoundry.sources.files import fetch_structures
    from atomfoundry.sources.shipped import load_preset, preset_names

_HOMES = {
    "fetch_structures": "files",
    "load_preset": "shipped",
    "preset_names": "shipped",
    "standard_cell": "cells",
}

__all__ = ["fetch_structures", "load_preset", "preset_names", "standard_cell"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
