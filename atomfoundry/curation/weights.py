"""Weights that let frames of high energy count less instead of dropping them (ALGORITHMS 9.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError
from atomfoundry.units import KB


def boltzmann_weights(
    energies: ArrayLike,
    n_atoms: ArrayLike,
    classes: Sequence[str] | ArrayLike,
    *,
    temperature: float = 3000.0,
    smallest: float = 0.01,
) -> NDArray[np.float64]:
    """Return w = max(w_min, exp(-(E - E_min) / (N kB T))), E_min the lowest energy per atom of a frame's class.

    Parameters
    ----------
    energies
        Total energies, eV, ``[n]``; NaN where there is none, whose weight is 1.
    n_atoms
        Atoms of each frame, ``[n]``.
    classes
        What is comparable, e.g. the reduced composition or the material, ``[n]``.
    temperature
        K.
    smallest
        w_min.

    Returns
    -------
    numpy.ndarray
        ``[n]``, between ``smallest`` and 1; the lowest frame of every class has 1.

    Raises
    ------
    DatasetError
        If lengths differ, or a parameter is not positive.
    """
    per_atom = np.asarray(energies, dtype=np.float64) / np.asarray(n_atoms, dtype=np.float64)
    _, codes = np.unique(np.asarray(classes), return_inverse=True)
    if not (temperature > 0 and 0 < smallest <= 1):
        raise DatasetError(
            f"Boltzmann weights at {temperature} K with a smallest weight of {smallest} are not possible.",
            remedy="Give a positive temperature and a smallest weight between 0 and 1.",
        )
    if len(codes) != len(per_atom):
        raise DatasetError(f"There are {len(per_atom)} energies and {len(codes)} classes.")
    lowest = np.full(codes.max(initial=-1) + 1, np.inf)
    known = np.isfinite(per_atom)
    np.minimum.at(lowest, codes[known], per_atom[known])
    weights = np.ones(len(per_atom))
    weights[known] = np.exp(-(per_atom[known] - lowest[codes[known]]) / (KB * temperature))
    return np.maximum(weights, smallest)
