"""Spin-polarised crystals and molecules: from which magnetic moments the cycle starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.espresso.occupations import group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms

SPINS = {"auto": "auto", "none": "none", "collinear": "collinear"}

ORDERS = {
    "ferromagnetic": "all moments parallel",
    "antiferromagnetic": "signs alternate, atom by atom, within each magnetic element",
    "nonmagnetic": "no moments",
}
"""From which arrangements of the moments cycles start."""

SEED_MOMENT = 0.1
"""Bohr magnetons where an element is not magnetic by itself: enough to break the symmetry of the spins."""


def default_moment(symbol: str) -> float:
    """Return the starting moment of an element, Bohr magnetons.

    Elements with open d or f shells start from the atom's (Hund's rules), all others from ``SEED_MOMENT``.

    Parameters
    ----------
    symbol
        Chemical symbol.
    """
    if group(symbol) not in range(3, 12):
        return SEED_MOMENT
    return max(float(unpaired_electrons(symbol)), SEED_MOMENT)


def starting_moments(atoms: Atoms, moments: Mapping[str, float] | None, *, order: str = "ferromagnetic") -> list[float]:
    """Return the magnetic moment every atom starts with.

    Parameters
    ----------
    atoms
        The structure; initial magnetic moments of its own, if any is not zero, come before everything.
    moments
        Bohr magnetons by element; the others take their ``default_moment``.
    order
        One of ``ORDERS``; own moments take their arrangement from themselves.

    Returns
    -------
    list of float
        Bohr magnetons, one an atom.
    """
    own = atoms.get_initial_magnetic_moments()
    if own.any():
        return [float(moment) for moment in own]
    if order == "nonmagnetic":
        return [0.0] * len(atoms)
    symbols = atoms.get_chemical_symbols()
    sizes = {symbol: (moments or {}).get(symbol, default_moment(symbol)) for symbol in set(symbols)}
    if order == "ferromagnetic":
        return [sizes[symbol] for symbol in symbols]
    seen: dict[str, int] = {}
    result = []
    for symbol in symbols:
        count = seen[symbol] = seen.get(symbol, -1) + 1
        magnetic = abs(sizes[symbol]) > SEED_MOMENT
        result.append(sizes[symbol] * (-1) ** count if magnetic else 0.0)
    return result


def spin_fractions(moments: list[float], valences: list[float]) -> list[float]:
    """Return moments as pw.x takes them in every version: as a part of the valence electrons, -1 to 1.

    Parameters
    ----------
    moments
        Bohr magnetons.
    valences
        Valence electrons of the same atoms.
    """
    # Rounded, because every different value becomes a species of its own.
    return [round(min(1.0, max(-1.0, m / z)), 6) for m, z in zip(moments, valences, strict=True)]
