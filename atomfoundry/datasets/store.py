"""The dataset on disk: a folder of Parquet shards and ``dataset.json``."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from atomfoundry.datasets.frame import labels_of
from atomfoundry.datasets.metadata import METADATA_FILE, DatasetMetadata, read_metadata
from atomfoundry.datasets.rows import SCHEMA, FrameReader, values_of
from atomfoundry.datasets.writer import ROW_GROUP, file_sha256, new_folder, write_shards
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

_CACHED_GROUPS = 4


class Dataset:
    """Labelled frames (or bare structures) on disk, read through memory maps.

    Use ``Dataset.create`` and ``Dataset.open``; a dataset never changes once it is written. Real numbers keep
    all 64 bits. Reading one frame decodes the row group of 256 frames it lies in and remembers the last few
    groups, so sequential reading is fast and memory does not grow with the dataset.
    """

    def __init__(self, path: Path, metadata: DatasetMetadata) -> None:
        self.path = path
        self.metadata = metadata
        self._ends = list(accumulate(shard.n_frames for shard in metadata.shards))
        self._files: dict[int, pq.ParquetFile] = {}
        self._groups: OrderedDict[tuple[int, int], FrameReader] = OrderedDict()

    # -- making and opening ------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        frames: Iterable[Atoms],
        *,
        name: str = "",
        level: LevelOfTheory | None = None,
        levels: Sequence[LevelOfTheory] = (),
        isolated_energies: dict[str, float] | None = None,
        splits: dict[str, list[int]] | None = None,
        lineage: dict[str, Any] | None = None,
        shard_size: int = 100_000,
    ) -> Dataset:
        """Write frames as a new dataset folder; it appears complete or not at all.

        Parameters
        ----------
        path
            The folder to make; must not exist.
        frames
            Read once, one row group (256 frames) in memory at a time. Equal frames give shards of equal
            sha256.
        name
            For people; the folder's name by default.
        level
            The level of theory of all labels. Labelled frames whose ``info["level"]`` is empty get its id;
            frames of another level are refused.
        levels
            Records of further levels that may occur.
        isolated_energies
            Element -> energy of the isolated atom at ``level``, eV.
        splits
            Split name -> frame indices, disjoint.
        lineage
            What the dataset was made from (JSON).
        shard_size
            Frames per file.

        Raises
        ------
        DatasetError
            If the folder exists, a split is impossible, a level is foreign or a frame cannot be stored.
        """
        folder = Path(path)
        known = {record.id: record for record in (*([level] if level else []), *levels)}
        with new_folder(folder) as temporary:
            shards, counts = write_shards(
                temporary, _at_known_levels(frames, level, known), shard_size=shard_size
            )
            _check_splits(splits or {}, counts.frames)
            metadata = DatasetMetadata(
                name=name or folder.name,
                level=level,
                levels=sorted(known.values(), key=lambda record: record.id),
                isolated_energies=isolated_energies or {},
                splits={key: [int(index) for index in indices] for key, indices in (splits or {}).items()},
                counts=counts,
                shards=shards,
                lineage=lineage or {},
            )
            (temporary / METADATA_FILE).write_text(metadata.text(), encoding="utf-8")
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset folder.

        Raises
        ------
        DatasetError
            If it is missing, of a newer schema, or a shard is missing or has another size than when written.
        """
        folder = Path(path)
        metadata = read_metadata(folder)
        for shard in metadata.shards:
            file = folder / shard.file
            size = file.stat().st_size if file.is_file() else None
            if size != shard.size:
                what = "is missing" if size is None else f"has {size} bytes instead of {shard.size}"
                raise DatasetError(f"Shard '{file}' {what}.", remedy="Copy or write the dataset again.")
        return cls(folder, metadata)

    def verify(self) -> None:
        """Check the content of every shard against its sha256.

        Raises
        ------
        DatasetError
            Naming the first shard that differs.
        """
        for shard in self.metadata.shards:
            file = self.path / shard.file
            if file_sha256(file) != shard.sha256:
                raise DatasetError(
                    f"Shard '{file}' is corrupt: its sha256 is not the recorded one.",
                    remedy="Copy or write the dataset again.",
                )

    # -- what it says about itself -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name for people."""
        return self.metadata.name

    @property
    def level(self) -> LevelOfTheory | None:
        """The level of all labels; None where there is none or several."""
        return self.metadata.level

    @property
    def levels(self) -> list[LevelOfTheory]:
        """Records of all levels that may occur."""
        return self.metadata.levels

    @property
    def isolated_energies(self) -> dict[str, float]:
        """Element -> energy of the isolated atom, eV."""
        return self.metadata.isolated_energies

    @property
    def splits(self) -> dict[str, list[int]]:
        """Split -> frame indices."""
        return self.metadata.splits

    # -- reading -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Atoms:
        """Return one frame; negative indices count from the end."""
        position = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(f"Frame {index} of dataset '{self.name}', which has {len(self)}.")
        shard = bisect_right(self._ends, position)
        row = position - (self._ends[shard - 1] if shard else 0)
        return self._group(shard, row // ROW_GROUP).frame(row % ROW_GROUP)

    def __iter__(self) -> Iterator[Atoms]:
        """Iterate over all frames in order."""
        return self.frames()

    def frames(self, indices: Iterable[int] | None = None, *, split: str | None = None) -> Iterator[Atoms]:
        """Iterate over frames.

        Parameters
        ----------
        indices
            Which ones, in this order; all by default.
        split
            The name of a split instead of ``indices``.

        Raises
        ------
        DatasetError
            If there is no such split.
        """
        if split is not None:
            if split not in self.splits:
                known = ", ".join(self.splits) or "none"
                raise DatasetError(f"Dataset '{self.path}' has no split '{split}'; it has: {known}.")
            indices = self.splits[split]
        for index in range(len(self)) if indices is None else indices:
            yield self[index]

    def column(self, name: str) -> np.ndarray | list[Any]:
        """Read one column without touching the others.

        Parameters
        ----------
        name
            A column of the contract, e.g. ``"energy"``, ``"group_id"``, ``"n_atoms"``.

        Returns
        -------
        numpy.ndarray or list
            An array for numbers and fixed shapes (missing values NaN), else a list (missing lists None).

        Raises
        ------
        DatasetError
            If there is no such column or a shard is corrupt.
        """
        if name not in SCHEMA.names:
            raise DatasetError(
                f"A dataset has no column '{name}'.", remedy=f"Columns: {', '.join(SCHEMA.names)}."
            )
        pieces = [self._read(shard, [name]) for shard in range(len(self.metadata.shards))]
        tables = [piece.select([name]) for piece in pieces] or [SCHEMA.empty_table().select([name])]
        return values_of(name, pa.concat_tables(tables).column(name))

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when the dataset travels to a worker process."""
        return {**self.__dict__, "_files": {}, "_groups": OrderedDict()}

    def __repr__(self) -> str:
        """Return a line for people."""
        return f"Dataset('{self.path}', {len(self)} frames)"

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            path = self.path / self.metadata.shards[shard].file
            try:
                file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            except (OSError, pa.ArrowException) as error:
                raise _corrupt(path, error) from error
            if file.schema_arrow != SCHEMA:
                raise DatasetError(f"Shard '{path}' has other columns than a dataset has.")
            self._files[shard] = file
        return self._files[shard]

    def _read(self, shard: int, columns: list[str]) -> pa.Table:
        file = self._file(shard)
        try:
            return file.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise _corrupt(self.path / self.metadata.shards[shard].file, error) from error

    def _group(self, shard: int, group: int) -> FrameReader:
        key = (shard, group)
        if key not in self._groups:
            try:
                table = self._file(shard).read_row_group(group, use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise _corrupt(self.path / self.metadata.shards[shard].file, error) from error
            self._groups[key] = FrameReader(table)
            if len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def _corrupt(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"Shard '{path}' is corrupt: {error}.", remedy="Copy or write the dataset again.")


def _at_known_levels(
    frames: Iterable[Atoms], level: LevelOfTheory | None, known: dict[str, LevelOfTheory]
) -> Iterator[Atoms]:
    for atoms in frames:
        if level is None or all(label is None for label in labels_of(atoms)):
            yield atoms
            continue
        own = atoms.info.get("level") or ""
        if own and own not in known:
            raise DatasetError(
                f"A frame of {atoms.get_chemical_formula()} has labels of level {own}, the dataset is of "
                f"{level.id} ({level.label}).",
                remedy="Align the energies first, or pass the record in levels=.",
            )
        if own:
            yield atoms
            continue
        # The caller's frame stays as it is; its calculator does not look at info.
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
        copy.calc = atoms.calc
        copy.info["level"] = level.id
        yield copy


def _check_splits(splits: dict[str, list[int]], n_frames: int) -> None:
    owner = np.full(n_frames, -1)
    for number, (name, indices) in enumerate(splits.items()):
        array = np.asarray(indices, dtype=int)
        if array.size and (array.min() < 0 or array.max() >= n_frames):
            raise DatasetError(f"Split '{name}' names frame {array.max()}, but there are {n_frames} frames.")
        if len(np.unique(array)) != len(array) or (owner[array] >= 0).any():
            raise DatasetError(f"Split '{name}' names a frame twice, or one that another split has.")
        owner[array] = number
