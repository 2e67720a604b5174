"""Starting a molecular dynamics run, and the signs that it has broken down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from ase.units import kB

from atomfoundry.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms

CLOSEST = 0.4
"""Atoms nearer than this part of the sum of their covalent radii have collapsed."""

HIGHEST_JUMP = 1.0
"""Largest change of the total energy in one step, eV/atom."""


def degrees_of_freedom(atoms: Atoms) -> int:
    """Return how many velocities are free once the motion of the whole is taken out.

    Parameters
    ----------
    atoms
        A structure of two atoms or more.

    Returns
    -------
    int
        3N - 3 for periodic structures, 3N - 6 for molecules, 3N - 5 for linear ones.
    """
    free = 3 * len(atoms) - 3
    if atoms.pbc.any():
        return free
    centred = atoms.positions - atoms.positions.mean(axis=0)
    extents = np.linalg.svd(centred, compute_uv=False)
    linear = extents[1] <= 1e-6 * extents[0]
    return free - (2 if linear else 3)


def remove_overall_motion(atoms: Atoms) -> None:
    """Take out the translation and, for molecules, the rotation of the whole, which are no temperature.

    Parameters
    ----------
    atoms
        Its momenta are changed in place.
    """
    masses = atoms.get_masses()[:, None]
    velocities = atoms.get_velocities()
    velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        momentum = (masses * np.cross(arms, velocities)).sum(axis=0)
        inertia = (masses[:, :, None] * _inertia(arms)).sum(axis=0)
        # A linear molecule has no moment of inertia about its axis, hence the pseudo-inverse.
        rate = np.linalg.pinv(inertia, rcond=1e-9, hermitian=True) @ momentum
        velocities -= np.cross(rate, arms)
    atoms.set_velocities(velocities)


def _inertia(arms: np.ndarray) -> np.ndarray:
    """Return ``r^2 1 - r r^T`` of every arm, (N, 3, 3)."""
    squares = (arms**2).sum(axis=1)[:, None, None]
    return squares * np.eye(3) - arms[:, :, None] * arms[:, None, :]


class HealthCheck:
    """Watch a run and stop it when it breaks down (ALGORITHMS 8.10).

    Parameters
    ----------
    atoms
        The moving structure, with a calculator.
    temperature
        Target temperature, K; more than twice this plus 1000 K is a failure.
    interval
        Steps between two checks of the distances.
    """

    def __init__(self, atoms: Atoms, *, temperature: float, interval: int = 10) -> None:
        self.atoms = atoms
        self.limit = 2 * temperature + 1000
        self.interval = interval
        self.free = degrees_of_freedom(atoms)
        self.previous: float | None = None

    def temperature(self) -> float:
        """Return the present temperature, K, without the motion of the whole."""
        return float(2 * self.atoms.get_kinetic_energy() / (self.free * kB))

    def check(self, step: int, energy: float, *, conserved: bool) -> None:
        """Raise if the run has broken down.

        Parameters
        ----------
        step
            Number of the step.
        energy
            Total energy, eV.
        conserved
            The total energy should not change, so a jump is a failure.

        Raises
        ------
        LabelError
            With reason ``"nan"``, ``"temperature"``, ``"energy_jump"`` or ``"min_distance"``.
        """
        if not (math.isfinite(energy) and np.isfinite(self.atoms.positions).all()):
            raise LabelError(f"Step {step}: energy or positions are not finite.", reason="nan")
        temperature = self.temperature()
        if temperature > self.limit:
            raise LabelError(f"Step {step}: {temperature:.0f} K is above {self.limit:.0f} K.", reason="temperature")
        if conserved and self.previous is not None:
            jump = abs(energy - self.previous) / len(self.atoms)
            if jump > HIGHEST_JUMP:
                raise LabelError(f"Step {step}: the total energy changed by {jump:.3g} eV/atom.", reason="energy_jump")
        self.previous = energy
        if step % self.interval == 0:
            self._check_distances(step)

    def _check_distances(self, step: int) -> None:
        radii = covalent_radii[self.atoms.numbers]
        i, j, distance = neighbor_list("ijd", self.atoms, float(2 * CLOSEST * radii.max()))
        close = distance < CLOSEST * (radii[i] + radii[j])
        if close.any():
            worst = int(np.argmin(np.where(close, distance, np.inf)))
            pair = f"{self.atoms.symbols[i[worst]]}-{self.atoms.symbols[j[worst]]}"
            raise LabelError(f"Step {step}: {pair} distance of {distance[worst]:.3f} A.", reason="min_distance")
