"""Label structures with an engine: batches of single points, every label kept as soon as it is there."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, JobConfig, Maker, OnMissing, Response

from atomfoundry.datasets import Dataset, attach_labels, frame_id
from atomfoundry.documents import LabelDoc, LabelFailure, LabelSetDoc, StructureSetDoc
from atomfoundry.engines import get_engine
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.label_batch import LabelBatchMaker
from atomfoundry.makers.label_frames import LabelBatchDoc, unsettled
from atomfoundry.results import current_artifacts, current_labels

if TYPE_CHECKING:
    from typing import Self

    from ase import Atoms

    from atomfoundry.documents import CalculatorSpec


@dataclass
class LabelMaker(Maker):
    """Label a structure set at one level of theory; labels that exist are never computed again.

    Parameters
    ----------
    name
        Name of the job, and of the label set.
    engine
        Name of the engine, see ``atomfoundry.engines.list_engines``.
    engine_settings
        Its settings.
    batch_size
        Frames in one job.
    isolate
        Compute in a child process where the code would otherwise compute in the worker itself, so that a crash
        costs one label.
    timeout
        Seconds a label may take.
    memory_limit
        Memory that a label may take in a child process, on top of what the loaded code has, MB.

    Notes
    -----
    A frame that failed is tried again by a later label set at the same level, three times in all. For the reasons
    ``"timeout"`` and ``"out_of_memory"`` give that one a higher ``timeout`` or ``memory_limit``, or a profile with
    more of either.
    """

    name: str = "label"
    engine: str = "espresso"
    engine_settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    isolate: bool = True
    timeout: float | None = None
    memory_limit: float | None = None

    @classmethod
    def with_calculator(cls, calculator: CalculatorSpec | dict[str, Any], **fields: Any) -> Self:
        """Return a Maker that labels with any calculator.

        Parameters
        ----------
        calculator
            Its description (:class:`~atomfoundry.documents.CalculatorSpec`, also as a dictionary).
        **fields
            Further fields of the Maker.

        Raises
        ------
        ConfigurationError
            If the description is wrong.
        """
        from atomfoundry.engines.foreign import engine_settings

        engine, settings = engine_settings(calculator)
        return cls(engine=engine, engine_settings=settings, **fields)

    # No output schema: jobflow would ask it of the job that passes on the reference to the collected set.
    @foundry_job
    def make(self, structures: StructureSetDoc) -> Response:
        """Split the structures into batches and collect their labels.

        Parameters
        ----------
        structures
            The structure set.

        Returns
        -------
        Response
            Replaces this job by the batches; the output is a ``LabelSetDoc``.

        Raises
        ------
        InputError
            If the engine is unknown, not installed, or does not support an element or a limit.
        """
        shell = self._batch_maker()
        engine = shell.build_engine()
        dataset = Dataset.open(current_artifacts().fetch(structures.structures))
        if unsettled(dataset.frames(), current_labels(), engine.level.id):
            engine.check_elements(structures.elements)
            engine.check_available()
        groups = deal_batches(dataset, batch_size=self.batch_size)
        batches = [shell.make(structures.structures, indices) for indices in groups]
        collect = collect_labels(
            structures,
            [batch.output for batch in batches],
            engine=self.engine,
            engine_settings=self.engine_settings,
            name=self.name,
        )
        collect.name = f"{self.name} collect"
        for job in batches:
            job.update_metadata({"stage": "label", "profile": engine.profile})
        collect.update_metadata({"stage": "label", "profile": "light"})
        return Response(replace=Flow([*batches, collect], output=collect.output, name=self.name))

    def _batch_maker(self) -> LabelBatchMaker:
        return LabelBatchMaker(
            name=f"{self.name} batch",
            engine=self.engine,
            engine_settings=self.engine_settings,
            isolate=self.isolate,
            timeout=self.timeout,
            memory_limit=self.memory_limit,
        )


def deal_batches(dataset: Dataset, *, batch_size: int) -> list[list[int]]:
    """Deal the frames of a structure set into batches, the large ones first so that no long batch starts last.

    Frames whose label exists are dealt as well: the jobs, and so their uuids, depend on the structures alone and
    not on what other label sets of the flow have computed by then.

    Parameters
    ----------
    dataset
        The structures.
    batch_size
        Frames in one batch.

    Returns
    -------
    list of list of int
        Frame indices; a repeated frame occurs once.
    """
    first: dict[str, tuple[int, int]] = {}
    for index, atoms in enumerate(dataset.frames()):
        first.setdefault(frame_id(atoms), (len(atoms), index))
    order = [index for _, index in sorted(first.values(), key=lambda place: (-place[0], place[1]))]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@foundry_job(config=JobConfig(on_missing_references=OnMissing.NONE), output_schema=LabelSetDoc)
def collect_labels(
    structures: StructureSetDoc,
    batches: list[LabelBatchDoc | None],
    *,
    engine: str,
    engine_settings: dict[str, Any],
    name: str,
) -> LabelSetDoc:
    """Join structures and labels into a dataset; whatever has no label is listed with its reason.

    Parameters
    ----------
    structures
        The structure set.
    batches
        What the batches came to, those that went on in another job as a whole; None for one that failed.
    engine, engine_settings
        The engine and its settings.
    name
        Name of the label set.

    Returns
    -------
    LabelSetDoc
        Counts, failures and the dataset of labelled frames, in the order of the structures.
    """
    level = get_engine(engine, **engine_settings).level
    dataset = Dataset.open(current_artifacts().fetch(structures.structures))
    keys = [frame_id(atoms) for atoms in dataset.frames()]
    labels = current_labels().get_many(keys, level.id)
    labelled: list[Atoms] = []
    failures: list[LabelFailure] = []
    for key, atoms in zip(keys, dataset.frames(), strict=True):
        label = labels.get(key)
        if label is not None and label.status == "ok":
            frame = attach_labels(atoms, label.energy, label.forces, label.stress)
            frame.info["level"] = level.id
            labelled.append(frame)
        else:
            failures.append(_failure(key, atoms, label))
    done = [batch for batch in batches if batch is not None]
    with tempfile.TemporaryDirectory(prefix="atomfoundry-") as folder:
        path = Path(folder) / "labels"
        Dataset.create(path, labelled, name=name, level=level)
        frames = current_artifacts().put(path)
    return LabelSetDoc(
        name=name,
        engine=engine,
        level=level,
        level_id=level.id,
        n_requested=len(keys),
        n_labelled=len(labelled),
        n_reused=len(labelled) - sum(batch.n_computed for batch in done) if done else len(labelled),
        n_failed=len(failures),
        reasons=dict(sorted(Counter(failure.reason for failure in failures).items())),
        failures=failures,
        compute_time_s=sum(batch.compute_time_s for batch in done),
        frames=frames,
    )


def _failure(key: str, atoms: Atoms, label: LabelDoc | None) -> LabelFailure:
    lost = "Its batch failed before this frame was reached; run the flow again."
    return LabelFailure(
        frame_id=key,
        reason=(label.reason if label else None) or "batch_failed",
        message=(label.message if label else None) or lost,
        formula=atoms.get_chemical_formula(),
        source=str(atoms.info.get("source", "")),
    )
