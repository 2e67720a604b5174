"""ASE databases and npz files, in and out, one frame in memory at a time."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.datasets.frame import METADATA_KEYS, attach_labels, default_info, labels_of, with_metadata
from atomfoundry.errors import DatasetError

METADATA_FIELD = "atomfoundry_metadata"
_TRANSACTION = 1000

_COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "n_atoms": (np.int64, ()),
    "numbers": (np.uint8, ()),
    "positions": (np.float64, (3,)),
    "forces": (np.float64, (3,)),
    "cell": (np.float64, (3, 3)),
    "pbc": (np.bool_, (3,)),
    "energy": (np.float64, ()),
    "stress": (np.float64, (6,)),
    "metadata_end": (np.int64, ()),
    "metadata": (np.uint8, ()),
}
"""Columns of our npz: per frame, per atom (``numbers``, ``positions``, ``forces``), and JSON texts joined to bytes."""


def _metadata(atoms: Atoms) -> dict[str, Any]:
    return {key: atoms.info[key] for key in METADATA_KEYS if atoms.info[key] not in (None, "", [])}


def _restored(atoms: Atoms, own: dict[str, Any], source: str, metadata: dict[str, Any]) -> Atoms:
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = default_info() | {"source": source} | own | metadata
    return bare


def read_ase_db(path: str | Path, **metadata: Any) -> Iterator[Atoms]:
    """Read an ASE database (``.db``: SQLite) row by row.

    Parameters
    ----------
    path
        The file.
    **metadata
        Metadata set on every frame, e.g. ``level=...``. The rows' own key-value pairs are kept as extra.

    Raises
    ------
    DatasetError
        If the file cannot be read.
    """
    import sqlite3

    from ase.db import connect

    file = Path(path)
    if not file.is_file():
        raise DatasetError(f"There is no ASE database '{file}'.", remedy="Check the path.")
    n_read = 0
    try:
        for row in connect(str(file), type="db").select():
            own = dict(row.key_value_pairs)
            own.update(row.data.get(METADATA_FIELD, {}))
            labels = (row.get("energy"), row.get("forces"), row.get("stress"))
            atoms = row.toatoms()
            yield with_metadata(attach_labels(_restored(atoms, own, file.name, metadata), *labels))
            n_read += 1
    except (sqlite3.Error, KeyError, ValueError, OSError) as error:
        raise DatasetError(f"'{file}' cannot be read as an ASE database after {n_read} frames: {error}.") from error


def write_ase_db(path: str | Path, frames: Iterable[Atoms]) -> int:
    """Write an ASE database, atomically; metadata go into each row's ``data``.

    Returns
    -------
    int
        The number of frames.
    """
    from ase.db import connect

    target = Path(path)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part.db"
    number = 0
    try:
        database = connect(str(temporary), type="db")
        iterator = iter(frames)
        while True:
            batch = [atoms for atoms, _ in zip(iterator, range(_TRANSACTION), strict=False)]
            if not batch:
                break
            with database:
                for atoms in batch:
                    frame = with_metadata(atoms)
                    database.write(frame, data={METADATA_FIELD: _metadata(frame)})
            number += len(batch)
        if not number:
            raise DatasetError(f"There is no frame to write to '{target}'.")
        temporary.replace(target)
    finally:
        for left in target.parent.glob(f"{temporary.name}*"):
            left.unlink(missing_ok=True)
    return number


def write_npz(path: str | Path, frames: Iterable[Atoms]) -> int:
    """Write an npz of joined arrays, atomically: any ``numpy.load`` reads it.

    Arrays: ``n_atoms [B]``, ``numbers [A]``, ``positions [A, 3]``, ``forces [A, 3]``, ``cell [B, 3, 3]``,
    ``pbc [B, 3]``, ``energy [B]``, ``stress [B, 6]`` (our units, NaN where absent) and the metadata as JSON texts
    joined to bytes (``metadata``, ends in ``metadata_end``). Each column goes through a file of its own beside the
    target, so memory does not grow.

    Returns
    -------
    int
        The number of frames.
    """
    target = Path(path)
    number = n_text = 0
    lengths = dict.fromkeys(_COLUMNS, 0)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(tempfile.TemporaryFile(dir=target.parent)) for name in _COLUMNS}
            for atoms in frames:
                frame = with_metadata(atoms)
                energy, forces, stress = labels_of(frame)
                text = json.dumps(_metadata(frame), sort_keys=True).encode()
                n_text += len(text)
                row: dict[str, Any] = {
                    "n_atoms": [len(frame)],
                    "numbers": frame.numbers,
                    "positions": frame.positions,
                    "forces": np.full((len(frame), 3), np.nan) if forces is None else forces,
                    "cell": frame.cell.array[None],
                    "pbc": frame.pbc[None],
                    "energy": [np.nan if energy is None else energy],
                    "stress": np.full((1, 6), np.nan) if stress is None else stress[None],
                    "metadata_end": [n_text],
                    "metadata": np.frombuffer(text, np.uint8),
                }
                for name, values in row.items():
                    array = np.ascontiguousarray(values, dtype=_COLUMNS[name][0])
                    files[name].write(array.tobytes())
                    lengths[name] += len(array)
                number += 1
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name, file in files.items():
                    _store(archive, name, file, lengths[name])
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return number


def _store(archive: zipfile.ZipFile, name: str, file: IO[bytes], length: int) -> None:
    dtype, shape = _COLUMNS[name]
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": (length, *shape),
    }
    file.seek(0)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)  # type: ignore[arg-type]
        while piece := file.read(1 << 20):
            member.write(piece)


class _Member:
    """One array of an npz, read from front to back."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._stream = archive.open(f"{name}.npy")
        np.lib.format.read_magic(self._stream)
        shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(self._stream)
        wanted = _COLUMNS[name]
        if fortran or shape[1:] != wanted[1] or self.dtype != wanted[0]:
            raise ValueError(f"array '{name}' has shape {shape} and type {self.dtype}")
        self.length = shape[0]
        self._width = int(np.prod(shape[1:], dtype=int))

    def take(self, count: int) -> NDArray[Any]:
        """Return the next rows, flat."""
        size = count * self._width * self.dtype.itemsize
        content = self._stream.read(size)
        if len(content) != size:
            raise ValueError("an array breaks off")
        return np.frombuffer(content, self.dtype)


def read_npz(path: str | Path, **metadata: Any) -> Iterator[Atoms]:
    """Read what ``write_npz`` wrote, frame by frame.

    Parameters
    ----------
    path
        The file.
    **metadata
        Metadata set on every frame.

    Raises
    ------
    DatasetError
        If the file is no such npz or breaks off.
    """
    file = Path(path)
    n_read = 0
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name: _Member(archive, name) for name in _COLUMNS}
            begin = 0
            for _ in range(members["n_atoms"].length):
                count = int(members["n_atoms"].take(1)[0])
                row = {
                    name: members[name].take(count if name in ("numbers", "positions", "forces") else 1)
                    for name in _COLUMNS
                    if name not in ("n_atoms", "metadata", "metadata_end")
                }
                end = int(members["metadata_end"].take(1)[0])
                own = json.loads(members["metadata"].take(end - begin).tobytes())
                begin = end
                atoms = Atoms(
                    row["numbers"].astype(int),
                    row["positions"].reshape(-1, 3),
                    cell=row["cell"].reshape(3, 3),
                    pbc=row["pbc"],
                )
                energy, forces, stress = float(row["energy"][0]), row["forces"].reshape(-1, 3), row["stress"]
                bare = _restored(atoms, own, file.name, metadata)
                yield with_metadata(
                    attach_labels(
                        bare,
                        None if np.isnan(energy) else energy,
                        None if not count or np.isnan(forces).all() else forces,
                        None if np.isnan(stress).all() else stress,
                    )
                )
                n_read += 1
    except KeyError as error:
        raise DatasetError(
            f"'{file}' is not an npz of joined arrays: {error}.", remedy="`atomfoundry harvest` reads AtomProNet's npz."
        ) from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DatasetError(f"'{file}' cannot be read as npz after {n_read} frames: {error}.") from error
