"""Gaussian posterior of a linear readout: the linear algebra of LLPR (ALGORITHMS 5.1, arXiv 2403.02251)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atomfoundry.errors import ModelError

RELATIVE_RIDGE = 1e-8
"""Smallest ridge over the mean diagonal element of the scaled matrix."""

LARGEST_RELATIVE_RIDGE = 1e-2
"""A matrix that needs more than this is refused."""

CalibrationMethod = Literal["absolute", "squared", "crps"]


class FeatureHessian:
    """Sum of weighted outer products of per-atom features, gathered batch by batch in float64 (Eq. 5.2).

    Parameters
    ----------
    size
        Number of features d.
    """

    def __init__(self, size: int) -> None:
        self.matrix = torch.zeros(size, size, dtype=torch.float64)
        self.count = 0

    def add(self, features: Tensor, n_atoms: Tensor, *, weights: Tensor | None = None) -> None:
        """Add structures.

        Parameters
        ----------
        features
            (B, d) sums over the structure's edges.
        n_atoms
            (B,) the loss is on energy per atom, hence the division.
        weights
            (B,) of the structures; None: 1.
        """
        rows = features.detach().double() / n_atoms.double()[:, None]
        scaled = rows if weights is None else rows * weights.double()[:, None]
        self.matrix += scaled.T @ rows
        self.count += rows.shape[0]


@dataclass
class ReadoutPosterior:
    """Posterior covariance of one head's readout weights, alpha^2 H0^-1.

    Features are divided by `scale` before the Cholesky factor meets them, so that rounding does not decide.

    Parameters
    ----------
    scale
        (d,) RMS of each feature in training.
    cholesky
        (d, d) lower factor of the scaled H0, float64.
    ridge
        What was added to the diagonal of the scaled matrix (0 where an absolute ridge was given).
    count
        Structures that went in.
    alpha
        Calibration factor (Eq. 5.3).
    """

    scale: Tensor
    cholesky: Tensor
    ridge: float
    count: int
    alpha: float = 1.0

    @classmethod
    def from_hessian(cls, hessian: FeatureHessian, *, ridge: float | None = None) -> ReadoutPosterior:
        """Factor H0.

        Parameters
        ----------
        hessian
            Gathered over the training set.
        ridge
            zeta^2 of Eq. 5.2, in units of the features squared; None: the smallest that works, at least 1e-8
            of the scaled matrix's mean diagonal.

        Raises
        ------
        ModelError
            If nothing was gathered, a value is not finite, or no reasonable ridge makes the matrix positive.
        """
        if hessian.count == 0:
            raise ModelError("LLPR: no training structure was given.")
        matrix = 0.5 * (hessian.matrix + hessian.matrix.T)
        if not torch.isfinite(matrix).all():
            raise ModelError("LLPR: a feature of the training set is not finite.")
        size = matrix.shape[0]
        if ridge is not None:
            matrix = matrix + ridge * torch.eye(size, dtype=torch.float64)
        rms = torch.sqrt(torch.diagonal(matrix) / hessian.count)
        if not (rms > 0).any():
            raise ModelError("LLPR: all features of the training set are zero.")
        # a feature that never appeared has no RMS of its own
        rms = torch.where(rms > 0, rms, rms[rms > 0].median())
        scaled = matrix / rms[:, None] / rms[None, :]
        if ridge is not None:
            factor, info = torch.linalg.cholesky_ex(scaled)
            if int(info) != 0:
                raise ModelError(
                    f"LLPR: the matrix with ridge {ridge} is not positive definite.",
                    remedy="Raise the ridge, or give None.",
                )
            return cls(rms, factor, 0.0, hessian.count)
        mean_diagonal = float(torch.diagonal(scaled).mean())
        relative = RELATIVE_RIDGE
        while relative <= LARGEST_RELATIVE_RIDGE:
            added = relative * mean_diagonal
            factor, info = torch.linalg.cholesky_ex(scaled + added * torch.eye(size, dtype=torch.float64))
            if int(info) == 0:
                return cls(rms, factor, added, hessian.count)
            relative *= 10.0
        raise ModelError(
            f"LLPR: the feature matrix of {hessian.count} structures stays indefinite up to "
            f"a relative ridge of {LARGEST_RELATIVE_RIDGE}."
        )

    def whiten(self, features: Tensor) -> Tensor:
        """Return u = L^-1 f: variances are alpha^2 |u|^2, covariances alpha^2 u_a . u_b.

        Parameters
        ----------
        features
            (..., d) float64 features, their differences or derivatives.
        """
        flat = (features.double() / self.scale).reshape(-1, self.scale.shape[0])
        solved = torch.linalg.solve_triangular(self.cholesky, flat.T, upper=False).T
        return solved.reshape(features.shape)

    def sigma(self, features: Tensor) -> Tensor:
        """Return alpha |L^-1 f| (Eq. 5.1), one per row.

        For an energy difference give the difference of the features: images of one path are correlated.

        Parameters
        ----------
        features
            (..., d).
        """
        return self.alpha * self.whiten(features).norm(dim=-1)

    def directions(self) -> Tensor:
        """Return (d, d) the rows of alpha L^-1; products with f, squared and summed, are the variance."""
        identity = torch.eye(self.scale.shape[0], dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(self.cholesky, identity, upper=False)
        return self.alpha * inverse / self.scale

    def sample_directions(self, n_samples: int, *, seed: int) -> Tensor:
        """Return (M, d) draws w_m - w of the readout weights about their mean (Eq. 5.4).

        Parameters
        ----------
        n_samples
            M; a sampled sigma is right to 1/sqrt(2 M).
        seed
            The same seed gives the same draws, so sigma is smooth along a trajectory.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n_samples, self.scale.shape[0], dtype=torch.float64, generator=generator)
        return noise @ self.directions()


def calibrate(errors: Tensor, sigmas: Tensor, *, method: CalibrationMethod = "absolute") -> float:
    """Return alpha, by which uncalibrated sigmas are multiplied (Eq. 5.3).

    Parameters
    ----------
    errors
        (n,) predicted minus reference.
    sigmas
        (n,) uncalibrated, positive.
    method
        'absolute': sqrt(pi/2) mean |z|, robust; 'squared': sqrt(mean z^2); 'crps': root of the mean CRPS's
        derivative. All three agree for Gaussian errors.

    Raises
    ------
    ModelError
        If there is nothing to calibrate on, or a sigma is not positive.
    """
    if errors.numel() == 0:
        raise ModelError("LLPR: no calibration structure has a label.")
    if not bool((sigmas > 0).all() & torch.isfinite(sigmas).all() & torch.isfinite(errors).all()):
        raise ModelError(
            "LLPR: calibration needs finite errors and positive sigmas.",
            remedy="Leave out isolated atoms and structures without neighbours.",
        )
    size = errors.double().abs()
    sigma = sigmas.double()
    z = size / sigma
    if method == "squared":
        return float(torch.sqrt((z**2).mean()))
    if method == "absolute":
        return float(math.sqrt(math.pi / 2) * z.mean())
    from scipy.optimize import brentq

    def slope(log_alpha: float) -> float:
        scaled = z / math.exp(log_alpha)
        density = torch.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)
        return float((sigma * (2 * density - 1 / math.sqrt(math.pi))).sum())

    positive = z[z > 0]
    if positive.numel() == 0:
        return 0.0
    low = math.log(float(positive.min())) - 20.0
    high = math.log(float(positive.max())) + 20.0
    if slope(low) >= 0:
        # so many exact predictions that no width is narrow enough
        return 0.0
    return math.exp(brentq(slope, low, high, xtol=1e-12))
