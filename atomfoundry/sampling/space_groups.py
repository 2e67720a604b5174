"""Random cells and atomic orbits of a space group."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atomfoundry.errors import StructureError

Operations = tuple[NDArray[np.float64], NDArray[np.float64]]

_SAME = 1e-6
_TRIES = 60


@lru_cache(maxsize=1)
def _hall_numbers() -> dict[int, int]:
    """Return the first Hall number, the standard setting, of every space group."""
    import spglib

    first: dict[int, int] = {}
    with warnings.catch_warnings():
        # spglib announces another way of telling errors; none can happen here.
        warnings.simplefilter("ignore", DeprecationWarning)
        for hall in range(1, 531):
            first.setdefault(int(spglib.get_spacegroup_type(hall).number), hall)
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
        found = spglib.get_symmetry_from_database(_hall_numbers()[number])
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


def _orbit(group: Operations, point: NDArray[np.float64]) -> NDArray[np.float64]:
    images = (group[0] @ point + group[1]) % 1.0
    # 0.9999999 and 0 are one point.
    images[images > 1 - _SAME] = 0.0
    _, first = np.unique(images.round(5) % 1.0, axis=0, return_index=True)
    return np.asarray(images[np.sort(first)])


def random_orbit(
    group: Operations, cell: NDArray[np.float64], largest: int, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return the scaled positions ``[k, 3]``, k <= ``largest``, of a random point and all its images.

    A general point has as many images as there are operations. Smaller orbits come of pulling a point into the middle
    of those of its images that are within a random distance, until it is a site that these operations leave fixed.

    Parameters
    ----------
    group
        Operations of the space group.
    cell
        Cell vectors ``[3, 3]``, A.
    largest
        Most atoms there is room for.
    rng
        Random numbers.

    Returns
    -------
    ndarray or None
        None if chance found no small enough orbit.
    """
    reach = abs(np.linalg.det(cell)) ** (1 / 3)
    for _ in range(_TRIES):
        point = rng.random(3)
        if largest < len(group[0]):
            radius = rng.random() * reach
            for _ in range(8):
                difference = group[0] @ point + group[1] - point
                difference -= np.rint(difference)
                lengths = np.linalg.norm(difference @ cell, axis=1)
                near = difference[lengths < radius]
                point = point + near.mean(axis=0)
                if np.abs(near).max() < _SAME / 10:
                    break
            else:
                continue
        orbit = _orbit(group, point)
        if len(orbit) <= largest:
            return orbit
    return None
