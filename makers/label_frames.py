"""Label frames one by one: every label, good or failed, is kept as soon as it is there."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from atomfoundry.datasets import frame_id
from atomfoundry.documents import FoundryDocument, LabelDoc
from atomfoundry.errors import LabelError
from atomfoundry.makers.label_time import TimePlan
from atomfoundry.results import LabelStore, report_progress

if TYPE_CHECKING:
    from ase import Atoms

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
        True for a good label, for a failure that is final, and for a label that somebody withdrew: computed
        again it would be the same.
    """
    if label is None:
        return False
    own = job_uuid is not None and label.job_uuid == job_uuid
    return label.status in ("ok", "withdrawn") or own or label.attempts >= MAX_ATTEMPTS


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


def unsettled(frames: Iterable[Atoms], labels: LabelStore, level_id: str) -> bool:
    """Tell whether a frame has neither a label nor a final failure at a level of theory."""
    keys = [frame_id(atoms) for atoms in frames]
    known = labels.get_many(keys, level_id)
    return not all(is_settled(known.get(key)) for key in keys)
