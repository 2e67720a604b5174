"""Scaling laws: how an error falls with data, parameters or compute (ALGORITHMS 9.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import InputError

_STARTS = 8


@dataclass(frozen=True)
class ScalingLaw:
    """The law eps(x) = a x^(-b) + c, eq. (9.1).

    Attributes
    ----------
    a, b, c
        Parameters; c is 0 where the pure power law explains the errors as well (Akaike's criterion).
    interval
        95 % interval of b, by resampling the runs of each size; None with a single run a size.
    aic, aic_power
        Akaike's criterion of the law with c and of the pure power law, smaller is better.
    extrapolation_error
        Relative error of the law fitted without the largest size, at that size; None with fewer than four other sizes.
    """

    a: float
    b: float
    c: float
    interval: tuple[float, float] | None
    aic: float
    aic_power: float
    extrapolation_error: float | None

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return the error expected at ``x``."""
        return self.a * np.asarray(x, dtype=np.float64) ** -self.b + self.c


def fit_scaling_law(x: ArrayLike, errors: ArrayLike, *, n_bootstrap: int = 1000, seed: int = 0) -> ScalingLaw:
    """Fit a x^(-b) + c with a, b > 0 and 0 <= c < min(errors) to logarithms of errors, and decide whether c is needed.

    Parameters
    ----------
    x
        Number of structures, of parameters, or compute, of every run, ``[n]``; runs that differ in their seed
        only have equal ones.
    errors
        Error of every run, ``[n]``.
    n_bootstrap
        Resamplings for the interval of b.
    seed
        Of the resampling.

    Returns
    -------
    ScalingLaw
        The law.

    Raises
    ------
    InputError
        If there are fewer than three sizes, lengths differ, or a number is not positive.
    """
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if sizes.shape != values.shape or sizes.ndim != 1:
        raise InputError(f"There are {sizes.size} sizes and {values.size} errors.")
    if not (np.isfinite(sizes).all() and np.isfinite(values).all() and (sizes > 0).all() and (values > 0).all()):
        raise InputError("Sizes and errors of a scaling law must be positive.", remedy="Leave failed runs out.")
    distinct = np.unique(sizes)
    if len(distinct) < 3:
        raise InputError(
            f"{len(distinct)} sizes do not make a scaling law.",
            remedy="Train at five sizes or more, each twice the last.",
        )
    best, law = _choose(sizes, values)
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(sizes == size) for size in distinct]
    interval = None
    if n_bootstrap and min(len(rows) for rows in members) > 1:
        slopes = []
        for _ in range(n_bootstrap):
            drawn = np.concatenate([rng.choice(rows, len(rows)) for rows in members])
            slopes.append(law(sizes[drawn], values[drawn], best[:3])[1])
        interval = (float(np.quantile(slopes, 0.025)), float(np.quantile(slopes, 0.975)))
    outside = None
    if len(distinct) >= 5:
        inner, last = sizes < distinct[-1], values[sizes == distinct[-1]].mean()
        a, b, c = _choose(sizes[inner], values[inner])[0][:3]
        outside = float(abs(a * distinct[-1] ** -b + c - last) / last)
    a, b, c, aic, aic_power = best
    return ScalingLaw(a, b, c, interval, aic, aic_power, outside)


Fit = Callable[[NDArray[np.float64], NDArray[np.float64], tuple[float, ...]], tuple[float, float, float, float]]


def _choose(sizes: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[tuple[float, ...], Fit]:
    """Return a, b, c and both criteria of the better law, and the function that fits it."""
    n = len(sizes)
    power = _power(sizes, values, ())
    full = _full(sizes, values, ())
    aic_power = n * np.log(max(power[3], 1e-300) / n) + 4
    aic = n * np.log(max(full[3], 1e-300) / n) + 6
    if aic < aic_power:
        return (*full[:3], float(aic), float(aic_power)), _full
    return (*power[:3], float(aic), float(aic_power)), _power


def _power(
    sizes: NDArray[np.float64], values: NDArray[np.float64], start: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """Fit a line in logarithms; return a, b, c = 0 and the sum of squares."""
    slope, offset = np.polyfit(np.log(sizes), np.log(values), 1)
    residuals = np.log(values) - (slope * np.log(sizes) + offset)
    return float(np.exp(offset)), float(-slope), 0.0, float(residuals @ residuals)


def _full(
    sizes: NDArray[np.float64], values: NDArray[np.float64], start: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """Fit log(a x^-b + c) from several starts, or from one; return a, b, c and the sum of squares."""
    from scipy.optimize import least_squares

    scale = float(np.exp(np.log(sizes).mean()))
    lowest = float(values.min())
    logs, targets = np.log(sizes / scale), np.log(values)

    def residuals(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(np.exp(p[0] - p[1] * logs) + p[2] * lowest) - targets

    if start:
        a, b, c = start
        begins = [(np.log(a * scale**-b), b, np.clip(c / lowest, 1e-3, 0.99))]
    else:
        shares = np.linspace(0.02, 0.98, _STARTS)
        begins = []
        for share in shares:
            slope, offset = np.polyfit(logs, np.log(values - share * lowest), 1)
            begins.append((offset, max(-slope, 1e-3), share))
    bounds = ([-np.inf, 1e-6, 0.0], [np.inf, np.inf, 1.0 - 1e-9])
    found = min((least_squares(residuals, begin, bounds=bounds) for begin in begins), key=lambda result: result.cost)
    log_a, b, share = found.x
    return float(np.exp(log_a) * scale**b), float(b), float(share * lowest), float(2 * found.cost)
