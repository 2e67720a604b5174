"""Statistics of predicted against reference values: metrics, cumulative errors, parity points."""

from __future__ import annotations

from typing import Any

import numpy as np

PERCENTILES = (50, 80, 90, 95)
"""Percentiles of the absolute errors in the metrics, e.g. ``energy_p90``."""

UNITS = {"energy": "eV/atom", "forces": "eV/A", "stress": "eV/A^3"}
"""Quantity -> unit."""


def error_metrics(quantity: str, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float | int]:
    """Return mean absolute, root mean square and largest error, R2, percentiles and count.

    Parameters
    ----------
    quantity
        Prefix of the keys.
    truth, predicted
        Of equal length, not empty.

    Returns
    -------
    dict
        ``{quantity}_mae``, ``_rmse``, ``_max``, ``_r2`` (NaN where the reference does not vary), ``_n`` and
        ``_pNN``.
    """
    errors = np.abs(predicted - truth)
    spread = float(((truth - truth.mean()) ** 2).sum())
    squares = float((errors**2).sum())
    percentiles = np.percentile(errors, PERCENTILES)
    return {
        f"{quantity}_mae": float(errors.mean()),
        f"{quantity}_rmse": float(np.sqrt((errors**2).mean())),
        f"{quantity}_max": float(errors.max()),
        f"{quantity}_r2": 1 - squares / spread if spread > 0 else float("nan"),
        f"{quantity}_n": len(truth),
        **{f"{quantity}_p{p}": float(value) for p, value in zip(PERCENTILES, percentiles, strict=True)},
    }


def cumulative_errors(
    quantity: str, truth: np.ndarray, predicted: np.ndarray, *, n_points: int = 101
) -> dict[str, Any]:
    """Return the cumulative distribution of the absolute errors.

    Parameters
    ----------
    quantity
        Key of `UNITS`.
    truth, predicted
        Of equal length, not empty.
    n_points
        Equally spaced fractions from 0 to 1.

    Returns
    -------
    dict
        Record of kind ``"cdf"``: below ``error[i]`` lies ``fraction[i]`` of the errors.
    """
    fractions = np.linspace(0, 1, n_points)
    return {
        "kind": "cdf",
        "quantity": quantity,
        "unit": UNITS[quantity],
        "error": np.quantile(np.abs(predicted - truth), fractions),
        "fraction": fractions,
    }


def parity_points(
    quantity: str, truth: np.ndarray, predicted: np.ndarray, *, max_points: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Return the points of a parity plot.

    Parameters
    ----------
    quantity
        Key of `UNITS`.
    truth, predicted
        Of equal length, not empty.
    max_points
        If there are more, so many are drawn at random; energies are kept whole.
    seed
        Of the draw.

    Returns
    -------
    dict
        Record of kind ``"scatter"`` with ``reference`` and ``predicted``.
    """
    chosen = np.arange(len(truth))
    if len(truth) > max_points and quantity != "energy":
        chosen = np.sort(np.random.default_rng(seed).choice(len(truth), max_points, replace=False))
    return {
        "kind": "scatter",
        "quantity": quantity,
        "unit": UNITS[quantity],
        "reference": truth[chosen],
        "predicted": predicted[chosen],
    }
