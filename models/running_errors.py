"""Errors and plot points of values that come in portions, in constant memory."""

from __future__ import annotations

import numpy as np

POINTS_KEPT = 4000
"""Points of a parity plot that are kept of each quantity: a random share and the worst."""

WORST_KEPT = 40


class RunningErrors:
    """Mean absolute and root mean square error and R2 of values that come in portions.

    The spread of the references is summed by the parallel formula of T. F. Chan, G. H. Golub and R. J. LeVeque,
    Am. Stat. 37, 242 (1983), which loses no digits where total energies are large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0.0
        self._absolute = self._squared = self._mean = self._spread = 0.0

    def add(self, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Add flat arrays of equal length."""
        if not len(reference):
            return
        error = np.abs(predicted - reference)
        self._absolute += float(error.sum())
        self._squared += float((error**2).sum())
        self.largest = max(self.largest, float(error.max()))
        mean, number = float(reference.mean()), len(reference)
        shift, total = mean - self._mean, self.count + number
        self._spread += float(((reference - mean) ** 2).sum()) + shift**2 * self.count * number / total
        self._mean += shift * number / total
        self.count = total

    @property
    def mae(self) -> float:
        """Mean absolute error; NaN without values."""
        return self._absolute / self.count if self.count else float("nan")

    @property
    def rmse(self) -> float:
        """Root mean square error; NaN without values."""
        return float(np.sqrt(self._squared / self.count)) if self.count else float("nan")

    @property
    def r2(self) -> float | None:
        """1 - SSE/SST; None where the references do not vary."""
        return 1.0 - self._squared / self._spread if self._spread > 0 else None


class PointSample:
    """A random share of points, and the worst of all, of a stream whose length nobody knows.

    Every point gets a random key and those with the smallest keys stay: each is kept with the same probability.
    """

    def __init__(self, *, limit: int = POINTS_KEPT, seed: int = 0) -> None:
        self.limit = limit
        self._rng = np.random.default_rng(seed)
        self._points = np.empty((0, 3))
        self._worst = np.empty((0, 3))

    def add(self, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Add flat arrays of equal length."""
        new = np.column_stack([self._rng.random(len(reference)), reference, predicted])
        points = np.concatenate([self._points, new])
        if len(points) > self.limit:
            points = points[np.argpartition(points[:, 0], self.limit)[: self.limit]]
        self._points = points
        worst = np.concatenate([self._worst, new])
        if len(worst) > WORST_KEPT:
            worst = worst[np.argpartition(-np.abs(worst[:, 2] - worst[:, 1]), WORST_KEPT)[:WORST_KEPT]]
        self._worst = worst

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return references and predictions, ordered by reference."""
        everything = np.unique(np.concatenate([self._points, self._worst])[:, 1:], axis=0)
        return everything[:, 0], everything[:, 1]
