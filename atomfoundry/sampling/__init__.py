"""New structures from given ones: strain, rattle, isolated atoms, dimers.

Names load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.sampling.atoms import dimers, isolated_atoms
    from atomfoundry.sampling.deformation import (
        deform,
        green_lagrange_deformation,
        strain_structures,
        supercell,
    )
    from atomfoundry.sampling.rattle import rattle_structures, strain_and_rattle

_HOMES = {
    "deform": "deformation",
    "dimers": "atoms",
    "green_lagrange_deformation": "deformation",
    "isolated_atoms": "atoms",
    "rattle_structures": "rattle",
    "strain_and_rattle": "rattle",
    "strain_structures": "deformation",
    "supercell": "deformation",
}

__all__ = [
    "deform",
    "dimers",
    "green_lagrange_deformation",
    "isolated_atoms",
    "rattle_structures",
    "strain_and_rattle",
    "strain_structures",
    "supercell",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
