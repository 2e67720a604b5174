"""Some frames of a dataset as a dataset of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomfoundry.datasets.store import Dataset
from atomfoundry.errors import DatasetError


def subset(
    path: str | Path,
    dataset: Dataset,
    indices: Sequence[int] | NDArray[np.int64],
    *,
    name: str = "",
    lineage: dict[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Dataset:
    """Write some frames of a dataset as a new one; levels, isolated-atom energies and splits come along.

    Parameters
    ----------
    path
        Folder to make.
    dataset
        Where the frames are.
    indices
        Which ones, in this order, each once.
    name, progress
        As for ``Dataset.create``.
    lineage
        The dataset's content hash by default.

    Raises
    ------
    DatasetError
        If a frame is named twice or does not exist.
    """
    wanted = np.asarray(indices, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= len(dataset)):
        raise DatasetError(f"'{dataset.path}' has frames 0 to {len(dataset) - 1}, not all of the subset.")
    if len(np.unique(wanted)) != len(wanted):
        raise DatasetError("A subset names a frame twice.", remedy="Name each once.")
    place = np.full(len(dataset), -1)
    place[wanted] = np.arange(len(wanted))
    splits = {}
    for split, members in dataset.splits.items():
        places = place[np.asarray(members, dtype=np.int64)]
        splits[split] = np.sort(places[places >= 0]).tolist()
    return Dataset.create(
        path,
        dataset.frames(wanted.tolist()),
        name=name,
        level=dataset.level,
        levels=dataset.levels,
        isolated_energies=dataset.isolated_energies,
        splits={split: members for split, members in splits.items() if members},
        lineage=lineage or {"subset": dataset.content_hash},
        progress=progress,
    )
