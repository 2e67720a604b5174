"""Structures from files, presets, prototypes, molecules and online databases. Names load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.sources.cells import repeated_cell, standard_cell
    from atomfoundry.sources.fetched import Fetched
    from atomfoundry.sources.files import expand_paths, fetch_structures
    from atomfoundry.sources.http import DatabaseError
    from atomfoundry.sources.materials_project import fetch_materials_project
    from atomfoundry.sources.molecules import molecules_by_name, molecules_by_smiles
    from atomfoundry.sources.optimade import fetch_optimade
    from atomfoundry.sources.prototypes import prototype, prototype_names
    from atomfoundry.sources.shipped import load_preset, preset_names

_HOMES = {
    "DatabaseError": "http",
    "Fetched": "fetched",
    "expand_paths": "files",
    "fetch_materials_project": "materials_project",
    "fetch_optimade": "optimade",
    "fetch_structures": "files",
    "load_preset": "shipped",
    "molecules_by_name": "molecules",
    "molecules_by_smiles": "molecules",
    "preset_names": "shipped",
    "prototype": "prototypes",
    "prototype_names": "prototypes",
    "repeated_cell": "cells",
    "standard_cell": "cells",
}

__all__ = [
    "DatabaseError",
    "Fetched",
    "expand_paths",
    "fetch_materials_project",
    "fetch_optimade",
    "fetch_structures",
    "load_preset",
    "molecules_by_name",
    "molecules_by_smiles",
    "preset_names",
    "prototype",
    "prototype_names",
    "repeated_cell",
    "standard_cell",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
