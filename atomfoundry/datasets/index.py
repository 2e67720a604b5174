"""The index beside each shard: where a frame's numbers lie, and everything small about it, found without decoding.

A shard keeps positions and forces as plain, uncompressed Parquet pages: a file any Parquet reader reads, in which
the 64-bit numbers of a frame lie in one piece. The index is an Arrow file that says where; it is mapped into memory.
From the shard just these bytes are read, into the arrays of the frame: pages mapped from a large shard would count as
memory of the process (batch systems kill for it), and a file cut short meanwhile would end it without an error.
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.datasets.assembly import assemble
from atomfoundry.errors import DatasetError

PLAIN_COLUMNS = ("positions", "forces")
"""Columns that are read through the memory map of the shard."""

_WORD = 8
_ENERGY, _FORCES, _STRESS, _PBC = 1, 2, 4, 8
_NO_SPIN = np.iinfo(np.int32).min
_LABEL = pa.dictionary(pa.int32(), pa.string())

INDEX_SCHEMA = pa.schema(
    [
        pa.field("frame_id", pa.binary(16), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("bits", pa.uint8(), nullable=False),
        pa.field("n_atoms", pa.int32(), nullable=False),
        pa.field("numbers", pa.list_(pa.uint8()), nullable=False),
        pa.field("cell", pa.list_(pa.float64(), 9), nullable=False),
        pa.field("energy", pa.float64(), nullable=False),
        pa.field("stress", pa.list_(pa.float64(), 6), nullable=False),
        pa.field("charge", pa.int32(), nullable=False),
        pa.field("spin_multiplicity", pa.int32(), nullable=False),
        pa.field("level", _LABEL, nullable=False),
        pa.field("source", _LABEL, nullable=False),
        pa.field("sampling", _LABEL, nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("flags", pa.string(), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
        pa.field("positions_at", pa.int64(), nullable=False),
        pa.field("forces_at", pa.int64(), nullable=False),
        pa.field("crc", pa.uint32(), nullable=False),
    ]
)
"""Columns of an index. ``bits``: 1 energy, 2 forces, 4 stress present, 8 16 32 periodic; ``*_at``: byte in the shard
(-1: none); ``crc``: of positions and forces; ``flags`` is JSON, empty for none; ``spin_multiplicity``: the least
int32 for none."""


def build_index(shard: Path, target: Path) -> None:
    """Write the index of a finished shard.

    Parameters
    ----------
    shard
        A Parquet file of our schema whose positions and forces are plain, one page a row group.
    target
        File to write.

    Raises
    ------
    DatasetError
        If the shard is laid out otherwise.
    """
    with (
        shard.open("rb") as stream,
        mmap(stream.fileno(), 0, access=ACCESS_READ) as content,
        memoryview(content) as raw,
    ):
        file = pq.ParquetFile(shard, memory_map=True)
        parts = [_index_group(file, group, raw, shard) for group in range(file.num_row_groups)]
    table = pa.Table.from_batches([part for part in parts if part.num_rows], schema=INDEX_SCHEMA)
    table = table.unify_dictionaries().combine_chunks()
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
        writer.write_table(table)


def _index_group(file: pq.ParquetFile, group: int, raw: memoryview, shard: Path) -> pa.RecordBatch:
    table = file.read_row_group(group, use_threads=False)
    n_rows = table.num_rows
    places = {name: _places(file, group, name, table.column(name), raw, shard) for name in PLAIN_COLUMNS}
    stresses = table.column("stress").to_pylist()
    bits = np.zeros(n_rows, dtype=np.uint8)
    for bit, name in ((_ENERGY, "energy"), (_FORCES, "forces"), (_STRESS, "stress")):
        bits[table.column(name).is_valid().to_numpy()] |= bit
    for axis, periodic in enumerate(np.array(table.column("pbc").to_pylist(), dtype=bool).reshape(n_rows, 3).T):
        bits[periodic] |= _PBC << axis
    n_atoms = table.column("n_atoms").to_numpy()
    crc = np.zeros(n_rows, dtype=np.uint32)
    for row, (count, at, forces_at) in enumerate(
        zip(n_atoms.tolist(), places["positions"].tolist(), places["forces"].tolist(), strict=True)
    ):
        crc[row] = _checksum(raw, 3 * _WORD * count, at, forces_at)
    absent = [np.nan] * 6
    columns: dict[str, Any] = {
        "frame_id": pa.array([bytes.fromhex(key) for key in table.column("frame_id").to_pylist()], pa.binary(16)),
        "bits": pa.array(bits),
        "energy": pa.array(table.column("energy").to_numpy()),
        "cell": pa.array(table.column("cell").to_pylist(), pa.list_(pa.float64(), 9)),
        "stress": pa.array([absent if s is None else s for s in stresses], pa.list_(pa.float64(), 6)),
        "spin_multiplicity": table.column("spin_multiplicity").fill_null(_NO_SPIN),
        "flags": pa.array([json.dumps(flags) if flags else "" for flags in table.column("flags").to_pylist()]),
        "positions_at": pa.array(places["positions"]),
        "forces_at": pa.array(places["forces"]),
        "crc": pa.array(crc),
    }
    for name in ("level", "source", "sampling"):
        columns[name] = table.column(name).dictionary_encode()
    arrays = []
    for field in INDEX_SCHEMA:
        column = columns.get(field.name)
        column = table.column(field.name) if column is None else column
        arrays.append(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    arrays = [pa.concat_arrays(a.chunks) if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    return pa.RecordBatch.from_arrays(arrays, schema=INDEX_SCHEMA)


def _places(
    file: pq.ParquetFile, group: int, name: str, column: pa.ChunkedArray, raw: memoryview, shard: Path
) -> NDArray[np.int64]:
    """Return the byte at which each row's values start: they end where the only page of the column ends."""
    group_metadata = file.metadata.row_group(group)
    chunk = next(
        item
        for item in map(group_metadata.column, range(group_metadata.num_columns))
        if item.path_in_schema == f"{name}.list.element"
    )
    array = column.combine_chunks()
    lengths = array.value_lengths().fill_null(0).to_numpy()
    flat = array.flatten().to_numpy()
    end = chunk.data_page_offset + chunk.total_compressed_size
    first = end - _WORD * len(flat)
    if chunk.compression != "UNCOMPRESSED" or bytes(raw[first:end]) != flat.tobytes():
        raise DatasetError(
            f"Column '{name}' of shard '{shard}' is not one plain page a row group.",
            remedy="Write it with Dataset.create.",
        )
    places = first + _WORD * np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(lengths)]
    places[~array.is_valid().to_numpy(zero_copy_only=False)] = -1
    return places


def _checksum(raw: memoryview, length: int, positions_at: int, forces_at: int) -> int:
    crc = zlib.crc32(raw[positions_at : positions_at + length])
    return crc if forces_at < 0 else zlib.crc32(raw[forces_at : forces_at + length], crc)


class ShardIndex:
    """Random access to the frames of one shard.

    Parameters
    ----------
    shard, index
        The Parquet file and its index. The caller has checked the hash of the index; the numbers of each frame
        are checked against its checksum when they are read.
    """

    def __init__(self, shard: Path, index: Path) -> None:
        self.path = shard
        try:
            self._source = pa.memory_map(str(index))
            table = pa.ipc.open_file(self._source).read_all()
            self._descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DatasetError(
                f"Shard '{shard}' or its index cannot be opened: {error}.", remedy="Copy or write the dataset again."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        if table.schema != INDEX_SCHEMA:
            raise DatasetError(f"The index '{index}' has other columns than an index has.")
        self.n_rows = table.num_rows
        self._table = table
        self._scalars = {name: self._array(name) for name in _SCALARS}
        # One element of a memory view is read in half the time that one of an array is.
        self._values = {name: array.data for name, array in self._scalars.items()}
        self._cells = _fixed(table, "cell", 9).reshape(-1, 3, 3)
        self._stresses = _fixed(table, "stress", 6)
        self._offsets, self._numbers = _variable(table, "numbers")
        self._starts = self._offsets.data
        self._texts = {name: _texts(table, name) for name in ("group_id", "flags", "extra")}
        self._ids = _buffer(table, "frame_id", 1, np.uint8).reshape(-1, 16)
        self._id_bytes = self._ids.reshape(-1).data
        self._codes = {name: _codes(table, name) for name in ("level", "source", "sampling")}
        self._labels = {name: (codes.data, labels) for name, (codes, labels) in self._codes.items()}

    def _array(self, name: str) -> NDArray[Any]:
        array = _only(self._table, name)
        dtype = INDEX_SCHEMA.field(name).type.to_pandas_dtype()
        return np.empty(0, dtype) if array is None else array.to_numpy()

    def numbers(self, row: int) -> NDArray[np.uint8]:
        """Return the atomic numbers of a row, ``[N]``."""
        return self._numbers[self._starts[row] : self._starts[row + 1]]

    def all_numbers(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the atomic numbers of some rows, joined."""
        if len(rows) == self.n_rows:
            return self._numbers
        return np.concatenate([np.empty(0, np.uint8), *map(self.numbers, rows.tolist())])

    def has(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        """Return which of some rows have which label."""
        bits = self._scalars["bits"][rows]
        return {"energies": bits & _ENERGY > 0, "forces": bits & _FORCES > 0, "stresses": bits & _STRESS > 0}

    def vectors(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return positions and forces of a row, ``[N, 3]``, arrays of their own; forces None if it has none.

        Raises
        ------
        DatasetError
            If they are not what was written.
        """
        values = self._values
        count = values["n_atoms"][row]
        positions = np.empty((count, 3))
        found = self._fill(positions, values["positions_at"][row])
        crc = zlib.crc32(positions.data)
        forces = None
        if (forces_at := values["forces_at"][row]) >= 0:
            forces = np.empty((count, 3))
            found &= self._fill(forces, forces_at)
            crc = zlib.crc32(forces.data, crc)
        if not found or crc != values["crc"][row]:
            raise DatasetError(
                f"Shard '{self.path}' is corrupt: row {row} has another checksum than when it was written.",
                remedy="Copy or write the dataset again.",
            )
        return positions, forces

    def _fill(self, array: NDArray[np.float64], at: int) -> bool:
        """Read an array from its place in the shard; False if the shard ends before."""
        return os.preadv(self._descriptor, [array.data], at) == array.nbytes

    def frame(self, row: int) -> Atoms:
        """Return one row as a frame of its own, labelled if it has labels."""
        positions, forces = self.vectors(row)
        values = self._values
        bits = values["bits"][row]
        spin = values["spin_multiplicity"][row]
        flags, extra = self._text("flags", row), self._text("extra", row)
        info: dict[str, Any] = {
            "frame_id": self._id_bytes[16 * row : 16 * row + 16].hex(),
            "group_id": self._text("group_id", row),
            "level": self._label("level", row),
            "source": self._label("source", row),
            "sampling": self._label("sampling", row),
            "weight": values["weight"][row],
            "flags": json.loads(flags) if flags else [],
            "charge": values["charge"][row],
            "spin_multiplicity": None if spin == _NO_SPIN else spin,
        }
        if extra != "{}":
            info.update(json.loads(extra))
        return assemble(
            self.numbers(row).astype(np.int64),
            positions,
            self._cells[row].copy(),
            _PERIODIC[bits >> 3].copy(),
            info=info,
            energy=values["energy"][row] if bits & _ENERGY else None,
            forces=forces,
            stress=self._stresses[row].copy() if bits & _STRESS else None,
        )

    def _text(self, name: str, row: int) -> str:
        offsets, data = self._texts[name]
        start, end = offsets[row], offsets[row + 1]
        return str(data[start:end], "utf-8") if end > start else ""

    def _label(self, name: str, row: int) -> str:
        codes, labels = self._labels[name]
        return labels[codes[row]]

    def arrays(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the columns of fixed width of some rows, as a batch needs them."""
        bits = self._scalars["bits"][rows]
        found = {name: self._scalars[name][rows] for name in ("n_atoms", "energy", "weight", "charge")}
        found["cell"] = self._cells[rows]
        found["stress"] = self._stresses[rows]
        found["pbc"] = _PERIODIC[bits >> 3]
        return found

    def column(self, name: str) -> pa.ChunkedArray | NDArray[Any] | list[Any]:
        """Return a whole column in the form that ``Dataset.column`` promises; positions are not touched for others."""
        if name in ("n_atoms", "energy", "weight", "charge"):
            return self._scalars[name].copy()
        if name == "cell":
            return self._cells.copy()
        if name == "stress":
            return self._stresses.copy()
        if name == "pbc":
            return _PERIODIC[self._scalars["bits"] >> 3]
        if name == "numbers":
            return [part.astype(int) for part in np.split(self._numbers, self._offsets[1:-1])] if self.n_rows else []
        if name in PLAIN_COLUMNS:
            which = PLAIN_COLUMNS.index(name)
            return [self.vectors(row)[which] for row in range(self.n_rows)]
        if name == "frame_id":
            text = self._ids.tobytes().hex()
            return [text[start : start + 32] for start in range(0, len(text), 32)]
        if name in self._codes:
            codes, labels = self._codes[name]
            return np.array(labels, dtype=object)[codes].tolist() if self.n_rows else []
        if name == "spin_multiplicity":
            return [None if spin == _NO_SPIN else spin for spin in self._scalars[name].tolist()]
        values = self._table.column(name).to_pylist()
        return [json.loads(value) if value else [] for value in values] if name == "flags" else values

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The frame ids as two 64-bit numbers each, ``[n, 2]``."""
        return self._ids.view(np.uint64)

    def labels(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """Return a column of few different texts as codes and texts."""
        return self._codes[name]

    @cached_property
    def groups(self) -> pa.Array:
        """The group ids as an Arrow array, not copied."""
        column = self._table.column("group_id")
        return column.chunk(0) if column.num_chunks else pa.array([], pa.string())


_SCALARS = (
    "bits",
    "n_atoms",
    "energy",
    "charge",
    "spin_multiplicity",
    "weight",
    "positions_at",
    "forces_at",
    "crc",
)
_PERIODIC = np.array([[bool(code >> axis & 1) for axis in range(3)] for code in range(8)])


def _only(table: pa.Table, name: str) -> pa.Array | None:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else None


def _buffer(table: pa.Table, name: str, which: int, dtype: Any) -> NDArray[Any]:
    array = _only(table, name)
    return np.empty(0, dtype) if array is None else np.frombuffer(array.buffers()[which], dtype)[: len(array) * 16]


def _fixed(table: pa.Table, name: str, width: int) -> NDArray[np.float64]:
    array = _only(table, name)
    return np.empty((0, width)) if array is None else array.flatten().to_numpy().reshape(-1, width)


def _variable(table: pa.Table, name: str) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    array = _only(table, name)
    if array is None:
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    return array.offsets.to_numpy(), array.values.to_numpy()


def _texts(table: pa.Table, name: str) -> tuple[memoryview, memoryview]:
    array = _only(table, name)
    if array is None:
        return np.zeros(1, np.int32).data, memoryview(b"")
    _, offsets, data = array.buffers()
    return memoryview(offsets).cast("i"), memoryview(b"" if data is None else data)


def _codes(table: pa.Table, name: str) -> tuple[NDArray[np.int32], list[str]]:
    array = _only(table, name)
    if array is None:
        return np.empty(0, np.int32), []
    return array.indices.to_numpy(), array.dictionary.to_pylist()
