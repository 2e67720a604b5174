"""What a labelled frame is in memory: its id, its labels, its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError, StructureError

RESOLUTION = 1e-8
"""Lengths that differ by less than about this (A) give the same ``frame_id``."""

_LARGEST_LENGTH = 2.0**63 * RESOLUTION / 2


def _hashable_lengths(positions: NDArray[np.float64], cell: NDArray[np.float64]) -> bytes:
    array = np.concatenate((positions.ravel(), cell.ravel()), dtype=np.float64)
    # A NaN makes the largest one NaN too, and the comparison false.
    if not np.abs(array).max() <= _LARGEST_LENGTH:
        _refuse_lengths(positions, "positions")
        _refuse_lengths(cell, "cell vectors")
    # Integers have no negative zero and hash alike on every machine.
    return np.rint(array / RESOLUTION).astype("<i8").tobytes()


def _refuse_lengths(values: NDArray[np.float64], what: str) -> None:
    if not np.isfinite(values).all():
        raise StructureError(
            f"The {what} hold NaN or infinity, so the frame has no id.",
            remedy="Remove the frame or repair the calculation that made it.",
        )
    if np.abs(values).max(initial=0.0) > _LARGEST_LENGTH:
        raise StructureError(
            f"The {what} reach {np.abs(values).max():.3g} A, which no structure does.",
            remedy="Check the length unit of the file.",
        )


def frame_id(atoms: Atoms) -> str:
    """Return the content hash of a structure.

    Parameters
    ----------
    atoms
        The structure. ``info["charge"]`` (default 0) and ``info["spin_multiplicity"]`` (default None) count
        too. Atoms are neither wrapped nor sorted: another order or another periodic image is another frame.

    Returns
    -------
    str
        The first 32 hexadecimal digits of the sha256 of numbers, positions, cell, pbc, charge and spin,
        lengths rounded to 1e-8 A.

    Raises
    ------
    StructureError
        If a length is not finite.
    """
    return _hash(atoms, atoms.info.get("charge"), atoms.info.get("spin_multiplicity"))


def _hash(atoms: Atoms, charge: int | None, spin_multiplicity: int | None) -> str:
    digest = hashlib.sha256(b"atomfoundry-frame-1")
    digest.update(np.asarray(atoms.numbers, dtype="<i8").tobytes())
    digest.update(_hashable_lengths(atoms.positions, atoms.cell.array))
    digest.update(np.asarray(atoms.pbc, dtype=np.uint8).tobytes())
    state = [int(charge or 0), 0 if spin_multiplicity is None else int(spin_multiplicity)]
    digest.update(np.asarray(state, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]


def default_info() -> dict[str, Any]:
    """Return the metadata every frame has, with the values that stand for 'not known'."""
    return {
        "frame_id": "",
        "group_id": "",
        "level": "",
        "source": "",
        "sampling": "",
        "weight": 1.0,
        "flags": [],
        "charge": 0,
        "spin_multiplicity": None,
    }


METADATA_KEYS: tuple[str, ...] = tuple(default_info())
"""The metadata keys of a frame; whatever else ``info`` holds is kept as extra."""


def with_metadata(atoms: Atoms, **metadata: Any) -> Atoms:
    """Return a copy with complete metadata and a fresh ``frame_id``; labels stay.

    Parameters
    ----------
    atoms
        The frame; its own metadata win over the defaults.
    **metadata
        Values that win over both, e.g. ``source="silicon.cif", sampling="rattle"``.

    Returns
    -------
    ase.Atoms
        The copy. An empty ``group_id`` becomes the ``frame_id``: a group of its own.
    """
    copy = atoms.copy()
    copy.info = complete_info(copy, **metadata)
    energy, forces, stress = labels_of(atoms)
    if energy is None and forces is None and stress is None:
        return copy
    return attach_labels(copy, energy, forces, stress)


def complete_info(atoms: Atoms, **metadata: Any) -> dict[str, Any]:
    """Return what ``with_metadata`` makes of ``info``; ``atoms`` stays as it is."""
    info = {**default_info(), **atoms.info, **metadata}
    info["flags"] = [str(flag) for flag in info["flags"]]
    info["frame_id"] = _hash(atoms, info["charge"], info["spin_multiplicity"])
    info["group_id"] = str(info["group_id"] or info["frame_id"])
    return info


def clean_frame(atoms: Atoms) -> Atoms:
    """Return the bare structure: numbers, positions, cell, pbc and the frame's metadata, nothing else.

    File readers leave per-atom arrays, constraints, space-group objects and calculators behind; none of them
    may reach a dataset or a calculation.
    """
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    defaults = default_info()
    bare.info = {key: atoms.info.get(key, defaults[key]) for key in METADATA_KEYS}
    return with_metadata(bare)


def _voigt(stress: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(stress, dtype=np.float64)
    if array.shape == (6,):
        return array
    if array.shape == (9,):
        array = array.reshape(3, 3)
    if array.shape != (3, 3):
        raise DatasetError(f"A stress has shape {array.shape}, not (6,) or (3, 3).")
    array = (array + array.T) / 2
    return array[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _geometry(atoms: Atoms) -> tuple[NDArray[Any], ...]:
    return atoms.arrays["positions"], atoms.arrays["numbers"], atoms.cell.array, atoms.pbc


def _same_geometry(first: Atoms, second: Atoms) -> bool:
    """Compare what ``frame_id`` sees; ``Calculator.check_state`` does the same a hundred times slower."""
    if all(one.tobytes() == other.tobytes() for one, other in zip(_geometry(first), _geometry(second), strict=True)):
        return True
    # Not the same bits, but maybe the same values: -0.0, or integers of another width.
    return (
        np.array_equal(first.numbers, second.numbers)
        and np.array_equal(first.positions, second.positions, equal_nan=True)
        and np.array_equal(first.cell.array, second.cell.array, equal_nan=True)
        and np.array_equal(first.pbc, second.pbc)
    )


def labels_of(
    atoms: Atoms,
) -> tuple[float | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return energy (eV), forces ``[N, 3]`` (eV/A) and stress ``[6]`` (eV/A^3) of a frame.

    Returns
    -------
    tuple
        None for each label that is missing, or that belongs to another geometry (the atoms were moved after
        the calculation). Nothing is computed and no constraint is applied.

    Raises
    ------
    DatasetError
        If a label has the wrong shape.
    """
    calculator = atoms.calc
    if not isinstance(calculator, Calculator) or calculator.atoms is None:
        return None, None, None
    if not _same_geometry(calculator.atoms, atoms):
        return None, None, None
    results = calculator.results
    energy, forces, stress = (results.get(key) for key in ("energy", "forces", "stress"))
    if forces is not None:
        forces = np.asarray(forces, dtype=np.float64)
        if forces.shape != (len(atoms), 3):
            raise DatasetError(f"The forces of {atoms.get_chemical_formula()} have shape {forces.shape}.")
    return (
        None if energy is None else float(energy),
        forces,
        None if stress is None else _voigt(stress),
    )


def attach_labels(
    atoms: Atoms,
    energy: float | None = None,
    forces: ArrayLike | None = None,
    stress: ArrayLike | None = None,
) -> Atoms:
    """Return a copy of the frame that carries these labels and no others.

    Parameters
    ----------
    atoms
        The structure; its metadata are copied.
    energy
        eV; None: absent.
    forces
        eV/A, ``[N, 3]``; None: absent.
    stress
        eV/A^3, tension positive, Voigt ``[6]`` (xx yy zz yz xz xy) or ``[3, 3]``; None: absent.

    Raises
    ------
    DatasetError
        If a label has the wrong shape.
    """
    copy = atoms.copy()
    # Constraints would make ASE hide forces from its readers.
    copy.set_constraint()
    results: dict[str, Any] = {}
    if energy is not None:
        results["energy"] = float(energy)
    if forces is not None:
        array = np.array(forces, dtype=np.float64)
        if array.shape != (len(copy), 3):
            raise DatasetError(
                f"Forces of shape {array.shape} do not fit {copy.get_chemical_formula()} ({len(copy)} atoms)."
            )
        results["forces"] = array
    if stress is not None:
        results["stress"] = _voigt(stress).copy()
    if results:
        # The calculator copies the atoms; without their metadata that is several times faster.
        info, copy.info = copy.info, {}
        copy.calc = SinglePointCalculator(copy, **results)
        copy.info = info
    return copy


def unique_frames(frames: Iterable[Atoms]) -> list[Atoms]:
    """Return the frames without repetitions of a ``frame_id``; the first of each stays, in order."""
    seen: set[str] = set()
    kept: list[Atoms] = []
    for atoms in frames:
        key = frame_id(atoms)
        if key not in seen:
            seen.add(key)
            kept.append(atoms)
    return kept
