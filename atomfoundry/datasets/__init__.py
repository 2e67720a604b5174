"""The dataset on disk and everything one does to it: import, export, curation, splits, selection, merging.

Names load when they are first used, so that ``import atomfoundry.datasets`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.datasets.batch import FrameBatch
    from atomfoundry.datasets.checks import CurationSettings, check_frame, curate
    from atomfoundry.datasets.convert import import_dataset, read_frames, write_frames
    from atomfoundry.datasets.duplicates import conflicting_duplicates, duplicate_frames, near_duplicates
    from atomfoundry.datasets.exchange import read_extxyz, write_extxyz
    from atomfoundry.datasets.frame import (
        attach_labels,
        clean_frame,
        frame_id,
        labels_of,
        unique_frames,
        with_metadata,
    )
    from atomfoundry.datasets.isolated import isolated_energies
    from atomfoundry.datasets.merge import merge_datasets
    from atomfoundry.datasets.selection import (
        covering_radius,
        farthest_point_sampling,
        random_selection,
        stratified_selection,
    )
    from atomfoundry.datasets.splits import split
    from atomfoundry.datasets.store import Dataset
    from atomfoundry.datasets.subsets import subset

_HOMES = {
    "CurationSettings": "checks",
    "Dataset": "store",
    "FrameBatch": "batch",
    "attach_labels": "frame",
    "check_frame": "checks",
    "clean_frame": "frame",
    "conflicting_duplicates": "duplicates",
    "covering_radius": "selection",
    "curate": "checks",
    "duplicate_frames": "duplicates",
    "farthest_point_sampling": "selection",
    "frame_id": "frame",
    "import_dataset": "convert",
    "isolated_energies": "isolated",
    "labels_of": "frame",
    "merge_datasets": "merge",
    "near_duplicates": "duplicates",
    "random_selection": "selection",
    "read_extxyz": "exchange",
    "read_frames": "convert",
    "split": "splits",
    "stratified_selection": "selection",
    "subset": "subsets",
    "unique_frames": "frame",
    "with_metadata": "frame",
    "write_extxyz": "exchange",
    "write_frames": "convert",
}

__all__ = [
    "CurationSettings",
    "Dataset",
    "FrameBatch",
    "attach_labels",
    "check_frame",
    "clean_frame",
    "conflicting_duplicates",
    "covering_radius",
    "curate",
    "duplicate_frames",
    "farthest_point_sampling",
    "frame_id",
    "import_dataset",
    "isolated_energies",
    "labels_of",
    "merge_datasets",
    "near_duplicates",
    "random_selection",
    "read_extxyz",
    "read_frames",
    "split",
    "stratified_selection",
    "subset",
    "unique_frames",
    "with_metadata",
    "write_extxyz",
    "write_frames",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
