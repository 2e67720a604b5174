"""Find frames by their columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from atomfoundry.datasets.rows import SCHEMA
from atomfoundry.errors import DatasetError

if TYPE_CHECKING:
    from atomfoundry.datasets.shards import OpenShard
    from atomfoundry.datasets.store import Dataset


def matching(dataset: Dataset, conditions: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the indices of the frames that meet all conditions, one shard in memory at a time.

    Raises
    ------
    DatasetError
        If there is no such column or element.
    """
    unknown = set(conditions) - {*SCHEMA.names, "elements"}
    if unknown:
        raise DatasetError(
            f"A dataset has no column '{sorted(unknown)[0]}'.",
            remedy=f"Columns: {', '.join(SCHEMA.names)}, elements.",
        )
    found = []
    start = 0
    for number in range(len(dataset.metadata.shards)):
        shard = dataset.shard(number)
        mask = np.ones(shard.n_frames, dtype=bool)
        for name, condition in conditions.items():
            mask &= _made_of(shard, condition) if name == "elements" else _meets(shard.column(name), condition)
        found.append(start + np.flatnonzero(mask))
        start += shard.n_frames
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _meets(values: NDArray[Any] | list[Any], condition: Any) -> NDArray[np.bool_]:
    if callable(condition):
        return np.fromiter((bool(condition(value)) for value in values), bool, len(values))
    wanted = condition if isinstance(condition, Collection) and not isinstance(condition, str) else [condition]
    if isinstance(values, np.ndarray):
        return np.isin(values, list(wanted))
    wanted = set(wanted)
    return np.fromiter((value in wanted for value in values), bool, len(values))


def _made_of(shard: OpenShard, elements: Collection[str]) -> NDArray[np.bool_]:
    wanted = [elements] if isinstance(elements, str) else list(elements)
    if strange := [symbol for symbol in wanted if symbol not in atomic_numbers]:
        raise DatasetError(f"There is no element '{strange[0]}'.")
    allowed = np.zeros(256, dtype=bool)
    allowed[[atomic_numbers[symbol] for symbol in wanted]] = True
    numbers, n_atoms = shard.numbers()
    foreign = np.concatenate([[0], np.cumsum(~allowed[numbers])])
    ends = np.cumsum(n_atoms)
    return foreign[ends] == foreign[ends - n_atoms]
