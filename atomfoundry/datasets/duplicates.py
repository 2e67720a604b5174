"""Find frames that occur more than once: by their id in one pass, or by descriptors within a radius."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError

if TYPE_CHECKING:
    from atomfoundry.datasets.store import Dataset

_PAIRS = 1 << 20


def first_of_each(keys: NDArray[np.uint64], codes: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
    """Return, for every row, the lowest row that has the same key.

    Parameters
    ----------
    keys
        ``[n, 2]``, a frame id as two numbers.
    codes
        ``[n]``, what must agree too, e.g. a number for the level.

    Returns
    -------
    numpy.ndarray
        ``[n]``; row ``i`` is the first of its kind where the value is ``i``. Time O(n log n), memory 40 n bytes.
    """
    n_rows = len(keys)
    if not n_rows:
        return np.empty(0, np.int64)
    columns = [keys[:, 0], keys[:, 1]] + ([] if codes is None else [np.asarray(codes)])
    # Ids are hashes: sorting by their first half alone brings equal ones together, almost always alone.
    order = np.argsort(columns[0], kind="stable")
    same = columns[0][order[1:]] == columns[0][order[:-1]]
    touched = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    result = np.arange(n_rows)
    some = np.sort(order[touched])
    if len(some):
        # Stable, so rows of one kind stay in ascending order.
        inner = some[np.lexsort([column[some] for column in columns])]
        new = np.ones(len(inner), dtype=bool)
        new[1:] = np.any([column[inner[1:]] != column[inner[:-1]] for column in columns], axis=0)
        result[inner] = inner[new][np.cumsum(new) - 1]
    return result


def id_keys(dataset: Dataset) -> NDArray[np.uint64]:
    """Return the frame ids of a dataset as two numbers each, ``[n, 2]``."""
    keys = [dataset.shard(number).keys for number in range(len(dataset.metadata.shards))]
    return np.concatenate(keys) if keys else np.empty((0, 2), np.uint64)


def duplicate_frames(datasets: Dataset | Sequence[Dataset], *, same_level: bool = True) -> NDArray[np.int64]:
    """Find frames of equal id in one pass over the ids; positions are not read.

    Parameters
    ----------
    datasets
        One, or several whose frames count on.
    same_level
        One structure at two levels is no duplicate.

    Returns
    -------
    numpy.ndarray
        ``[n]``; for every frame the first one that equals it, itself if there is none before. What to keep is
        ``np.flatnonzero(result == np.arange(len(result)))``. Time O(n log n), memory 60 n bytes.
    """
    sets = [datasets] if not isinstance(datasets, Sequence) else list(datasets)
    keys = [id_keys(dataset) for dataset in sets]
    joined = np.concatenate(keys) if keys else np.empty((0, 2), np.uint64)
    return first_of_each(joined, level_codes(sets)[0] if same_level else None)


def conflicting_duplicates(dataset: Dataset, *, tolerance: float = 5e-3) -> NDArray[np.int64]:
    """Find duplicates whose energies contradict one another: one structure, one level, two energies.

    Parameters
    ----------
    dataset
        Where to look; only ids, levels, sizes and energies are read.
    tolerance
        Largest difference within a kind, eV an atom (ALGORITHMS 9.3).

    Returns
    -------
    numpy.ndarray
        Indices of all frames with an energy of the kinds that disagree, ascending: none of them can be trusted.
    """
    first = duplicate_frames(dataset)
    n_atoms = np.maximum(np.asarray(dataset.column("n_atoms")), 1)
    energies = np.asarray(dataset.column("energy")) / n_atoms
    lowest = np.full(len(first), np.inf)
    highest = np.full(len(first), -np.inf)
    known = np.flatnonzero(np.isfinite(energies))
    np.minimum.at(lowest, first[known], energies[known])
    np.maximum.at(highest, first[known], energies[known])
    return np.flatnonzero((highest - lowest > tolerance)[first] & np.isfinite(energies))


def level_codes(datasets: Iterable[Dataset]) -> tuple[NDArray[np.int32], list[str]]:
    """Return the level of every frame of some datasets as a number, and the level ids."""
    names: dict[str, int] = {}
    parts = [np.empty(0, np.int32)]
    for dataset in datasets:
        for number in range(len(dataset.metadata.shards)):
            codes, labels = dataset.shard(number).labels("level")
            table = np.array([names.setdefault(label, len(names)) for label in labels] or [0], np.int32)
            parts.append(table[codes] if len(codes) else np.empty(0, np.int32))
    return np.concatenate(parts), list(names)


def near_duplicates(X: ArrayLike, radius: float, *, max_pairs: int = 100_000_000) -> NDArray[np.int64]:
    """Group points that lie within a radius of one another, directly or through others.

    Exact: the points are sorted into cells of an orthonormal projection onto three directions, which never makes a
    distance longer, and only points of neighbouring cells are compared.

    Parameters
    ----------
    X
        Descriptors, ``[n, d]``; a memory map is read once for the projection and then only where cells meet.
    radius
        Largest Euclidean distance of near-duplicates; 0 finds equal rows.
    max_pairs
        Most pairs that may be compared. The cost is O(n d + n log n + p d) for ``p`` pairs of neighbouring cells:
        next to nothing for the small radii of duplicates, n^2 for a radius as wide as the data.

    Returns
    -------
    numpy.ndarray
        ``[n]``; for every point the lowest index of its group.

    Raises
    ------
    DatasetError
        If the radius would make more comparisons than ``max_pairs``, or a descriptor is not finite.
    """
    points = X if isinstance(X, np.ndarray) else np.asarray(X, dtype=np.float64)
    if points.ndim != 2 or not radius >= 0:
        raise DatasetError(f"Descriptors must be a table [n, d] and the radius >= 0; got {points.shape}, {radius}.")
    n_points = len(points)
    if not n_points:
        return np.empty(0, np.int64)
    cells = _cells(points, radius)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: list[NDArray[np.int64]] = []
    second: list[NDArray[np.int64]] = []
    n_compared = 0
    for one, other in _neighbours(cells):
        n_compared += len(one)
        if n_compared > max_pairs:
            raise DatasetError(
                f"Within the radius {radius:g} more than {max_pairs} pairs of {n_points} points must be compared.",
                remedy="Take a smaller radius, or allow more with max_pairs.",
            )
        difference = np.asarray(points[one], np.float64) - np.asarray(points[other], np.float64)
        near = np.einsum("ij,ij->i", difference, difference) <= radius * radius
        first.append(one[near])
        second.append(other[near])
    if not first:
        return np.arange(n_points)
    rows, columns = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n_points, n_points))
    _, groups = connected_components(graph, directed=False)
    lowest = np.full(groups.max() + 1, n_points)
    np.minimum.at(lowest, groups, np.arange(n_points))
    return lowest[groups]


def _cells(points: NDArray, radius: float) -> NDArray[np.int64]:
    """Return the cell of each point, ``[n, 3]``, in the three directions in which a sample varies most."""
    n_points = len(points)
    sample = np.asarray(points[:: max(1, n_points // 4096)], dtype=np.float64)
    centre = sample.mean(axis=0)
    if not np.isfinite(centre).all():
        raise DatasetError("A descriptor is not finite.", remedy="Remove the frame it belongs to.")
    directions = np.linalg.svd(sample - centre, full_matrices=False)[2][:3].T
    projected = np.zeros((n_points, 3))
    for start in range(0, n_points, 65536):
        part = np.asarray(points[start : start + 65536], dtype=np.float64)
        projected[start : start + len(part), : directions.shape[1]] = (part - centre) @ directions
    if not np.isfinite(projected).all():
        raise DatasetError("A descriptor is not finite.", remedy="Remove the frame it belongs to.")
    # Wider than the radius by more than the rounding of the projection, so that none is missed.
    largest = float(np.abs(projected).max())
    edge = max(radius * (1 + 1e-9) + 1e-9 * largest, 1e-300)
    return np.floor(projected / max(edge, largest / 2**20)).astype(np.int64)


def _neighbours(cells: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of points in the same or in neighbouring cells, each once, about a million at a time."""
    shifted = cells - cells.min(axis=0) + 1
    spans = shifted.max(axis=0) + 2
    code = (shifted[:, 0] * spans[1] + shifted[:, 1]) * spans[2] + shifted[:, 2]
    order = np.argsort(code, kind="stable")
    ordered = code[order]
    for dx, dy, dz in _HALF:
        step = (dx * spans[1] + dy) * spans[2] + dz
        begins = np.searchsorted(ordered, ordered + step, side="left")
        ends = np.searchsorted(ordered, ordered + step, side="right")
        if (dx, dy, dz) == (0, 0, 0):
            begins = np.arange(len(ordered)) + 1
        counts = ends - begins
        busy = np.flatnonzero(counts > 0)
        total = np.cumsum(counts[busy])
        start = 0
        while start < len(busy):
            stop = max(start + 1, int(np.searchsorted(total, (total[start - 1] if start else 0) + _PAIRS)))
            part = busy[start:stop]
            lengths = counts[part]
            one = np.repeat(part, lengths)
            shift = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield order[one], order[begins[one] + shift]
            start = stop


_HALF = [(dx, dy, dz) for dx in (-1, 0, 1) for dy in (-1, 0, 1) for dz in (-1, 0, 1) if (dx, dy, dz) >= (0, 0, 0)]
