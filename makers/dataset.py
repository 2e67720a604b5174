"""Makers that turn labels into datasets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jobflow import Maker

from atomfoundry.datasets import labels_of
from atomfoundry.documents import (
    AlignmentDoc,
    Artifact,
    DatasetDoc,
    HarvestDoc,
    LabelFailure,
    LabelSetDoc,
    LevelOfTheory,
)
from atomfoundry.errors import DatasetError
from atomfoundry.makers.frames import open_dataset, sort_elements, store_frames, usable_dataset
from atomfoundry.makers.job import foundry_job

if TYPE_CHECKING:
    from ase import Atoms


def isolated_energies(labels: LabelSetDoc) -> dict[str, float]:
    """Read the isolated-atom energies (eV) out of labels of single atoms.

    Raises
    ------
    DatasetError
        If an atom failed: without it no atomization energy exists.
    """
    from atomfoundry.datasets import isolated_energies as collect

    with usable_dataset(labels.frames) as (dataset, gone):
        energies = collect(dataset.frames())
    if labels.failures or gone:
        failed = ", ".join(f"{f.formula} ({f.reason}: {f.message})" for f in [*labels.failures, *gone])
        raise DatasetError(
            f"No isolated-atom energy at {labels.level.label} for {failed}.",
            remedy="Mend the cause, then `atomfoundry retry`.",
        )
    return {symbol: energies[symbol] for symbol in sort_elements(energies)}


def levels_of(labels: LabelSetDoc | HarvestDoc) -> list[LevelOfTheory]:
    """Return the levels of theory of labels.

    Raises
    ------
    DatasetError
        If a harvest holds frames of no known level: they could be of any.
    """
    if isinstance(labels, LabelSetDoc):
        return [labels.level]
    if labels.n_without_level:
        raise DatasetError(
            f"{labels.n_without_level} frames of the harvest '{labels.name}' state no level of theory.",
            remedy="Harvest them with HarvestMaker(level=...), or leave them out with require_level=True.",
        )
    return labels.levels


def refusals_of(labels: LabelSetDoc | HarvestDoc) -> list[LabelFailure]:
    """Return what gave no frame, and why."""
    return labels.failures if isinstance(labels, LabelSetDoc) else labels.rejected


def reasons_of(labels: LabelSetDoc | HarvestDoc) -> dict[str, int]:
    """Return reason -> files and frames that gave no frame; a harvest lists only the first thousand of them."""
    if isinstance(labels, HarvestDoc):
        return labels.rejections
    return dict(Counter(failure.reason for failure in labels.failures))


@dataclass
class DatasetMaker(Maker):
    """Check labelled frames, split them by group and write a dataset.

    Parameters
    ----------
    name
        Name of the job and of the dataset.
    fractions
        Shares of training, validation and test groups.
    seed
        Seed of the split.
    max_force
        Frames with a larger force (eV/A) are refused as ``exploded``.
    """

    name: str = "dataset"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    max_force: float = 50.0

    @foundry_job(output_schema=DatasetDoc)
    def make(
        self,
        labels: list[LabelSetDoc | HarvestDoc],
        isolated: LabelSetDoc | None = None,
        alignments: list[AlignmentDoc] | None = None,
        previous: DatasetDoc | None = None,
    ) -> DatasetDoc:
        """Merge labels (and aligned datasets) into one dataset; withdrawn labels are left out and counted.

        Parameters
        ----------
        labels
            Label sets and harvests of one and the same level of theory.
        isolated
            Labels of the isolated atoms at that level.
        alignments
            Alignments *to* that level, whose datasets join.
        previous
            An older dataset of that level that this one extends; its frames keep their splits.

        Raises
        ------
        DatasetError
            If two levels would mix without an alignment, or nothing is left.
        """
        from atomfoundry.datasets import CurationSettings, curate, split

        levels = {level.id: level for doc in labels for level in levels_of(doc)}
        if previous is not None and previous.level is not None:
            levels[previous.level.id] = previous.level
        if len(levels) > 1:
            names = ", ".join(level.label for level in levels.values())
            raise DatasetError(
                f"Labels of {len(levels)} levels of theory ({names}) cannot share a dataset.",
                remedy="Align them first (AlignMaker).",
            )
        level: LevelOfTheory = next(iter(levels.values()))
        lost = [failure for doc in labels for failure in refusals_of(doc)]
        frames: list[Atoms] = []
        taken_back: list[LabelFailure] = []

        def take(artifact: Artifact) -> list[Atoms]:
            with usable_dataset(artifact) as (dataset, gone):
                taken_back.extend(gone)
                return list(dataset.frames())

        for doc in labels:
            frames.extend(take(doc.dataset if isinstance(doc, HarvestDoc) else doc.frames))
        for alignment in alignments or []:
            if alignment.target_level.id != level.id:
                raise DatasetError(
                    f"An alignment ends at {alignment.target_level.label}, not at {level.label}.",
                    remedy="Align to the level of the dataset.",
                )
            if alignment.dataset is not None:
                frames.extend(take(alignment.dataset))

        kept, rejections = curate(frames, CurationSettings(max_force=self.max_force))
        if not kept and previous is None:
            raise DatasetError(
                f"None of the {len(frames)} labelled frames of '{self.name}' passed the checks "
                f"({dict(Counter(r.reason for r in rejections))}), and {len(lost)} labels failed.",
                remedy="See the failures with `atomfoundry results labels --where status=failed`.",
            )
        energies = isolated_energies(isolated) if isolated is not None else {}
        splits = split([atoms.info["group_id"] for atoms in kept], fractions=self.fractions, seed=self.seed)
        if previous is not None:
            with usable_dataset(previous.dataset) as (old, gone):
                taken_back += gone
                old_frames, old_splits = list(old.frames()), dict(old.splits)
            energies = energies or dict(previous.isolated_energies)
            known = {atoms.info["frame_id"] for atoms in old_frames}
            fresh = [i for i, atoms in enumerate(kept) if atoms.info["frame_id"] not in known]
            place = {i: len(old_frames) + rank for rank, i in enumerate(fresh)}
            splits = {
                key: list(old_splits.get(key, [])) + [place[i] for i in splits[key] if i in place]
                for key in ("train", "valid", "test")
            }
            kept = [*old_frames, *(kept[i] for i in fresh)]
        reasons = Counter(rejection.reason for rejection in [*rejections, *taken_back])
        for doc in labels:
            reasons.update(reasons_of(doc))
        artifact = store_frames(kept, name=self.name, level=level, isolated_energies=energies, splits=splits)
        return dataset_document(
            artifact, name=self.name, rejections=dict(reasons), rejected=[*lost, *taken_back, *rejections]
        )


def dataset_document(
    artifact: Artifact, *, name: str, rejections: dict[str, int], rejected: list[LabelFailure]
) -> DatasetDoc:
    """Describe a stored dataset; its frames are read one by one.

    Parameters
    ----------
    artifact
        The dataset folder.
    name
        For people.
    rejections
        Reason -> frames refused on the way to it.
    rejected
        Refused frames, all or examples.
    """
    dataset = open_dataset(artifact)
    energies = dataset.isolated_energies
    elements: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    samplings: Counter[str] = Counter()
    lowest, highest, max_force = np.inf, -np.inf, 0.0
    for atoms in dataset.frames():
        symbols = atoms.get_chemical_symbols()
        elements.update(symbols)
        sources[str(atoms.info.get("source", ""))] += 1
        samplings[str(atoms.info.get("sampling", ""))] += 1
        energy, forces, _ = labels_of(atoms)
        if energies and energy is not None and set(symbols) <= set(energies):
            bound = float(energy - sum(energies[s] for s in symbols)) / len(atoms)
            lowest, highest = min(lowest, bound), max(highest, bound)
        if forces is not None and len(forces):
            max_force = max(max_force, float(np.linalg.norm(forces, axis=1).max()))
    return DatasetDoc(
        name=name,
        dataset=artifact,
        n_frames=len(dataset),
        n_atoms=sum(elements.values()),
        elements={symbol: elements[symbol] for symbol in sort_elements(elements)},
        level=dataset.level,
        level_ids=sorted({str(level) for level in dataset.column("level")}) if len(dataset) else [],
        isolated_energies=energies,
        splits={key: len(indices) for key, indices in dataset.splits.items()},
        sources=dict(sources),
        samplings=dict(samplings),
        rejections=rejections,
        rejected=rejected,
        energy_range=(lowest, highest) if np.isfinite(lowest) else None,
        max_force=max_force,
    )
