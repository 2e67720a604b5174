"""Conformal prediction: intervals with a guaranteed coverage (ALGORITHMS 5.2, MACE-MP-0 appendix D4)."""

from __future__ import annotations

import math

import numpy as np

from atomfoundry.errors import ModelError


def conformal_scores(errors: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Return |error| / sigma; 0 where both vanish, inf where only sigma does.

    Parameters
    ----------
    errors
        (n,) predicted minus reference, or norms of vector errors.
    sigmas
        (n,) same unit.
    """
    size = np.abs(np.asarray(errors, dtype=float))
    sigma = np.asarray(sigmas, dtype=float)
    scores = np.divide(size, sigma, out=np.full_like(size, np.inf), where=sigma > 0)
    return np.where((sigma == 0) & (size == 0), 0.0, scores)


def conformal_quantile(scores: np.ndarray, *, alpha: float = 0.1) -> float:
    """Return q such that |error| <= q sigma with probability >= 1 - alpha on exchangeable data (Eq. 5.5).

    The ``ceil((n + 1)(1 - alpha))``-th smallest score; infinite if n is too small for the coverage.

    Parameters
    ----------
    scores
        (n,) calibration scores, see `conformal_scores`.
    alpha
        Allowed rate of misses, in (0, 1).

    Raises
    ------
    ModelError
        If `alpha` is out of range, or a score is NaN.
    """
    values = np.sort(np.asarray(scores, dtype=float))
    if not 0 < alpha < 1:
        raise ModelError(f"Conformal miss rate alpha = {alpha} is not between 0 and 1.")
    if np.isnan(values).any():
        raise ModelError("A conformal score is NaN.", remedy="Check the calibration frames' labels.")
    # (n + 1)(1 - alpha) of n = 9, alpha = 0.1 is may exceed 9 by round-off
    index = math.ceil((len(values) + 1) * (1 - alpha) * (1 - 1e-12))
    return float(values[index - 1]) if index <= len(values) else math.inf


def coverage(errors: np.ndarray, sigmas: np.ndarray, *, quantile: float = 1.0) -> float:
    """Return the share of errors within quantile x sigma.

    Parameters
    ----------
    errors, sigmas
        (n,) same unit.
    quantile
        Multiplies sigma.
    """
    return float(np.mean(conformal_scores(errors, sigmas) <= quantile))
