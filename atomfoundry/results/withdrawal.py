"""Take labels back that turned out to be wrong, and mark everything that was made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from atomfoundry.documents import LabelDoc
from atomfoundry.errors import InputError
from atomfoundry.results.database import open_results
from atomfoundry.results.label_effects import Effect, LabelKey, label_effects
from atomfoundry.results.label_lineage import FrameLabel, labels_of_frames
from atomfoundry.results.lineage import OutputReader
from atomfoundry.results.lineage_graph import LineageNode
from atomfoundry.results.stale import StaleMark, add_marks, remove_marks, withdrawal_lock

if TYPE_CHECKING:
    from atomfoundry.results.project import Project

IMPORTED = "imported"
"""Engine of the record of a withdrawn label that no job computed, but a harvest or an import brought."""


@dataclass(frozen=True)
class Withdrawal:
    """What was withdrawn or restored, and what that concerns."""

    labels: list[FrameLabel]
    """Labels whose status changed, or had been changed before."""
    skipped: dict[LabelKey, str]
    """Labels that stay as they are, and why."""
    documents: list[tuple[LineageNode, dict[LabelKey, Effect]]]
    """Documents that the labels act on."""
    changed: int = 0
    """Outputs whose marks changed."""
    dry_run: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain content, for JSON."""
        return {
            "dry_run": self.dry_run,
            "labels": [
                {"frame_id": label.frame_id, "level_id": label.level_id, "formula": label.formula}
                for label in self.labels
            ],
            "skipped": [{"frame_id": f, "level_id": level, "why": why} for (f, level), why in self.skipped.items()],
            "documents": [
                {
                    "uuid": node.uuid,
                    "index": node.index,
                    "name": node.name,
                    "kind": node.kind,
                    "labels": [
                        {
                            "frame_id": frame,
                            "level_id": level,
                            "holds": effect.holds,
                            "splits": sorted(effect.splits),
                            "certain": effect.certain,
                        }
                        for (frame, level), effect in sorted(how.items())
                    ],
                }
                for node, how in self.documents
            ],
            "changed": self.changed,
        }


def withdraw(
    project: Project, frame_ids: Sequence[str], reason: str, *, level: str | None = None, dry_run: bool = False
) -> Withdrawal:
    """Withdraw labels: they are not used again, and every document that they act on is marked as stale.

    First the labels change, all at once, then the marks; called again after a kill it finishes. A label that was
    withdrawn before keeps its reason and time. What a job stores from then on gets its marks when it is stored.

    Parameters
    ----------
    project
        The project.
    frame_ids
        Frames, 32 hex digits each.
    reason
        Why, for people.
    level
        Id of a level of theory, or its beginning; the labels of all levels by default.
    dry_run
        Only tell what would be marked.

    Raises
    ------
    InputError
        If there is no reason, or a text is no frame id.
    ProjectError
        If a frame has no label.
    """
    if not reason.strip():
        raise InputError("A label cannot be withdrawn without a reason.", remedy="Give one: those who follow need it.")
    db = open_results(project)
    reader = OutputReader(db)
    chosen: list[FrameLabel] = []
    skipped: dict[LabelKey, str] = {}
    for label in labels_of_frames(project, reader, list(frame_ids), level=level):
        if label.record is not None and label.record.status == "failed":
            skipped[label.key] = f"it failed ({label.record.reason}) and is used nowhere"
        else:
            chosen.append(label)
    if dry_run:
        effects = label_effects(project, reader, [label.key for label in chosen])
        return Withdrawal(chosen, skipped, effects.documents(), dry_run=True)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with withdrawal_lock(project):
        records = {label.key: _withdrawn(label, reason.strip(), now) for label in chosen}
        project.labels().put_many(records.values())
        # What a job stores looks at the marks of what it read. So it is marked now if it was stored before this look
        # at the outputs, and by itself if after; a last look that finds nothing new leaves no gap between the two.
        changed = 0
        while True:
            documents = label_effects(project, OutputReader(db), list(records)).documents()
            marks = {
                node.key: [StaleMark.of(records[key], effect) for key, effect in sorted(how.items())]
                for node, how in documents
            }
            new = add_marks(db.store.docs_store, marks)
            changed += new
            if not new:
                break
    return Withdrawal(chosen, skipped, documents, changed)


def _withdrawn(label: FrameLabel, reason: str, now: str) -> LabelDoc:
    record = label.record
    if record is None:
        record = LabelDoc(
            frame_id=label.frame_id, level_id=label.level_id, engine=IMPORTED, status="ok", formula=label.formula
        )
    if record.status == "withdrawn":
        return record
    changes = {"status": "withdrawn", "reason": "withdrawn", "message": reason, "withdrawn_at": now}
    return record.model_copy(update=changes)


def restore(
    project: Project, frame_ids: Sequence[str], *, level: str | None = None, dry_run: bool = False
) -> Withdrawal:
    """Undo a withdrawal: the marks go first, then the labels are good again.

    Parameters
    ----------
    project
        The project.
    frame_ids
        Frames, 32 hex digits each.
    level
        Id of a level of theory, or its beginning; the labels of all levels by default.
    dry_run
        Only tell what would be unmarked.

    Raises
    ------
    InputError
        If a text is no frame id.
    ProjectError
        If a frame has no label.
    """
    db = open_results(project)
    reader = OutputReader(db)
    chosen: list[FrameLabel] = []
    skipped: dict[LabelKey, str] = {}
    for label in labels_of_frames(project, reader, list(frame_ids), level=level):
        if label.record is not None and label.record.status == "withdrawn":
            chosen.append(label)
        else:
            skipped[label.key] = "it is not withdrawn"
    effects = label_effects(project, reader, [label.key for label in chosen])
    if dry_run:
        return Withdrawal(chosen, skipped, effects.documents(), dry_run=True)
    with withdrawal_lock(project):
        # all that were asked for: what a kill has left is tidied up as well
        changed = remove_marks(db.store.docs_store, [*(label.key for label in chosen), *skipped])
        labels = project.labels()
        good = {"status": "ok", "reason": None, "message": None, "withdrawn_at": None}
        records = [label.record for label in chosen if label.record is not None]
        labels.put_many(record.model_copy(update=good) for record in records if record.engine != IMPORTED)
        for record in records:
            if record.engine == IMPORTED:
                labels.store.remove_docs({"frame_id": record.frame_id, "level_id": record.level_id})
    return Withdrawal(chosen, skipped, effects.documents(), len(changed))
