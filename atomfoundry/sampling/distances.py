"""The guard against atoms that are too near each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list

from atomfoundry.errors import StructureError


def collides(atoms: Atoms, factor: float) -> bool:
    """Tell whether two atoms are nearer than ``factor`` times the sum of their covalent radii; never for 0."""
    return factor > 0 and len(neighbor_list("d", atoms, cutoff=list(factor * covalent_radii[atoms.numbers]))) > 0


def smallest_distances(
    symbols: set[str], *, factor: float, distances: Mapping[str, float] | None = None
) -> dict[tuple[str, str], float]:
    """Return the least distance (A) allowed for each pair of elements.

    Parameters
    ----------
    symbols
        Elements.
    factor
        Of the sum of the covalent radii, for pairs without an own distance.
    distances
        Own distances in A, keys such as ``"Al-O"`` in either order.

    Returns
    -------
    dict
        Keyed by both orders of each pair.

    Raises
    ------
    StructureError
        If an element is unknown, or a distance names a pair that is not there or is negative.
    """
    unknown = sorted(symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1)
    if unknown:
        raise StructureError(f"There is no element '{unknown[0]}'.")
    own = {frozenset(pair.split("-")): float(value) for pair, value in (distances or {}).items()}
    table = {}
    for first, second in combinations_with_replacement(sorted(symbols), 2):
        radii = covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]]
        value = own.pop(frozenset((first, second)), factor * float(radii))
        table[first, second] = table[second, first] = value
    if own or min(table.values(), default=0.0) < 0:
        raise StructureError(
            f"The least distances {dict(distances or {})} do not fit the elements {', '.join(sorted(symbols))}.",
            remedy="Write pairs of these elements such as 'Al-O' and distances in A.",
        )
    return table


def nearer_than(atoms: Atoms, table: Mapping[tuple[str, str], float]) -> bool:
    """Tell whether two atoms are nearer than a table of ``smallest_distances`` allows."""
    if not table or max(table.values()) <= 0:
        return False
    first, second, lengths = neighbor_list("ijd", atoms, max(table.values()))
    symbols = atoms.get_chemical_symbols()
    limits = np.array([table[symbols[i], symbols[j]] for i, j in zip(first, second, strict=True)])
    return bool((lengths < limits).any())
