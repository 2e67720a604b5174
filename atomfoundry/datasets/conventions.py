"""What other programs call labels in extended XYZ, and in which units they mean them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError
from atomfoundry.units import KBAR


@dataclass(frozen=True)
class KeyConvention:
    """Names of labels; of several names of one label the first that a frame has counts, and the first is written.

    Attributes
    ----------
    energy, forces
        eV, eV/A.
    stress
        eV/A^3, tension positive, 6 (Voigt), 9 or 3x3 numbers.
    virial
        eV, -volume times the stress, positive where the cell wants to expand.
    weight, isolated_atom
        Key of the frame's weight; ``config_type`` of isolated atoms.
    """

    energy: tuple[str, ...] = ("energy",)
    forces: tuple[str, ...] = ("forces",)
    stress: tuple[str, ...] = ("stress",)
    virial: tuple[str, ...] = ()
    weight: str = ""
    isolated_atom: str = ""


CONVENTIONS: dict[str, KeyConvention] = {
    "ase": KeyConvention(),
    "mace": KeyConvention(
        energy=("REF_energy",),
        forces=("REF_forces",),
        stress=("REF_stress",),
        virial=("REF_virials",),
        weight="config_weight",
        isolated_atom="IsolatedAtom",
    ),
    "nequip": KeyConvention(energy=("energy", "total_energy"), virial=("virial",)),
    "atompronet": KeyConvention(stress=(), virial=("virial",)),
}
"""MACE: its ``REF_`` keys, ``config_type=IsolatedAtom``, ``config_weight``. NequIP: ASE's names, stress tension
positive. AtomProNet: ``virial`` in eV."""


def convention(name: str) -> KeyConvention:
    """Return a convention by name.

    Raises
    ------
    DatasetError
        If there is none of that name.
    """
    if name not in CONVENTIONS:
        raise DatasetError(f"There is no key convention '{name}'.", remedy=f"Known: {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]


def stress_from_virial(virial: ArrayLike, volume: float) -> NDArray[np.float64]:
    """Return the stress ``[3, 3]`` (eV/A^3, tension positive) of a virial (eV, 9 or 3x3 numbers): -W/V.

    Raises
    ------
    DatasetError
        If the shape is none of a virial or there is no volume.
    """
    array = np.asarray(virial, dtype=np.float64)
    if array.size != 9 or not volume > 0:
        raise DatasetError(f"A virial of shape {array.shape} in a volume of {volume:g} A^3 gives no stress.")
    return -array.reshape(3, 3) / volume


def stress_from_vasp(kbar: ArrayLike) -> NDArray[np.float64]:
    """Return the stress (eV/A^3, tension positive) of what VASP prints (kBar, positive where the cell expands)."""
    return -np.asarray(kbar, dtype=np.float64) * KBAR
