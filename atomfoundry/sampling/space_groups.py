"""Random cells and atomic orbits of a space group."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomfoundry.errors import StructureError

Operations = tuple[NDArray[np.float64], NDArray[np.float64]]

_SAME = 1e-6


@lru_cache(maxsize=1)
def _hall_numbers() -> dict[int, int]:
    """Return the first Hall number, the standard setting, of every space group."""
    import spglib

    first: dict[int, int] = {}
    with warnings.catch_warnings():
        # spglib announces another way of telling errors; none can happen here.
        warnings.simplefilter("ignore", DeprecationWarning)
        for hall in range(1, 531):
            kind: Any = spglib.get_spacegroup_type(hall)
            first.setdefault(int(kind.number), hall)
    return first


@lru_cache(maxsize=256)
def operations(number: int) -> Operations:
    """Return rotations ``[m, 3, 3]`` and translations ``[m, 3]`` of a space group in its conventional cell.

    Raises
    ------
    StructureError
        If there is no such group.
    """
    import spglib

    if not 1 <= number <= 230:
        raise StructureError(f"There is no space group {number}.", remedy="Space groups have numbers 1 to 230.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found: Any = spglib.get_symmetry_from_database(_hall_numbers()[number])
    return np.asarray(found["rotations"], dtype=np.float64), np.asarray(found["translations"], dtype=np.float64)


def centring(group: Operations) -> int:
    """Return how many primitive cells the conventional cell holds."""
    return int((np.abs(group[0] - np.eye(3)).max(axis=(1, 2)) < _SAME).sum())


def random_cell(group: Operations, volume: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random conventional cell ``[3, 3]`` (A) that all rotations of the group leave as it is.

    A random metric, averaged over the rotations, is invariant: R^T G R = G.

    Parameters
    ----------
    group
        Operations of the space group.
    volume
        A^3.
    rng
        Random numbers.
    """
    lengths = np.exp(rng.uniform(-0.5, 0.5, size=3))
    cosines = rng.uniform(-0.4, 0.4, size=3)
    metric = np.outer(lengths, lengths) * np.array(
        [[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]]
    )
    rotations = group[0]
    metric = np.einsum("nki,kl,nlj->ij", rotations, metric, rotations) / len(rotations)
    cell = np.linalg.cholesky(metric)
    return np.asarray(cell * (volume / abs(np.linalg.det(cell))) ** (1 / 3), dtype=np.float64)


@lru_cache(maxsize=1)
def _grid() -> NDArray[np.float64]:
    """Return points that hold one of every kind of site of every space group: multiples of 1/24."""
    steps = np.arange(24) / 24
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)


@lru_cache(maxsize=256)
def _grid_multiplicities(number: int) -> NDArray[np.int16]:
    """Return how many images the group gives each point of the grid."""
    rotations, translations = operations(number)
    grid = _grid()
    fixed = np.zeros(len(grid), dtype=np.int16)
    for rotation, translation in zip(rotations, translations, strict=True):
        difference = grid @ (rotation - np.eye(3)).T + translation
        fixed += np.abs(difference - np.rint(difference)).max(axis=1) < _SAME
    return (len(rotations) // fixed).astype(np.int16)


@lru_cache(maxsize=256)
def multiplicities(number: int) -> tuple[int, ...]:
    """Return the sizes of the orbits of a space group in its conventional cell (its Wyckoff multiplicities)."""
    return tuple(sorted({int(size) for size in _grid_multiplicities(number)}))


@lru_cache(maxsize=4096)
def fillable(number: int, count: int) -> bool:
    """Tell whether ``count`` atoms of the conventional cell can be a sum of orbits of the group."""
    return count == 0 or any(fillable(number, count - size) for size in multiplicities(number) if size <= count)


def random_orbit(number: int, missing: int, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Return the scaled positions ``[k, 3]`` of a random site and all its images, k <= ``missing``.

    The size of the orbit is drawn among those that leave a number which can still be filled; then a site of that size;
    then its free coordinates: a random vector averaged over the operations that leave the site where it is.

    Parameters
    ----------
    number
        Space group.
    missing
        Atoms that are still to be placed in the conventional cell.
    rng
        Random numbers.

    Returns
    -------
    ndarray or None
        None if no sum of orbits makes up what is missing.
    """
    sizes = [size for size in multiplicities(number) if size <= missing and fillable(number, missing - size)]
    if not sizes:
        return None
    candidates = np.flatnonzero(_grid_multiplicities(number) == sizes[rng.integers(len(sizes))])
    point = _grid()[candidates[rng.integers(len(candidates))]]
    rotations, translations = operations(number)
    difference = rotations @ point + translations - point
    fixing = np.abs(difference - np.rint(difference)).max(axis=1) < _SAME
    point = point + rotations[fixing].mean(axis=0) @ rng.uniform(-0.5, 0.5, size=3)
    images = (rotations @ point + translations) % 1.0
    # 0.9999999 and 0 are one point.
    images[images > 1 - _SAME] = 0.0
    _, first = np.unique(images.round(5) % 1.0, axis=0, return_index=True)
    return np.asarray(images[np.sort(first)])
