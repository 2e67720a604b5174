"""The dataset on disk: a folder of Parquet shards, their indices and ``dataset.json``."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from atomfoundry.datasets.batch import FrameBatch, read_batch
from atomfoundry.datasets.files import check_file, check_size, new_folder
from atomfoundry.datasets.frame import labels_of
from atomfoundry.datasets.metadata import (
    METADATA_FILE,
    DatasetMetadata,
    StoredFile,
    read_metadata,
    version_file,
)
from atomfoundry.datasets.rows import SCHEMA
from atomfoundry.datasets.shards import OpenShard, open_shard
from atomfoundry.datasets.writer import write_shards
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

_OPEN_SHARDS = 256


class Dataset:
    """Labelled frames (or bare structures) on disk, found through memory-mapped indices.

    Use ``Dataset.create`` and ``Dataset.open``. What is written never changes; ``append`` and ``revise`` make a
    new version beside the old ones. Real numbers keep all 64 bits. A frame is read without decoding its
    neighbours and checked against its checksum; memory does not grow with the dataset.
    """

    def __init__(self, path: Path, metadata: DatasetMetadata) -> None:
        self.path = path
        self.metadata = metadata
        self._ends = list(accumulate(shard.n_frames for shard in metadata.shards))
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

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
        progress: Callable[[int], object] | None = None,
    ) -> Dataset:
        """Write frames as a new dataset folder; it appears complete or not at all.

        Parameters
        ----------
        path
            The folder to make; must not exist.
        frames
            Read once, one row group (1,024 frames) in memory at a time. Equal frames give shards of equal
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
        progress
            Called with the number of frames of every row group that has been written.

        Raises
        ------
        DatasetError
            If the folder exists, a split is impossible, a level is foreign or a frame cannot be stored.
        """
        folder = Path(path)
        known = {record.id: record for record in (*([level] if level else []), *levels)}
        with new_folder(folder) as temporary:
            shards, counts = write_shards(
                temporary, at_known_levels(frames, level, known), shard_size=shard_size, progress=progress
            )
            check_splits(splits or {}, counts.frames)
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
    def open(cls, path: str | Path, *, version: int | None = None) -> Dataset:
        """Open a dataset folder.

        Parameters
        ----------
        path
            The folder.
        version
            An older version; the latest by default.

        Raises
        ------
        DatasetError
            If it is missing, of a newer schema, has no such version, or a file is missing or has another size
            than when written.
        """
        folder = Path(path)
        metadata = read_metadata(folder)
        if version is not None and version != metadata.version:
            if not 0 < version < metadata.version:
                raise DatasetError(f"'{folder}' has versions 1 to {metadata.version}, not {version}.")
            metadata = read_metadata(folder, version_file(version))
        for record in _files(metadata):
            check_size(folder, record)
        return cls(folder, metadata)

    def verify(self, progress: Callable[[int], object] | None = None) -> None:
        """Check the content of every file against its sha256.

        Parameters
        ----------
        progress
            Called with the number of bytes of every file that is good.

        Raises
        ------
        DatasetError
            Naming the first file that differs.
        """
        for record in _files(self.metadata):
            check_file(self.path, record)
            if progress is not None:
                progress(record.size)

    # -- versions ----------------------------------------------------------------------------------

    def append(
        self,
        frames: Iterable[Atoms],
        *,
        splits: dict[str, list[int]] | None = None,
        levels: Sequence[LevelOfTheory] = (),
        isolated_energies: dict[str, float] | None = None,
        lineage: dict[str, Any] | None = None,
        shard_size: int = 100_000,
        progress: Callable[[int], object] | None = None,
    ) -> Dataset:
        """Add frames behind the others: a new version of the dataset, in the same folder.

        The files of older versions stay as they are and ``open(path, version=...)`` still finds them. An
        interrupted append leaves the old version; two at a time wait for each other.

        Parameters
        ----------
        frames
            Read once. A dataset of one level takes frames of that level.
        splits
            Split -> indices of new frames, counted from the first frame of the dataset. Old frames stay where
            they are.
        levels
            Records of further levels.
        isolated_energies
            Of elements that are new; a known one must agree.
        lineage
            What the new frames were made from.
        shard_size, progress
            As for ``create``.

        Returns
        -------
        Dataset
            The new version; this object goes on showing the old one.

        Raises
        ------
        DatasetError
            As ``create``; or if the folder has a newer version than this one.
        """
        from atomfoundry.datasets.versions import append_frames

        return append_frames(
            self,
            frames,
            splits=splits or {},
            levels=levels,
            isolated_energies=isolated_energies or {},
            lineage=lineage,
            shard_size=shard_size,
            progress=progress,
        )

    def revise(
        self,
        *,
        name: str | None = None,
        splits: dict[str, list[int]] | None = None,
        isolated_energies: dict[str, float] | None = None,
        lineage: dict[str, Any] | None = None,
    ) -> Dataset:
        """Make a new version of the same frames with another name, other splits or energies; None keeps the old.

        Raises
        ------
        DatasetError
            If a split is impossible, or the folder has a newer version than this one.
        """
        from atomfoundry.datasets.versions import revise

        return revise(self, name=name, splits=splits, isolated_energies=isolated_energies, lineage=lineage)

    @property
    def version(self) -> int:
        """Counts up from 1."""
        return self.metadata.version

    @property
    def content_hash(self) -> str:
        """A sha256 of the frames, levels, isolated-atom energies and splits; the name does not count."""
        return self.metadata.content_hash

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
        total = self._ends[-1] if self._ends else 0
        position = int(index) + (total if index < 0 else 0)
        if not 0 <= position < total:
            raise IndexError(f"Frame {index} of dataset '{self.name}', which has {len(self)}.")
        shard = bisect_right(self._ends, position)
        return self.shard(shard).frame(position - (self._ends[shard - 1] if shard else 0))

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
            raise DatasetError(f"A dataset has no column '{name}'.", remedy=f"Columns: {', '.join(SCHEMA.names)}.")
        pieces = [self.shard(shard).column(name) for shard in range(len(self.metadata.shards))]
        if any(isinstance(piece, list) for piece in pieces):
            return [value for piece in pieces for value in piece]
        return np.concatenate(pieces)

    def batch(self, indices: ArrayLike) -> FrameBatch:
        """Read frames as joined arrays, for training loops: no Atoms are made.

        Parameters
        ----------
        indices
            Which frames, in this order; negative ones count from the end.

        Raises
        ------
        IndexError
            If there is no such frame.
        DatasetError
            If a frame is corrupt.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"A frame of the batch is none of dataset '{self.name}', which has {len(self)}.")
        return read_batch(wanted, np.array(self._ends, dtype=np.int64), self.shard)

    def where(self, **conditions: Any) -> NDArray[np.int64]:
        """Return the indices of frames by their columns, without touching positions.

        Parameters
        ----------
        **conditions
            Column -> value, collection of values, or function of a value; all must hold. The extra keyword
            ``elements`` holds frames made of these elements only.

        Examples
        --------
        ``dataset.where(sampling="rattle", n_atoms=lambda n: n <= 64, elements={"Si", "O"})``
        """
        from atomfoundry.datasets.filters import matching

        return matching(self, conditions)

    def shard(self, number: int) -> OpenShard:
        """Return one shard, opened."""
        if number not in self._open:
            self._open[number] = open_shard(self.path, self.metadata.shards[number])
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when the dataset travels to a worker process."""
        return {**self.__dict__, "_open": OrderedDict()}

    def __repr__(self) -> str:
        """Return a line for people."""
        return f"Dataset('{self.path}', {len(self)} frames)"


def _files(metadata: DatasetMetadata) -> Iterator[StoredFile]:
    for shard in metadata.shards:
        yield from (record for record in (shard, shard.index, shard.rows) if record is not None)


def at_known_levels(
    frames: Iterable[Atoms], level: LevelOfTheory | None, known: dict[str, LevelOfTheory]
) -> Iterator[Atoms]:
    """Yield frames, those without a level at ``level``.

    Raises
    ------
    DatasetError
        If labels are of a level that is not known.
    """
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


def check_splits(splits: dict[str, list[int]], n_frames: int) -> None:
    """Check that splits name frames that exist, each once.

    Raises
    ------
    DatasetError
        Naming the split.
    """
    owner = np.full(n_frames, -1)
    for number, (name, indices) in enumerate(splits.items()):
        array = np.asarray(indices, dtype=int)
        if array.size and (array.min() < 0 or array.max() >= n_frames):
            raise DatasetError(f"Split '{name}' names frame {array.max()}, but there are {n_frames} frames.")
        if len(np.unique(array)) != len(array) or (owner[array] >= 0).any():
            raise DatasetError(f"Split '{name}' names a frame twice, or one that another split has.")
        owner[array] = number
