"""One shard of a dataset, opened for reading, whatever the schema it was written with."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.datasets.files import check_file
from atomfoundry.datasets.index import ShardIndex
from atomfoundry.datasets.metadata import CountKeeper, Shard
from atomfoundry.datasets.rows import SCHEMA, FrameReader, row_of, values_of
from atomfoundry.errors import DatasetError

_CACHED_GROUPS = 4


def open_shard(folder: Path, shard: Shard) -> OpenShard:
    """Open one shard.

    Raises
    ------
    DatasetError
        Naming the file that is missing, of another size, or (the small ones) of another content than recorded.
    """
    return OpenShard(folder, shard)


class OpenShard:
    """The rows of a shard that belong to the dataset, numbered from 0."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = folder / shard.file
        self.reader: ShardIndex | DecodedShard
        if shard.index is None:
            self.reader = DecodedShard(self.path)
        else:
            check_file(folder, shard.index)
            self.reader = ShardIndex(self.path, folder / shard.index.file)
        self.rows: NDArray[np.int64] | None = None
        if shard.rows is not None:
            check_file(folder, shard.rows)
            self.rows = _rows(folder / shard.rows.file)
        self.n_frames = self.reader.n_rows if self.rows is None else len(self.rows)
        if self.n_frames != shard.n_frames:
            raise DatasetError(
                f"Shard '{self.path}' has {self.n_frames} frames, not {shard.n_frames} as recorded.",
                remedy="Copy or write the dataset again.",
            )

    def row(self, index: int) -> int:
        """Return the row of the file for a frame's number in this shard."""
        return index if self.rows is None else int(self.rows[index])

    def frame(self, index: int) -> Atoms:
        """Return one frame."""
        return self.reader.frame(self.row(index))

    def column(self, name: str) -> NDArray[Any] | list[Any]:
        """Return a column in the form that ``Dataset.column`` promises."""
        values = self.reader.column(name)
        if self.rows is None:
            return values
        if isinstance(values, np.ndarray):
            return values[self.rows]
        return [values[row] for row in self.rows.tolist()]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The frame ids as two 64-bit numbers each, ``[n, 2]``."""
        if isinstance(self.reader, ShardIndex):
            keys = self.reader.keys
        else:
            ids = b"".join(map(bytes.fromhex, self.reader.column("frame_id")))
            keys = np.frombuffer(ids, np.uint64).reshape(-1, 2)
        return keys if self.rows is None else keys[self.rows]

    def labels(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """Return a column of few different texts (level, source, sampling) as codes and texts."""
        if isinstance(self.reader, ShardIndex):
            codes, labels = self.reader.labels(name)
        else:
            array = pa.array(self.reader.column(name), pa.string()).dictionary_encode()
            codes, labels = array.indices.to_numpy(), array.dictionary.to_pylist()
        return (codes if self.rows is None else codes[self.rows]), labels

    def numbers(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the atomic numbers of all frames, joined, and how many atoms each has."""
        n_atoms = np.asarray(self.column("n_atoms"), dtype=np.int64)
        if isinstance(self.reader, ShardIndex):
            rows = np.arange(self.n_frames) if self.rows is None else np.asarray(self.rows)
            return self.reader.all_numbers(rows), n_atoms
        return np.concatenate([np.empty(0, np.uint8), *self.column("numbers")]).astype(np.uint8), n_atoms

    @property
    def groups(self) -> pa.Array:
        """The group ids as an Arrow array."""
        if isinstance(self.reader, ShardIndex):
            groups = self.reader.groups
        else:
            groups = pa.array(self.reader.column("group_id"), pa.string())
        return groups if self.rows is None else groups.take(pa.array(self.rows))

    def count(self, keeper: CountKeeper) -> None:
        """Count the frames from the index alone."""
        reader = self.reader
        if not isinstance(reader, ShardIndex):
            keeper.add([row_of(reader.frame(self.row(index))) for index in range(self.n_frames)])
            return
        rows = np.arange(self.n_frames) if self.rows is None else np.asarray(self.rows)
        keeper.add_columns(
            numbers=self.numbers()[0],
            has=reader.has(rows),
            labels={kind: self.labels(name) for kind, name in _KINDS.items()},
            flags=self.column("flags"),
        )


def _rows(path: Path) -> NDArray[np.int64]:
    """Map the file of row numbers; pickled objects are not read."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"'{path}' is no array: {error}.", remedy="Copy or write the dataset again.") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DatasetError(f"'{path}' is no list of row numbers.", remedy="Copy or write the dataset again.")
    return rows


_KINDS = {"sources": "source", "samplings": "sampling", "levels": "level"}


class DecodedShard:
    """A shard of schema 1: row groups of compressed columns, decoded whole and remembered for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise self._corrupt(error) from error
        if self._file.schema_arrow != SCHEMA:
            raise DatasetError(f"Shard '{path}' has other columns than a dataset has.")
        metadata = self._file.metadata
        self.n_rows = metadata.num_rows
        self._ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
        self._groups: OrderedDict[int, FrameReader] = OrderedDict()

    def _corrupt(self, error: Exception) -> DatasetError:
        return DatasetError(f"Shard '{self.path}' is corrupt: {error}.", remedy="Copy or write the dataset again.")

    def frame(self, row: int) -> Atoms:
        """Return one row as a frame."""
        group = bisect_right(self._ends, row)
        if group not in self._groups:
            try:
                table = self._file.read_row_group(group, use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise self._corrupt(error) from error
            self._groups[group] = FrameReader(table)
            if len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group].frame(row - (self._ends[group - 1] if group else 0))

    def column(self, name: str) -> NDArray[Any] | list[Any]:
        """Read one column without touching the others."""
        try:
            return values_of(name, self._file.read(columns=[name]).column(name))
        except (OSError, pa.ArrowException) as error:
            raise self._corrupt(error) from error
