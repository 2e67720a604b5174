"""Descriptors of structures for calculators that are no models of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.errors import ModelError

if TYPE_CHECKING:
    from ase import Atoms

CUTOFF = 5.0
"""Of the radial densities, A."""
CENTRES = np.linspace(0.5, CUTOFF, 19)
WIDTH = 0.25


def has_descriptors(calculator: Any) -> bool:
    """Tell whether a calculator gives descriptors of atoms, as MACE's does by ``get_descriptors(atoms)``."""
    return bool(getattr(calculator, "has_descriptors", callable(getattr(calculator, "get_descriptors", None))))


def calculator_atom_descriptors(calculator: Any, atoms: Atoms) -> np.ndarray:
    """Return a calculator's own invariant descriptors of the atoms, (N, d) float64.

    Raises
    ------
    ModelError
        If it gives none, or not one row an atom.
    """
    if not has_descriptors(calculator):
        raise ModelError(
            f"{type(calculator).__name__} has no descriptors of atoms.",
            remedy="Take a model of ours, or a calculator with get_descriptors(atoms).",
        )
    rows = np.asarray(calculator.get_descriptors(atoms), dtype=float)
    if rows.ndim != 2 or len(rows) != len(atoms):
        raise ModelError(
            f"{type(calculator).__name__}.get_descriptors gave shape {rows.shape} for {len(atoms)} atoms.",
            remedy="It must give one row an atom.",
        )
    return rows


def radial_atom_descriptors(atoms: Atoms, elements: Sequence[str]) -> np.ndarray:
    """Return radial densities of every element around each atom, (N, 19 T) float64.

    What is left where a calculator has no descriptors: it tells distances, not angles. Neighbours count by Gaussians
    under a cutoff that ends smoothly, so it is invariant to rotation, translation, permutation and repetition of the
    cell and continuous in the positions.

    Parameters
    ----------
    atoms
        The structure.
    elements
        The T elements that have columns; it must hold all of the structure's.

    Raises
    ------
    ModelError
        If an element is missing.
    """
    from atomfoundry.models.graph import neighbour_pairs

    column = {symbol: place for place, symbol in enumerate(elements)}
    missing = sorted(set(atoms.get_chemical_symbols()) - set(column))
    if missing:
        raise ModelError(f"There are no columns for {', '.join(missing)}.", remedy="Name all elements.")
    cell = atoms.cell.array
    (centre, neighbour), shifts = neighbour_pairs(atoms.positions, cell=cell, pbc=atoms.pbc, cutoff=CUTOFF)
    distance = np.linalg.norm(atoms.positions[neighbour] - atoms.positions[centre] + shifts @ cell, axis=1)
    weight = 0.5 * (1 + np.cos(np.pi * distance / CUTOFF)) / np.maximum(distance, 0.3) ** 2
    values = weight[:, None] * np.exp(-0.5 * ((distance[:, None] - CENTRES) / WIDTH) ** 2)
    kinds = np.array([column[symbol] for symbol in atoms.get_chemical_symbols()])
    densities = np.zeros((len(atoms), len(elements), len(CENTRES)))
    np.add.at(densities, (centre, kinds[neighbour]), values)
    return densities.reshape(len(atoms), -1)


def foreign_structure_descriptors(calculator: Any, frames: Sequence[Atoms], *, elements: Sequence[str]) -> np.ndarray:
    """Return one descriptor a structure, as `structure_descriptors` does for our models.

    Parameters
    ----------
    calculator
        Its own descriptors are taken where it has some, radial densities else.
    frames
        Structures.
    elements
        All elements that occur, also in what the result is compared with.

    Returns
    -------
    numpy.ndarray
        (n, d): the mean over the elements of the elements' mean atom descriptors; one block of columns an element
        for radial densities, whose meaning depends on the centre's element.
    """
    own = has_descriptors(calculator)
    rows = []
    for atoms in frames:
        numbers = np.array(atoms.get_chemical_symbols())
        if own:
            found = calculator_atom_descriptors(calculator, atoms)
            rows.append(np.mean([found[numbers == symbol].mean(axis=0) for symbol in sorted(set(numbers))], axis=0))
            continue
        found = radial_atom_descriptors(atoms, elements)
        blocks = np.zeros((len(elements), found.shape[1]))
        for place, symbol in enumerate(elements):
            if (numbers == symbol).any():
                blocks[place] = found[numbers == symbol].mean(axis=0)
        rows.append(blocks.ravel())
    return np.array(rows)
