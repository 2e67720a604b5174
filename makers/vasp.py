"""Label a structure set twice by VASP: PBE, and r2SCAN from its wave functions, as the MatPES data set was made."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import CURRENT_JOB, Flow, Maker, Response
from pydantic import Field

from atomfoundry.datasets import Dataset
from atomfoundry.deadline import NoTimeLeftError, must_stop, reason_to_stop
from atomfoundry.documents import Artifact, FoundryDocument, StructureSetDoc
from atomfoundry.engines import get_engine
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.label import collect_labels, deal_batches
from atomfoundry.makers.label_frames import LabelBatchDoc, label_frames, unsettled
from atomfoundry.makers.label_time import TimePlan
from atomfoundry.results import current_artifacts, current_labels, report_progress

if TYPE_CHECKING:
    from ase import Atoms

PRESETS = {"pbe": "matpes_pbe", "r2scan": "matpes_r2scan"}
"""Key of the output -> preset of the engine, in the order of computation."""

_OURS = ("preset", "keep_wavecar", "restart_from")


class MatPesBatchDoc(FoundryDocument):
    """What one batch of double labels came to."""

    pbe: LabelBatchDoc = Field(default_factory=LabelBatchDoc)
    r2scan: LabelBatchDoc = Field(default_factory=LabelBatchDoc)


def level_settings(engine_settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the engine's settings at both levels.

    Parameters
    ----------
    engine_settings
        What both have in common.

    Returns
    -------
    dict of dict
        By ``"pbe"`` and ``"r2scan"``.

    Raises
    ------
    ConfigurationError
        If a setting is one that this Maker sets.
    """
    for key in _OURS:
        if key in engine_settings:
            raise ConfigurationError(f"MatPES labels: '{key}' is set by the Maker.", remedy="Leave it out.")
    return {name: {**engine_settings, "preset": preset} for name, preset in PRESETS.items()}


def label_twice(
    atoms: Atoms,
    settings: dict[str, dict[str, Any]],
    *,
    job_uuid: str | None,
    plans: dict[str, TimePlan] | None = None,
) -> MatPesBatchDoc:
    """Label one frame at both levels; each label, good or failed, is stored as soon as it is there.

    r2SCAN starts from the wave functions of PBE where PBE was computed just now, and from scratch where its label was
    there already or failed: the level of theory does not depend on the start, and a failure costs its own label only.

    Parameters
    ----------
    atoms
        The frame.
    settings
        See ``level_settings``.
    job_uuid
        The job that labels.
    plans
        By level: which label may still be begun.

    Returns
    -------
    MatPesBatchDoc
        Counts of this frame.
    """
    limits = plans or {}
    batch = MatPesBatchDoc()
    with tempfile.TemporaryDirectory(prefix="atomfoundry-") as name:
        first, second = (Path(name) / level for level in PRESETS)
        steps = (("pbe", first, {"keep_wavecar": True}), ("r2scan", second, {"restart_from": str(first)}))
        for level, folder, start in steps:

            def compute(frame: Atoms, level=level, folder=folder, start=start) -> dict[str, Any]:
                extra = {} if level == "r2scan" and not (first / "WAVECAR").is_file() else start
                result = get_engine("vasp", **settings[level], **extra).single_point(frame, folder)
                stress = None if result.stress is None else result.stress.tolist()
                return {"energy": result.energy, "forces": result.forces.tolist(), "stress": stress}

            level_id = get_engine("vasp", **settings[level]).level.id
            done = label_frames(
                [atoms],
                compute,
                current_labels(),
                engine="vasp",
                level_id=level_id,
                job_uuid=job_uuid,
                plan=limits.get(level),
            )
            setattr(batch, level, done)
    return batch


def _add(total: LabelBatchDoc, part: LabelBatchDoc) -> None:
    total.n_computed += part.n_computed
    total.n_reused += part.n_reused
    total.n_failed += part.n_failed
    total.compute_time_s += part.compute_time_s
    total.n_left += part.n_left
    total.failed.extend(part.failed)
    for reason, n in part.reasons.items():
        total.reasons[reason] = total.reasons.get(reason, 0) + n


@dataclass
class MatPesBatchMaker(Maker):
    """Label some frames of a structure set with PBE and r2SCAN, one after the other.

    Parameters
    ----------
    name
        Name of the job.
    engine_settings
        Settings of the engine ``vasp`` that both levels have in common.
    """

    name: str = "MatPES batch"
    engine_settings: dict[str, Any] = field(default_factory=dict)

    @foundry_job(output_schema=MatPesBatchDoc)
    def make(
        self, structures: Artifact, indices: Sequence[int], tried: dict[str, dict[str, list[float]]] | None = None
    ) -> MatPesBatchDoc | Response:
        """Label frames of a structure set; where the time of this job ends, the next one goes on.

        Parameters
        ----------
        structures
            A dataset folder.
        indices
            Which of its frames.
        tried
            Level -> frame id -> seconds that a frame had in vain before the end of an earlier job.

        Returns
        -------
        MatPesBatchDoc or Response
            Counts; the labels are in the table of labels. Where frames are left, this job is replaced by one that
            goes on.

        Raises
        ------
        InputError
            If VASP or its POTCARs are not installed.
        NoTimeLeftError
            If this job ends before anything could be begun.
        """
        settings = level_settings(self.engine_settings)
        frames = list(Dataset.open(current_artifacts().fetch(structures)).frames(list(indices)))
        for level in PRESETS:
            engine = get_engine("vasp", **settings[level])
            if unsettled(frames, current_labels(), engine.level.id):
                if must_stop():
                    raise NoTimeLeftError(
                        f"No label of '{self.name}' was begun, because {reason_to_stop()}.",
                        remedy="Run the flow again: what has been computed is kept.",
                    )
                engine.check_available()
        plans = {level: TimePlan((tried or {}).get(level)) for level in PRESETS}
        uuid = CURRENT_JOB.job.uuid if CURRENT_JOB.job is not None else None
        total = MatPesBatchDoc()
        for number, atoms in enumerate(frames, start=1):
            part = label_twice(atoms, settings, job_uuid=uuid, plans=plans)
            report_progress(f"labelled {number}/{len(frames)} twice", number / len(frames))
            _add(total.pbe, part.pbe)
            _add(total.r2scan, part.r2scan)
        if not (total.pbe.n_left or total.r2scan.n_left):
            return total
        again = self.make(structures, list(indices), tried={level: plan.tried for level, plan in plans.items()})
        return Response(output=total, replace=again)


@dataclass
class MatPesLabelMaker(Maker):
    """Label a structure set with PBE and with r2SCAN, by the inputs of MatPES.

    The same structures at two levels are an overlap set for Total Energy Alignment (``AlignMaker`` in mode
    ``"atoms"``: source PBE, overlap r2SCAN). Labels that exist are never computed again; those of
    ``LabelMaker(engine="vasp", engine_settings={"preset": "matpes_pbe"})`` are the same ones. Unlike atomate2's
    ``MatPesStaticFlowMaker``, which this follows, r2SCAN takes nothing but the wave functions from the PBE run (no
    ``ISYM``, ``NBANDS`` and the like that a repair there may have set), and a failed PBE run does not stop it.

    Parameters
    ----------
    name
        Name of the job; the label sets are called ``"<name> pbe"`` and ``"<name> r2scan"``.
    engine_settings
        Settings of the engine ``vasp`` that both levels have in common.
    batch_size
        Frames in one job.
    """

    name: str = "MatPES"
    engine_settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8

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
            Replaces this job by the batches; ``output["pbe"]`` and ``output["r2scan"]`` are ``LabelSetDoc``.

        Raises
        ------
        InputError
            If VASP or POTCARs are not installed, or an element is not supported.
        """
        settings = level_settings(self.engine_settings)
        dataset = Dataset.open(current_artifacts().fetch(structures.structures))
        for level in PRESETS:
            engine = get_engine("vasp", **settings[level])
            if unsettled(dataset.frames(), current_labels(), engine.level.id):
                engine.check_elements(structures.elements)
                engine.check_available()
        shell = MatPesBatchMaker(name=f"{self.name} batch", engine_settings=self.engine_settings)
        groups = deal_batches(dataset, batch_size=self.batch_size)
        batches = [shell.make(structures.structures, indices) for indices in groups]
        for job in batches:
            job.update_metadata({"stage": "label", "profile": engine.profile})
        collected = {}
        for level in PRESETS:
            collect = collect_labels(
                structures,
                [getattr(batch.output, level) for batch in batches],
                engine="vasp",
                engine_settings=settings[level],
                name=f"{self.name} {level}",
            )
            collect.name = f"{self.name} {level} collect"
            collect.update_metadata({"stage": "label", "profile": "light"})
            collected[level] = collect
        output = {level: collect.output for level, collect in collected.items()}
        return Response(replace=Flow([*batches, *collected.values()], output=output, name=self.name))
