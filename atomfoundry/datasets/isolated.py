"""Energies of isolated atoms, read from the frames of a dataset."""

from __future__ import annotations

from collections.abc import Iterable

from ase import Atoms

from atomfoundry.datasets.frame import labels_of
from atomfoundry.errors import DatasetError

ISOLATED_ATOM = "isolated_atom"
"""The ``sampling`` of a frame whose energy is an isolated-atom energy."""


def isolated_energies(frames: Iterable[Atoms], *, tolerance: float = 1e-6) -> dict[str, float]:
    """Collect the isolated-atom energies E0 of a set of frames at one level.

    Parameters
    ----------
    frames
        Frames; those with ``info["sampling"] == "isolated_atom"`` and an energy count.
    tolerance
        Largest difference between two energies of one element and charge state, eV.

    Returns
    -------
    dict
        Element -> energy of the lowest neutral state given, eV.

    Raises
    ------
    DatasetError
        If a frame marked as isolated atom has several atoms, or one spin state has two energies.
    """
    states: dict[tuple[str, int | None], float] = {}
    for atoms in frames:
        if atoms.info.get("sampling") != ISOLATED_ATOM or (atoms.info.get("charge") or 0) != 0:
            continue
        if len(atoms) != 1:
            raise DatasetError(
                f"A frame of {len(atoms)} atoms ({atoms.get_chemical_formula()}) is marked as isolated atom."
            )
        energy = labels_of(atoms)[0]
        if energy is None:
            continue
        key = (atoms.symbols[0], atoms.info.get("spin_multiplicity"))
        if abs(states.setdefault(key, energy) - energy) > tolerance:
            raise DatasetError(
                f"Isolated {key[0]} (spin multiplicity {key[1]}) has two energies: {states[key]:.6f} and "
                f"{energy:.6f} eV.",
                remedy="Keep frames of one level of theory only.",
            )
    energies: dict[str, float] = {}
    for (symbol, _), energy in states.items():
        energies[symbol] = min(energy, energies.get(symbol, energy))
    return dict(sorted(energies.items()))
