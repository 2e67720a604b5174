"""New structures from given ones, or from a composition: strain, rattle, defects, slabs, dimers, free atoms, modes, MD.

Names load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.sampling.atoms import dimers, isolated_atoms
    from atomfoundry.sampling.campaign import sample_structures
    from atomfoundry.sampling.defects import (
        alumina_defects,
        random_defects,
        substitutions,
        vacancies,
        vacancy_pairs,
    )
    from atomfoundry.sampling.deformation import (
        ALUMINA_GRID,
        alumina_strains,
        deform,
        green_lagrange_deformation,
        strain_grid,
        strain_structures,
        supercell,
    )
    from atomfoundry.sampling.dynamics import md_snapshots
    from atomfoundry.sampling.holes import interstitials
    from atomfoundry.sampling.montecarlo import monte_carlo_rattle
    from atomfoundry.sampling.random_search import random_structures
    from atomfoundry.sampling.rattle import rattle_structures, strain_and_rattle
    from atomfoundry.sampling.surfaces import slabs
    from atomfoundry.sampling.vibrations import normal_mode_structures, normal_modes

_HOMES = {
    "ALUMINA_GRID": "deformation",
    "alumina_defects": "defects",
    "alumina_strains": "deformation",
    "deform": "deformation",
    "dimers": "atoms",
    "green_lagrange_deformation": "deformation",
    "interstitials": "holes",
    "isolated_atoms": "atoms",
    "md_snapshots": "dynamics",
    "monte_carlo_rattle": "montecarlo",
    "normal_mode_structures": "vibrations",
    "normal_modes": "vibrations",
    "random_defects": "defects",
    "random_structures": "random_search",
    "rattle_structures": "rattle",
    "sample_structures": "campaign",
    "slabs": "surfaces",
    "strain_and_rattle": "rattle",
    "strain_grid": "deformation",
    "strain_structures": "deformation",
    "substitutions": "defects",
    "supercell": "deformation",
    "vacancies": "defects",
    "vacancy_pairs": "defects",
}

__all__ = [
    "ALUMINA_GRID",
    "alumina_defects",
    "alumina_strains",
    "deform",
    "dimers",
    "green_lagrange_deformation",
    "interstitials",
    "isolated_atoms",
    "md_snapshots",
    "monte_carlo_rattle",
    "normal_mode_structures",
    "normal_modes",
    "random_defects",
    "random_structures",
    "rattle_structures",
    "sample_structures",
    "slabs",
    "strain_and_rattle",
    "strain_grid",
    "strain_structures",
    "substitutions",
    "supercell",
    "vacancies",
    "vacancy_pairs",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
