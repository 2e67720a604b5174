"""Frames to artifacts and back: what all Makers of structures and labels share."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.documents import Artifact, LabelFailure, LevelOfTheory, StructureSetDoc
from atomfoundry.results import current_artifacts, current_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ase import Atoms

    from atomfoundry.datasets import Dataset

DATASET_MEDIA_TYPE = "application/vnd.atomfoundry.dataset"


def open_dataset(artifact: Artifact) -> Dataset:
    """Open the dataset folder behind an artifact; its hash is checked."""
    from atomfoundry.datasets import Dataset

    return Dataset.open(current_artifacts().fetch(artifact))


def withdrawn_rows(dataset: Dataset) -> dict[int, LabelFailure]:
    """Return the rows of a dataset whose labels have been withdrawn, and why.

    A row that an alignment has taken to another level is withdrawn with the label that it was made of.
    """
    from atomfoundry.results.frame_search import search_dataset

    records = {(label.frame_id, label.level_id): label for label in current_labels().query({"status": "withdrawn"})}
    found: dict[int, LabelFailure] = {}
    for frame, places in search_dataset(dataset, sorted({frame for frame, _ in records})).items():
        for place in places:
            # a label that was computed at the target's level says nothing about one that was aligned to it
            record = records.get((frame, place.aligned_from or place.level))
            if record is not None:
                found[place.row] = LabelFailure(
                    frame_id=frame, reason="withdrawn", message=record.message or "", formula=place.formula
                )
    return dict(sorted(found.items()))


@contextmanager
def usable_dataset(artifact: Artifact) -> Iterator[tuple[Dataset, list[LabelFailure]]]:
    """Open the dataset behind an artifact without the frames whose labels have been withdrawn; splits come along.

    Yields
    ------
    tuple
        The dataset, for as long as the context lasts, and what was left out.
    """
    with without_withdrawn(open_dataset(artifact)) as usable:
        yield usable


@contextmanager
def without_withdrawn(dataset: Dataset) -> Iterator[tuple[Dataset, list[LabelFailure]]]:
    """Open a dataset without the frames whose labels have been withdrawn, as ``usable_dataset`` does."""
    import numpy as np

    from atomfoundry.datasets import subset

    gone = withdrawn_rows(dataset)
    if not gone:
        yield dataset, []
        return
    kept = np.setdiff1d(np.arange(len(dataset)), list(gone))
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="usable-") as folder:
        rest = subset(Path(folder) / "dataset", dataset, kept, name=dataset.name, lineage=dataset.metadata.lineage)
        yield rest, list(gone.values())


def store_frames(
    frames: Iterable[Atoms],
    *,
    name: str,
    level: LevelOfTheory | None = None,
    levels: Sequence[LevelOfTheory] = (),
    isolated_energies: dict[str, float] | None = None,
    splits: dict[str, list[int]] | None = None,
    lineage: dict | None = None,
) -> Artifact:
    """Write frames as a dataset folder in the job's folder and hand it to the artifact store."""
    import shutil

    from atomfoundry.datasets import Dataset

    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="dataset-") as folder:
        path = Path(folder) / "dataset"
        Dataset.create(
            path,
            frames,
            name=name,
            level=level,
            levels=list(levels),
            isolated_energies=isolated_energies,
            splits=splits,
            lineage=lineage,
        )
        artifact = current_artifacts().put(path, media_type=DATASET_MEDIA_TYPE)
        shutil.rmtree(path, ignore_errors=True)
    return artifact


def structure_set(frames: Sequence[Atoms], *, name: str, lineage: dict | None = None) -> StructureSetDoc:
    """Store unlabelled frames and describe them."""
    elements: set[str] = set()
    for atoms in frames:
        elements.update(atoms.get_chemical_symbols())
    return StructureSetDoc(
        name=name,
        n_structures=len(frames),
        formulas=dict(Counter(atoms.get_chemical_formula() for atoms in frames)),
        samplings=dict(Counter(str(atoms.info.get("sampling", "")) or "input" for atoms in frames)),
        elements=sort_elements(elements),
        structures=store_frames(frames, name=name, lineage=lineage),
    )


def sort_elements(symbols: Iterable[str]) -> list[str]:
    """Return the distinct symbols in the order of atomic numbers."""
    from ase.data import atomic_numbers

    return sorted(set(symbols), key=lambda symbol: atomic_numbers[symbol])
