"""Total Energy Alignment: labels of two levels of theory on one energy scale (ALGORITHMS 1).

Names load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.alignment.fitting import fit_alignment
    from atomfoundry.alignment.overlap import molecule_key
    from atomfoundry.alignment.problem import AlignmentSettings
    from atomfoundry.alignment.transform import Alignment, AlignmentReport

_HOMES = {
    "Alignment": "transform",
    "AlignmentReport": "transform",
    "AlignmentSettings": "problem",
    "fit_alignment": "fitting",
    "molecule_key": "overlap",
}

__all__ = ["Alignment", "AlignmentReport", "AlignmentSettings", "fit_alignment", "molecule_key"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
