"""Export to the two formats AtomProNet's tools read: its extended XYZ and its npz."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from atomfoundry.datasets import labels_of
from atomfoundry.errors import DatasetError


def _virial(atoms: Atoms, stress: np.ndarray) -> np.ndarray:
    """Return the virial (eV, 3x3, positive where the cell wants to expand)."""
    xx, yy, zz, yz, xz, xy = -stress * atoms.cell.volume
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def write_atompronet_xyz(path: str | Path, frames: Iterable[Atoms]) -> int:
    """Write extended XYZ as AtomProNet does, with each frame's own virial.

    Parameters
    ----------
    path
        File to write; replaced when complete.
    frames
        Frames with energy and forces; ``virial`` (eV) is written where there is a stress.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    DatasetError
        If a frame has no energy or no forces.
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    number = 0
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            for atoms in frames:
                energy, forces, stress = labels_of(atoms)
                if energy is None or forces is None:
                    raise DatasetError(f"Frame {number} of '{target}' has no energy or no forces.")
                fields = []
                if stress is not None:
                    fields.append(f'virial="{_row(_virial(atoms, stress).ravel())}"')
                fields.append(f'Lattice="{_row(atoms.cell.array.ravel())}"')
                fields.append("Properties=species:S:1:pos:R:3:forces:R:3")
                fields.append(f"energy={energy!r}")
                fields.append('pbc="{}"'.format(" ".join("T" if flag else "F" for flag in atoms.pbc)))
                stream.write(f"{len(atoms)}\n{' '.join(fields)}\n")
                for symbol, row in zip(atoms.symbols, np.hstack([atoms.positions, forces]), strict=True):
                    stream.write(f"{symbol} {_row(row)}\n")
                number += 1
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return number


def _row(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def write_atompronet_npz(path: str | Path, frames: Sequence[Atoms]) -> int:
    """Write AtomProNet's npz: positions, lattice, symbols, energies, forces, pressures.

    Parameters
    ----------
    path
        File to write; replaced when complete.
    frames
        Frames of one composition in one order of atoms, which is all the format can hold. ``pressures`` (eV, order
        xx yy zz xy yz zx, positive where the cell wants to expand) are written if every frame has a stress.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    DatasetError
        If the frames differ in their atoms, or one lacks energy or forces.
    """
    target = Path(path)
    labels = [labels_of(atoms) for atoms in frames]
    if not frames or any(list(atoms.symbols) != list(frames[0].symbols) for atoms in frames):
        raise DatasetError(f"'{target}' can hold frames of one composition only.", remedy="Write one file for each.")
    if any(energy is None or forces is None for energy, forces, _ in labels):
        raise DatasetError(f"A frame for '{target}' has no energy or no forces.")
    arrays: dict[str, np.ndarray] = {
        "positions": np.array([atoms.positions for atoms in frames]),
        "lattice": np.array([atoms.cell.array for atoms in frames]),
        "symbols": np.array(list(frames[0].symbols)),
        "energies": np.array([[energy] for energy, _, _ in labels], dtype=float),
        "forces": np.array([forces for _, forces, _ in labels], dtype=float),
    }
    virials = [
        None if stress is None else _virial(atoms, stress) for atoms, (_, _, stress) in zip(frames, labels, strict=True)
    ]
    if all(virial is not None for virial in virials):
        pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))
        arrays["pressures"] = np.array([[virial[pair] for pair in pairs] for virial in virials if virial is not None])
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return len(frames)
