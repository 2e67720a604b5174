"""From a frame and its labels back to structures, and forward to models and reports."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from atomfoundry.errors import ProjectError
from atomfoundry.results.frame_search import FrameFinder, frame_bytes
from atomfoundry.results.label_effects import (
    FRAME_FIELDS,
    Effect,
    LabelEffects,
    LabelKey,
    label_effects,
    sources_of_labels,
)
from atomfoundry.results.lineage import OutputReader, walk_back
from atomfoundry.results.lineage_graph import (
    COMPUTED,
    FRAME_KIND,
    HOLDS,
    LABEL_KIND,
    LABELLED,
    READ,
    Key,
    LineageEdge,
    LineageGraph,
    LineageNode,
)

if TYPE_CHECKING:
    from atomfoundry.documents import LabelDoc
    from atomfoundry.results.database import ResultsDB
    from atomfoundry.results.project import Project


@dataclass(frozen=True)
class FrameLabel:
    """One label of a frame: from the table of labels, or from a file that a harvest or an import read."""

    frame_id: str
    level_id: str
    record: LabelDoc | None = None
    sources: tuple[LineageNode, ...] = ()
    """Harvests and imported datasets that brought it in."""
    formula: str = ""

    @property
    def key(self) -> LabelKey:
        """Frame id and level id."""
        return self.frame_id, self.level_id


def labels_of_frames(
    project: Project, reader: OutputReader, frame_ids: list[str], *, level: str | None = None
) -> list[FrameLabel]:
    """Find all labels of some frames: computed ones, harvested ones and imported ones.

    Parameters
    ----------
    project
        The project.
    reader
        Reads its outputs.
    frame_ids
        Content hashes.
    level
        Id of a level of theory, or its beginning; all levels by default.

    Raises
    ------
    InputError
        If a text is no frame id.
    ProjectError
        If a frame has no label.
    """
    for frame in frame_ids:
        frame_bytes(frame)
    wanted = list(dict.fromkeys(frame_ids))
    found: dict[LabelKey, FrameLabel] = {}
    for start in range(0, len(wanted), 400):
        for record in project.labels().query({"frame_id": {"$in": wanted[start : start + 400]}}):
            label = FrameLabel(record.frame_id, record.level_id, record, formula=record.formula)
            found[label.key] = label
    finder = FrameFinder(project.artifacts)
    for node in sources_of_labels(reader):
        if node.kind == "LabelSetDoc":
            continue  # its labels are in the table
        for name, artifact in node.files.items():
            places = finder.places(artifact, wanted) if name in FRAME_FIELDS else None
            for frame, rows in (places or {}).items():
                for level_id in {row.level: None for row in rows if not row.aligned_from}:
                    known = found.get((frame, level_id), FrameLabel(frame, level_id, formula=rows[0].formula))
                    sources = (*known.sources, node)
                    found[frame, level_id] = FrameLabel(frame, level_id, known.record, sources, known.formula)
    chosen = [label for label in found.values() if level is None or label.level_id.startswith(level)]
    for frame in wanted:
        if not any(label.frame_id == frame for label in chosen):
            at = f" at level '{level}'" if level else ""
            raise ProjectError(
                f"Frame {frame} has no label{at} in {project.path}.",
                remedy="'atomfoundry results labels --json' lists frame ids and levels.",
            )
    return sorted(chosen, key=lambda label: (wanted.index(label.frame_id), label.level_id))


def _level_names(labels: list[FrameLabel], nodes: dict[Key, LineageNode]) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in [*nodes.values(), *(source for label in labels for source in label.sources)]:
        names.update(node.levels)
    return names


def _label_node(label: FrameLabel, names: dict[str, str]) -> LineageNode:
    level = names.get(label.level_id, label.level_id or "unknown level")
    record = label.record
    what = f"label of {label.formula} at {level}"
    if record is None:
        note = "read from a file"
    elif record.status == "ok":
        note = f"{record.energy:.6f} eV" if record.energy is not None else "ok"
    else:
        note = record.status + (f": {record.message or record.reason}" if record.message or record.reason else "")
    provenance = {} if record is None else record.model_dump(include={"host", "engine", "withdrawn_at"})
    return LineageNode(
        uuid=f"{label.frame_id}@{label.level_id}",
        index=0,
        name=what,
        kind=LABEL_KIND,
        completed_at=record.computed_at if record else "",
        provenance={key: value for key, value in provenance.items() if value},
        levels={label.level_id: level} if label.level_id else {},
        note=note,
    )


def _frame_node(labels: list[FrameLabel]) -> LineageNode:
    return LineageNode(uuid=labels[0].frame_id, index=0, name=f"frame {labels[0].formula}", kind=FRAME_KIND)


def frame_lineage(db: ResultsDB, project: Project, frame_id: str, *, level: str | None = None) -> LineageGraph:
    """Walk from a frame over its labels back to the jobs that computed them, and to all that these came from.

    Parameters
    ----------
    db
        The results.
    project
        The project.
    frame_id
        Content hash, 32 hex digits.
    level
        Id of a level of theory, or its beginning; all levels by default.

    Raises
    ------
    ProjectError
        If the frame has no label.
    """
    reader = OutputReader(db)
    labels = labels_of_frames(project, reader, [frame_id], level=level)
    root = (labels[0].frame_id, 0)
    edges: list[LineageEdge] = []
    starts: dict[Key, None] = {}
    for label in labels:
        name = (f"{label.frame_id}@{label.level_id}", 0)
        edges.append(LineageEdge(root, name, LABELLED))
        made_by = [source.key for source in label.sources]
        if label.record is not None and label.record.job_uuid:
            made_by.append((label.record.job_uuid, reader.last_index(label.record.job_uuid)))
        for key in made_by:
            edges.append(LineageEdge(name, key, COMPUTED))
            starts[key] = None
    nodes, more = walk_back(reader, starts)
    names = _level_names(labels, nodes) | _names_in_label_sets(reader, labels)
    own = [_frame_node(labels), *(_label_node(label, names) for label in labels)]
    return LineageGraph(root, {node.key: node for node in own} | nodes, [*edges, *more])


def _names_in_label_sets(reader: OutputReader, labels: list[FrameLabel]) -> dict[str, str]:
    """Return level id -> its label, as the label sets of these levels say."""
    levels = {label.level_id for label in labels}
    names: dict[str, str] = {}
    for node in sources_of_labels(reader):
        names.update({level: text for level, text in node.levels.items() if level in levels})
        if levels <= set(names):
            break
    return names


def frame_consequences(db: ResultsDB, project: Project, frame_id: str, *, level: str | None = None) -> LineageGraph:
    """Walk from a frame over its labels forward to the documents that hold them and to what was made from those.

    Parameters
    ----------
    db
        The results.
    project
        The project.
    frame_id
        Content hash, 32 hex digits.
    level
        Id of a level of theory, or its beginning; all levels by default.

    Raises
    ------
    ProjectError
        If the frame has no label.
    """
    reader = OutputReader(db)
    labels = labels_of_frames(project, reader, [frame_id], level=level)
    effects = label_effects(project, reader, [label.key for label in labels])
    return consequences_graph(labels, effects, _names_in_label_sets(reader, labels))


def consequences_graph(labels: list[FrameLabel], effects: LabelEffects, names: dict[str, str]) -> LineageGraph:
    """Draw what came of the labels of one frame.

    Parameters
    ----------
    labels
        Labels of the frame.
    effects
        What they act on.
    names
        Level id -> its label.
    """
    root = (labels[0].frame_id, 0)
    nodes = {root: _frame_node(labels)}
    edges = []
    for label in labels:
        node = _label_node(label, names)
        nodes[node.key] = node
        edges.append(LineageEdge(node.key, root, LABELLED))
    for node, how in effects.documents():
        nodes[node.key] = replace(node, note=_note(how))
        for (frame, level), effect in how.items():
            if effect.kind in ("LabelSetDoc", "HarvestDoc") or node.key not in effects.parents:
                edges.append(LineageEdge(node.key, (f"{frame}@{level}", 0), HOLDS))
    for key in [key for key in nodes if key in effects.effects]:
        labels_here = set(effects.effects[key])
        for parent, way in _named_parents(effects, key):
            if labels_here & set(effects.effects[parent]) and parent in nodes:
                edges.append(LineageEdge(key, parent, way))
    return LineageGraph(root, nodes, edges, towards_parents=False)


def _named_parents(effects: LabelEffects, key: Key) -> list[tuple[Key, str]]:
    """Return the nearest documents that a document was made from; outputs that only point are passed over."""
    found: dict[Key, str] = {}
    queue: list[tuple[Key, str]] = list(effects.parents.get(key, []))
    seen: set[Key] = {key}
    for parent, how in queue:
        if parent in seen or parent not in effects.effects:
            continue
        seen.add(parent)
        if effects.nodes[parent].kind:
            found.setdefault(parent, how)
        else:
            queue.extend((further, READ) for further, _ in effects.parents.get(parent, []))
    return list(found.items())


def _note(how: dict[LabelKey, Effect]) -> str:
    words = []
    splits = sorted({split for effect in how.values() for split in effect.splits})
    if splits:
        words.append(", ".join(splits))
    if not any(effect.certain for effect in how.values()):
        words.append("not certain: an artifact is missing")
    return f"[{'; '.join(words)}]" if words else ""
