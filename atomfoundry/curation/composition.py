"""Composition classes: frames whose energies per atom can be compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atomfoundry.datasets import Dataset


def composition_key(numbers: NDArray[np.integer]) -> tuple[tuple[int, int], ...]:
    """Return the reduced composition: atomic numbers with their counts over the common divisor."""
    kinds, counts = np.unique(numbers, return_counts=True)
    divisor = int(np.gcd.reduce(counts)) if len(counts) else 1
    return tuple((int(kind), int(count // divisor)) for kind, count in zip(kinds, counts, strict=True))


def composition_classes(dataset: Dataset) -> NDArray[np.int64]:
    """Return a number for every frame, equal where reduced composition, level, charge and multiplicity are.

    Positions are not read.
    """
    known: dict[tuple, int] = {}
    codes = np.empty(len(dataset), dtype=np.int64)
    columns = (dataset.column(name) for name in ("numbers", "level", "charge", "spin_multiplicity"))
    for index, (numbers, level, charge, spin) in enumerate(zip(*columns, strict=True)):
        spin_key = None if spin is None or spin != spin else int(spin)
        key = (composition_key(np.asarray(numbers)), level, int(charge), spin_key)
        codes[index] = known.setdefault(key, len(known))
    return codes
