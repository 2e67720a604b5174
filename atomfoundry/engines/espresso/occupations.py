"""Spins, occupations and bands: crystals are smeared, atoms get their ground state's spin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_NOBLE = (2, 10, 18, 36, 54, 86)


def group(symbol: str) -> int:
    """Return the column of the periodic table, 1 to 18; lanthanides and actinides count as 3.

    Parameters
    ----------
    symbol
        Chemical symbol.
    """
    from ase.data import atomic_numbers

    number = atomic_numbers[symbol]
    period = sum(number > noble for noble in _NOBLE)
    noble = (0, *_NOBLE)[period]
    following = (*_NOBLE, 118)[period]
    if number == 2:
        return 18
    if number - noble <= 2:
        return number - noble
    return max(3, 18 - (following - number))


def atom_bands(symbol: str, z_valence: int) -> tuple[int, bool]:
    """Return how many bands an isolated atom has, and whether its ground state leaves a shell open.

    The outer shells are counted whole (s; s and p; s and d), so that an open one is occupied evenly.

    Parameters
    ----------
    symbol
        Chemical symbol.
    z_valence
        Valence electrons of the pseudopotential.

    Returns
    -------
    n_bands : int
        Per spin.
    is_open : bool
        Whether one spin fills a degenerate shell in part.
    """
    column = group(symbol)
    outer, orbitals = (column, 1 if column <= 2 else 6) if column <= 12 else (column - 10, 4)
    if symbol == "He":
        outer, orbitals = 2, 1
    semicore = (z_valence - outer) // 2
    up = (z_valence + unpaired_electrons(symbol)) // 2 - semicore
    down = z_valence - up - 2 * semicore
    # An s shell alone, or an s shell with p or d shells that are empty, half full or full in each spin.
    whole = {0, 1, orbitals}
    if column in range(3, 13):
        whole = {0, 1, 5, 6}
    return semicore + max(orbitals if not {up, down} <= whole else up, 1), not {up, down} <= whole


def valence_charge(upf: Path) -> int:
    """Read the valence charge from the header of a UPF file.

    Parameters
    ----------
    upf
        The file.

    Returns
    -------
    int
        Electrons.

    Raises
    ------
    InputError
        If the header does not tell.
    """
    with upf.open(errors="replace") as stream:
        head = stream.read(100_000)
    found = re.search(r'z_valence\s*=\s*"\s*([-+0-9.EeDd]+)', head)
    if found is None:
        raise InputError(f"{upf} has no z_valence in its header.", remedy="Use UPF 2 files.")
    return round(float(found[1].upper().replace("D", "E")))


def electron_settings(
    atoms: Atoms, upf_files: dict[str, Path], *, smearing_ry: float, empty_bands: int | None = None
) -> dict[str, Any]:
    """Return spin, occupations and number of bands for the section ``system`` of pw.x.

    Crystals are smeared and not polarised unless ``info["spin_multiplicity"]`` says so. Molecules are
    smeared too,
    with few empty bands, because those are slow waves of the vacuum. An isolated atom has its ground
    state's spin; an open shell is occupied evenly by smearing, whose entropy the engine takes out again.

    Parameters
    ----------
    atoms
        The structure as given, before it is put into a box.
    upf_files
        Element -> pseudopotential.
    smearing_ry
        Gaussian width, Ry.
    empty_bands
        Empty bands of a crystal; None leaves them to pw.x.

    Returns
    -------
    dict
        Keys and values of ``system``.
    """
    smeared: dict[str, Any] = {"occupations": "smearing", "smearing": "gaussian", "degauss": smearing_ry}
    symbols = atoms.get_chemical_symbols()
    n_electrons = sum(valence_charge(upf_files[symbol]) for symbol in symbols)
    multiplicity = atoms.info.get("spin_multiplicity")
    molecule = not atoms.pbc.any()
    if multiplicity is not None:
        unpaired = int(multiplicity) - 1
    elif molecule:
        unpaired = unpaired_electrons(symbols[0]) if len(atoms) == 1 else n_electrons % 2
    else:
        unpaired = 0
    spin: dict[str, Any] = {"nspin": 2, "tot_magnetization": unpaired} if unpaired else {}
    if not molecule:
        bands = {} if empty_bands is None else {"nbnd": (n_electrons + unpaired + 1) // 2 + empty_bands}
        return smeared | spin | bands
    if len(atoms) > 1:
        return smeared | spin | {"nbnd": (n_electrons + unpaired + 1) // 2 + 2}
    if n_electrons == unpaired:
        # One spin is empty (hydrogen). pw.x 7.2 keeps density and magnetisation apart; where they differ in
        # the last bit, the gradient correction is noise that never converges. Measured: without symmetries
        # and without real wave functions it converges, every time.
        spin |= {"nosym": True, "noinv": True}
    n_bands, is_open = atom_bands(symbols[0], n_electrons)
    n_bands = max(n_bands, (n_electrons + unpaired + 1) // 2)
    return (smeared if is_open else {"occupations": "fixed"}) | spin | {"nbnd": n_bands}
