"""Primitive and conventional cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from ase import Atoms

from atomfoundry.datasets import clean_frame
from atomfoundry.errors import StructureError

Cell = Literal["as_given", "primitive", "conventional"]


def repeated_cell(atoms: Atoms, repeats: Sequence[int] | Sequence[Sequence[int]]) -> Atoms:
    """Return a supercell.

    Parameters
    ----------
    atoms
        A structure with a cell.
    repeats
        Three numbers, or a 3x3 matrix of whole numbers P: the new cell vectors are P times the old ones.

    Raises
    ------
    StructureError
        If the numbers are not whole, the matrix is singular, or a direction without period would be repeated.
    """
    from ase.build import make_supercell

    matrix = np.array(repeats, dtype=float)
    matrix = np.diag(matrix) if matrix.shape == (3,) else matrix
    whole = matrix.shape == (3, 3) and np.array_equal(matrix, np.rint(matrix))
    if not whole or round(abs(np.linalg.det(matrix))) < 1 or _negative(repeats):
        raise StructureError(
            f"A supercell of {np.array(repeats).tolist()} is not possible.",
            remedy="Give three numbers >= 1, or a 3x3 matrix of whole numbers with a volume.",
        )
    open_rows = ~atoms.pbc
    if (matrix[open_rows] != np.eye(3)[open_rows]).any() or (matrix[:, open_rows] != np.eye(3)[:, open_rows]).any():
        raise StructureError(
            f"{atoms.get_chemical_formula()} is not periodic in every direction that {matrix.tolist()} repeats."
        )
    large = make_supercell(clean_frame(atoms), matrix.astype(int))
    bare = Atoms(large.numbers, large.positions, cell=large.cell, pbc=atoms.pbc)
    bare.info = {key: value for key, value in clean_frame(atoms).info.items() if key != "frame_id"}
    return clean_frame(bare)


def _negative(repeats: Sequence[int] | Sequence[Sequence[int]]) -> bool:
    """Tell whether three plain numbers hold one below 1."""
    numbers = np.array(repeats, dtype=float)
    return numbers.shape == (3,) and bool((numbers < 1).any())


def standard_cell(atoms: Atoms, cell: Cell, *, symprec: float = 1e-3) -> Atoms:
    """Return the structure in its primitive or conventional cell.

    Parameters
    ----------
    atoms
        Periodic in three directions; other structures come back as they are.
    cell
        ``"as_given"`` changes nothing.
    symprec
        Tolerance of the symmetry search, A. Positions are not idealised.

    Raises
    ------
    StructureError
        If the kind of cell is unknown or no symmetry is found.
    """
    if cell not in ("as_given", "primitive", "conventional"):
        raise StructureError(f"There is no cell '{cell}'.", remedy="Use 'as_given', 'primitive' or 'conventional'.")
    if cell == "as_given" or not atoms.pbc.all():
        return atoms
    import spglib

    with warnings.catch_warnings():
        # spglib announces another way of telling errors; None is what it still returns.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.standardize_cell(
            (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers),
            to_primitive=cell == "primitive",
            no_idealize=True,
            symprec=symprec,
        )
    if found is None:
        raise StructureError(
            f"No symmetry found in {atoms.get_chemical_formula()} within {symprec:g} A.",
            remedy="Use cell='as_given', or another symprec.",
        )
    lattice, scaled, numbers = found
    result = Atoms(numbers=numbers, scaled_positions=scaled, cell=lattice, pbc=True)
    result.info = dict(atoms.info)
    return clean_frame(result)
