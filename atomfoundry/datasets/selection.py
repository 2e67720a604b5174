"""Choose few frames that stand for many: at random, by strata, or by descriptors (``farthest``)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.datasets.farthest import farthest_point_sampling, matrix
from atomfoundry.errors import DatasetError


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
    points = matrix(X, "Descriptors")
    centres = np.asarray(points[np.asarray(chosen, dtype=int)], dtype=np.float64)
    largest = 0.0
    for start in range(0, len(points), chunk_size):
        part = np.asarray(points[start : start + chunk_size], dtype=np.float64)
        nearest = np.full(len(part), np.inf)
        for centre in centres:
            difference = part - centre
            np.minimum(nearest, np.einsum("ij,ij->i", difference, difference), out=nearest)
        largest = max(largest, float(nearest.max(initial=0.0)))
    return float(np.sqrt(largest))


def random_selection(n: int, k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Choose ``min(k, n)`` of ``n`` frames at random, in ascending order.

    Raises
    ------
    DatasetError
        If ``k`` is negative.
    """
    if k < 0:
        raise DatasetError(f"{k} frames cannot be chosen.", remedy="Use 0 or more.")
    chosen = np.random.default_rng(seed).choice(n, size=min(k, n), replace=False)
    return np.sort(chosen).astype(np.int64)


def stratified_selection(
    strata: Sequence[Hashable] | NDArray,
    k: int,
    *,
    seed: int = 0,
    shares: Literal["proportional", "equal"] = "proportional",
) -> NDArray[np.int64]:
    """Choose ``min(k, n)`` frames at random, so many of every stratum.

    Parameters
    ----------
    strata
        ``[n]``: what kind each frame is, e.g. its composition, sampling or force bin.
    k
        How many in all.
    seed
        Decides which ones.
    shares
        ``"proportional"``: each stratum has its share of the frames, rounded by largest remainders, and at least
        one frame while ``k`` allows. ``"equal"``: as many of each; what a small one lacks the others give.

    Returns
    -------
    numpy.ndarray
        Row indices in ascending order.

    Raises
    ------
    DatasetError
        If ``k`` is negative or there are no such shares.
    """
    if k < 0 or shares not in ("proportional", "equal"):
        raise DatasetError(f"{k} frames by '{shares}' shares cannot be chosen.", remedy="Use proportional or equal.")
    numbers: dict[Hashable, int] = {}
    values = strata.tolist() if isinstance(strata, np.ndarray) else strata
    codes = np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
    sizes = np.bincount(codes, minlength=len(numbers))
    wanted = min(k, len(codes))
    quotas = _equal(sizes, wanted) if shares == "equal" else _proportional(sizes, wanted)
    order = np.random.default_rng(seed).permutation(len(codes))
    grouped = order[np.argsort(codes[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    parts = [grouped[start : start + quota] for start, quota in zip(starts, quotas, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))


def _proportional(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    if not len(sizes):
        return sizes
    ideal = sizes * (wanted / max(int(sizes.sum()), 1))
    floor = (np.floor(ideal) if wanted < len(sizes) else np.maximum(np.floor(ideal), 1)).astype(np.int64)
    while floor.sum() > wanted:
        # The floors of one took too much: the stratum that is farthest above its share gives.
        floor[np.argmax(np.where(floor > 1, floor - ideal, -np.inf))] -= 1
    quotas = np.minimum(floor, sizes)
    while quotas.sum() < wanted:
        quotas[np.argmax(np.where(quotas < sizes, ideal - quotas, -np.inf))] += 1
    return quotas


def _equal(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= wanted else (low, middle - 1)
    quotas = np.minimum(sizes, low)
    quotas[np.flatnonzero(sizes > low)[: wanted - int(quotas.sum())]] += 1
    return quotas


__all__ = ["covering_radius", "farthest_point_sampling", "random_selection", "stratified_selection"]
