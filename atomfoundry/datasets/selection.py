"""Choose few frames that cover many: farthest-point sampling (ALGORITHMS 4.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError

_MEAN_BLOCK = 4096


def _matrix(values: ArrayLike, what: str) -> NDArray[np.floating]:
    array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise DatasetError(f"{what} must be a table [n, d]; its shape is {array.shape}.")
    return array


def _nearer(
    nearest: NDArray[np.float64], points: NDArray[np.floating], centre: NDArray[np.floating], chunk_size: int
) -> None:
    """Lower ``nearest`` (squared distances) to the distance from ``centre`` where that is smaller.

    Differences are formed before they are squared: with |x|^2 - 2 x.p + |p|^2 rounding would let a duplicate
    look distant.
    """
    for start in range(0, len(points), chunk_size):
        chunk = slice(start, start + chunk_size)
        difference = np.asarray(points[chunk], dtype=np.float64) - centre
        np.minimum(nearest[chunk], np.einsum("ij,ij->i", difference, difference), out=nearest[chunk])


def farthest_point_sampling(
    X: ArrayLike,
    k: int,
    *,
    warm_start: ArrayLike | None = None,
    chunk_size: int = 65536,
    tolerance: float = 0.0,
) -> NDArray[np.int64]:
    """Choose points one after the other, each the farthest from all chosen before.

    Parameters
    ----------
    X
        Descriptors, ``[n, d]``; a memory map of float32 is read chunk by chunk.
    k
        How many points; at most ``n`` are returned.
    warm_start
        Points ``[m, d]`` that count as chosen already (e.g. the fine-tuning set); without them the first
        choice is the point farthest from the mean.
    chunk_size
        Rows that are worked on at a time. The result does not depend on it.
    tolerance
        Stop when every point is nearer than this to a chosen one.

    Returns
    -------
    numpy.ndarray
        Row indices in the order of choice, ties to the lowest index. Time O(n k d), memory O(n + chunk d).
        The covering radius is at most twice the best possible one (Gonzalez 1985).

    Raises
    ------
    DatasetError
        If a shape, ``k`` or ``chunk_size`` is wrong, or a descriptor is not finite.
    """
    points = _matrix(X, "Descriptors")
    if k < 0 or chunk_size < 1:
        raise DatasetError(f"k = {k} and chunk_size = {chunk_size} must be positive.")
    n_points = len(points)
    wanted = min(k, n_points)
    chosen: list[int] = []
    if wanted == 0:
        return np.empty(0, dtype=np.int64)
    nearest = np.full(n_points, np.inf)
    if warm_start is None:
        _nearer(nearest, points, _mean(points), chunk_size)
    else:
        warm = _matrix(warm_start, "Warm-start descriptors")
        if warm.shape[1] != points.shape[1]:
            raise DatasetError(f"Descriptors have {points.shape[1]} columns, the warm start {warm.shape[1]}.")
        if not len(warm):
            return farthest_point_sampling(points, k, chunk_size=chunk_size, tolerance=tolerance)
        for row in warm:
            _nearer(nearest, points, np.asarray(row, dtype=np.float64), chunk_size)
    if not np.isfinite(nearest).all():
        raise DatasetError("A descriptor is not finite.", remedy="Remove the frame it belongs to.")
    following = int(nearest.argmax())
    if warm_start is None:
        nearest[:] = np.inf
    while len(chosen) < wanted and not np.sqrt(max(nearest[following], 0.0)) < tolerance:
        chosen.append(following)
        _nearer(nearest, points, np.asarray(points[following], dtype=np.float64), chunk_size)
        # Below every squared distance, so that no point is chosen twice.
        nearest[chosen] = -1.0
        following = int(nearest.argmax())
    return np.array(chosen, dtype=np.int64)


def _mean(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean row, summed in blocks of one size so that it never depends on the caller's chunks."""
    total = np.zeros(points.shape[1])
    for start in range(0, len(points), _MEAN_BLOCK):
        total += np.asarray(points[start : start + _MEAN_BLOCK], dtype=np.float64).sum(axis=0)
    return total / len(points)


def covering_radius(X: ArrayLike, chosen: ArrayLike, *, chunk_size: int = 65536) -> float:
    """Return the largest distance of any point to its nearest chosen one.

    Parameters
    ----------
    X
        Descriptors, ``[n, d]``.
    chosen
        Row indices.
    chunk_size
        Rows that are worked on at a time.
    """
    points = _matrix(X, "Descriptors")
    nearest = np.full(len(points), np.inf)
    for index in np.asarray(chosen, dtype=int):
        _nearer(nearest, points, np.asarray(points[index], dtype=np.float64), chunk_size)
    return float(np.sqrt(nearest.max(initial=0.0)))
