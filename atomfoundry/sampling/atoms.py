"""Isolated atoms and dimers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii, ground_state_magnetic_moments

from atomfoundry.datasets import with_metadata
from atomfoundry.datasets.isolated import ISOLATED_ATOM
from atomfoundry.errors import StructureError

_CORRECTED_MOMENTS = {"Ce": 0.0, "Es": 3.0}
"""Where ASE's table contradicts the number of electrons: Ce is 1G4, Es 4I15/2 (NIST ground states)."""


def _number(symbol: str) -> int:
    if atomic_numbers.get(symbol, 0) < 1:
        raise StructureError(f"There is no element '{symbol}'.")
    return atomic_numbers[symbol]


def spin_multiplicity(symbol: str) -> int:
    """Return the spin multiplicity 2S + 1 of the free neutral atom's ground state.

    Raises
    ------
    StructureError
        If the element or its ground state is unknown.
    """
    number = _number(symbol)
    known = number < len(ground_state_magnetic_moments)
    moment = float(ground_state_magnetic_moments[number]) if known else float("nan")
    moment = _CORRECTED_MOMENTS.get(symbol, moment)
    if not np.isfinite(moment):
        raise StructureError(f"The spin of the free {symbol} atom is not known.")
    return round(moment) + 1


def isolated_atoms(
    symbols: Iterable[str], *, box: float | tuple[float, float, float] | None = None
) -> list[Atoms]:
    """Return one free atom of each element, in its ground-state spin.

    Parameters
    ----------
    symbols
        Elements; repeated ones count once.
    box
        Without it the atom is not periodic. With it, edge lengths (A) of a periodic cell, the atom at its
        centre; three different lengths keep a plane-wave density from an artificial cubic symmetry.

    Returns
    -------
    list of ase.Atoms
        By atomic number; ``sampling`` is ``"isolated_atom"``, which is how E0 tables find them.

    Raises
    ------
    StructureError
        If an element or the spin of its atom is unknown.
    """
    frames = []
    for symbol in sorted(set(symbols), key=_number):
        atoms = Atoms(symbol)
        if box is not None:
            atoms.set_cell(np.broadcast_to(np.asarray(box, dtype=float), 3))
            atoms.pbc = True
            atoms.center()
        frames.append(
            with_metadata(
                atoms,
                sampling=ISOLATED_ATOM,
                source="isolated_atoms",
                group_id=f"isolated:{symbol}",
                spin_multiplicity=spin_multiplicity(symbol),
            )
        )
    return frames


def dimers(
    symbols: Sequence[str], *, distances: Sequence[float] | None = None, pairs: str = "all"
) -> list[Atoms]:
    """Return dimers of elements at several distances.

    Parameters
    ----------
    symbols
        Elements.
    distances
        In A; by default 12 from 0.7 to 2.5 times the sum of the covalent radii.
    pairs
        ``"all"`` pairs of elements, or ``"equal"`` ones only.

    Returns
    -------
    list of ase.Atoms
        Not periodic; one group for each pair; the spin is left to the engine.

    Raises
    ------
    StructureError
        If an element is unknown, a distance is not positive or ``pairs`` is neither.
    """
    if pairs not in ("all", "equal"):
        raise StructureError(f"There are no pairs '{pairs}'.", remedy="Use 'all' or 'equal'.")
    frames = []
    for first, second in combinations_with_replacement(sorted(set(symbols), key=_number), 2):
        if pairs == "equal" and first != second:
            continue
        length = covalent_radii[_number(first)] + covalent_radii[_number(second)]
        for distance in distances if distances is not None else length * np.linspace(0.7, 2.5, 12):
            if not distance > 0:
                raise StructureError(f"A dimer of length {distance} A is not possible.")
            atoms = Atoms([first, second], positions=[[0, 0, 0], [0, 0, float(distance)]])
            frames.append(
                with_metadata(
                    atoms,
                    sampling="dimer",
                    source="dimers",
                    group_id=f"dimer:{first}-{second}",
                    deformation={"kind": "dimer", "distance": float(distance)},
                )
            )
    return frames
