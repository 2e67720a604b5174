"""Curation: what is in a dataset, what must not be trained on, and what resembles what (ALGORITHMS section 9)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.curation.coverage_report import CoverageReport, coverage
    from atomfoundry.curation.duplicate_structures import DuplicateGroup, equal_structures
    from atomfoundry.curation.filters import CurationReport, FilterSettings, curate_dataset
    from atomfoundry.curation.holdout import hold_out, leaked
    from atomfoundry.curation.mixtures import Mixture, find_mixtures
    from atomfoundry.curation.similar_structures import Similarity, similarity
    from atomfoundry.curation.valence import valence_problem
    from atomfoundry.curation.weights import boltzmann_weights

_HOMES = {
    "CoverageReport": "coverage_report",
    "CurationReport": "filters",
    "DuplicateGroup": "duplicate_structures",
    "FilterSettings": "filters",
    "Mixture": "mixtures",
    "Similarity": "similar_structures",
    "boltzmann_weights": "weights",
    "coverage": "coverage_report",
    "curate_dataset": "filters",
    "find_mixtures": "mixtures",
    "hold_out": "holdout",
    "leaked": "holdout",
    "equal_structures": "duplicate_structures",
    "similarity": "similar_structures",
    "valence_problem": "valence",
}

__all__ = [
    "CoverageReport",
    "CurationReport",
    "DuplicateGroup",
    "FilterSettings",
    "Mixture",
    "Similarity",
    "boltzmann_weights",
    "coverage",
    "curate_dataset",
    "find_mixtures",
    "hold_out",
    "leaked",
    "equal_structures",
    "similarity",
    "valence_problem",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
