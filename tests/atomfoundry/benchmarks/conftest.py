"""Analytic calculators with exact answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

LJ_LATTICE = 1.541737
"""Lattice parameter of untruncated Lennard-Jones fcc, in sigma."""

_INDEX = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class LatticeSumLJ(Calculator):
    """Untruncated Lennard-Jones (epsilon = 1 eV, sigma = 1 A), one atom a cell.

    The sum runs over fixed lattice indices, so it is smooth in the cell, and its derivative is exact.
    """

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, shells: int = 15) -> None:
        super().__init__()
        reference = bulk("X", "fcc", a=np.sqrt(2)).cell.array
        grid = np.arange(-shells, shells + 1)
        indices = np.array(np.meshgrid(grid, grid, grid)).reshape(3, -1).T
        lengths = np.linalg.norm(indices @ reference, axis=1)
        self.indices = indices[(lengths > 0.1) & (lengths < shells)]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        assert len(self.atoms) == 1
        vectors = self.indices @ self.atoms.cell.array
        inverse6 = (vectors**2).sum(axis=1) ** -3
        # dE/dr / r, half of each pair belongs to the one atom
        slope = 0.5 * 4 * (-12 * inverse6**2 + 6 * inverse6) / (vectors**2).sum(axis=1)
        stress = np.einsum("n,ni,nj->ij", slope, vectors, vectors) / self.atoms.get_volume()
        self.results = {
            "energy": 0.5 * 4 * float((inverse6**2 - inverse6).sum()),
            "forces": np.zeros((1, 3)),
            "stress": np.array([stress[pair] for pair in _INDEX]),
        }


class LinearElastic(Calculator):
    """A continuum with a given elastic tensor, eV/A^3; optionally an internal displacement coupled to strain.

    With ``hyperelastic`` the second Piola-Kirchhoff stress is linear in the Green-Lagrange strain, else the
    Cauchy stress is.
    """

    implemented_properties = ("energy", "forces", "stress")

    def __init__(
        self,
        reference: Atoms,
        tensor: np.ndarray,
        *,
        hyperelastic: bool = False,
        coupling: np.ndarray | None = None,
        stiffness: float = 1.0,
    ) -> None:
        super().__init__()
        self.reference = reference.copy()
        self.tensor = tensor
        self.hyperelastic = hyperelastic
        self.coupling = coupling
        self.stiffness = stiffness
        self.calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        deformation = np.linalg.solve(self.reference.cell.array, self.atoms.cell.array).T
        strain = (deformation.T @ deformation - np.eye(3)) / 2
        voigt = np.array([strain[pair] * (1 if i < 3 else 2) for i, pair in enumerate(_INDEX)])
        volume = self.reference.get_volume()
        stress = self.tensor @ voigt
        energy = 0.5 * volume * voigt @ self.tensor @ voigt
        forces = np.zeros((len(self.atoms), 3))
        if self.coupling is not None:
            bond = self.atoms.positions[1] - self.atoms.positions[0]
            shift = bond - deformation @ (self.reference.positions[1] - self.reference.positions[0])
            energy += volume * (shift @ self.coupling @ voigt + 0.5 * self.stiffness * shift @ shift)
            stress = stress + self.coupling.T @ shift
            forces[1] = -volume * (self.coupling @ voigt + self.stiffness * shift)
            forces[0] = -forces[1]
        if self.hyperelastic:
            full = stress[np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])]
            full = deformation @ full @ deformation.T / np.linalg.det(deformation)
            stress = np.array([full[pair] for pair in _INDEX])
        self.results = {"energy": float(energy), "forces": forces, "stress": stress}


class PairCurve(Calculator):
    """Two atoms with a given energy of the distance; the force is the derivative given."""

    implemented_properties = ("energy", "forces")

    def __init__(self, energy: Callable[[float], float], slope: Callable[[float], float]) -> None:
        super().__init__()
        self.energy, self.slope = energy, slope

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        bond = self.atoms.positions[1] - self.atoms.positions[0]
        r = float(np.linalg.norm(bond))
        force = -self.slope(r) * bond / r
        self.results = {"energy": float(self.energy(r)), "forces": np.array([-force, force])}


class HarmonicCrystal(Calculator):
    """Springs between neighbours, linear in the displacements from given positions."""

    implemented_properties = ("energy", "forces")

    def __init__(self, reference: Atoms, *, cutoff: float, spring: float) -> None:
        super().__init__()
        from ase.neighborlist import neighbor_list

        self.positions = reference.positions.copy()
        n = len(reference)
        self.matrix = np.zeros((3 * n, 3 * n))
        for i, j, vector in zip(*neighbor_list("ijD", reference, cutoff), strict=True):
            direction = vector / np.linalg.norm(vector)
            # a tenth of the spring is isotropic, so that the lattice has no soft modes
            block = spring * (np.outer(direction, direction) + 0.1 * np.eye(3))
            a, b = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
            self.matrix[a, a] += block / 2
            self.matrix[b, b] += block / 2
            self.matrix[a, b] -= block / 2
            self.matrix[b, a] -= block / 2

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        shift = (self.atoms.positions - self.positions).ravel()
        forces = -self.matrix @ shift
        self.results = {"energy": float(-0.5 * shift @ forces), "forces": forces.reshape(-1, 3)}


class Crashing(Calculator):
    """Breaks on chosen calls (all of them by default)."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, inner: Calculator, *, when: Callable[[int, Atoms], bool], nan: bool = False) -> None:
        super().__init__()
        self.inner, self.when, self.nan = inner, when, nan
        self.calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        broken = self.when(self.calls, self.atoms)
        if broken and not self.nan:
            raise RuntimeError("the code fell over")
        self.inner.calculate(self.atoms, properties, all_changes)
        self.results = dict(self.inner.results)
        if broken:
            self.results["energy"] = float("nan")


@pytest.fixture
def calculators():
    """The analytic calculators, by name."""

    class Namespace:
        lattice_sum = LatticeSumLJ
        linear_elastic = LinearElastic
        pair_curve = PairCurve
        harmonic_crystal = HarmonicCrystal
        crashing = Crashing

    return Namespace


@pytest.fixture
def lj_fcc() -> Atoms:
    """The fcc cell of untruncated Lennard-Jones at its minimum."""
    return bulk("Ar", "fcc", a=LJ_LATTICE)


@pytest.fixture
def silicon() -> Atoms:
    """Two-atom diamond cell."""
    return bulk("Si", "diamond", a=5.43)
