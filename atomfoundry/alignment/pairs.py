"""Bond terms of mode ``pairs``: what a scale and one shift per element cannot say about a bond.

Two levels disagree bond by bond: a hybrid functional and PBE differ otherwise in an O-O than in a C-H bond. Mode
``pairs`` adds sum over pairs closer than a cutoff of sum_k b_k,ZZ' phi_k(x), x = r / (r_Z + r_Z') with covalent
radii, phi_k = f(x) (x - 1)^k and f falling smoothly from 1 to 0 between x = 0.8 and the cutoff. The terms are a
potential of their own: their forces and stress are added with their energy, and they vanish for separate atoms, so
dissociation limits stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_INNER = 0.8
"""Up to here a pair counts fully, in sums of covalent radii."""


def pair_name(first: str, second: str) -> str:
    """Return the name of an element pair, lighter element first, e.g. ``H-O``."""
    return "-".join(sorted((first, second), key=lambda symbol: atomic_numbers[symbol]))


def pair_names(elements: Sequence[str]) -> list[str]:
    """Return the names of all pairs of some elements."""
    return [pair_name(a, b) for a, b in combinations_with_replacement(elements, 2)]


class PairBasis(BaseModel):
    """Radial functions that every element pair has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_radial: int = Field(default=3, ge=1, le=6, description="Functions per pair; 1 counts bonds, more see lengths")
    cutoff: float = Field(default=1.6, gt=1, le=4, description="In sums of covalent radii")

    def values(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return phi_k(x) and its derivative, ``[n, n_radial]`` each."""
        width = self.cutoff - _INNER
        u = np.clip((x - _INNER) / width, 0.0, 1.0)
        # Slope and curvature vanish at both ends.
        envelope = 1 - u**3 * (10 - 15 * u + 6 * u**2)
        slope = -30 * u**2 * (1 - u) ** 2 / width
        powers = np.arange(self.n_radial)
        base = (x - 1)[:, None] ** powers
        lower = powers * (x - 1)[:, None] ** np.maximum(powers - 1, 0)
        return envelope[:, None] * base, slope[:, None] * base + envelope[:, None] * lower


class PairTerms(BaseModel):
    """Fitted bond terms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    basis: PairBasis
    coefficients: dict[str, list[float]] = Field(description="Pair, e.g. 'H-O' -> b_k, eV")

    def energy(self, atoms: Atoms) -> float:
        """Return the correction of the energy, eV."""
        bonds = _Bonds(atoms, self.basis)
        return float((bonds.phi * self._rows(bonds)).sum())

    def evaluate(self, atoms: Atoms) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Return energy (eV), forces ``[N, 3]`` (eV/A) and stress ``[6]`` (eV/A^3) of the terms.

        The stress of a structure that is not periodic in three dimensions is NaN.
        """
        bonds = _Bonds(atoms, self.basis)
        rows = self._rows(bonds)
        pull = ((bonds.slope * rows).sum(axis=1) / bonds.reach / bonds.lengths)[:, None] * bonds.vectors
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, bonds.first, pull)
        np.add.at(forces, bonds.second, -pull)
        stress = np.full(6, np.nan)
        if atoms.pbc.all():
            tensor = bonds.vectors.T @ pull / atoms.get_volume()
            stress = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return float((bonds.phi * rows).sum()), forces, stress

    def scaled(self, factor: float) -> PairTerms:
        """Return the terms times a factor."""
        return PairTerms(
            basis=self.basis,
            coefficients={pair: [factor * b for b in values] for pair, values in self.coefficients.items()},
        )

    def _rows(self, bonds: _Bonds) -> NDArray[np.float64]:
        zero = [0.0] * self.basis.n_radial
        found, where = np.unique(bonds.pairs, axis=0, return_inverse=True)
        names = [pair_name(chemical_symbols[a], chemical_symbols[b]) for a, b in found]
        table = np.array([self.coefficients.get(name, zero) for name in names]).reshape(-1, self.basis.n_radial)
        return table[where.reshape(-1)]


def pair_features(atoms: Atoms, basis: PairBasis) -> dict[str, NDArray[np.float64]]:
    """Return the sum of phi_k over the bonds of each element pair that the structure has, ``[n_radial]`` each."""
    bonds = _Bonds(atoms, basis)
    found, where = np.unique(bonds.pairs, axis=0, return_inverse=True)
    sums = np.zeros((len(found), basis.n_radial))
    np.add.at(sums, where.reshape(-1), bonds.phi)
    return {
        pair_name(chemical_symbols[a], chemical_symbols[b]): row
        for (a, b), row in zip(found.tolist(), sums, strict=True)
    }


class _Bonds:
    """Pairs of atoms within the cutoff of their elements, each once."""

    def __init__(self, atoms: Atoms, basis: PairBasis) -> None:
        from vesin import NeighborList

        radii = covalent_radii[atoms.numbers]
        first, second, vectors, lengths = NeighborList(
            cutoff=2 * basis.cutoff * float(radii.max()), full_list=False, n_threads=1
        ).compute(
            points=np.ascontiguousarray(atoms.positions),
            box=np.where(atoms.pbc[:, None], atoms.cell.array, 0.0),
            periodic=atoms.pbc,
            quantities="ijDd",
        )
        reach = radii[first] + radii[second]
        near = lengths < basis.cutoff * reach
        self.first, self.second = first[near].astype(np.int64), second[near].astype(np.int64)
        self.vectors, self.lengths, self.reach = vectors[near], lengths[near], reach[near]
        self.pairs = np.sort(np.column_stack([atoms.numbers[self.first], atoms.numbers[self.second]]), axis=1)
        self.phi, self.slope = basis.values(self.lengths / self.reach)


def merge_terms(terms: Sequence[PairTerms]) -> list[PairTerms]:
    """Add up terms of one basis; the result has each basis once."""
    merged: dict[PairBasis, dict[str, NDArray[np.float64]]] = {}
    for term in terms:
        sums = merged.setdefault(term.basis, {})
        for pair, values in term.coefficients.items():
            sums[pair] = sums.get(pair, np.zeros(term.basis.n_radial)) + values
    return [PairTerms(basis=basis, coefficients=_lists(sums)) for basis, sums in merged.items()]


def _lists(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    return {pair: [float(b) for b in values] for pair, values in sums.items()}
