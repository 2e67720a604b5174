"""Primitive and conventional cells."""

from __future__ import annotations

import warnings
from typing import Literal

from ase import Atoms

from atomfoundry.datasets import clean_frame
from atomfoundry.errors import StructureError

Cell = Literal["as_given", "primitive", "conventional"]


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
        raise StructureError(
            f"There is no cell '{cell}'.", remedy="Use 'as_given', 'primitive' or 'conventional'."
        )
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
