"""How the symmetry of a structure moves its atoms, and which sites and pairs it makes equivalent."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.errors import StructureError

NEIGHBOURS = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
"""A cell and the 26 around it, ``[27, 3]``."""


def symmetry_operations(atoms: Atoms, *, symprec: float = 1e-2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rotations ``[m, 3, 3]`` and translations ``[m, 3]`` in scaled coordinates.

    Parameters
    ----------
    atoms
        A structure; one that is not periodic in three directions has the identity only.
    symprec
        Tolerance, A.

    Raises
    ------
    StructureError
        If no symmetry is found at all.
    """
    if not atoms.pbc.all():
        return np.eye(3)[None], np.zeros((1, 3))
    import spglib

    with warnings.catch_warnings():
        # spglib announces another way of telling errors; None is what it still returns.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec)
    if found is None:
        raise StructureError(
            f"No symmetry found in {atoms.get_chemical_formula()} within {symprec:g} A.",
            remedy="Check the structure for atoms on top of each other.",
        )
    return np.asarray(found["rotations"], dtype=np.float64), np.asarray(found["translations"], dtype=np.float64)


def primitive_cell(atoms: Atoms, translations: NDArray[np.float64]) -> Atoms:
    """Return the cell that pure translations span, in the orientation of the given one.

    Parameters
    ----------
    atoms
        Periodic in three directions.
    translations
        All pure translations ``[k, 3]`` in scaled coordinates, the zero among them: the cell becomes k times smaller.
    """
    if len(translations) == 1:
        return atoms
    candidates = np.concatenate([translations + shift for shift in NEIGHBOURS])
    candidates = candidates[np.linalg.norm(candidates, axis=1) > 1e-6]
    order = np.argsort((np.linalg.norm(candidates @ atoms.cell.array, axis=1)).round(6), kind="stable")
    vectors, target = candidates[order], 1 / len(translations)
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            volumes = vectors @ np.cross(vectors[i], vectors[j])
            match = np.flatnonzero(np.abs(np.abs(volumes) - target) < 1e-3 * target)
            if len(match):
                basis = np.array([vectors[i], vectors[j], vectors[match[0]] * np.sign(volumes[match[0]])])
                return _reduced(atoms, basis)
    raise StructureError(f"{atoms.get_chemical_formula()} has translations that span no cell.")


def _reduced(atoms: Atoms, basis: NDArray[np.float64]) -> Atoms:
    """Return one atom of each that the basis (scaled coordinates, in rows) makes equal."""
    inside = atoms.get_scaled_positions(wrap=False) @ np.linalg.inv(basis)
    cell = basis @ atoms.cell.array
    kept: list[int] = []
    for index in range(len(atoms)):
        difference = inside[kept] - inside[index]
        difference -= np.rint(difference)
        near = np.linalg.norm(difference @ cell, axis=1) < 0.1
        if not (near & (atoms.numbers[kept] == atoms.numbers[index])).any():
            kept.append(index)
    inside = inside[kept] % 1.0
    inside[inside > 1 - 1e-6] = 0.0
    return Atoms(atoms.numbers[kept], scaled_positions=inside, cell=cell, pbc=True)


@dataclass(frozen=True)
class _Crystal:
    """The symmetry of the crystal a cell is a piece of, which may be higher than that of the cell's shape."""

    rotations: NDArray[np.float64]
    """Cartesian, ``[m, 3, 3]``."""
    images: NDArray[np.int64]
    """Where each operation takes each atom, ``[m, N]``."""
    translated: NDArray[np.int64]
    """The first atom that a pure translation makes of each atom, ``[N]``."""


def _crystal(atoms: Atoms, symprec: float) -> _Crystal:
    if not atoms.pbc.all():
        itself = np.arange(len(atoms))
        return _Crystal(np.eye(3)[None], itself[None], itself)
    rotations, translations = symmetry_operations(atoms, symprec=symprec)
    pure = translations[np.abs(rotations - np.eye(3)).max(axis=(1, 2)) < 1e-6]
    primitive = primitive_cell(atoms, pure)
    rotations, translations = symmetry_operations(primitive, symprec=symprec)
    columns = primitive.cell.array.T
    cartesian = columns @ rotations @ np.linalg.inv(columns)
    shifts = translations @ primitive.cell.array
    images = np.array(
        [
            _where(atoms, atoms.positions @ rotation.T + shift, symprec)
            for rotation, shift in zip(cartesian, shifts, strict=True)
        ]
    )
    moved = np.array([_where(atoms, atoms.positions + shift @ atoms.cell.array, symprec) for shift in pure])
    return _Crystal(cartesian, images, moved.min(axis=0))


def _where(atoms: Atoms, positions: NDArray[np.float64], symprec: float) -> NDArray[np.int64]:
    """Return which atom is at each of some positions."""
    scaled = positions @ np.linalg.inv(atoms.cell.array)
    difference = scaled[:, None] - atoms.get_scaled_positions(wrap=False)[None]
    difference -= np.rint(difference)
    lengths = np.linalg.norm(difference @ atoms.cell.array, axis=2)
    found = lengths.argmin(axis=1)
    if lengths.min(axis=1).max() > max(10 * symprec, 0.05) or (atoms.numbers[found] != atoms.numbers).any():
        raise StructureError(
            f"A symmetry operation does not map {atoms.get_chemical_formula()} onto itself within {symprec:g} A.",
            remedy="Give a smaller symprec.",
        )
    return np.asarray(found, dtype=np.int64)


def inequivalent_sites(atoms: Atoms, *, symprec: float = 1e-2) -> list[int]:
    """Return the first atom of every class of equivalent ones, in the order of the atoms.

    Equivalent are atoms that the symmetry of the infinite crystal makes so, also where the shape of a supercell has
    not this symmetry: a vacancy in a skew supercell is the same defect on all of them.
    """
    crystal = _crystal(atoms, symprec)
    return sorted(set(crystal.translated[crystal.images].min(axis=0).tolist()))


def inequivalent_pairs(atoms: Atoms, *, symprec: float = 1e-2) -> list[tuple[int, int]]:
    """Return one pair of atoms ``(i, j)``, ``i < j``, of every class of equivalent ones.

    A pair is its nearest images; equivalent as in ``inequivalent_sites``.
    """
    crystal = _crystal(atoms, symprec)
    tolerance = max(10 * symprec, 0.05)
    known_sites = np.zeros(0, dtype=np.int64)
    known_vectors = np.zeros((0, 3))
    found = []
    for first in inequivalent_sites(atoms, symprec=symprec):
        vectors = atoms.get_distances(first, list(range(len(atoms))), mic=bool(atoms.pbc.any()), vector=True)
        for second in range(len(atoms)):
            if second == first:
                continue
            turned = crystal.rotations @ vectors[second]
            sites = crystal.translated[np.concatenate([crystal.images[:, first], crystal.images[:, second]])]
            both = np.concatenate([turned, -turned])
            near = np.linalg.norm(both[:, None] - known_vectors[None], axis=2) < tolerance
            if (near & (sites[:, None] == known_sites[None])).any():
                continue
            known_sites = np.append(known_sites, crystal.translated[first])
            known_vectors = np.concatenate([known_vectors, vectors[second][None]])
            found.append((min(first, second), max(first, second)))
    return sorted(found)
