"""How the symmetry of a structure moves its atoms, and which sites and pairs it makes equivalent."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.errors import StructureError


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


def symmetry_permutations(atoms: Atoms, *, symprec: float = 1e-2) -> NDArray[np.int64]:
    """Return where every symmetry operation takes every atom, ``[m, N]``.

    Parameters
    ----------
    atoms
        A structure.
    symprec
        Tolerance, A.

    Raises
    ------
    StructureError
        If an operation does not map the atoms onto themselves.
    """
    if not atoms.pbc.all():
        return np.arange(len(atoms))[None]
    rotations, translations = symmetry_operations(atoms, symprec=symprec)
    scaled, cell = atoms.get_scaled_positions(), atoms.cell.array
    table = np.empty((len(rotations), len(atoms)), dtype=np.int64)
    for row, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        difference = (scaled @ rotation.T + translation)[:, None] - scaled[None]
        difference -= np.rint(difference)
        table[row] = np.einsum("ijk,ijk->ij", difference @ cell, difference @ cell).argmin(axis=1)
        if len(set(table[row].tolist())) != len(atoms) or (atoms.numbers[table[row]] != atoms.numbers).any():
            raise StructureError(
                f"A symmetry operation does not map {atoms.get_chemical_formula()} onto itself within {symprec:g} A.",
                remedy="Give a smaller symprec.",
            )
    return table


def inequivalent_sites(atoms: Atoms, *, symprec: float = 1e-2) -> list[int]:
    """Return the first atom of every class of equivalent ones, in the order of the atoms."""
    orbits = symmetry_permutations(atoms, symprec=symprec).min(axis=0)
    return sorted(set(orbits.tolist()))


def inequivalent_pairs(atoms: Atoms, *, symprec: float = 1e-2) -> list[tuple[int, int]]:
    """Return one pair ``(i, j)``, ``i < j``, of every class of equivalent pairs of atoms."""
    table = symmetry_permutations(atoms, symprec=symprec)
    found = []
    for first in inequivalent_sites(atoms, symprec=symprec):
        for second in range(len(atoms)):
            if second == first:
                continue
            images = np.sort(table[:, [first, second]], axis=1)
            best = min(map(tuple, images.tolist()))
            found.append((int(best[0]), int(best[1])))
    return sorted(set(found))
