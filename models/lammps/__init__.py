"""Molecular dynamics in LAMMPS: a compiled pair style, and the Python interface of ML-IAP."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomfoundry.models.lammps.export import export_lammps
    from atomfoundry.models.lammps.installation import LammpsInstallation, LammpsProgram, find_lammps, find_program
    from atomfoundry.models.lammps.unified import UnifiedModel

_HOMES = {
    "LammpsInstallation": "installation",
    "LammpsProgram": "installation",
    "UnifiedModel": "unified",
    "export_lammps": "export",
    "find_lammps": "installation",
    "find_program": "installation",
}

__all__ = ["LammpsInstallation", "LammpsProgram", "UnifiedModel", "export_lammps", "find_lammps", "find_program"]


def __getattr__(name: str) -> object:
    """Load a public name from its module, torch only where it is needed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
