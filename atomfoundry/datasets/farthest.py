"""Farthest-point sampling, exact, with most distances never computed (ALGORITHMS 4.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError

_BLOCK = 4096
_PRODUCTS = 1 << 22
_ACTIVE = 4
"""One part in four of ``chunk_size`` is held as the active set: it fits the cache of a core."""


def matrix(values: ArrayLike, what: str) -> NDArray[np.floating]:
    """Return a table ``[n, d]``, a memory map as it is.

    Raises
    ------
    DatasetError
        If it has another shape.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise DatasetError(f"{what} must be a table [n, d]; its shape is {array.shape}.")
    return array


def mean_row(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean row, summed in blocks of one size so that it never depends on the caller's chunks."""
    total = np.zeros(points.shape[1])
    for start in range(0, len(points), _BLOCK):
        total += np.asarray(points[start : start + _BLOCK], dtype=np.float64).sum(axis=0)
    return total / max(len(points), 1)


def squared_distances(points: NDArray[np.floating], centre: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the squared distance of every point to one, ``[n]``, differences formed before they are squared."""
    found = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        difference = np.asarray(points[start : start + _BLOCK], dtype=np.float64) - centre
        np.einsum("ij,ij->i", difference, difference, out=found[start : start + len(difference)])
    return found


def farthest_point_sampling(
    X: ArrayLike,
    k: int,
    *,
    warm_start: ArrayLike | None = None,
    chunk_size: int = 65536,
    tolerance: float = 0.0,
) -> NDArray[np.int64]:
    """Choose points one after the other, each the farthest from all chosen before.

    The result is that of the definition in 64-bit numbers, also for 32-bit descriptors. A distance to the nearest
    chosen point only ever falls, so an old one is an upper bound: only a small active set of points with the largest
    bounds is kept up to date, in the precision of the descriptors and with matrix products; the bounds of the others
    are renewed, many chosen points at a time, when the largest distance falls below them. Whatever rounding leaves
    undecided is computed again in 64 bits, differences before squares.

    Parameters
    ----------
    X
        Descriptors, ``[n, d]``; a memory map of float32 is read in parts.
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
        Row indices in the order of choice, ties to the lowest index. Time at most O(n k d), memory
        O(n + chunk d + k d). The covering radius is at most twice the best possible one (Gonzalez 1985).

    Raises
    ------
    DatasetError
        If a shape, ``k`` or ``chunk_size`` is wrong, or a descriptor is not finite.
    """
    points = matrix(X, "Descriptors")
    if k < 0 or chunk_size < 1:
        raise DatasetError(f"k = {k} and chunk_size = {chunk_size} must be positive.")
    wanted = min(k, len(points))
    if wanted == 0:
        return np.empty(0, dtype=np.int64)
    warm = np.empty((0, points.shape[1])) if warm_start is None else matrix(warm_start, "Warm-start descriptors")
    if warm.shape[1] != points.shape[1]:
        raise DatasetError(f"Descriptors have {points.shape[1]} columns, the warm start {warm.shape[1]}.")
    sampler = _Sampler(points, warm, wanted, max(chunk_size // _ACTIVE, 1), tolerance)
    return np.array(sampler.run(), dtype=np.int64)


class _Sampler:
    """State of one sampling.

    ``values[i]`` is the squared distance of point i to the nearest of the first ``upto[i]`` centres: exact where
    ``exact[i]``, else within ``_margin``; -1 for chosen points.
    """

    def __init__(
        self,
        points: NDArray[np.floating],
        warm: NDArray[np.floating],
        wanted: int,
        active: int,
        tolerance: float,
    ) -> None:
        n_points, width = points.shape
        self.points = points
        self.wanted = wanted
        self.active = min(active, n_points)
        self.limit = tolerance * tolerance
        self.chosen: list[int] = []
        single = points.dtype in (np.float32, np.float16)
        self.dtype = np.dtype(np.float32) if single else np.dtype(np.float64)
        self.mean = mean_row(points)
        self.norms = squared_distances(points, self.mean)
        if not (np.isfinite(self.norms).all() and np.isfinite(warm).all()):
            raise DatasetError("A descriptor is not finite.", remedy="Remove the frame it belongs to.")
        # A product of d terms, two norms and the rounding of the centred coordinates; ten per cent for second order.
        self.unit = 1.1 * (2 * width + 16) * float(np.finfo(np.float32 if single else np.float64).eps) / 2
        self.raw = np.empty((len(warm) + wanted, width))
        self.factors = np.empty((len(warm) + wanted, width + 1), self.dtype)
        self.n_centres = 0
        self.values = np.full(n_points, np.inf)
        self.upto = np.zeros(n_points, np.int64)
        self.exact = np.zeros(n_points, bool)
        for row in warm:
            self._add_centre(np.asarray(row, dtype=np.float64))
        if not len(warm):
            self._choose(int(self.norms.argmax()))

    def run(self) -> list[int]:
        """Return the chosen rows."""
        for start in range(0, len(self.points), self.active):
            self._renew(np.arange(start, min(start + self.active, len(self.points))))
        for row in self.chosen:
            self.values[row], self.exact[row] = -1.0, True
        going = True
        while going and len(self.chosen) < self.wanted:
            going = self._run_active()
        return self.chosen

    # -- centres -----------------------------------------------------------------------------------

    def _add_centre(self, raw: NDArray[np.float64]) -> None:
        """Take a point as a centre; the product with its factors is |c|^2 - 2 c.x."""
        centred = (raw - self.mean).astype(self.dtype)
        number = self.n_centres
        self.raw[number] = raw
        self.factors[number, :-1] = -2 * centred
        self.factors[number, -1] = np.square(raw - self.mean).sum()
        self.n_centres += 1

    def _choose(self, row: int) -> None:
        self.chosen.append(row)
        self.values[row], self.exact[row] = -1.0, True
        self._add_centre(np.asarray(self.points[row], dtype=np.float64))

    # -- distances ---------------------------------------------------------------------------------

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return centred rows with a column of ones, ``[m, d + 1]``."""
        found = np.empty((len(rows), self.factors.shape[1]), self.dtype)
        found[:, -1] = 1
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            found[start : start + len(part), :-1] = np.asarray(self.points[part], dtype=np.float64) - self.mean
        return found

    def _margin(self, values: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far a computed squared distance can be from the exact one.

        The rounding is within u (|x|^2 + |c|^2) times the number of operations, and |c|^2 <= 2 |x|^2 + 2 |x - c|^2.
        """
        return self.unit * (3 * norms + 2.1 * np.maximum(values, 0))

    def _nearest(self, table: NDArray[np.floating], first: int) -> NDArray[np.floating]:
        """Return the least product of each row with the centres from ``first`` on."""
        found = np.full(len(table), np.inf, self.dtype)
        step = max(1, min(_BLOCK, _PRODUCTS // max(len(table), 1)))
        for start in range(first, self.n_centres, step):
            products = table @ self.factors[start : min(start + step, self.n_centres)].T
            np.minimum(found, products.min(axis=1), out=found)
        return found

    def _renew(self, rows: NDArray[np.int64], table: NDArray[np.floating] | None = None) -> None:
        """Bring the values of some rows up to date."""
        table = self._rows(rows) if table is None else table
        order = np.argsort(self.upto[rows], kind="stable")
        for start in range(0, len(rows), _BLOCK):
            part = order[start : start + _BLOCK]
            members = rows[part]
            first = int(self.upto[members[0]])
            if first == self.n_centres:
                continue
            fresh = self._nearest(table[part], first).astype(np.float64) + self.norms[members]
            self._lower(members, fresh)
            self.upto[members] = self.n_centres

    def _lower(self, rows: NDArray[np.int64], fresh: NDArray[np.float64]) -> None:
        old = self.values[rows]
        # An exact value stays exact where the new distance is larger beyond doubt.
        self.exact[rows] &= (fresh - self._margin(fresh, self.norms[rows]) > old) | (old <= 0)
        self.values[rows] = np.minimum(old, np.maximum(fresh, 0))

    def _make_exact(self, rows: NDArray[np.int64]) -> None:
        """Compute values in 64 bits, to the centres that can be the nearest."""
        rows = rows[~(self.exact[rows] & ((self.upto[rows] == self.n_centres) | (self.values[rows] <= 0)))]
        step = max(1, _PRODUCTS // max(self.n_centres, 1))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            norms = self.norms[part]
            distances = (self._rows(part) @ self.factors[: self.n_centres].T).astype(np.float64) + norms[:, None]
            least = distances.min(axis=1)
            near = distances <= (least + 2 * self._margin(least, norms))[:, None] * (1 + 4 * self.unit)
            exact = np.full(len(part), np.inf)
            which, centre = np.nonzero(near)
            for begin in range(0, len(which), _BLOCK * 16):
                some = slice(begin, begin + _BLOCK * 16)
                difference = np.asarray(self.points[part[which[some]]], np.float64) - self.raw[centre[some]]
                np.minimum.at(exact, which[some], np.einsum("ij,ij->i", difference, difference))
            self.values[part] = exact
            self.exact[part] = True
            self.upto[part] = self.n_centres

    def _bounds(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """Return upper bounds of the exact values."""
        values = self.values[rows]
        return np.where(self.exact[rows], values, values + self._margin(values, self.norms[rows]))

    # -- choosing ----------------------------------------------------------------------------------

    def _run_active(self) -> bool:
        """Choose points as long as the largest distance is surely within the active set; False to end."""
        bounds = self._bounds(slice(None))
        n_points, size = len(bounds), self.active
        outside = -np.inf
        rows = np.arange(n_points)
        if size < n_points:
            order = np.argpartition(bounds, n_points - size - 1)
            outside = float(bounds[order[n_points - size - 1]])
            rows = np.sort(order[n_points - size :])
        table = self._rows(rows)
        self._renew(rows, table)
        active = _Active(self, rows, table)
        before = len(self.chosen)
        largest = 0.0
        going = True
        while len(self.chosen) < self.wanted:
            winner, largest = active.winner(outside)
            if largest <= outside:
                break
            if largest <= self.limit and np.sqrt(max(largest, 0.0)) < np.sqrt(self.limit):
                going = False
                break
            active.take(winner)
        active.store()
        if going and len(self.chosen) == before and largest == outside:
            return self._settle(largest)
        return going

    def _settle(self, least: float) -> bool:
        """Choose one point among equals, wherever they are; False if it is near enough to end."""
        equals = np.flatnonzero(self._bounds(slice(None)) >= least)
        self._make_exact(equals)
        values = self.values[equals]
        largest = float(values.max())
        if largest < 0 or np.sqrt(largest) < np.sqrt(self.limit):
            return False
        self._choose(int(equals[np.flatnonzero(values == largest)[0]]))
        return True


class _Active:
    """The rows that are kept up to date, in arrays of their own."""

    def __init__(self, sampler: _Sampler, rows: NDArray[np.int64], table: NDArray[np.floating]) -> None:
        self.sampler = sampler
        self.rows = rows
        self.table = table
        self.norms = sampler.norms[rows]
        self.values = sampler.values[rows]
        self.exact = sampler.exact[rows]
        self.base = 3 * sampler.unit * self.norms
        self.slope = 2.1 * sampler.unit

    def _margins(self) -> NDArray[np.float64]:
        margins = self.values * self.slope
        margins += self.base
        margins[self.exact] = 0
        return margins

    def winner(self, outside: float) -> tuple[int, float]:
        """Return the place of the farthest row and its squared distance: exact, or surely above ``outside``."""
        margins = self._margins()
        lowest = (self.values - margins).max()
        candidates = np.flatnonzero(self.values + margins >= lowest)
        sampler = self.sampler
        if len(candidates) == 1 and lowest > max(outside, sampler.limit):
            return int(candidates[0]), float(lowest)
        self.store(candidates)
        sampler._make_exact(self.rows[candidates])
        values = sampler.values[self.rows[candidates]]
        self.values[candidates], self.exact[candidates] = values, True
        best = int(values.argmax())
        return int(candidates[best]), float(values[best])

    def take(self, place: int) -> None:
        """Choose the row at a place and bring the others up to date."""
        sampler = self.sampler
        sampler._choose(int(self.rows[place]))
        fresh = (self.table @ sampler.factors[sampler.n_centres - 1]).astype(np.float64)
        fresh += self.norms
        some = np.flatnonzero(self.exact)
        margins = fresh[some] * self.slope + self.base[some]
        old = self.values[some]
        self.exact[some] = (fresh[some] - margins > old) | (old <= 0)
        np.maximum(fresh, 0, out=fresh)
        np.minimum(self.values, fresh, out=self.values)
        self.values[place], self.exact[place] = -1.0, True

    def store(self, places: NDArray[np.int64] | slice = slice(None)) -> None:
        """Hand the values over to the sampler."""
        rows = self.rows[places]
        self.sampler.values[rows] = self.values[places]
        self.sampler.exact[rows] = self.exact[places]
        self.sampler.upto[rows] = self.sampler.n_centres
