"""Marks of withdrawn labels on stored outputs, in a field ``stale`` beside ``output``."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.documents import LabelDoc
from atomfoundry.results.label_effects import SOURCES, UNTOUCHED, Effect, Effects, Judge, LabelKey
from atomfoundry.results.lineage import LEAVE_OUT
from atomfoundry.results.lineage_graph import Key, LineageNode, node_of

if TYPE_CHECKING:
    from maggma.core import Store

    from atomfoundry.results.project import Project

LOCK_FILE = "withdrawals.lock"

_BATCH = 200


class StaleMark(BaseModel):
    """One withdrawn label that an output holds, or was made from."""

    model_config = ConfigDict(extra="forbid")

    reason: str
    frame_id: str
    level_id: str
    since: str = Field(description="When the label was withdrawn, UTC, ISO 8601")
    holds: bool = Field(description="Whether it is among the output's own frames")
    splits: list[str] = Field(default_factory=list, description="Splits that hold it; of a model, what it was used for")
    places: list[tuple[str, str]] = Field(
        default_factory=list, description="Level id of its rows, and before alignment"
    )
    certain: bool = Field(default=True, description="False where an artifact is missing")
    atom: bool = Field(default=False, description="Whether the frame is a single atom")

    @classmethod
    def of(cls, label: LabelDoc, effect: Effect) -> StaleMark:
        """Make the mark of a withdrawn label.

        Parameters
        ----------
        label
            The label.
        effect
            How it acts on the output.
        """
        return cls(
            reason=label.message or "",
            frame_id=label.frame_id,
            level_id=label.level_id,
            since=label.withdrawn_at or "",
            holds=effect.holds,
            splits=sorted(effect.splits),
            places=sorted(effect.places),
            certain=effect.certain,
            atom=effect.atom,
        )

    def effect(self, kind: str) -> Effect:
        """Return how the label acts on the output.

        Parameters
        ----------
        kind
            Class of the output's document.
        """
        return Effect(
            kind,
            holds=self.holds,
            places=frozenset((level, before) for level, before in self.places),
            splits=frozenset(self.splits),
            certain=self.certain,
            atom=self.atom,
        )


@contextmanager
def withdrawal_lock(project: Project) -> Iterator[None]:
    """Let one process at a time change marks.

    Parameters
    ----------
    project
        The project.
    """
    with (project.path / LOCK_FILE).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _has_update_one(store: Store) -> bool:
    from maggma.stores import MongoStore

    return isinstance(store, MongoStore)


def add_marks(store: Store, marks: dict[Key, list[StaleMark]]) -> int:
    """Mark outputs; a label that an output is marked with already is replaced.

    Parameters
    ----------
    store
        The store of outputs, without jobflow's wrapper.
    marks
        Output -> marks.

    Returns
    -------
    int
        How many outputs were changed.
    """
    changed = 0
    keys = list(marks)
    for start in range(0, len(keys), _BATCH):
        part = keys[start : start + _BATCH]
        documents = []
        for document in store.query({"uuid": {"$in": [uuid for uuid, _ in part]}}):
            new = marks.get((document["uuid"], document["index"]))
            if new is None:
                continue
            old = document.get("stale") or []
            wanted = [mark.model_dump(mode="json") for mark in new]
            named = {(mark["frame_id"], mark["level_id"]) for mark in wanted}
            kept = [mark for mark in old if (mark["frame_id"], mark["level_id"]) not in named]
            merged = sorted([*kept, *wanted], key=lambda mark: (mark["since"], mark["frame_id"], mark["level_id"]))
            if merged != old:
                documents.append({**document, "stale": merged})
        _write(store, documents)
        changed += len(documents)
    return changed


def remove_marks(store: Store, labels: Iterable[LabelKey]) -> list[Key]:
    """Take the marks of labels off all outputs.

    Parameters
    ----------
    store
        The store of outputs, without jobflow's wrapper.
    labels
        Frame ids and level ids.

    Returns
    -------
    list
        Outputs that were changed.
    """
    gone = set(labels)
    frames = sorted({frame for frame, _ in gone})
    changed: list[Key] = []
    for start in range(0, len(frames), _BATCH):
        documents = []
        for document in store.query({"stale.frame_id": {"$in": frames[start : start + _BATCH]}}):
            kept = [mark for mark in document["stale"] if (mark["frame_id"], mark["level_id"]) not in gone]
            if kept != document["stale"]:
                documents.append({**document, "stale": kept})
                changed.append((document["uuid"], document["index"]))
        _write(store, documents)
    return changed


def _write(store: Store, documents: list[dict]) -> None:
    if not documents:
        return
    if not _has_update_one(store):
        unmarked = [{k: v for k, v in document.items() if k != "stale" or v} for document in documents]
        store.update(unmarked, key=["uuid", "index"])
        return
    # the rest of a document on a server stays as it is there, whoever writes to it meanwhile
    for document in documents:
        which = {"uuid": document["uuid"], "index": document["index"]}
        marks = document["stale"]
        store._collection.update_one(which, {"$set": {"stale": marks}} if marks else {"$unset": {"stale": ""}})


def marked_outputs(store: Store) -> list[LineageNode]:
    """Return all outputs with marks.

    Parameters
    ----------
    store
        The store of outputs.
    """
    found = store.query({"stale.0": {"$exists": True}}, dict(LEAVE_OUT))
    return sorted((node_of(document) for document in found), key=lambda node: (node.completed_at, node.key))


def inherited_marks(project: Project, store: Store, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the marks that a new output has from the start, because what its job read was marked meanwhile.

    Parameters
    ----------
    project
        The project.
    store
        The store of outputs.
    document
        The job document that is about to be stored, with ``inputs``.
    """
    node = node_of(document)
    inputs = {(read["uuid"], read["index"]) for read in document.get("inputs") or []}
    if not node.kind or node.kind in UNTOUCHED:
        return []
    # Labels are withdrawn before and restored after their marks: without a withdrawn label there is no mark.
    if not any(project.labels().query({"status": "withdrawn"}, limit=1)):
        return []
    if node.kind in SOURCES or (node.kind == "DatasetDoc" and not inputs):
        withdrawn = list(project.labels().query({"status": "withdrawn"}))
        judge = Judge(project.artifacts, [(label.frame_id, label.level_id) for label in withdrawn])
        known = {(label.frame_id, label.level_id): label for label in withdrawn}
        found = judge.source(node) if withdrawn else {}
        return [StaleMark.of(known[key], next(iter(effects))).model_dump(mode="json") for key, effects in found.items()]
    parents: list[Effects] = []
    marks: dict[LabelKey, StaleMark] = {}
    uuids = sorted({uuid for uuid, _ in inputs})
    for start in range(0, len(uuids), _BATCH):
        for parent in store.query({"uuid": {"$in": uuids[start : start + _BATCH]}}, dict(LEAVE_OUT)):
            if not parent.get("stale") or (parent["uuid"], parent["index"]) not in inputs:
                continue
            kind = node_of(parent).kind
            own = [StaleMark.model_validate(mark) for mark in parent["stale"]]
            marks.update({(mark.frame_id, mark.level_id): mark for mark in own})
            parents.append({(mark.frame_id, mark.level_id): frozenset({mark.effect(kind)}) for mark in own})
    if not parents:
        return []
    made = Judge(project.artifacts, list(marks)).made_from(node, parents)
    return [
        StaleMark.of(_label_of(marks[key]), next(iter(effects))).model_dump(mode="json")
        for key, effects in sorted(made.items())
    ]


def _label_of(mark: StaleMark) -> LabelDoc:
    return LabelDoc(
        frame_id=mark.frame_id,
        level_id=mark.level_id,
        engine="",
        status="withdrawn",
        message=mark.reason,
        withdrawn_at=mark.since,
    )
