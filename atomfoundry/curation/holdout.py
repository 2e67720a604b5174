"""Splits that test more than interpolation, and what of a test set the training set already holds (ALGORITHMS 9.4)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from ase.data import atomic_numbers

from atomfoundry.curation.composition import composition_key
from atomfoundry.datasets import Dataset, split
from atomfoundry.errors import DatasetError

Axis = Literal["element", "formula", "size", "source"]


def hold_out(
    dataset: Dataset,
    axis: Axis,
    values: Collection[str] | int,
    *,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, list[int]]:
    """Split so that the test set holds what the training set has never seen.

    Parameters
    ----------
    dataset
        What to split.
    axis
        ``"element"``: frames with any of these elements are the test set. ``"formula"``: those of these reduced
        formulas (any order of the elements). ``"size"``: those of more atoms than ``values``. ``"source"``: those of
        these sources.
    values
        Elements, formulas, sources, or the largest number of atoms of training.
    valid_fraction
        Of the other frames, for validation; whole groups.
    seed
        Of that choice.

    Returns
    -------
    dict
        ``train``, ``valid``, ``test`` -> sorted indices; a group with one held-out frame is held out whole, except for
        ``"size"``, where a small frame of a held-out group is in no split.

    Raises
    ------
    DatasetError
        If the test set or the training set would be empty, or a value is impossible.
    """
    held = _held(dataset, axis, values)
    groups = np.asarray(dataset.column("group_id"))
    touched = np.isin(groups, np.unique(groups[held]))
    test = held if axis == "size" else touched
    rest = np.flatnonzero(~touched)
    if not test.any() or not len(rest):
        raise DatasetError(
            f"Holding out {axis} {values} leaves {int(test.sum())} test frames and {len(rest)} others.",
            remedy="Choose values that some, but not all, frames have.",
        )
    parts = split(list(groups[rest]), fractions=(1 - valid_fraction, valid_fraction, 0.0), seed=seed)
    return {
        "train": [int(rest[i]) for i in parts["train"]],
        "valid": [int(rest[i]) for i in parts["valid"]],
        "test": [int(i) for i in np.flatnonzero(test)],
    }


def _held(dataset: Dataset, axis: Axis, values: Collection[str] | int) -> np.ndarray:
    if axis == "size":
        if not isinstance(values, int):
            raise DatasetError(f"'{values}' is no number of atoms.", remedy="Give one whole number.")
        return np.asarray(dataset.column("n_atoms")) > values
    if isinstance(values, int | str):
        raise DatasetError(f"Holding out {axis}s needs a list, not {values!r}.")
    if axis == "source":
        return np.isin(np.asarray(dataset.column("source")), list(values))
    numbers = dataset.column("numbers")
    if axis == "element":
        unknown = [value for value in values if value not in atomic_numbers]
        if unknown:
            raise DatasetError(f"There is no element '{unknown[0]}'.")
        wanted = [atomic_numbers[value] for value in values]
        return np.array([bool(np.isin(row, wanted).any()) for row in numbers])
    if axis == "formula":
        from ase.formula import Formula

        keys = set()
        for value in values:
            try:
                counts = Formula(value).count()
            except ValueError as error:
                raise DatasetError(f"'{value}' is no formula.") from error
            if not counts or not set(counts) <= set(atomic_numbers):
                raise DatasetError(f"'{value}' is no formula.")
            keys.add(composition_key(np.repeat([atomic_numbers[s] for s in counts], list(counts.values()))))
        return np.array([composition_key(np.asarray(row)) in keys for row in numbers])
    raise DatasetError(f"There is no axis '{axis}'.", remedy="Use 'element', 'formula', 'size' or 'source'.")


def leaked(training: Dataset, benchmark: Dataset, *, tolerance: float = 1e-3) -> list[tuple[int, int]]:
    """Find benchmark structures that the training set holds, whatever their labels.

    Parameters
    ----------
    training, benchmark
        The two sets.
    tolerance
        Root mean square distance of equal structures, A.

    Returns
    -------
    list of (int, int)
        Index in the benchmark, and of the first equal structure in the training set.
    """
    from atomfoundry.curation.duplicate_structures import FINGERPRINT_RADIUS, same_structure
    from atomfoundry.curation.fingerprints import fingerprint

    wanted: dict[tuple, list[tuple[int, np.ndarray]]] = {}
    for index, atoms in enumerate(benchmark.frames()):
        wanted.setdefault((composition_key(atoms.numbers), tuple(atoms.pbc)), []).append((index, fingerprint(atoms)))
    found: dict[int, int] = {}
    for place, numbers in enumerate(training.column("numbers")):
        composition = composition_key(np.asarray(numbers))
        if not any(key[0] == composition for key in wanted):
            continue
        atoms = training[place]
        features = None
        for index, known in wanted.get((composition, tuple(atoms.pbc)), []):
            if index in found:
                continue
            features = fingerprint(atoms) if features is None else features
            near = np.linalg.norm(known - features) < FINGERPRINT_RADIUS
            if near and same_structure(benchmark[index], atoms, tolerance=tolerance):
                found[index] = place
    return sorted(found.items())
