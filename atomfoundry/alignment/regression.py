"""Robust linear regression over rows that come in chunks, and the folds of its cross-validation.

Nothing here keeps rows: a pass over the data leaves a triangular factor of the design matrix (p x p for p unknowns) and
a bounded sample of residuals, so 10^7 rows need the memory of one chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EXACT = 1e-12
_SPREAD_SAMPLE = 1_000_000
"""Residuals that the median absolute deviation is taken of; of more rows every second, third, ... one."""

Chunks = Callable[[], Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]]
"""Start a pass over design rows ``[m, p]`` and values ``[m]``; called once a pass, with the same rows each time."""


@dataclass(frozen=True)
class LinearFit:
    """Result of a robust fit.

    Attributes
    ----------
    coefficients
        ``[p]``.
    errors
        Standard errors ``[p]`` by the ordinary least-squares formula; None without spare rows.
    limit
        Residuals beyond this are outliers and weigh less (Huber); infinite where there are none.
    n_outliers
        Rows that weigh less than 1.
    rank, condition_number
        Of the design's columns without a prior, brought to one size.
    """

    coefficients: NDArray[np.float64]
    errors: NDArray[np.float64] | None
    limit: float
    n_outliers: int
    rank: int
    condition_number: float


class Triangle:
    """Least squares in O(p^2) memory: the triangular factor of all rows seen so far (sequential QR).

    As accurate as a QR of the whole matrix, where normal equations would square its condition number.
    """

    def __init__(self, n_unknowns: int) -> None:
        self.factor: NDArray[np.float64] = np.zeros((0, n_unknowns + 1))
        self.n_rows = 0
        self.n_outliers = 0
        self.squares = 0.0

    def add(self, design: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Add rows ``[m, p]`` and values ``[m]``."""
        stacked = np.vstack([self.factor, np.column_stack([design, values])])
        self.factor = np.asarray(np.linalg.qr(stacked, mode="r")) if len(stacked) > stacked.shape[1] else stacked
        self.n_rows += len(values)

    def solve(self, prior: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return the solution of least norm, columns brought to one size; ``prior`` as in ``huber_fit``."""
        design, values, sizes = self._scaled(prior)
        return np.linalg.lstsq(design, values, rcond=None)[0] / sizes

    def merge(self, other: Triangle) -> None:
        """Add all rows of another one."""
        self.add(other.factor[:, :-1], other.factor[:, -1])
        self.n_rows += other.n_rows - len(other.factor)

    def condition(self, n_columns: int) -> tuple[int, float]:
        """Return rank and condition number of the first columns, brought to one size."""
        design = self._scaled(None)[0][:, :n_columns]
        singular = np.linalg.svd(design, compute_uv=False)
        if not len(singular) or singular[0] == 0:
            return 0, float("inf")
        rank = int(np.count_nonzero(singular > singular[0] * max(self.n_rows, n_columns) * np.finfo(float).eps))
        full = len(singular) == n_columns and singular[-1] > 0
        return rank, float(singular[0] / singular[-1]) if full else float("inf")

    def inverse(self, prior: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return (X^T X)^-1 ``[p, p]``."""
        design, _, sizes = self._scaled(prior)
        root = np.linalg.pinv(design) / sizes[:, None]
        return root @ root.T

    def _scaled(
        self, prior: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        factor = self.factor
        if prior is not None:
            factor = np.vstack([factor, np.column_stack([np.diag(prior), np.zeros(len(prior))])])
        design, values = factor[:, :-1], factor[:, -1]
        # Columns of one size, so that the rank does not depend on units.
        sizes = np.linalg.norm(design, axis=0)
        sizes[sizes == 0] = 1.0
        return design / sizes, values, sizes


def huber_fit(
    chunks: Chunks,
    n_unknowns: int,
    *,
    factor: float = 2.0,
    max_iterations: int = 20,
    tolerance: float = 1e-12,
    prior: NDArray[np.float64] | None = None,
    start: NDArray[np.float64] | None = None,
) -> LinearFit:
    """Fit ``values = design @ coefficients`` by iteratively re-weighted least squares (Huber).

    Parameters
    ----------
    chunks
        Starts a pass over the rows.
    n_unknowns
        Columns of the design.
    factor
        Residuals beyond ``factor`` times their median absolute deviation count linearly; 0 switches this off.
    max_iterations
        Upper bound of the re-weighting, each two passes.
    tolerance
        Stop when no coefficient changes by more than this, relatively.
    prior
        Expected residual over expected size of each coefficient ``[p]`` (ridge); 0 leaves it free. Columns with a
        prior come last.
    start
        Coefficients of a similar fit, e.g. to all rows when this one is to most of them: saves passes.
    """
    n_free = n_unknowns if prior is None else int(np.count_nonzero(prior == 0))
    limit = np.inf
    triangle = None
    coefficients = start
    if coefficients is None or factor == 0:
        triangle = _pass(chunks, n_unknowns)
        coefficients = triangle.solve(prior)
    for _ in range(max_iterations if factor > 0 else 0):
        spread, largest = _spread(chunks, coefficients)
        if factor * spread <= _EXACT * max(1.0, largest):
            # More than half of the rows are met exactly: there is no noise to measure outliers by.
            break
        limit = factor * spread
        triangle = _pass(chunks, n_unknowns, coefficients, limit)
        updated = triangle.solve(prior)
        change = np.abs(updated - coefficients).max(initial=0.0)
        coefficients = updated
        if change <= tolerance * np.abs(coefficients).max(initial=1.0):
            break
    if np.isinf(limit) and triangle is not None:
        # All weights are 1: the factor knows the residuals, without another pass.
        last = triangle
        last.squares = float(((last.factor[:, -1] - last.factor[:, :-1] @ coefficients) ** 2).sum())
    else:
        last = _pass(chunks, n_unknowns, coefficients, limit)
    if triangle is None:
        coefficients = last.solve(prior)
    return _result(last, coefficients, limit, n_free, prior)


def refit(chunks: Chunks, fit: LinearFit, *, prior: NDArray[np.float64] | None = None) -> LinearFit:
    """Solve once for rows that are most of those of another fit, with the weights that one gives them; one pass."""
    n_unknowns = len(fit.coefficients)
    n_free = n_unknowns if prior is None else int(np.count_nonzero(prior == 0))
    triangle = _pass(chunks, n_unknowns, fit.coefficients, fit.limit)
    return _result(triangle, triangle.solve(prior), fit.limit, n_free, prior)


def _result(
    last: Triangle, coefficients: NDArray[np.float64], limit: float, n_free: int, prior: NDArray[np.float64] | None
) -> LinearFit:
    n_unknowns = len(coefficients)
    rank, condition = last.condition(n_free)
    spare = last.n_rows - n_unknowns
    errors = None
    if spare > 0 and rank == n_free:
        errors = np.sqrt(np.diag(last.inverse(prior)) * last.squares / spare)
    return LinearFit(coefficients, errors, limit, last.n_outliers, rank, condition)


def _pass(
    chunks: Chunks, n_unknowns: int, coefficients: NDArray[np.float64] | None = None, limit: float = np.inf
) -> Triangle:
    """Take in all rows, weighted as residuals from ``coefficients`` want it."""
    triangle = Triangle(n_unknowns)
    for design, values in chunks():
        if coefficients is None:
            triangle.add(design, values)
            continue
        residuals = values - design @ coefficients
        weights = np.ones_like(residuals) if np.isinf(limit) else limit / np.maximum(np.abs(residuals), limit)
        root = np.sqrt(weights)
        triangle.add(design * root[:, None], values * root)
        triangle.n_outliers += int(np.count_nonzero(weights < 1 - 1e-9))
        triangle.squares += float((residuals**2 * weights).sum())
    return triangle


def _spread(chunks: Chunks, coefficients: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median absolute deviation of the residuals and the largest value; one pass."""
    kept: list[NDArray[np.float64]] = []
    stride, first, held, largest = 1, 0, 0, 0.0
    for design, values in chunks():
        residuals = values - design @ coefficients
        largest = max(largest, float(np.abs(values).max(initial=0.0)))
        kept.append(residuals[(-first) % stride :: stride])
        first += len(residuals)
        held += len(kept[-1])
        if held > 2 * _SPREAD_SAMPLE:
            everything = np.concatenate(kept)[::2]
            kept, held, stride = [everything], len(everything), 2 * stride
    sample = np.concatenate(kept) if kept else np.zeros(1)
    return float(np.median(np.abs(sample - np.median(sample)))), largest


def draw(label: str, seed: int) -> int:
    """Return the number in [0, 2^64) that decides where a label goes; equal on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x00{label}".encode()).digest()[:8], "big")


def folds(draws: NDArray[np.uint64], n_folds: int) -> NDArray[np.int64]:
    """Part rows into folds that never cut a label, as equal in labels as can be.

    Parameters
    ----------
    draws
        ``draw`` of each row's label.
    n_folds
        Number of folds; fewer where there are fewer labels.

    Returns
    -------
    numpy.ndarray
        Fold of each row.
    """
    return np.unique(draws, return_inverse=True)[1] % n_folds
