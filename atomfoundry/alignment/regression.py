"""Robust linear regression and its cross-validation folds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EXACT = 1e-12


@dataclass(frozen=True)
class LinearFit:
    """Result of a robust fit.

    Attributes
    ----------
    coefficients
        ``[p]``.
    errors
        Standard errors ``[p]`` by the ordinary least-squares formula; None without spare rows.
    weights
        Huber weight of each row, ``[n]``, 1 for rows that are no outliers.
    rank
        Of the design matrix.
    condition_number
        Of the design matrix with normalised columns.
    """

    coefficients: NDArray[np.float64]
    errors: NDArray[np.float64] | None
    weights: NDArray[np.float64]
    rank: int
    condition_number: float


def huber_fit(
    design: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    factor: float = 2.0,
    max_iterations: int = 20,
    tolerance: float = 1e-12,
) -> LinearFit:
    """Fit ``values = design @ coefficients`` by iteratively re-weighted least squares (Huber).

    Parameters
    ----------
    design
        ``[n, p]``.
    values
        ``[n]``.
    factor
        Residuals beyond ``factor`` times their median absolute deviation count linearly; 0 switches this off.
    max_iterations
        Upper bound of the re-weighting.
    tolerance
        Stop when no coefficient changes by more than this, relatively.
    """
    # Columns of one size, so that the rank does not depend on units.
    sizes = np.linalg.norm(design, axis=0)
    sizes[sizes == 0] = 1.0
    scaled = design / sizes
    weights = np.ones(len(values))
    coefficients, _, rank, singular = np.linalg.lstsq(scaled, values, rcond=None)
    condition = float(singular[0] / singular[-1]) if len(singular) and singular[-1] > 0 else float("inf")
    for _ in range(max_iterations if factor > 0 else 0):
        residuals = values - scaled @ coefficients
        limit = factor * float(np.median(np.abs(residuals - np.median(residuals))))
        if limit <= _EXACT * max(1.0, float(np.abs(values).max(initial=0.0))):
            # More than half of the rows are met exactly: there is no noise to measure outliers by.
            break
        weights = limit / np.maximum(np.abs(residuals), limit)
        root = np.sqrt(weights)
        updated = np.linalg.lstsq(scaled * root[:, None], values * root, rcond=None)[0]
        change = np.abs(updated - coefficients).max(initial=0.0)
        coefficients = updated
        if change <= tolerance * np.abs(coefficients).max(initial=1.0):
            break
    errors = None
    spare = len(values) - scaled.shape[1]
    if spare > 0 and rank == scaled.shape[1]:
        variance = float(((values - scaled @ coefficients) ** 2 * weights).sum()) / spare
        errors = np.sqrt(np.diag(np.linalg.inv(scaled.T @ (scaled * weights[:, None]))) * variance) / sizes
    return LinearFit(coefficients / sizes, errors, weights, int(rank), condition)


def folds(labels: Sequence[str], n_folds: int, *, seed: int = 0) -> list[NDArray[np.int64]]:
    """Part rows into folds that never cut a label.

    Parameters
    ----------
    labels
        Label of each row.
    n_folds
        Number of folds; fewer where there are fewer labels.
    seed
        Decides which labels go together.

    Returns
    -------
    list of numpy.ndarray
        Row indices of each fold, none empty.
    """

    def draw(label: str) -> bytes:
        return hashlib.sha256(f"{seed}\x00{label}".encode()).digest()

    ordered = sorted(set(labels), key=lambda label: (draw(label), label))
    home = {label: number % n_folds for number, label in enumerate(ordered)}
    rows = np.array([home[label] for label in labels], dtype=int)
    return [np.flatnonzero(rows == number) for number in range(min(n_folds, len(ordered)))]
