"""Does a neutral organic molecule have a Lewis structure? One that lost a hydrogen atom has none (ALGORITHMS 9.2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

VALENCES = {
    "H": (1,),
    "B": (3,),
    "C": (4,),
    "N": (3, 5),
    "O": (2, 4),
    "F": (1,),
    "Si": (4,),
    "P": (3, 5),
    "S": (2, 4, 6),
    "Cl": (1, 3, 5, 7),
    "Br": (1, 3, 5),
    "I": (1, 3, 5, 7),
}
"""Numbers of bonds, charge-separated groups (nitro, azide, ozone) as their hypervalent forms."""
_BOND = 1.35
"""Atoms nearer than this times the sum of their covalent radii are bonded."""
_MOST_FORMS = 4096


def valence_problem(atoms: Atoms) -> str | None:
    """Return why a molecule has no Lewis structure, None if it has one or cannot be judged.

    Judged are neutral molecules of H, B, C, N, O, F, Si, P, S, Cl, Br and I whose multiplicity is not said to be
    above 1: their bonds, single ones between near atoms and double or triple ones where valences are left over, must
    use every valence. Carbon monoxide and isocyanides count as divalent carbon. Radicals, ions and metals
    are not judged.

    Parameters
    ----------
    atoms
        A molecule; a structure periodic in any direction is not judged.

    Returns
    -------
    str or None
        What is wrong, naming the first atom concerned.
    """
    symbols = atoms.get_chemical_symbols()
    judged = not atoms.pbc.any() and len(atoms) > 1 and set(symbols) <= set(VALENCES)
    if not judged or atoms.info.get("charge", 0) or (atoms.info.get("spin_multiplicity") or 1) > 1:
        return None
    neighbours = _bonds(atoms)
    for index, symbol in enumerate(symbols):
        count = len(neighbours[index])
        if count == 0:
            return f"{symbol}{index} has no neighbour"
        if count > max(VALENCES[symbol]):
            return f"{symbol}{index} has {count} neighbours"
    forms = [_forms(index, symbols, neighbours) for index in range(len(atoms))]
    if prod(len(form) for form in forms) > _MOST_FORMS:
        return None
    if any(_all_used(free, neighbours) for free in product(*forms)):
        return None
    lonely = next(
        (i for i, form in enumerate(forms) if 0 not in form and not any(max(forms[j]) for j in neighbours[i])), None
    )
    if lonely is not None:
        return f"{symbols[lonely]}{lonely} has a free valence"
    return "the bonds cannot use every valence"


def _bonds(atoms: Atoms) -> list[list[int]]:
    radii = covalent_radii[atoms.numbers]
    near = atoms.get_all_distances() < _BOND * (radii[:, None] + radii[None, :])
    np.fill_diagonal(near, False)
    # hydrogen has one bond, to whatever is nearest: its radius reaches the next hydrogen in hot molecules
    for index in np.flatnonzero(atoms.numbers == 1):
        partners = np.flatnonzero(near[index])
        if len(partners) > 1:
            distances = atoms.get_distances(index, partners) / (radii[index] + radii[partners])
            for other in np.delete(partners, distances.argmin()):
                near[index, other] = near[other, index] = False
    return [list(np.flatnonzero(row)) for row in near]


def _forms(index: int, symbols: list[str], neighbours: list[list[int]]) -> list[int]:
    """Return the numbers of valences that an atom may have left over beyond its single bonds."""
    count = len(neighbours[index])
    valences = VALENCES[symbols[index]]
    if symbols[index] == "C" and _is_divalent(index, symbols, neighbours):
        valences = (4, 2)
    return [valence - count for valence in valences if valence >= count]


def _is_divalent(index: int, symbols: list[str], neighbours: list[list[int]]) -> bool:
    partners = neighbours[index]
    return len(partners) == 1 and symbols[partners[0]] in ("O", "N") and len(neighbours[partners[0]]) <= 2


def _all_used(free: tuple[int, ...], neighbours: list[list[int]]) -> bool:
    """Tell whether further bonds between neighbours can use all free valences (a perfect b-matching)."""
    if sum(free) % 2:
        return False
    return any(True for _ in _matchings(list(free), neighbours))


def _matchings(free: list[int], neighbours: list[list[int]]) -> Iterator[None]:
    open_atoms = [i for i, left in enumerate(free) if left]
    if not open_atoms:
        yield None
        return
    # the atom with the fewest partners decides first: rings and chains then need next to no search
    atom = min(open_atoms, key=lambda i: sum(1 for j in neighbours[i] if free[j]))
    for partner in neighbours[atom]:
        if free[partner]:
            free[atom] -= 1
            free[partner] -= 1
            yield from _matchings(free, neighbours)
            free[atom] += 1
            free[partner] += 1
