"""Spin states: of isolated atoms, whose energies every engine needs, and what a structure's own can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomfoundry.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms


def unpaired_electrons(symbol: str) -> int:
    """Return the number of unpaired electrons of a neutral atom in its ground state.

    From experiment, which follows Hund's rules.

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


def check_spin(atoms: Atoms, unpaired: int) -> None:
    """Check that a structure can have this many unpaired electrons, its charge considered.

    Parameters
    ----------
    atoms
        The structure, its charge in ``info["charge"]``.
    unpaired
        Twice the total spin.

    Raises
    ------
    LabelError
        With reason ``"unsupported"``.
    """
    charge = int(atoms.info.get("charge") or 0)
    n_electrons = int(atoms.numbers.sum()) - charge
    formula = atoms.get_chemical_formula()
    if n_electrons < 0:
        raise LabelError(
            f"{formula} has no {charge} electrons to lose.", reason="unsupported", remedy="Correct info['charge']."
        )
    if unpaired < 0 or unpaired > n_electrons or (n_electrons - unpaired) % 2:
        parity = "odd" if n_electrons % 2 == 0 else "even"
        raise LabelError(
            f"{formula}: {n_electrons} electrons at charge {charge}, but multiplicity {unpaired + 1}.",
            reason="unsupported",
            remedy=f"Correct info['charge'] or info['spin_multiplicity']: the multiplicity must be {parity} and at "
            f"most {n_electrons + 1}.",
        )
