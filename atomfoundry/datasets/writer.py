"""Write a dataset folder: streaming, atomic, the same bytes for the same frames."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ase import Atoms

from atomfoundry.datasets.metadata import CountKeeper, Counts, Shard
from atomfoundry.datasets.rows import REAL_COLUMNS, SCHEMA, row_of, table_of
from atomfoundry.errors import DatasetError

ROW_GROUP = 256
"""Frames that are decoded together when one of them is read."""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    Raises
    ------
    DatasetError
        If ``path`` exists, before or after the block.
    """
    if path.exists():
        raise DatasetError(f"'{path}' exists already.", remedy="Choose another name or remove it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        if path.exists():
            raise DatasetError(f"'{path}' was made by someone else meanwhile.", remedy="Choose another name.")
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_shards(folder: Path, frames: Iterable[Atoms], *, shard_size: int) -> tuple[list[Shard], Counts]:
    """Write frames as ``shard-00000.parquet``, ... and count them.

    Parameters
    ----------
    folder
        An existing folder.
    frames
        Read once; never more than one row group is held in memory.
    shard_size
        Frames per file.
    """
    if shard_size < 1:
        raise DatasetError(f"A shard of {shard_size} frames is not possible.", remedy="Use 1 or more.")
    keeper = CountKeeper()
    rows = _rows(frames, keeper)
    shards: list[Shard] = []
    while True:
        shard_rows = islice(rows, shard_size)
        group = list(islice(shard_rows, ROW_GROUP))
        if not group and shards:
            return shards, keeper.counts()
        path = folder / f"shard-{len(shards):05d}.parquet"
        n_frames = 0
        with _parquet_writer(path) as writer:
            while group or n_frames == 0:
                writer.write_table(table_of(group))
                n_frames += len(group)
                if not group:
                    break
                group = list(islice(shard_rows, ROW_GROUP))
        shards.append(Shard(file=path.name, sha256=file_sha256(path), size=path.stat().st_size, n_frames=n_frames))


def _parquet_writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression="zstd",
        use_dictionary=["group_id", "level", "source", "sampling", "numbers.list.element"],
        use_byte_stream_split=[_leaf(name) for name in REAL_COLUMNS],
        write_page_checksum=True,
    )


def _leaf(name: str) -> str:
    """Return a column's name as Parquet spells it: lists have their values one level down."""
    return name if name in ("energy", "weight") else f"{name}.list.element"


def _rows(frames: Iterable[Atoms], keeper: CountKeeper) -> Iterator[dict[str, Any]]:
    for atoms in frames:
        row = row_of(atoms)
        keeper.add(atoms, row)
        yield row
