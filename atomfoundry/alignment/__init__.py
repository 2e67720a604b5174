"""Total Energy Alignment: labels of two levels of theory on one energy scale (ALGORITHMS 1).

Names load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.alignment.apply import AlignedFrames, align_dataset
    from atomfoundry.alignment.datasets import fit_datasets
    from atomfoundry.alignment.dispersion import Dispersion, DispersionTerm
    from atomfoundry.alignment.fitting import fit_alignment
    from atomfoundry.alignment.graph import (
        AlignmentGraph,
        LevelData,
        compose_alignments,
        fit_graph,
        invert_alignment,
    )
    from atomfoundry.alignment.overlap import molecule_key
    from atomfoundry.alignment.pairs import PairBasis, PairTerms
    from atomfoundry.alignment.problem import AlignmentSettings
    from atomfoundry.alignment.transform import Alignment, AlignmentReport

_HOMES = {
    "AlignedFrames": "apply",
    "Alignment": "transform",
    "AlignmentGraph": "graph",
    "AlignmentReport": "transform",
    "AlignmentSettings": "problem",
    "Dispersion": "dispersion",
    "DispersionTerm": "dispersion",
    "LevelData": "graph",
    "PairBasis": "pairs",
    "PairTerms": "pairs",
    "align_dataset": "apply",
    "compose_alignments": "graph",
    "fit_alignment": "fitting",
    "fit_datasets": "datasets",
    "fit_graph": "graph",
    "invert_alignment": "graph",
    "molecule_key": "overlap",
}

__all__ = [
    "AlignedFrames",
    "Alignment",
    "AlignmentGraph",
    "AlignmentReport",
    "AlignmentSettings",
    "Dispersion",
    "DispersionTerm",
    "LevelData",
    "PairBasis",
    "PairTerms",
    "align_dataset",
    "compose_alignments",
    "fit_alignment",
    "fit_datasets",
    "fit_graph",
    "invert_alignment",
    "molecule_key",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
