"""Third-order Birch-Murnaghan equation of state: the curve and its exact least-squares fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atomfoundry.errors import LabelError


@dataclass(frozen=True, kw_only=True)
class BirchMurnaghanFit:
    """Parameters of a fitted equation of state.

    Parameters
    ----------
    v0
        Equilibrium volume, A^3 (per whatever the input was).
    e0
        Energy at the minimum, eV.
    b0
        Bulk modulus, eV/A^3.
    b0_prime
        Its pressure derivative.
    rmse
        Root mean square residual, eV.
    r2
        Coefficient of determination.
    """

    v0: float
    e0: float
    b0: float
    b0_prime: float
    rmse: float
    r2: float

    def energy(self, volumes: np.ndarray) -> np.ndarray:
        """Return fitted energies in eV at volumes in A^3."""
        return birch_murnaghan_energy(volumes, v0=self.v0, e0=self.e0, b0=self.b0, b0_prime=self.b0_prime)


def birch_murnaghan_energy(volumes: np.ndarray, *, v0: float, e0: float, b0: float, b0_prime: float) -> np.ndarray:
    """Return E(V) of the third-order Birch-Murnaghan equation.

    ``E = E0 + (9 V0 B0 / 16) {(eta - 1)^3 B0' + (eta - 1)^2 (6 - 4 eta)}``, ``eta = (V0/V)^(2/3)``
    (Birch, Phys. Rev. 71, 809 (1947)).

    Parameters
    ----------
    volumes
        A^3.
    v0, e0, b0, b0_prime
        Equilibrium volume (A^3), energy (eV), bulk modulus (eV/A^3) and its pressure derivative.

    Returns
    -------
    ndarray
        eV.
    """
    eta = (v0 / np.asarray(volumes, dtype=float)) ** (2 / 3)
    return e0 + 9 * v0 * b0 / 16 * ((eta - 1) ** 3 * b0_prime + (eta - 1) ** 2 * (6 - 4 * eta))


def birch_murnaghan_pressure(volumes: np.ndarray, *, v0: float, b0: float, b0_prime: float) -> np.ndarray:
    """Return P(V) = -dE/dV of the third-order Birch-Murnaghan equation, in the unit of ``b0``.

    Parameters
    ----------
    volumes
        A^3.
    v0, b0, b0_prime
        Equilibrium volume (A^3), bulk modulus and its pressure derivative.

    Returns
    -------
    ndarray
        Pressures, positive under compression.
    """
    eta = (v0 / np.asarray(volumes, dtype=float)) ** (2 / 3)
    return 1.5 * b0 * (eta**3.5 - eta**2.5) * (1 + 0.75 * (b0_prime - 4) * (eta - 1))


def fit_birch_murnaghan(volumes: np.ndarray, energies: np.ndarray) -> BirchMurnaghanFit:
    """Fit the third-order Birch-Murnaghan equation by least squares in the energy.

    In ``x = V^(-2/3)`` the equation is a cubic polynomial, so the fit is linear: it has one solution and
    needs no start values. With ``x0`` the polynomial's minimum, ``V0 = x0^(-3/2)``, ``B0 = 4 x0^2 p''(x0) /
    (9 V0)`` and ``B0' = 4 + 2 x0 p'''/ (3 p''(x0))``.

    Parameters
    ----------
    volumes
        A^3, at least four different ones.
    energies
        eV.

    Returns
    -------
    BirchMurnaghanFit
        The parameters.

    Raises
    ------
    LabelError
        With reason ``"too_few_points"`` or ``"no_minimum"``.
    """
    volumes = np.asarray(volumes, dtype=float)
    energies = np.asarray(energies, dtype=float)
    if len(np.unique(volumes)) < 4:
        raise LabelError(
            f"An equation of state needs at least 4 volumes, there are {len(np.unique(volumes))}.",
            reason="too_few_points",
        )
    x = volumes ** (-2 / 3)
    origin, shift = x.mean(), energies.mean()
    # Polynomial fits are well conditioned only around zero.
    t = x / origin - 1
    c0, c1, c2, c3 = np.polynomial.polynomial.polyfit(t, energies - shift, 3)
    # The minimum of a cubic, in the form that also holds for c3 -> 0.
    discriminant = c2**2 - 3 * c1 * c3
    denominator = c2 + np.sqrt(max(discriminant, 0.0))
    t0 = -c1 / denominator if discriminant > 0 and denominator != 0 else np.nan
    # A minimum far outside the data is an artefact of the polynomial.
    if not t.min() - np.ptp(t) < t0 < t.max() + np.ptp(t) or t0 <= -1:
        raise LabelError("The energies have no minimum near the volumes.", reason="no_minimum")
    # Derivatives by u with u = x/x0 - 1, so that t = (1 + t0) (1 + u) - 1.
    scale = 1 + t0
    second = 2 * np.sqrt(discriminant) * scale**2
    third = 6 * c3 * scale**3
    v0 = float((origin * scale) ** -1.5)
    residuals = c0 + c1 * t + c2 * t**2 + c3 * t**3 - (energies - shift)
    spread = float(((energies - shift) ** 2).sum())
    return BirchMurnaghanFit(
        v0=v0,
        e0=float(c0 + c1 * t0 + c2 * t0**2 + c3 * t0**3 + shift),
        b0=float(4 * second / (9 * v0)),
        b0_prime=float(4 + 2 * third / (3 * second)),
        rmse=float(np.sqrt((residuals**2).mean())),
        r2=1 - float((residuals**2).sum()) / spread if spread > 0 else float("nan"),
    )
