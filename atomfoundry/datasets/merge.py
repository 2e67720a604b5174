"""Put several datasets into one, at one level of theory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from atomfoundry.datasets.frame import labels_of
from atomfoundry.datasets.store import Dataset
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError


def merge_datasets(
    path: str | Path,
    datasets: Sequence[Dataset],
    *,
    name: str = "",
    alignments: Mapping[str, Callable[[Atoms], Atoms]] | None = None,
    allow_mixed_levels: bool = False,
    keep_splits: bool = True,
    lineage: dict[str, Any] | None = None,
) -> Dataset:
    """Write the frames of several datasets as one.

    A structure that occurs twice at one level is written once. A group keeps the split it had in the first
    dataset that has it, so that no group is cut.

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
        Write frames of several levels all the same (for multi-head training); the dataset then has no
        ``level``.
    keep_splits
        Carry the splits over.
    lineage
        Replaces the default, the shards' hashes of the merged datasets.

    Raises
    ------
    DatasetError
        If levels are mixed, or two datasets of one level disagree on an isolated-atom energy.
    """
    alignments = alignments or {}
    records = {record.id: record for dataset in datasets for record in dataset.levels}
    keys = _level_keys(datasets, alignments)
    level = _common_level(keys, records, allow_mixed_levels=allow_mixed_levels)
    merger = _Merger(datasets, alignments)
    if keep_splits:
        merger.collect_splits()
    kept = {record.id for record in records.values()} & (set(keys) | set(alignments))
    return Dataset.create(
        path,
        merger.frames(),
        name=name,
        level=level,
        levels=[records[key] for key in sorted(kept)],
        isolated_energies=_isolated_energies(datasets, alignments) if len(keys) <= 1 else None,
        splits=merger.splits,
        lineage=lineage or {"merged": [_identity(dataset) for dataset in datasets]},
    )


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


class _Merger:
    """Stream frames of several datasets, aligned and without duplicates, and translate their splits."""

    def __init__(self, datasets: Sequence[Dataset], alignments: Mapping[str, Callable[[Atoms], Atoms]]) -> None:
        self.datasets = datasets
        self.alignments = alignments
        self.splits: dict[str, list[int]] = {}
        self._rows = list(self._unique_rows())

    def _unique_rows(self) -> Iterator[tuple[int, int]]:
        seen: set[tuple[str, str]] = set()
        for number, dataset in enumerate(self.datasets):
            columns = zip(dataset.column("frame_id"), dataset.column("level"), strict=True)
            for row, key in enumerate(columns):
                if key not in seen:
                    seen.add(key)
                    yield number, row

    def collect_splits(self) -> None:
        """Fill ``splits`` with the indices that the frames get."""
        homes: dict[str, str] = {}
        groups = [dataset.column("group_id") for dataset in self.datasets]
        owners: list[dict[int, str]] = []
        for dataset, group_ids in zip(self.datasets, groups, strict=True):
            owner = {row: split for split, rows in dataset.splits.items() for row in rows}
            owners.append(owner)
            for row, split in owner.items():
                homes.setdefault(group_ids[row], split)
        for index, (number, row) in enumerate(self._rows):
            if row in owners[number]:
                self.splits.setdefault(homes[groups[number][row]], []).append(index)

    def frames(self) -> Iterator[Atoms]:
        """Yield the frames of the merged dataset."""
        for number, row in self._rows:
            atoms = self.datasets[number][row]
            align = self.alignments.get(atoms.info["level"])
            labelled = any(label is not None for label in labels_of(atoms))
            yield align(atoms) if align is not None and labelled else atoms
