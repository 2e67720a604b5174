"""New versions of a dataset in its own folder: files are added, none is changed, one rename makes it so."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ase import Atoms

from atomfoundry.datasets.files import replace_text, sync
from atomfoundry.datasets.metadata import (
    METADATA_FILE,
    SCHEMA_VERSION,
    CountKeeper,
    DatasetMetadata,
    read_metadata,
    version_file,
)
from atomfoundry.datasets.store import Dataset, at_known_levels, check_splits
from atomfoundry.datasets.writer import write_shards
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out; the system lets go of the lock if we are killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _base(dataset: Dataset, *, must_be_latest: bool) -> DatasetMetadata:
    latest = read_metadata(dataset.path)
    if latest.version != dataset.version and must_be_latest:
        raise DatasetError(
            f"'{dataset.path}' is at version {latest.version}, what was opened is version {dataset.version}: the "
            "frames may have other numbers.",
            remedy="Open it again and repeat.",
        )
    return latest


def _commit(folder: Path, base: DatasetMetadata, changes: dict[str, Any]) -> Dataset:
    """Make the new version the one that ``open`` finds; until the last rename it is the old one."""
    metadata = base.model_copy(
        update={
            **changes,
            "schema_version": SCHEMA_VERSION,
            "version": base.version + 1,
            "parent": base.content_hash,
        }
    )
    replace_text(folder / version_file(base.version), (folder / METADATA_FILE).read_text(encoding="utf-8"))
    replace_text(folder / METADATA_FILE, metadata.text())
    return Dataset.open(folder)


def _clear(folder: Path, prefix: str) -> None:
    """Remove what writers left behind that were killed before their version came to be; the caller has the lock."""
    for left in (*folder.glob(".*.part"), *folder.glob(f"{prefix}-*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def append_frames(
    dataset: Dataset,
    frames: Iterable[Atoms],
    *,
    splits: dict[str, list[int]],
    levels: Sequence[LevelOfTheory],
    isolated_energies: dict[str, float],
    lineage: dict[str, Any] | None,
    shard_size: int,
    progress: Callable[[int], object] | None,
) -> Dataset:
    """See ``Dataset.append``."""
    folder = dataset.path
    with _locked(folder):
        # Indices of new frames depend on how many there are; without any, the latest version will do.
        base = _base(dataset, must_be_latest=bool(splits))
        prefix = f"shard-v{base.version + 1}"
        _clear(folder, prefix)
        known = {record.id: record for record in (*base.levels, *levels)}
        temporary = folder / f".{uuid.uuid4().hex}.part"
        temporary.mkdir()
        try:
            shards, counts = write_shards(
                temporary,
                at_known_levels(frames, base.level, known),
                shard_size=shard_size,
                prefix=prefix,
                progress=progress,
            )
            if not counts.frames:
                return Dataset.open(folder)
            total = base.counts.frames + counts.frames
            fresh = {name: [int(index) for index in indices] for name, indices in splits.items()}
            merged = {name: [*base.splits.get(name, []), *fresh.get(name, [])] for name in {**base.splits, **fresh}}
            check_splits(merged, total)
            _check_new(fresh, base.counts.frames)
            energies = _agreeing(base.isolated_energies, isolated_energies, folder)
            for file in sorted(temporary.iterdir()):
                sync(file)
                file.replace(folder / file.name)
            sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        keeper = CountKeeper()
        keeper.add_counts(base.counts)
        keeper.add_counts(counts)
        entry = {"version": base.version + 1, "frames": counts.frames, **(lineage or {})}
        return _commit(
            folder,
            base,
            {
                "shards": [*base.shards, *shards],
                "counts": keeper.counts(),
                "levels": sorted(known.values(), key=lambda record: record.id),
                "splits": merged,
                "isolated_energies": energies,
                "lineage": {**base.lineage, "appended": [*base.lineage.get("appended", []), entry]},
            },
        )


def revise(
    dataset: Dataset,
    *,
    name: str | None,
    splits: dict[str, list[int]] | None,
    isolated_energies: dict[str, float] | None,
    lineage: dict[str, Any] | None,
) -> Dataset:
    """See ``Dataset.revise``."""
    with _locked(dataset.path):
        base = _base(dataset, must_be_latest=True)
        wanted = {"name": name, "splits": splits, "isolated_energies": isolated_energies, "lineage": lineage}
        changes: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
        if splits is not None:
            check_splits(splits, base.counts.frames)
            changes["splits"] = {key: [int(index) for index in indices] for key, indices in splits.items()}
        return _commit(dataset.path, base, changes)


def _check_new(splits: dict[str, list[int]], n_old: int) -> None:
    for name, indices in splits.items():
        if len(indices) and min(indices) < n_old:
            raise DatasetError(
                f"Split '{name}' of the new frames names frame {min(indices)}, an old one.",
                remedy=f"New frames count from {n_old}; revise() changes the splits of old ones.",
            )


def _agreeing(old: dict[str, float], new: dict[str, float], folder: Path) -> dict[str, float]:
    for element, energy in new.items():
        if abs(old.get(element, energy) - energy) > 1e-6:
            raise DatasetError(
                f"Isolated {element} has {old[element]:.6f} eV in '{folder}' and {energy:.6f} eV in what is added.",
                remedy="The levels are not the same: align them first.",
            )
    return dict(sorted({**new, **old}.items()))
