"""Formats by name: any to frames, frames to any, and to a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ase import Atoms

from atomfoundry.datasets.metadata import METADATA_FILE
from atomfoundry.datasets.store import Dataset
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

INPUTS = ("dataset", "extxyz", "mace", "nequip", "atompronet", "ase-db", "npz", "mlearn", "mptrj", "matpes")
OUTPUTS = ("dataset", "extxyz", "mace", "nequip", "atompronet", "ase-db", "npz")
_KEYS = {"extxyz": "ase", "mace": "mace", "nequip": "nequip", "atompronet": "atompronet"}
_SUFFIXES = {".xyz": "extxyz", ".extxyz": "extxyz", ".db": "ase-db", ".npz": "npz"}
_PACKED = (".gz", ".bz2", ".xz")


def guess_format(path: str | Path) -> str:
    """Return the format that a path's name (or a dataset folder) stands for.

    Raises
    ------
    DatasetError
        If the name does not tell: JSON may be mlearn, MPtrj or MatPES.
    """
    file = Path(path)
    if (file / METADATA_FILE).is_file() or not file.suffix:
        return "dataset"
    suffixes = [suffix.lower() for suffix in file.suffixes]
    suffix = suffixes[-2] if suffixes[-1] in _PACKED and len(suffixes) > 1 else suffixes[-1]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix == ".json":
        name = file.name.lower()
        for known in ("mptrj", "matpes", "mlearn"):
            if known in name:
                return known
    raise DatasetError(f"The name '{file.name}' does not tell the format.", remedy=f"Name it: {', '.join(INPUTS)}.")


def read_frames(path: str | Path, *, format: str = "", energy: str = "uncorrected", **metadata: Any) -> Iterator[Atoms]:
    """Read frames of any format, one at a time.

    Parameters
    ----------
    path
        File or dataset folder.
    format
        One of ``INPUTS``; by the name if empty.
    energy
        For MPtrj: ``"uncorrected"`` or ``"corrected"``.
    **metadata
        Set on every frame of formats that carry none, e.g. ``level=...``.

    Raises
    ------
    DatasetError
        If the format is unknown or the file cannot be read.
    """
    kind = format or guess_format(path)
    if kind == "dataset":
        return Dataset.open(path).frames()
    if kind in _KEYS:
        from atomfoundry.datasets.exchange import read_extxyz

        return read_extxyz(path, keys=_KEYS[kind], **metadata)
    from atomfoundry.datasets import archives, foreign

    if kind == "mptrj" and energy not in ("uncorrected", "corrected"):
        raise DatasetError(f"MPtrj has no '{energy}' energies.", remedy="Take 'uncorrected' or 'corrected'.")
    readers: dict[str, Callable[[], Iterator[Atoms]]] = {
        "ase-db": lambda: archives.read_ase_db(path, **metadata),
        "npz": lambda: archives.read_npz(path, **metadata),
        "mlearn": lambda: foreign.read_mlearn(path, level=metadata.get("level", "")),
        "mptrj": lambda: foreign.read_mptrj(path, energy=energy),  # type: ignore[arg-type]
        "matpes": lambda: foreign.read_matpes(path),
    }
    if kind not in readers:
        raise DatasetError(f"There is no input format '{kind}'.", remedy=f"Known: {', '.join(INPUTS)}.")
    return readers[kind]()


def known_levels(format: str) -> tuple[LevelOfTheory, ...]:
    """Return the records of the levels that frames of a published format carry."""
    from atomfoundry.datasets.foreign import MATPES_LEVELS, MPTRJ_LEVELS

    return {"mptrj": MPTRJ_LEVELS, "matpes": tuple(MATPES_LEVELS.values())}.get(format, ())


def write_frames(path: str | Path, frames: Iterable[Atoms], *, format: str = "") -> int:
    """Write frames to a file of any format, atomically, one at a time.

    Parameters
    ----------
    path
        File to write.
    frames
        Read once.
    format
        One of ``OUTPUTS`` but ``"dataset"``; by the name if empty.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    DatasetError
        If the format is unknown.
    """
    kind = format or guess_format(path)
    if kind in _KEYS:
        from atomfoundry.datasets.exchange import write_extxyz

        return write_extxyz(path, frames, keys=_KEYS[kind])
    from atomfoundry.datasets.archives import write_ase_db, write_npz

    writers = {"ase-db": write_ase_db, "npz": write_npz}
    if kind not in writers:
        known = ", ".join(name for name in OUTPUTS if name != "dataset")
        raise DatasetError(f"There is no output format '{kind}' for a file.", remedy=f"Known: {known}.")
    return writers[kind](path, frames)


def import_dataset(
    path: str | Path,
    source: str | Path,
    *,
    format: str = "",
    energy: str = "uncorrected",
    level: LevelOfTheory | None = None,
    name: str = "",
    shard_size: int = 100_000,
    progress: Callable[[int], object] | None = None,
) -> Dataset:
    """Read a file (or an older dataset) into a new dataset; memory does not grow with its size.

    Parameters
    ----------
    path
        Folder to make.
    source
        What to read.
    format, energy
        As for ``read_frames``.
    level
        The level of theory of all labels. MPtrj and MatPES bring their own, a dataset keeps its own.
    name, shard_size, progress
        As for ``Dataset.create``.

    Raises
    ------
    DatasetError
        If something cannot be read or the folder exists.
    """
    kind = format or guess_format(source)
    if level is None and kind == "dataset":
        old = Dataset.open(source)
        return Dataset.create(
            path,
            old.frames(),
            name=name or old.name,
            level=old.level,
            levels=old.levels,
            isolated_energies=old.isolated_energies,
            splits=old.splits,
            lineage={"converted": old.content_hash, **old.metadata.lineage},
            shard_size=shard_size,
            progress=progress,
        )
    records = known_levels(kind)
    if records and level:
        raise DatasetError(f"{kind} brings its own levels of theory; '{level.label}' cannot be given for it.")
    frames = read_frames(source, format=kind, energy=energy)
    dataset = Dataset.create(
        path,
        frames,
        name=name,
        level=level,
        levels=records,
        lineage={"imported": {"file": Path(source).name, "format": kind}},
        shard_size=shard_size,
        progress=progress,
    )
    return _only_used_levels(dataset) if records else dataset


def _only_used_levels(dataset: Dataset) -> Dataset:
    """Say of a fresh dataset which of the possible levels it has."""
    from atomfoundry.datasets.files import replace_text

    used = set(dataset.metadata.counts.levels)
    levels = [record for record in dataset.levels if record.id in used]
    one = levels[0] if len(levels) == 1 and used == {levels[0].id} else None
    metadata = dataset.metadata.model_copy(update={"levels": levels, "level": one})
    replace_text(dataset.path / METADATA_FILE, metadata.text())
    return Dataset.open(dataset.path)
