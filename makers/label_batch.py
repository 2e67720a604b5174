"""One batch of labels: single points one after the other, every label kept as soon as it is there."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult
from atomate2.ase.utils import AseRelaxer
from jobflow import CURRENT_JOB, Response
from pydantic import Field

from atomfoundry.datasets import Dataset, frame_id
from atomfoundry.deadline import NoTimeLeftError, must_stop, working_time
from atomfoundry.documents import Artifact, FoundryDocument, LabelDoc
from atomfoundry.engines import get_engine
from atomfoundry.engines.isolation import IsolatedEngine, isolated
from atomfoundry.errors import ConfigurationError, LabelError
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.label_time import TimePlan, reason_to_stop
from atomfoundry.results import LabelStore, current_artifacts, current_labels, report_progress

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from atomfoundry.engines import Engine

MAX_ATTEMPTS = 3
"""A frame that failed so often at one level is not tried again."""


class LabelBatchDoc(FoundryDocument):
    """What one batch of labels came to; the labels themselves are in the table of labels."""

    n_computed: int = 0
    n_reused: int = 0
    n_failed: int = 0
    compute_time_s: float = 0.0
    failed: list[str] = Field(default_factory=list)
    reasons: dict[str, int] = Field(default_factory=dict, description="Reason -> frames that failed")
    n_left: int = Field(default=0, description="Frames left to the job that continues this one")


def is_settled(label: LabelDoc | None, *, job_uuid: str | None = None) -> bool:
    """Tell whether a frame needs no (further) computation.

    Parameters
    ----------
    label
        What the table of labels has for it.
    job_uuid
        The asking job: what it tried itself, before it was killed and resumed, is not tried again.

    Returns
    -------
    bool
        True for a good label and for a failure that is final.
    """
    if label is None:
        return False
    own = job_uuid is not None and label.job_uuid == job_uuid
    return label.status == "ok" or own or label.attempts >= MAX_ATTEMPTS


def label_frames(
    frames: Iterable[Atoms],
    compute: Callable[[Atoms], dict[str, Any]],
    labels: LabelStore,
    *,
    engine: str,
    level_id: str,
    job_uuid: str | None = None,
    plan: TimePlan | None = None,
) -> LabelBatchDoc:
    """Label frames one by one; each label, good or failed, is stored before the next begins.

    Where the time ends, the frames that are left are counted and nothing else; called again with the same
    ``job_uuid`` it goes on with them, and counts what the first call computed as its own.

    Parameters
    ----------
    frames
        Structures; one that the table has already, or that failed finally, is not computed.
    compute
        Returns energy (eV), forces ``[N, 3]`` (eV/A) and, where there is one, stress ``[6]`` (eV/A^3).
    labels
        The table of labels.
    engine
        Name of the engine.
    level_id
        Id of its level of theory.
    job_uuid
        The job that labels.
    plan
        Which label may still be begun.

    Returns
    -------
    LabelBatchDoc
        Counts.

    Raises
    ------
    InputError
        If no frame could be computed, e.g. because the code is not installed.
    """
    plan = plan or TimePlan()
    todo = {frame_id(atoms): atoms for atoms in frames}
    batch = LabelBatchDoc()
    for number, key in enumerate(plan.order(list(todo)), start=1):
        atoms = todo[key]
        report_progress(f"label {number}/{len(todo)} {atoms.get_chemical_formula()}", number / len(todo))
        # asked anew for every frame: another batch may have computed it meanwhile
        label = labels.get_many([key], level_id).get(key)
        mine = label is not None and job_uuid is not None and label.job_uuid == job_uuid
        if label is None or not is_settled(label, job_uuid=job_uuid):
            label = _computed(atoms, compute, label, plan, key=key, engine=engine, level_id=level_id, job=job_uuid)
            if label is None:
                batch.n_left += 1
                continue
            labels.put(label)
            mine = True
        if mine:
            plan.note(label)
        _count(batch, label, mine=mine)
    return batch


def _count(batch: LabelBatchDoc, label: LabelDoc, *, mine: bool) -> None:
    batch.compute_time_s += label.wall_time_s if mine else 0.0
    if label.status == "ok":
        batch.n_computed += mine
        batch.n_reused += not mine
        return
    reason = label.reason or "unknown"
    batch.n_failed += 1
    batch.failed.append(label.frame_id)
    batch.reasons[reason] = batch.reasons.get(reason, 0) + 1


def _computed(
    atoms: Atoms,
    compute: Callable[[Atoms], dict[str, Any]],
    earlier: LabelDoc | None,
    plan: TimePlan,
    *,
    key: str,
    engine: str,
    level_id: str,
    job: str | None,
) -> LabelDoc | None:
    """Compute a label; None if it was not begun, or interrupted, because the time ends."""
    if not plan.may_begin(atoms):
        return None
    start = time.perf_counter()
    outcome: dict[str, Any]
    try:
        plan.begin(key, atoms)
        outcome = {"status": "ok", **compute(atoms)}
    except LabelError as error:
        if plan.interrupted(key, error.reason):
            return None
        outcome = {"status": "failed", "reason": error.reason, "message": str(error)}
    return LabelDoc(
        frame_id=key,
        level_id=level_id,
        engine=engine,
        formula=atoms.get_chemical_formula(),
        n_atoms=len(atoms),
        wall_time_s=time.perf_counter() - start,
        computed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        host=platform.node(),
        job_uuid=job,
        attempts=1 + (earlier.attempts if earlier else 0),
        **outcome,
    )


@dataclass
class LabelBatchMaker(AseRelaxMaker):
    """Label some frames of a structure set, one after the other; a frame that fails costs only itself.

    Built on atomate2's relaxation Maker with one step and a fixed cell: a single point whose observer records
    energy, forces and stress.

    Parameters
    ----------
    name
        Name of the job.
    engine
        Name of the engine.
    engine_settings
        Its settings.
    isolate
        Compute in a child process where the code would otherwise compute in this one.
    timeout
        Seconds a label may take.
    memory_limit
        Memory for the data of a code in a child process, MB.
    """

    name: str = "label batch"
    relax_cell: bool = False
    steps: int = 1
    engine: str = "espresso"
    engine_settings: dict[str, Any] = field(default_factory=dict)
    isolate: bool = True
    timeout: float | None = None
    memory_limit: float | None = None

    def build_engine(self) -> Engine:
        """Return the engine as it computes here: with its limits, and in a child process if it is to be.

        Raises
        ------
        ConfigurationError
            If a limit is given that cannot be kept.
        """
        engine = get_engine(self.engine, **self.engine_settings)
        if engine.in_process and self.isolate:
            return isolated(engine, timeout=self.timeout, memory_limit=self.memory_limit)
        if self.memory_limit is not None or (engine.in_process and self.timeout is not None):
            raise ConfigurationError(
                f"The limits of '{self.name}' hold for a code in a child process, and '{self.engine}' has none.",
                remedy="Take 'isolate: true', or leave 'timeout' and 'memory_limit' out.",
            )
        if self.timeout is None:
            return engine
        if "timeout" not in engine.settings():
            raise ConfigurationError(
                f"Engine '{self.engine}' has no time limit for '{self.name}'.", remedy="Leave 'timeout' out."
            )
        return get_engine(self.engine, **{**self.engine_settings, "timeout": self.timeout})

    def _get_calculator(self) -> Calculator:
        return self.build_engine().calculator()

    def run_ase(self, mol_or_struct: Atoms, prev_dir: str | Path | None = None) -> AseResult:
        """Run one single point on ASE atoms, whose positions a pymatgen round trip would change.

        Parameters
        ----------
        mol_or_struct
            The structure.
        prev_dir
            Unused, part of the signature.

        Returns
        -------
        AseResult
            With the labels in the trajectory's only frame.
        """
        atoms = mol_or_struct.copy()
        # pymatgen, which holds the result, refuses a missing cell vector; where nothing repeats it means
        # nothing.
        atoms.cell = atoms.cell.complete()
        engine = self.build_engine()
        if isinstance(engine, IsolatedEngine):
            limits = [limit for limit in (self.timeout, working_time()) if limit is not None]
            engine.timeout = min(limits, default=None)
        calculator = engine.calculator(atoms)
        relaxer = AseRelaxer(calculator, relax_cell=self.relax_cell)
        return relaxer.relax(
            atoms, steps=self.steps, final_atoms_object_file=None, use_emmet_models=False, **self.relax_kwargs
        )

    def _labels(self, atoms: Atoms) -> dict[str, Any]:
        (properties,) = self.run_ase(atoms).trajectory.frame_properties
        stress = properties.get("stress")
        return {
            "energy": float(properties["energy"]),
            "forces": np.asarray(properties["forces"]).tolist(),
            "stress": None if stress is None else np.asarray(stress).tolist(),
        }

    @foundry_job(output_schema=LabelBatchDoc)
    def make(
        self, structures: Artifact, indices: Sequence[int], tried: dict[str, float] | None = None
    ) -> LabelBatchDoc | Response:
        """Label frames of a structure set; where the time of this job ends, the next one goes on.

        Parameters
        ----------
        structures
            A dataset folder.
        indices
            Which of its frames.
        tried
            Frame id -> seconds that a frame had in vain before the end of an earlier job.

        Returns
        -------
        LabelBatchDoc or Response
            Counts; the labels are in the table of labels. Where frames are left, this job is replaced by one that
            goes on: the same uuid, so that what was computed counts as its own, and the next index.

        Raises
        ------
        InputError
            If the engine's code is not installed.
        NoTimeLeftError
            If this job ends before anything could be begun.
        """
        engine = self.build_engine()
        frames = list(Dataset.open(current_artifacts().fetch(structures)).frames(list(indices)))
        if unsettled(frames, current_labels(), engine.level.id):
            if must_stop():
                raise NoTimeLeftError(
                    f"No label of '{self.name}' was begun, because {reason_to_stop()}.",
                    remedy="Run the flow again: what has been computed is kept.",
                )
            engine.check_available()
        plan = TimePlan(tried)
        batch = label_frames(
            frames,
            self._labels,
            current_labels(),
            engine=self.engine,
            level_id=engine.level.id,
            job_uuid=_job_uuid(),
            plan=plan,
        )
        if batch.n_left == 0:
            return batch
        return Response(output=batch, replace=self.make(structures, list(indices), tried=plan.tried))


def unsettled(frames: Iterable[Atoms], labels: LabelStore, level_id: str) -> bool:
    """Tell whether a frame has neither a label nor a final failure at a level of theory."""
    keys = [frame_id(atoms) for atoms in frames]
    known = labels.get_many(keys, level_id)
    return not all(is_settled(known.get(key)) for key in keys)


def _job_uuid() -> str | None:
    return CURRENT_JOB.job.uuid if CURRENT_JOB.job is not None else None
