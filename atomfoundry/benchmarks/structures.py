"""Structures of a benchmark: their metadata, and finding them again among labelled frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms

MATCH_TOLERANCE = 1e-5
"""Positions and cells closer than this are the same structure, A."""


def tag(structure: Atoms, *, benchmark: str, system: str, item: str, sampling: str, group: str) -> Atoms:
    """Write a structure's metadata as the frame contract wants it.

    Parameters
    ----------
    structure
        Changed in place.
    benchmark, system, item
        They make up ``source``, which is unique within a run.
    sampling
        Sampling method.
    group
        Material or molecule.

    Returns
    -------
    Atoms
        The structure.
    """
    charge = structure.info.get("charge", 0)
    spin = structure.info.get("spin_multiplicity")
    structure.info = {
        "group_id": group,
        "source": f"benchmark:{benchmark}:{system}:{item}",
        "sampling": sampling,
        "level": "",
        "weight": 1.0,
        "flags": [],
        "charge": charge,
        "spin_multiplicity": spin,
    }
    return structure


def require_crystal(atoms: Atoms | None, *, benchmark: str) -> Atoms:
    """Return the structure if it is a three-dimensional crystal.

    Raises
    ------
    StructureError
        If it is not.
    """
    if atoms is None or len(atoms) == 0 or not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-8:
        found = "nothing" if atoms is None else f"{atoms.get_chemical_formula()} with pbc {atoms.pbc.tolist()}"
        raise StructureError(
            f"Benchmark '{benchmark}' needs a crystal, periodic in three directions, but got {found}.",
            remedy="Give a structure with a cell and pbc=True.",
        )
    return atoms


def find_frame(structure: Atoms, frames: Sequence[Atoms], *, relaxed: bool = False) -> Atoms | None:
    """Find a structure among frames by its geometry.

    Parameters
    ----------
    structure
        What is looked for.
    frames
        Where.
    relaxed
        Compare elements and cell, not the positions.

    Returns
    -------
    Atoms or None
        The first frame with the same elements in the same order, cell and positions.
    """
    for frame in frames:
        same = (
            len(frame) == len(structure)
            and np.array_equal(frame.numbers, structure.numbers)
            and np.array_equal(frame.pbc, structure.pbc)
            and np.allclose(frame.cell.array, structure.cell.array, rtol=0, atol=MATCH_TOLERANCE)
        )
        if same and (relaxed or np.allclose(frame.positions, structure.positions, rtol=0, atol=MATCH_TOLERANCE)):
            return frame
    return None
