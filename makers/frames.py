"""Frames to artifacts and back: what all Makers of structures and labels share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.documents import Artifact, LevelOfTheory, StructureSetDoc
from atomfoundry.results import current_artifacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ase import Atoms

    from atomfoundry.datasets import Dataset

DATASET_MEDIA_TYPE = "application/vnd.atomfoundry.dataset"


def open_dataset(artifact: Artifact) -> Dataset:
    """Open the dataset folder behind an artifact; its hash is checked."""
    from atomfoundry.datasets import Dataset

    return Dataset.open(current_artifacts().fetch(artifact))


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
    import tempfile

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
