"""How frames become Arrow rows and back: the columns of a shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from ase import Atoms

from atomfoundry.datasets.frame import METADATA_KEYS, attach_labels, complete_info, labels_of
from atomfoundry.errors import DatasetError

_REALS = pa.list_(pa.float64())

SCHEMA = pa.schema(
    [
        pa.field("frame_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("n_atoms", pa.int32(), nullable=False),
        pa.field("numbers", pa.list_(pa.uint8()), nullable=False),
        pa.field("positions", _REALS, nullable=False),
        pa.field("cell", _REALS, nullable=False),
        pa.field("pbc", pa.list_(pa.bool_()), nullable=False),
        pa.field("energy", pa.float64()),
        pa.field("forces", _REALS),
        pa.field("stress", _REALS),
        pa.field("charge", pa.int32(), nullable=False),
        pa.field("spin_multiplicity", pa.int32()),
        pa.field("level", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sampling", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
    ]
)
"""Columns of every shard. ``extra`` is JSON: what ``atoms.info`` holds beyond the metadata keys."""

REAL_COLUMNS = ["positions", "cell", "energy", "forces", "stress", "weight"]
_SHAPES: dict[str, tuple[int, ...]] = {
    "positions": (-1, 3),
    "forces": (-1, 3),
    "cell": (3, 3),
    "stress": (6,),
}


def _plain(value: Any) -> Any:
    """Turn NumPy values into what JSON knows."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _extra(atoms: Atoms, info: Mapping[str, Any]) -> str:
    extra = {key: value for key, value in info.items() if key not in METADATA_KEYS}
    if not extra:
        return "{}"
    try:
        return json.dumps(extra, default=_plain, sort_keys=True)
    except TypeError as error:
        raise DatasetError(
            f"The info of frame {info['frame_id']} ({atoms.get_chemical_formula()}, source "
            f"'{info['source']}') cannot be stored: {error}. Extra keys: {', '.join(map(str, extra))}.",
            remedy="Pass the frame through atomfoundry.datasets.clean_frame, or delete the key.",
        ) from error


def row_of(atoms: Atoms) -> dict[str, Any]:
    """Return the row of a frame.

    The metadata are completed and ``frame_id`` is computed anew, so a stale one never reaches the disk.
    Per-atom arrays other than positions and forces are not kept.

    Raises
    ------
    DatasetError
        If ``info`` holds something that is not JSON.
    StructureError
        If a length is not finite.
    """
    info = complete_info(atoms)
    energy, forces, stress = labels_of(atoms)
    spin = info["spin_multiplicity"]
    return {
        "frame_id": info["frame_id"],
        "group_id": info["group_id"],
        "n_atoms": len(atoms),
        # Copies: a source may hand out one and the same Atoms, changed from frame to frame.
        "numbers": atoms.numbers.astype(np.uint8),
        "positions": atoms.positions.flatten(),
        "cell": atoms.cell.array.flatten(),
        "pbc": atoms.pbc.tolist(),
        "energy": energy,
        "forces": None if forces is None else forces.flatten(),
        "stress": None if stress is None else stress.copy(),
        "charge": int(info["charge"] or 0),
        "spin_multiplicity": None if spin is None else int(spin),
        "level": str(info["level"] or ""),
        "source": str(info["source"]),
        "sampling": str(info["sampling"]),
        "weight": float(info["weight"]),
        "flags": info["flags"],
        "extra": _extra(atoms, info),
    }


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the Arrow table of rows made by ``row_of``."""
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        if field.name in ("numbers", "positions", "cell", "forces", "stress"):
            columns.append(_list_array(values, field.type))
        else:
            columns.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _list_array(values: Sequence[np.ndarray | None], list_type: pa.ListType) -> pa.ListArray:
    """Return a list column; joined by NumPy, ten times faster than value by value."""
    parts = [value for value in values if value is not None]
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([0 if value is None else value.size for value in values], out=offsets[1:])
    dtype = list_type.value_type.to_pandas_dtype()
    joined = np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0)
    missing = pa.array([value is None for value in values], type=pa.bool_()) if len(parts) < len(values) else None
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(joined.astype(dtype, copy=False)), type=list_type, mask=missing
    )


class FrameReader:
    """The frames of one decoded table of schema 1; columns are unpacked once, not once a frame.

    Parameters
    ----------
    table
        Rows of the schema.
    """

    def __init__(self, table: pa.Table) -> None:
        self._plain = {
            field.name: table.column(field.name).to_pylist()
            for field in SCHEMA
            if field.name not in (*_SHAPES, "numbers")
        }
        self._lists = {name: _ragged(table.column(name)) for name in (*_SHAPES, "numbers")}

    def _values(self, name: str, row: int) -> np.ndarray | None:
        values, offsets, valid = self._lists[name]
        if not valid[row]:
            return None
        return values[offsets[row] : offsets[row + 1]].reshape(_SHAPES.get(name, (-1,)))

    def frame(self, row: int) -> Atoms:
        """Return one row as a frame, labelled if it has labels."""
        plain = {name: column[row] for name, column in self._plain.items()}
        atoms = Atoms(
            numbers=self._values("numbers", row),
            positions=self._values("positions", row),
            cell=self._values("cell", row),
            pbc=plain["pbc"],
        )
        info = {key: plain[key] for key in METADATA_KEYS} | json.loads(plain["extra"])
        # The column keeps its own list.
        info["flags"] = list(info["flags"])
        energy, forces, stress = plain["energy"], self._values("forces", row), self._values("stress", row)
        if not (energy is None and forces is None and stress is None):
            atoms = attach_labels(atoms, energy, forces, stress)
        atoms.info = info
        return atoms


def _ragged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, offsets and validity of a list column of one chunk."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.values.to_numpy(), array.offsets.to_numpy(), array.is_valid().to_numpy(zero_copy_only=False)


def values_of(name: str, column: pa.ChunkedArray) -> np.ndarray | list[Any]:
    """Return a column as users want it: an array where rows have one shape, else a list.

    Missing real numbers are NaN, a missing entry of a list column is None.
    """
    if name in ("energy", "weight", "charge", "n_atoms"):
        return column.to_numpy()
    if name in ("cell", "pbc", "stress"):
        shape = {"cell": (3, 3), "pbc": (3,), "stress": (6,)}[name]
        missing = np.full(shape, np.nan)
        rows = [np.array(item).reshape(shape) if item is not None else missing for item in column.to_pylist()]
        return np.array(rows).reshape(len(rows), *shape)
    if name in ("numbers", "positions", "forces"):
        shape = _SHAPES.get(name, (-1,))
        return [
            scalar.values.to_numpy().astype(int if name == "numbers" else float).reshape(shape)
            if scalar.is_valid
            else None
            for scalar in column
        ]
    return column.to_pylist()
