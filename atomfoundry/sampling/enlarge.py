"""Supercells that are large enough and as nearly cubic as can be."""

from __future__ import annotations

import math

from ase import Atoms


def enlarge(atoms: Atoms, min_atoms: int) -> Atoms:
    """Return a supercell of at least so many atoms, as nearly cubic as can be.

    Parameters
    ----------
    atoms
        A structure; where it is large enough, or not periodic in three directions, a copy comes back.
    min_atoms
        Least number of atoms.

    Returns
    -------
    Atoms
        With the metadata of the input, but its own ``frame_id`` still to be computed.
    """
    repeats = math.ceil(min_atoms / len(atoms))
    if repeats <= 1 or not atoms.pbc.all():
        return atoms.copy()
    from ase.build import find_optimal_cell_shape, make_supercell

    matrix = find_optimal_cell_shape(atoms.cell, repeats, "sc", lower_limit=-2, upper_limit=2)
    supercell = make_supercell(atoms, matrix)
    supercell.info = {key: value for key, value in atoms.info.items() if key != "frame_id"}
    supercell.calc = None
    return supercell
