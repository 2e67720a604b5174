"""Ground states of isolated atoms, which every engine needs for their energies."""

from __future__ import annotations


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
