"""The point group of a crystal as rotations, its crystal system and its standard orientation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms

_SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
"""Last space group number of each crystal system."""


@dataclass(frozen=True, kw_only=True)
class CrystalSymmetry:
    """Symmetry of a crystal.

    Parameters
    ----------
    number
        Space group number.
    system
        Crystal system, e.g. ``"cubic"``.
    rotations
        Point group as Cartesian rotations in the structure's own frame, (G, 3, 3).
    to_standard
        Rotation from the structure's frame to the conventional cell's, (3, 3).
    conventional_atoms
        Atoms in the conventional cell.
    """

    number: int
    system: str
    rotations: np.ndarray
    to_standard: np.ndarray
    conventional_atoms: int


def crystal_symmetry(atoms: Atoms, *, symprec: float = 1e-3) -> CrystalSymmetry:
    """Find the symmetry of a crystal with spglib.

    Togo, Shinohara and Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024).

    Parameters
    ----------
    atoms
        A structure that is periodic in three directions.
    symprec
        Distance tolerance, A.

    Returns
    -------
    CrystalSymmetry
        The symmetry.

    Raises
    ------
    StructureError
        If no space group is found, e.g. because two atoms coincide.
    """
    import spglib

    try:
        with warnings.catch_warnings():
            # spglib 2.8 announces its new error handling on every call; both kinds are handled below.
            warnings.simplefilter("ignore", DeprecationWarning)
            dataset = spglib.get_symmetry_dataset(
                (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec
            )
    except spglib.SpglibError as error:
        raise _no_space_group(atoms, symprec) from error
    if dataset is None:
        raise _no_space_group(atoms, symprec)
    lattice = atoms.cell.array.T
    integer = np.unique(dataset.rotations, axis=0)
    rotations = np.array([_orthogonal(lattice @ rotation @ np.linalg.inv(lattice)) for rotation in integer])
    return CrystalSymmetry(
        number=int(dataset.number),
        system=next(name for last, name in _SYSTEMS if dataset.number <= last),
        rotations=rotations,
        to_standard=_orthogonal(np.array(dataset.std_rotation_matrix)),
        conventional_atoms=len(dataset.std_types),
    )


def _no_space_group(atoms: Atoms, symprec: float) -> StructureError:
    return StructureError(
        f"No space group found for {atoms.get_chemical_formula()} within {symprec} A.",
        remedy="Check for coinciding atoms, or set another symprec.",
    )


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Return the nearest orthogonal matrix; within symprec the lattice need not be exactly symmetric."""
    u, _, v = np.linalg.svd(matrix)
    return u @ v
