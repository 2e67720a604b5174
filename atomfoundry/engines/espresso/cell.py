"""Boxes around what is not periodic, and k-point grids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms


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
