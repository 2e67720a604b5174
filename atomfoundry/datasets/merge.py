"""Put several datasets into one, at one level of theory, without copying their shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.datasets.duplicates import first_of_each, id_keys, level_codes
from atomfoundry.datasets.files import link_or_copy, new_folder, stored_file
from atomfoundry.datasets.frame import labels_of
from atomfoundry.datasets.metadata import METADATA_FILE, CountKeeper, DatasetMetadata, Shard
from atomfoundry.datasets.store import Dataset, at_known_levels
from atomfoundry.datasets.writer import write_shards
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

_WORTH_LINKING = 0.5
"""A shard of which less than this part is wanted is written anew, so that no dataset drags along what it hides."""


def merge_datasets(
    path: str | Path,
    datasets: Sequence[Dataset],
    *,
    name: str = "",
    alignments: Mapping[str, Callable[[Atoms], Atoms]] | None = None,
    allow_mixed_levels: bool = False,
    keep_splits: bool = True,
    lineage: dict[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Dataset:
    """Join the frames of several datasets as one.

    Shards are not copied: the new folder gets hard links, so it stays whole when it is moved or a source is deleted
    (on another file system they are copied). Duplicates are hidden by a list of rows. Only frames that an alignment
    changes, shards of which most is hidden and shards of schema 1 are written anew.

    A structure that occurs twice at one level is kept once. A group keeps the split it had in the first dataset
    that has it, so that no group is cut.

    Parameters
    ----------
    path
        Folder to make.
    datasets
        In the order in which their frames shall stand.
    name
        Of the new dataset.
    alignments
        Level id -> function that takes its frames to the common level, e.g. ``{a.source_level.id: a.apply}``
        with an ``Alignment``.
    allow_mixed_levels
        Join frames of several levels all the same (for multi-head training); the dataset then has no
        ``level``.
    keep_splits
        Carry the splits over.
    lineage
        Replaces the default, the shards' hashes of the merged datasets.
    progress
        Called with the number of frames whenever some are done.

    Raises
    ------
    DatasetError
        If levels are mixed, or two datasets of one level disagree on an isolated-atom energy.
    """
    alignments = alignments or {}
    records = {record.id: record for dataset in datasets for record in dataset.levels}
    keys = _level_keys(datasets, alignments)
    level = _common_level(keys, records, allow_mixed_levels=allow_mixed_levels)
    energies = _isolated_energies(datasets, alignments) if len(keys) <= 1 else {}
    known = {key: records[key] for key in sorted(set(records) & (set(keys) | set(alignments)))}
    kept = _kept_rows(datasets)
    folder = Path(path)
    with new_folder(folder) as temporary:
        joiner = _Joiner(temporary, alignments, level, {**known, **({level.id: level} if level else {})}, progress)
        for dataset, rows in zip(datasets, kept, strict=True):
            joiner.add(dataset, rows)
        joiner.finish()
        metadata = DatasetMetadata(
            name=name or folder.name,
            level=level,
            levels=[known[key] for key in sorted(known)],
            isolated_energies=energies,
            splits=_splits(datasets, kept) if keep_splits else {},
            counts=joiner.keeper.counts(),
            shards=joiner.shards,
            lineage=lineage or {"merged": [_identity(dataset) for dataset in datasets]},
        )
        (temporary / METADATA_FILE).write_text(metadata.text(), encoding="utf-8")
    return Dataset.open(folder)


def _identity(dataset: Dataset) -> dict[str, Any]:
    return {"name": dataset.name, "shards": [shard.sha256 for shard in dataset.metadata.shards]}


def _level_keys(datasets: Sequence[Dataset], alignments: Mapping[str, Any]) -> list[str]:
    """Return the ids of the levels that labels have after alignment."""
    found = {level for dataset in datasets for level in dataset.metadata.counts.levels}
    return sorted(found - set(alignments))


def _common_level(
    keys: list[str], records: Mapping[str, LevelOfTheory], *, allow_mixed_levels: bool
) -> LevelOfTheory | None:
    if len(keys) > 1 and not allow_mixed_levels:
        names = ", ".join(records[key].label if key in records else f"'{key}'" for key in keys)
        raise DatasetError(
            f"The datasets have labels of {len(keys)} levels of theory: {names}.",
            remedy="Align them (alignments=), or pass allow_mixed_levels=True and train one head for each.",
        )
    return records.get(keys[0]) if len(keys) == 1 else None


def _isolated_energies(datasets: Sequence[Dataset], alignments: Mapping[str, Any]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for dataset in datasets:
        if set(dataset.metadata.counts.levels) & set(alignments):
            # Energies of the source level, which no frame has any more.
            continue
        for element, energy in dataset.isolated_energies.items():
            if abs(merged.setdefault(element, energy) - energy) > 1e-6:
                raise DatasetError(
                    f"Isolated {element} has {merged[element]:.6f} eV in one dataset and {energy:.6f} eV in "
                    f"'{dataset.path}'.",
                    remedy="The levels are not the same: align them first.",
                )
    return dict(sorted(merged.items()))


def _kept_rows(datasets: Sequence[Dataset]) -> list[NDArray[np.int64]]:
    """Return the frames of each dataset that did not come before, at their own level."""
    if not datasets:
        return []
    keys = np.concatenate([np.empty((0, 2), np.uint64), *map(id_keys, datasets)])
    first = first_of_each(keys, level_codes(datasets)[0])
    new = first == np.arange(len(first))
    ends = np.cumsum([len(dataset) for dataset in datasets])
    return [np.flatnonzero(part) for part in np.split(new, ends[:-1])]


class _Joiner:
    """Collect shards, by link where that does."""

    def __init__(
        self,
        folder: Path,
        alignments: Mapping[str, Callable[[Atoms], Atoms]],
        level: LevelOfTheory | None,
        known: dict[str, LevelOfTheory],
        progress: Callable[[int], object] | None,
    ) -> None:
        self.folder = folder
        self.alignments = alignments
        self.level = level
        self.known = known
        self.progress = progress
        self.shards: list[Shard] = []
        self.keeper = CountKeeper()
        self._waiting: list[tuple[Dataset, NDArray[np.int64]]] = []

    def add(self, dataset: Dataset, rows: NDArray[np.int64]) -> None:
        """Take these frames of a dataset, in ascending order."""
        aligned = bool(set(dataset.metadata.counts.levels) & set(self.alignments))
        start = 0
        for number, shard in enumerate(dataset.metadata.shards):
            first, last = np.searchsorted(rows, [start, start + shard.n_frames])
            part = rows[first:last]
            worth = len(part) >= _WORTH_LINKING * shard.n_frames and not aligned and shard.index is not None
            if len(part) and worth:
                if self._waiting:
                    self.finish()
                self._link(dataset, number, part - start)
            elif len(part):
                self._waiting.append((dataset, part))
            start += shard.n_frames

    def finish(self) -> None:
        """Write the frames that wait."""
        if not self._waiting and self.shards:
            return
        written, counts = write_shards(
            self.folder,
            at_known_levels(self._frames(), self.level, self.known),
            shard_size=100_000,
            first=len(self.shards),
            progress=self.progress,
        )
        self._waiting = []
        if counts.frames or not self.shards:
            self.shards += written
            self.keeper.add_counts(counts)

    def _frames(self) -> Iterator[Atoms]:
        for dataset, rows in self._waiting:
            for atoms in dataset.frames(rows.tolist()):
                align = self.alignments.get(atoms.info["level"])
                labelled = any(label is not None for label in labels_of(atoms))
                yield align(atoms) if align is not None and labelled else atoms

    def _link(self, dataset: Dataset, number: int, part: NDArray[np.int64]) -> None:
        shard = dataset.metadata.shards[number]
        opened = dataset.shard(number)
        stem = f"shard-{len(self.shards):05d}"
        assert shard.index is not None
        files = {f"{stem}.parquet": shard.file, f"{stem}.index.arrow": shard.index.file}
        for target, source in files.items():
            link_or_copy(dataset.path / source, self.folder / target)
        rows = None
        if len(part) < shard.n_frames or opened.rows is not None:
            physical = part if opened.rows is None else np.asarray(opened.rows)[part]
            np.save(self.folder / f"{stem}.rows.npy", physical.astype(np.int64))
            rows = stored_file(self.folder / f"{stem}.rows.npy")
        index = shard.index.model_copy(update={"file": f"{stem}.index.arrow"})
        linked = shard.model_copy(
            update={"file": f"{stem}.parquet", "index": index, "rows": rows, "n_frames": len(part)}
        )
        self.shards.append(linked)
        Dataset(self.folder, DatasetMetadata(shards=[linked])).shard(0).count(self.keeper)
        if self.progress is not None:
            self.progress(len(part))


def _splits(datasets: Sequence[Dataset], kept: Sequence[NDArray[np.int64]]) -> dict[str, list[int]]:
    """Return the splits of the joined frames; a group goes where its first dataset has it."""
    names: dict[str, int] = {}
    for dataset in datasets:
        for name in dataset.splits:
            names.setdefault(name, len(names))
    if not names:
        return {}
    chunks = [dataset.shard(number).groups for dataset in datasets for number in range(len(dataset.metadata.shards))]
    encoded = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode()
    groups = encoded.indices.to_numpy()
    homes = np.full(len(encoded.dictionary), -1)
    found: list[NDArray[np.int64]] = []
    start = 0
    for dataset, rows in zip(datasets, kept, strict=True):
        own = np.full(len(dataset), -1)
        members = groups[start : start + len(dataset)]
        for name, indices in dataset.splits.items():
            inside = np.asarray(indices, dtype=np.int64)
            own[inside] = names[name]
            fresh = members[inside][homes[members[inside]] < 0]
            homes[fresh] = names[name]
        found.append(np.where(own[rows] >= 0, homes[members[rows]], -1))
        start += len(dataset)
    where = np.concatenate(found)
    splits = {name: np.flatnonzero(where == code).tolist() for name, code in names.items()}
    return {name: indices for name, indices in splits.items() if indices}
