"""Boxes around what is not periodic, k-point grids, and the ground states of atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

ATOM_BOX_RATIOS = (1.0, 1.0, 1.0)
"""Edges of an isolated atom's box: unequal, so that an open p or d shell takes one orientation and stays there."""


def boxed(atoms: Atoms, *, vacuum: float) -> Atoms:
    """Return a copy that is periodic in all directions, with vacuum where it was not.

    Parameters
    ----------
    atoms
        Any structure.
    vacuum
        Empty space on each side along the directions that are not periodic, A.

    Returns
    -------
    Atoms
        Three-dimensionally periodic copy, atoms in the same order, moved as a whole.
    """
    copy = atoms.copy()
    copy.calc = None
    axes = [axis for axis in range(3) if not atoms.pbc[axis]]
    if not axes:
        return copy
    if len(axes) == 3:
        # A molecule's cell, if any, means nothing: an upright box is the smallest.
        copy.cell = None
    copy.center(vacuum=vacuum, axis=axes)
    if len(copy) == 1 and len(axes) == 3:
        copy.cell = np.diag(2 * vacuum * np.array(ATOM_BOX_RATIOS))
        copy.positions[:] = copy.cell.lengths() / 2
    copy.pbc = True
    return copy


def kpoint_grid(atoms: Atoms, *, spacing: float) -> tuple[int, int, int]:
    """Return a Gamma-centred grid.

    Parameters
    ----------
    atoms
        The structure as given: a direction that is not periodic gets one point.
    spacing
        Largest distance of neighbouring points, 1/A with the factor 2 pi.

    Returns
    -------
    tuple of int
        Points along the three reciprocal vectors.
    """
    if not atoms.pbc.any():
        return (1, 1, 1)
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.complete().reciprocal(), axis=1)
    counts = [max(1, int(np.ceil(length / spacing - 1e-9))) for length in lengths]
    return tuple(n if periodic else 1 for n, periodic in zip(counts, atoms.pbc, strict=True))  # type: ignore[return-value]


def unpaired_electrons(symbol: str) -> int:
    """Return the number of unpaired electrons of a neutral atom in its ground state (Hund's rules, experiment).

    Parameters
    ----------
    symbol
        Chemical symbol.

    Returns
    -------
    int
        Twice the total spin.
    """
    from ase.data import atomic_numbers, ground_state_magnetic_moments

    return round(float(ground_state_magnetic_moments[atomic_numbers[symbol]]))
