"""Spins, occupations and bands: crystals are smeared, atoms get their ground state's spin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.espresso.upf_header import read_header
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
    charge = read_header(upf).z_valence
    if charge is None:
        raise InputError(f"{upf} has no z_valence in its header.", remedy="Use UPF 2 files.")
    return round(charge)


def electron_settings(
    atoms: Atoms,
    upf_files: Mapping[str, Path],
    *,
    smearing_ry: float,
    smearing: str = "gaussian",
    empty_bands: int | None = None,
    spin: str = "auto",
    moments: Sequence[float] | None = None,
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
        Width, Ry.
    smearing
        Kind, in pw.x's words.
    empty_bands
        Empty bands of a crystal; None leaves them to pw.x.
    spin
        ``"auto"`` as above; ``"none"``: nothing is polarised; ``"collinear"``: crystals and molecules are, their
        magnetisation is free where ``info["spin_multiplicity"]`` does not fix it.
    moments
        Starting moments for ``"collinear"``, Bohr magnetons: bands enough for them are made.

    Returns
    -------
    dict
        Keys and values of ``system``.
    """
    smeared: dict[str, Any] = {"occupations": "smearing", "smearing": smearing, "degauss": smearing_ry}
    symbols = atoms.get_chemical_symbols()
    n_electrons = sum(valence_charge(upf_files[symbol]) for symbol in symbols)
    multiplicity = atoms.info.get("spin_multiplicity")
    molecule = not atoms.pbc.any()
    lone = molecule and len(atoms) == 1
    polarised: dict[str, Any] = {}
    unpaired = 0
    if spin != "none":
        free = spin == "collinear" and multiplicity is None and not lone
        unpaired = ceil(sum(abs(m) for m in moments or ())) if free else _unpaired(atoms, n_electrons)
        if free:
            polarised = {"nspin": 2}
        elif unpaired or (spin == "collinear" and not lone):
            polarised = {"nspin": 2, "tot_magnetization": unpaired}
    if not molecule:
        bands = {} if empty_bands is None else {"nbnd": (n_electrons + unpaired + 1) // 2 + empty_bands}
        return smeared | polarised | bands
    if not lone:
        return smeared | polarised | {"nbnd": (n_electrons + unpaired + 1) // 2 + 2}
    if n_electrons == unpaired:
        # One spin is empty (hydrogen). pw.x 7.2 keeps density and magnetisation apart; where they differ in
        # the last bit, the gradient correction is noise that never converges. Measured: without symmetries
        # and without real wave functions it converges, every time.
        polarised |= {"nosym": True, "noinv": True}
    n_bands, is_open = atom_bands(symbols[0], n_electrons)
    n_bands = max(n_bands, (n_electrons + unpaired + 1) // 2)
    if spin == "none":
        is_open = True
    # An even occupation is the same for every kind of smearing; only the Gaussian one is sure to find it.
    even = smeared | {"smearing": "gaussian"}
    return (even if is_open else {"occupations": "fixed"}) | polarised | {"nbnd": n_bands}


def _unpaired(atoms: Atoms, n_electrons: int) -> int:
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        return int(multiplicity) - 1
    if atoms.pbc.any():
        return 0
    return unpaired_electrons(atoms.get_chemical_symbols()[0]) if len(atoms) == 1 else n_electrons % 2
