"""Makers that import, merge, split and thin out whole datasets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jobflow import Maker

from atomfoundry.documents import AlignmentDoc, DatasetDoc, LabelFailure, LevelOfTheory, ModelDoc
from atomfoundry.errors import ConfigurationError, DatasetError
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.frames import DATASET_MEDIA_TYPE, open_dataset, usable_dataset, without_withdrawn
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import current_artifacts
from atomfoundry.results.artifacts import hash_file

if TYPE_CHECKING:
    import numpy as np

    from atomfoundry.datasets import Dataset


@contextmanager
def _new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="dataset-") as folder:
        yield Path(folder) / "dataset"


def _stored(
    dataset: Dataset, *, name: str, origins: list[DatasetDoc], withdrawn: Sequence[LabelFailure] = ()
) -> DatasetDoc:
    """Hand a dataset folder to the artifact store and describe it, with all that was refused on the way to it."""
    rejections: dict[str, int] = {"withdrawn": len(withdrawn)} if withdrawn else {}
    for origin in origins:
        for reason, n in origin.rejections.items():
            rejections[reason] = rejections.get(reason, 0) + n
    artifact = current_artifacts().put(dataset.path, media_type=DATASET_MEDIA_TYPE)
    rejected = [*(failure for origin in origins for failure in origin.rejected), *withdrawn]
    return dataset_document(artifact, name=name, rejections=rejections, rejected=rejected)


@dataclass
class ImportDatasetMaker(Maker):
    """Read a file of labelled frames into a dataset: extended XYZ with anybody's keys, ASE db, npz, MPtrj, MatPES.

    Parameters
    ----------
    name
        Name of the job and of the dataset.
    file
        Absolute path, and
    sha256
        the hash that the file had when the flow was made: a file that changes before the job runs is an error. Both
        are filled by :meth:`from_file`.
    file_format
        See :func:`atomfoundry.datasets.import_dataset`; found out if empty.
    level
        The level of theory of all labels.
    """

    name: str = "import dataset"
    file: str = ""
    sha256: str = ""
    file_format: str = ""
    level: LevelOfTheory | None = None

    @classmethod
    def from_file(cls, path: str | Path, **fields: Any) -> Self:
        """Make a Maker of a file.

        Parameters
        ----------
        path
            The file.
        **fields
            ``name``, ``file_format``, ``level``.

        Raises
        ------
        DatasetError
            If there is no such file.
        """
        resolved = Path(path).resolve()
        if not resolved.is_file():
            raise DatasetError(f"There is no file {path}.")
        return cls(file=str(resolved), sha256=hash_file(resolved), **fields)

    @foundry_job(output_schema=DatasetDoc)
    def make(self) -> DatasetDoc:
        """Read the file.

        Raises
        ------
        DatasetError
            If it has changed or cannot be read.
        """
        from atomfoundry.datasets import import_dataset

        if not Path(self.file).is_file() or hash_file(Path(self.file)) != self.sha256:
            raise DatasetError(
                f"{self.file} is not the file that the flow was made of.", remedy="Make the flow again from the file."
            )
        with _new_folder() as folder:
            dataset = import_dataset(folder, self.file, format=self.file_format, level=self.level, name=self.name)
            with without_withdrawn(dataset) as (usable, gone):
                return _stored(usable, name=self.name, origins=[], withdrawn=gone)


@dataclass
class MergeMaker(Maker):
    """Join datasets of one level of theory, or of several by their alignments; a repeated structure is kept once.

    Parameters
    ----------
    name
        Name of the job and of the dataset.
    allow_mixed_levels
        Join several levels all the same, for models with several heads.
    """

    name: str = "merge"
    allow_mixed_levels: bool = False

    @foundry_job(output_schema=DatasetDoc)
    def make(self, datasets: list[DatasetDoc], alignments: list[AlignmentDoc] | None = None) -> DatasetDoc:
        """Merge.

        Parameters
        ----------
        datasets
            In the order in which their frames shall stand; a group keeps the split of the first that has it.
        alignments
            Take frames of their source levels to the common one.

        Raises
        ------
        DatasetError
            If levels would mix, or two datasets disagree on an isolated-atom energy.
        """
        from atomfoundry.alignment import Alignment
        from atomfoundry.datasets import merge_datasets

        store = current_artifacts()
        fitted = [Alignment.load(store.fetch(doc.alignment)) for doc in alignments or []]
        with _new_folder() as folder, ExitStack() as stack:
            opened = [stack.enter_context(usable_dataset(doc.dataset)) for doc in datasets]
            merged = merge_datasets(
                folder,
                [usable for usable, _ in opened],
                name=self.name,
                alignments={alignment.source_level.id: alignment.apply for alignment in fitted},
                allow_mixed_levels=self.allow_mixed_levels,
            )
            gone = [failure for _, some in opened for failure in some]
            return _stored(merged, name=self.name, origins=datasets, withdrawn=gone)


@dataclass
class SplitMaker(Maker):
    """Split a dataset anew, whole groups at a time.

    Parameters
    ----------
    name
        Name of the job and of the dataset.
    fractions
        Shares of training, validation and test frames; with ``hold_out`` the second one of what is not held out.
    method
        ``"quota"`` for small sets, ``"hash"`` for sets that grow, see :func:`atomfoundry.datasets.split`.
    hold_out
        ``{"element": ["Au"]}``, ``{"formula": [...]}``, ``{"source": [...]}`` or ``{"size": 64}``: what the test set
        consists of, see :func:`atomfoundry.curation.hold_out`.
    seed
        Seed of the split.
    """

    name: str = "split"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    method: Literal["quota", "hash"] = "quota"
    hold_out: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def splits(self, dataset: Dataset) -> dict[str, list[int]]:
        """Return the splits of a dataset.

        Raises
        ------
        ConfigurationError
            If ``hold_out`` names no or several axes.
        DatasetError
            If a split is impossible.
        """
        from atomfoundry.curation import hold_out
        from atomfoundry.datasets import split

        if not self.hold_out:
            groups = list(dataset.column("group_id"))
            return split(groups, fractions=self.fractions, method=self.method, seed=self.seed)
        if len(self.hold_out) != 1:
            raise ConfigurationError(
                f"Split '{self.name}' holds out {', '.join(self.hold_out)}.", remedy="Hold out by one axis."
            )
        ((axis, values),) = self.hold_out.items()
        return hold_out(dataset, axis, values, valid_fraction=self.fractions[1], seed=self.seed)  # type: ignore[arg-type]

    @foundry_job(output_schema=DatasetDoc)
    def make(self, dataset: DatasetDoc) -> DatasetDoc:
        """Split; the frames are the same files.

        Parameters
        ----------
        dataset
            The dataset.
        """
        from atomfoundry.datasets import merge_datasets

        with usable_dataset(dataset.dataset) as (old, gone), _new_folder() as folder:
            parts = self.splits(old)
            several = old.level is None
            new = merge_datasets(folder, [old], name=self.name, keep_splits=False, allow_mixed_levels=several)
            if len(new) != len(old):
                raise DatasetError(
                    f"'{dataset.name}' holds {len(old) - len(new)} duplicates, which cannot be split.",
                    remedy="Curate it first (CurateMaker).",
                )
            return _stored(new.revise(splits=parts), name=self.name, origins=[dataset], withdrawn=gone)


@dataclass
class SelectMaker(Maker):
    """Choose few frames that stand for many.

    Parameters
    ----------
    name
        Name of the job and of the dataset.
    number
        How many frames.
    method
        ``"farthest"`` by a model's descriptors, ``"random"``, ``"stratified"`` or ``"equal"`` by a column.
    by
        Column of the strata, e.g. ``"group_id"``.
    seed
        Of random and stratified choices.
    """

    name: str = "select"
    number: int = 100
    method: Literal["farthest", "random", "stratified", "equal"] = "random"
    by: str = ""
    seed: int = 0

    @foundry_job(output_schema=DatasetDoc)
    def make(self, dataset: DatasetDoc, model: ModelDoc | None = None, chosen: DatasetDoc | None = None) -> DatasetDoc:
        """Choose.

        Parameters
        ----------
        dataset
            What to choose from.
        model
            Gives the descriptors of ``"farthest"``.
        chosen
            Frames that count as chosen already in ``"farthest"``.

        Raises
        ------
        ConfigurationError
            If the method lacks a model or a column.
        """
        from atomfoundry.datasets import subset

        with usable_dataset(dataset.dataset) as (old, gone), _new_folder() as folder:
            chosen_frames = subset(folder, old, self._pick(old, model, chosen), name=self.name)
            return _stored(chosen_frames, name=self.name, origins=[dataset], withdrawn=gone)

    def _pick(self, dataset: Dataset, model: ModelDoc | None, chosen: DatasetDoc | None) -> np.ndarray:
        from atomfoundry.datasets import farthest_point_sampling, random_selection, stratified_selection

        if self.method == "random":
            return random_selection(len(dataset), self.number, seed=self.seed)
        if self.method in ("stratified", "equal"):
            if not self.by:
                raise ConfigurationError(f"'{self.name}' needs a column for its strata.", remedy="Set 'by'.")
            strata = [str(value) for value in dataset.column(self.by)]
            shares = "equal" if self.method == "equal" else "proportional"
            return stratified_selection(strata, self.number, seed=self.seed, shares=shares)  # type: ignore[arg-type]
        if model is None:
            raise ConfigurationError(f"'{self.name}' needs a model for its descriptors.", remedy="Give one to make().")
        from atomfoundry.models import load_model
        from atomfoundry.models.descriptors import structure_descriptors

        loaded = load_model(current_artifacts().fetch(model.model))
        start = None
        if chosen is not None:
            start = structure_descriptors(loaded, list(open_dataset(chosen.dataset).frames()))
        rows = structure_descriptors(loaded, list(dataset.frames()))
        return farthest_point_sampling(rows, self.number, warm_start=start)
