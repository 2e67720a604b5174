"""Write the shards of a dataset: streaming, the same bytes for the same frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ase import Atoms

from atomfoundry.datasets.files import file_sha256, new_folder, stored_file
from atomfoundry.datasets.index import PLAIN_COLUMNS, build_index
from atomfoundry.datasets.metadata import CountKeeper, Counts, Shard
from atomfoundry.datasets.rows import REAL_COLUMNS, SCHEMA, row_of, table_of
from atomfoundry.errors import DatasetError

ROW_GROUP = 1024
"""Most frames that are held in memory and written together."""

_GROUP_ATOMS = 1 << 18
_SHARD_ATOMS = 1 << 25
_SHARD_TEXT = 1 << 29
"""Where frames are large: atoms of a row group, atoms of a shard, bytes of ``extra`` of a shard."""

_WHOLE_PAGE = 1 << 30


def write_shards(
    folder: Path,
    frames: Iterable[Atoms],
    *,
    shard_size: int,
    prefix: str = "shard",
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[Shard], Counts]:
    """Write frames as ``shard-00000.parquet``, ... with their indices, and count them.

    Parameters
    ----------
    folder
        An existing folder.
    frames
        Read once; never more than one row group (1,024 frames, or 262,144 atoms and one frame) is held in memory.
    shard_size
        Most frames per file; a shard of very large frames ends earlier.
    prefix, first
        How the files' names begin, and their first number.
    progress
        Called with the number of frames of every row group that has been written.
    """
    if shard_size < 1:
        raise DatasetError(f"A shard of {shard_size} frames is not possible.", remedy="Use 1 or more.")
    keeper = CountKeeper()
    groups = _groups(frames, shard_size)
    shards: list[Shard] = []
    group = next(groups, [])
    while group or not shards:
        path = folder / f"{prefix}-{first + len(shards):05d}.parquet"
        n_frames = n_atoms = n_text = 0
        with _parquet_writer(path) as writer:
            while True:
                writer.write_table(table_of(group))
                keeper.add(group)
                n_frames += len(group)
                n_atoms += sum(row["n_atoms"] for row in group)
                n_text += sum(len(row["extra"]) for row in group)
                if progress is not None:
                    progress(len(group))
                group = next(groups, [])
                if not group or n_frames >= shard_size or n_atoms >= _SHARD_ATOMS or n_text >= _SHARD_TEXT:
                    break
        shards.append(finish_shard(path, n_frames))
    return shards, keeper.counts()


def finish_shard(path: Path, n_frames: int) -> Shard:
    """Write the index of a finished Parquet file and return the record of both."""
    index = path.with_suffix(".index.arrow")
    build_index(path, index)
    return Shard(
        file=path.name,
        sha256=file_sha256(path),
        size=path.stat().st_size,
        n_frames=n_frames,
        index=stored_file(index),
    )


def _groups(frames: Iterable[Atoms], shard_size: int) -> Iterator[list[dict[str, Any]]]:
    """Cut the rows into row groups; a group also ends where a shard of ``shard_size`` would."""
    group: list[dict[str, Any]] = []
    n_atoms = 0
    for number, atoms in enumerate(frames, start=1):
        group.append(row_of(atoms))
        n_atoms += len(atoms)
        if len(group) == ROW_GROUP or n_atoms >= _GROUP_ATOMS or number % shard_size == 0:
            yield group
            group, n_atoms = [], 0
    if group:
        yield group


def _parquet_writer(path: Path) -> pq.ParquetWriter:
    leaves = {name: f"{name}.list.element" for name in ("positions", "forces", "cell", "stress", "numbers", "pbc")}
    compression = {leaves.get(field.name, field.name): "ZSTD" for field in SCHEMA}
    compression["flags.list.element"] = compression.pop("flags")
    compression.update({leaves[name]: "NONE" for name in PLAIN_COLUMNS})
    packed = [name for name in REAL_COLUMNS if name not in PLAIN_COLUMNS]
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression=compression,
        use_dictionary=["group_id", "level", "source", "sampling", leaves["numbers"]],
        use_byte_stream_split=[leaves.get(name, name) for name in packed],
        write_statistics=["energy", "n_atoms"],
        write_page_checksum=True,
        data_page_size=_WHOLE_PAGE,
    )


__all__ = ["ROW_GROUP", "file_sha256", "finish_shard", "new_folder", "write_shards"]
