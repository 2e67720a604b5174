"""Many frames as a few joined arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.datasets.frame import labels_of
from atomfoundry.datasets.index import ShardIndex
from atomfoundry.datasets.shards import OpenShard


@dataclass
class FrameBatch:
    """Frames with their atoms joined: ``B`` frames, ``A`` atoms in all. Missing labels are NaN.

    Attributes
    ----------
    n_atoms
        ``[B]``.
    numbers, positions, forces
        ``[A]``, ``[A, 3]`` A, ``[A, 3]`` eV/A.
    cell, pbc
        ``[B, 3, 3]`` A, ``[B, 3]`` bool.
    energy, stress
        ``[B]`` eV, ``[B, 6]`` eV/A^3.
    weight, charge
        ``[B]``, ``[B]`` elementary charges.
    level
        ``[B]`` level ids.
    """

    n_atoms: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    forces: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: NDArray[np.float64]
    stress: NDArray[np.float64]
    weight: NDArray[np.float64]
    charge: NDArray[np.int64]
    level: list[str]

    @property
    def frame_of_atom(self) -> NDArray[np.int64]:
        """The number in the batch of the frame that each atom belongs to, ``[A]``."""
        return np.repeat(np.arange(len(self.n_atoms)), self.n_atoms)


def read_batch(indices: NDArray[np.int64], ends: NDArray[np.int64], shard: Callable[[int], OpenShard]) -> FrameBatch:
    """Read the frames of these indices, which all exist.

    Parameters
    ----------
    indices
        ``[B]``, not negative.
    ends
        Of each shard, the number of frames up to its end.
    shard
        Opens one.
    """
    homes = np.searchsorted(ends, indices, side="right")
    starts = np.concatenate([[0], ends])[homes]
    size = len(indices)
    batch = FrameBatch(
        n_atoms=np.zeros(size, np.int64),
        numbers=np.empty(0, np.int64),
        positions=np.empty((0, 3)),
        forces=np.empty((0, 3)),
        cell=np.zeros((size, 3, 3)),
        pbc=np.zeros((size, 3), bool),
        energy=np.full(size, np.nan),
        stress=np.full((size, 6), np.nan),
        weight=np.ones(size),
        charge=np.zeros(size, np.int64),
        level=[""] * size,
    )
    numbers: list[NDArray] = [np.empty(0)] * size
    positions: list[NDArray] = [np.empty((0, 3))] * size
    forces: list[NDArray | None] = [None] * size
    for home in np.unique(homes).tolist():
        opened = shard(home)
        reader = opened.reader
        members = np.flatnonzero(homes == home)
        rows = (indices - starts)[members]
        rows = rows if opened.rows is None else np.asarray(opened.rows)[rows]
        if not isinstance(reader, ShardIndex):
            for member, row in zip(members.tolist(), rows.tolist(), strict=True):
                atoms = reader.frame(row)
                _fill(batch, member, atoms)
                numbers[member], positions[member], forces[member] = atoms.numbers, atoms.positions, labels_of(atoms)[1]
            continue
        for name, values in reader.arrays(rows).items():
            getattr(batch, name)[members] = values
        codes, labels = reader.labels("level")
        for member, row in zip(members.tolist(), rows.tolist(), strict=True):
            numbers[member] = reader.numbers(row)
            positions[member], forces[member] = reader.vectors(row)
            batch.level[member] = labels[codes[row]]
    if size:
        batch.numbers = np.concatenate(numbers).astype(np.int64)
        batch.positions = np.concatenate(positions)
        filled = [
            np.full((count, 3), np.nan) if part is None else part
            for count, part in zip(batch.n_atoms.tolist(), forces, strict=True)
        ]
        batch.forces = np.concatenate(filled)
    return batch


def _fill(batch: FrameBatch, member: int, atoms: Atoms) -> None:
    energy, _, stress = labels_of(atoms)
    batch.n_atoms[member] = len(atoms)
    batch.cell[member], batch.pbc[member] = atoms.cell.array, atoms.pbc
    batch.energy[member] = np.nan if energy is None else energy
    batch.stress[member] = np.nan if stress is None else stress
    batch.weight[member], batch.charge[member] = atoms.info["weight"], atoms.info["charge"]
    batch.level[member] = atoms.info["level"]
